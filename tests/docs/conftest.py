"""The site, built once for all tests and all processes of pytest-xdist."""

import fcntl
import os
import subprocess
import sys

import pytest

from docs.generate.repository import RESULTS, ROOT


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    if not RESULTS.joinpath("bench").exists():
        pytest.skip("a source distribution has no results to show")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "site"
    with shared.joinpath("site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _build(shared / "site.part")
            shared.joinpath("site.part").rename(folder)
    return folder


def _build(folder):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--clean", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr

"""The site, built from a copy of the checkout, once for all tests and all processes of pytest-xdist."""

import fcntl
import os
import shutil
import subprocess
import sys

import pytest

from docs.generate.repository import RESULTS, ROOT

# Folders and files that a build reads. Nothing in the copy is left from earlier builds, so every tutorial is run.
READ = ("docs", "experiments", "jaxsoftmax", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "mkdocs.yml")


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marker
def pytest_collection_modifyitems(items):
    """Tests of the built site are slow: a build takes a minute or two, and a strict one is a step of `.ci/run`."""
    for item in items:
        if "site" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    if not RESULTS.joinpath("bench").exists():
        pytest.skip("a source distribution has no results to show")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, outcome = shared / "site", shared / "site.outcome"
    with shared.joinpath("site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not outcome.exists():
            built = build(copied(tmp_path_factory.mktemp("site") / "sources"), folder)
            outcome.write_text(f"{built.returncode}\n{built.stdout}{built.stderr}", "utf-8")
    code, _, said = outcome.read_text("utf-8").partition("\n")
    assert code == "0", said
    return folder


def copied(folder):
    """What the site is built from, without what other tests or builds leave behind."""
    folder.mkdir()
    left_behind = shutil.ignore_patterns("__pycache__", "generated", ".*")
    for name in READ:
        if ROOT.joinpath(name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=left_behind)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def build(sources, folder):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    return subprocess.run(command, cwd=sources, capture_output=True, text=True)

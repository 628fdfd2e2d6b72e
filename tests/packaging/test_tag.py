"""A release's tag is the version, and its changes are dated."""

import shutil
import subprocess

import pytest

from tests.packaging.project import PROJECT, ROOT

VERSION = PROJECT["version"]


@pytest.fixture
def refuses(tmp_path):
    """Runs `.ci/tag` on a checkout whose changelog has the heading; returns what it says, or None where it agrees."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def run(tag, heading):
        (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
        finished = subprocess.run([tmp_path / ".ci" / "tag", tag], capture_output=True, text=True, check=False)
        assert finished.stdout == ""
        return finished.stderr if finished.returncode else None

    return run


def test_tag_of_the_version_is_taken(refuses):
    assert refuses(f"v{VERSION}", f"## [{VERSION}] - 2026-01-31") is None


@pytest.mark.parametrize("tag", [VERSION, f"v{VERSION}.1", f"v{VERSION}rc1", "v9.9.9"])
def test_tag_of_another_version_is_refused(refuses, tag):
    complaint = refuses(tag, f"## [{VERSION}] - 2026-01-31")
    assert complaint == f"The tag is {tag}, but pyproject.toml has version {VERSION}.\n"


@pytest.mark.parametrize("heading", ["", f"## [{VERSION}] - unreleased", f"## [{VERSION}1] - 2026-01-31"])
def test_version_without_a_dated_entry_is_refused(refuses, heading):
    assert refuses(f"v{VERSION}", heading) == f"CHANGELOG.md has no dated entry for {VERSION}.\n"

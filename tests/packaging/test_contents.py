"""The distributions hold what they should, built from a folder with what work leaves behind."""

import shutil
import tarfile
import zipfile
from pathlib import PurePosixPath

import pytest
from hatchling import build

from tests.packaging.project import PROJECT, ROOT

# What work leaves behind, by the names of files and folders; other tests write some of it while these run.
is_left_behind = shutil.ignore_patterns(
    ".git",
    ".venv",
    "venv",
    "node_modules",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "build",
    "dist",
    "generated",
    "quick",
    "site",
)
# Results that tests read: `docs/scaling.md` is compared with them.
RESULTS_READ = {"experiments/results/scaling.json"}
LEFT_BEHIND = [
    "jaxsoftmax/__pycache__/cli.cpython-311.pyc",
    "tests/.hypothesis/examples",
    "experiments/__pycache__/drop_in.cpython-311.pyc",
    "experiments/results/.language_model.checkpoints-0/state",
    "experiments/results/report.html",
    ".ci/__pycache__/import_time.cpython-311.pyc",
    "docs/.DS_Store",
    "docs/generated/tutorials/the_jacobian.md",
    ".pytest_cache/README.md",
    "dist/jaxsoftmax-0.0.0.tar.gz",
]


def sources(folder, *patterns):
    """The files of the checkout, by path from its root, that the patterns find, but for leftovers."""
    found = (path for pattern in patterns for path in (ROOT / folder).rglob(pattern) if path.is_file())
    relative = (path.relative_to(ROOT) for path in found)
    return {path.as_posix() for path in relative if not is_left_behind("", path.parts)}


@pytest.fixture(scope="module")
def worked_in(tmp_path_factory):
    """A copy of the checkout, in which work has left what is planted."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT, folder, dirs_exist_ok=True, ignore=is_left_behind)
    for name in LEFT_BEHIND:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("left behind")
    return folder


@pytest.fixture(scope="module")
def sdist(worked_in, tmp_path_factory):
    """The paths in the source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(worked_in)
        archive = folder / build.build_sdist(str(folder))
    with tarfile.open(archive) as opened:
        return {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in opened.getnames()}


@pytest.fixture(scope="module")
def wheel(worked_in, tmp_path_factory):
    """The wheel, opened."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(worked_in)
        archive = folder / build.build_wheel(str(folder))
    with zipfile.ZipFile(archive) as opened:
        yield opened


def test_wheel_is_the_package_and_its_metadata(wheel):
    metadata = f"jaxsoftmax-{PROJECT['version']}.dist-info"
    expected = sources("jaxsoftmax", "*.py", "*.jinja", "py.typed")
    files = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert set(wheel.namelist()) == expected | {f"{metadata}/{name}" for name in files}


def test_wheel_says_what_it_is(wheel):
    text = wheel.read(f"jaxsoftmax-{PROJECT['version']}.dist-info/METADATA").decode()
    for line in ("License-Expression: Apache-2.0", f"Project-URL: Source, {PROJECT['urls']['Source']}"):
        assert line in text.splitlines()


def test_source_distribution_has_every_source_and_test(sdist):
    assert sources("jaxsoftmax", "*.py", "*.jinja", "py.typed") <= sdist
    assert sources("tests", "*.py") <= sdist
    assert sources("experiments", "*.py", "*.jinja") <= sdist
    assert sources("docs", "*.md") <= sdist


def test_source_distribution_has_what_tests_of_the_project_read(sdist):
    assert sources(".ci", "*") <= sdist
    assert sources(".github", "*.yml") <= sdist
    named = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"}
    named |= {".pre-commit-config.yaml", "mkdocs.yml"}
    assert named <= sdist


def test_source_distribution_has_the_results_that_tests_read_and_no_others(sdist):
    assert {path for path in sdist if path.startswith("experiments/results/")} == RESULTS_READ


@pytest.mark.parametrize("path", LEFT_BEHIND)
def test_nothing_left_behind_is_distributed(sdist, wheel, path):
    assert path not in sdist | set(wheel.namelist())

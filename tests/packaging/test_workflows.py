"""The workflows do what .ci/run does, on the versions that the metadata promises, with no rights beyond their needs."""

import re
from itertools import product

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from experiments.__main__ import NAMES
from tests.packaging.project import EXTRAS, PROJECT, ROOT, WORKFLOWS, commands, commands_of, steps

ON_PUSH, NIGHTLY = (WORKFLOWS[name]["jobs"] for name in ("ci", "nightly"))
MATRIX = NIGHTLY["tests"]["strategy"]["matrix"]
FIRST_PYTHON_OF_JAX = {"0.10": "3.11", "0.11": "3.12", "0.12": "3.12"}  # by their metadata on PyPI
STEP = re.compile(r"^ *step (.*)$", re.MULTILINE)
EXPERIMENTS = re.compile(r'^python -m experiments --results "\$scratch/results" (.*)$', re.MULTILINE)
INSTALLING = [workflow for workflow in WORKFLOWS if "pip install" in "\n".join(commands(workflow))]


def minor(version):
    return int(version.split(".")[1])


def python_of(job):
    """What the only step of a job that sets up Python asks for."""
    (python,) = (step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
    return python


def commands_on(python):
    """Every command of the jobs of ci.yml that set up that Python."""
    return [command for job in ON_PUSH.values() if python_of(job) == python for command in commands_of(job)]


def test_every_step_of_the_local_checks_is_a_step_of_the_workflow_on_that_python():
    on_oldest, on_newest = (STEP.findall(part) for part in (ROOT / ".ci" / "run").read_text().split("\ndeactivate\n"))
    assert len(on_oldest) > 9
    assert len(on_newest) >= 1
    assert [command for command in on_oldest if command not in commands_on(MATRIX["python"][0])] == []
    assert [command for command in on_newest if command not in commands_on(MATRIX["python"][-1])] == []


def test_a_push_is_tested_on_the_oldest_jax_and_on_the_newest():
    for job, jax in (("oldest", MATRIX["jax"][0]), ("newest", MATRIX["jax"][-1])):
        assert f"'jax=={jax}.*' 'jaxlib=={jax}.*'" in "\n".join(commands_of(ON_PUSH[job]))
        assert ON_PUSH[job]["name"] == f"Python {python_of(ON_PUSH[job])}, JAX {jax}"


def test_every_step_of_the_nightly_checks_is_a_step_of_their_workflow():
    steps = STEP.findall((ROOT / ".ci" / "nightly").read_text())
    assert len(steps) > 5
    assert [command for command in steps if command not in commands("nightly")] == []


def test_every_experiment_is_run_in_full_every_night():
    named = " ".join(EXPERIMENTS.findall("\n".join(commands("nightly")))).split()
    assert sorted(named) == sorted(NAMES)


@pytest.mark.parametrize(
    ("job", "tests"),
    [("tests", "env JAX_ENABLE_COMPILATION_CACHE=false python -m pytest -n auto -m ''"), ("lowest", ".ci/lowest")],
)
def test_job_makes_sure_of_a_browser_before_the_tests_that_need_one(job, tests):
    ordered = commands_of(NIGHTLY[job])
    assert ordered.index("google-chrome --version") < ordered.index(tests)


def test_matrix_has_every_python_of_the_classifiers():
    pythons = [each.removeprefix("Programming Language :: Python :: ") for each in PROJECT["classifiers"]]
    assert [each for each in pythons if each.startswith("3.")] == MATRIX["python"]


def test_matrix_has_every_jax_that_is_allowed():
    allowed = next(each.specifier for each in map(Requirement, PROJECT["dependencies"]) if each.name == "jax")
    assert [f"0.{each}" for each in range(100) if f"0.{each}.99" in allowed] == MATRIX["jax"]


def test_matrix_pairs_each_jax_with_the_pythons_that_it_takes():
    excluded = {(each["python"], each["jax"]) for each in MATRIX["exclude"]}
    pairs = product(MATRIX["python"], MATRIX["jax"])
    assert excluded == {(python, jax) for python, jax in pairs if minor(python) < minor(FIRST_PYTHON_OF_JAX[jax])}


@pytest.mark.parametrize("workflow", INSTALLING)
def test_extras_that_a_workflow_installs_exist(workflow):
    installed = re.findall(r"-e '\.\[([a-z,]+)(?:\]|\$)", "\n".join(commands(workflow)))
    assert len(installed) == sum("pip install" in command for command in commands(workflow))
    assert {extra for extras in installed for extra in extras.split(",")} <= EXTRAS.keys()


def test_matrix_adds_extras_that_exist_to_pairs_that_it_has():
    assert "-e '.[test${{ matrix.peers }}]' " in "\n".join(commands("nightly"))
    for added in MATRIX["include"]:
        assert added["peers"].removeprefix(",") in EXTRAS
        assert added["python"] in MATRIX["python"]
        assert added["jax"] in MATRIX["jax"]
        assert {"python": added["python"], "jax": added["jax"]} not in MATRIX["exclude"]


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_workflow_may_only_read_unless_a_job_says_otherwise(workflow):
    assert WORKFLOWS[workflow]["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_actions_are_pinned_to_a_major_version(workflow):
    actions = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert actions
    assert [action for action in actions if not re.fullmatch(r"[\w/-]+@(release/)?v\d+", action)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_every_job_has_a_limit_of_time(workflow):
    # A job that calls a workflow takes the limits of that.
    jobs = {name: job for name, job in WORKFLOWS[workflow]["jobs"].items() if "uses" not in job}
    assert [name for name, job in jobs.items() if "timeout-minutes" not in job] == []


def test_nothing_is_published_before_the_tag_the_code_and_the_distributions_are_checked():
    jobs = WORKFLOWS["release"]["jobs"]
    on_main = "git merge-base --is-ancestor HEAD origin/main"
    assert commands("release") == ['.ci/tag "$GITHUB_REF_NAME"', on_main, ".ci/package dist"]
    assert jobs["build"]["steps"][0]["with"] == {"fetch-depth": 0}
    assert jobs["checks"] == {"name": "Checks", "uses": "./.github/workflows/ci.yml"}
    assert jobs["publish"]["needs"] == ["checks", "build"]


@pytest.mark.parametrize(
    ("workflow", "job", "environment", "permissions"),
    [
        ("release", "publish", "pypi", {"id-token": "write"}),
        ("docs", "deploy", "github-pages", {"pages": "write", "id-token": "write"}),
    ],
)
def test_what_publishes_proves_who_it_is_and_can_do_nothing_else(workflow, job, environment, permissions):
    publishing = WORKFLOWS[workflow]["jobs"][job]
    assert publishing["environment"]["name"] == environment
    assert publishing["permissions"] == permissions
    assert [name for name, each in WORKFLOWS[workflow]["jobs"].items() if "permissions" in each] == [job]


def test_oldest_python_of_the_workflows_is_the_required_one():
    assert MATRIX["python"][0] in SpecifierSet(PROJECT["requires-python"])

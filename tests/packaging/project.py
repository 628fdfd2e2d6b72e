"""What the project says of itself, read once."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}


def steps(workflow):
    """Every step of every job of a workflow, but for those of other workflows that it calls."""
    return [step for job in WORKFLOWS[workflow]["jobs"].values() for step in job.get("steps", ())]


def commands_of(job):
    """Every command of a job."""
    return [step["run"] for step in job.get("steps", ()) if "run" in step]


def commands(workflow):
    """Every command that a workflow runs."""
    return [command for job in WORKFLOWS[workflow]["jobs"].values() for command in commands_of(job)]

"""The project says the same of itself wherever it speaks of itself."""

import re
from collections import Counter
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import jaxsoftmax
from tests.packaging.project import CITATION, EXTRAS, PROJECT, PYPROJECT, ROOT

SOURCE, DOCUMENTATION = PROJECT["urls"]["Source"], PROJECT["urls"]["Documentation"]
HOOKS = {hook["repo"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]}


LISTS = {"dependencies": PROJECT["dependencies"], **EXTRAS}
REQUIREMENTS = [each for listed in LISTS.values() for each in map(Requirement, listed) if each.name != PROJECT["name"]]


def specifier_of(name):
    """The versions that the only requirement of this name allows."""
    (requirement,) = (each for each in REQUIREMENTS if each.name == name)
    return requirement.specifier


def bound(name, operator):
    return next(each.version for each in specifier_of(name) if each.operator == operator)


@pytest.mark.parametrize("version", [jaxsoftmax.__version__, CITATION["version"], metadata.version("jaxsoftmax")])
def test_version_is_that_of_pyproject(version):
    assert version == PROJECT["version"]


def test_newest_entry_of_the_changelog_is_the_version():
    headings = re.findall(r"^## \[(\d[^]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == PROJECT["version"]


def test_licence_is_the_same_everywhere():
    assert CITATION["license"] == PROJECT["license"] == "Apache-2.0"
    assert (ROOT / PROJECT["license-files"][0]).read_text().split()[:4] == ["Apache", "License", "Version", "2.0,"]


def test_no_classifier_repeats_the_licence():
    assert [each for each in PROJECT["classifiers"] if each.startswith("License")] == []


def test_addresses_are_the_same_everywhere():
    assert (CITATION["repository-code"], CITATION["url"]) == (SOURCE, DOCUMENTATION)


@pytest.mark.parametrize("name", ["Homepage", "Documentation", "Source", "Issues", "Changelog"])
def test_address_is_of_the_site_or_the_repository(name):
    assert PROJECT["urls"][name].startswith((SOURCE, DOCUMENTATION))


def test_site_has_the_description_and_the_addresses_of_the_project():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert site["site_description"] == PROJECT["description"]
    assert (site["site_url"], site["repo_url"]) == (DOCUMENTATION, SOURCE)


def test_readme_links_lead_somewhere_from_any_page_that_shows_it():
    targets = re.findall(r"\]\(([^)]*)\)", (ROOT / "README.md").read_text())
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


def test_classifiers_name_the_pythons_that_are_required():
    named = [each.split(" :: ")[-1] for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)]
    required = SpecifierSet(PROJECT["requires-python"])
    assert named
    assert [each for each in named if each not in required] == []
    assert f"3.{int(named[0].split('.')[1]) - 1}" not in required


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_requirement_is_bounded_on_both_sides(requirement):
    assert sorted(each.operator for each in requirement.specifier if each.operator != "!=") == ["<", ">="]


def test_no_requirement_stands_twice_but_the_one_that_equinox_needs_newer():
    names = [requirement.name for requirement in REQUIREMENTS]
    assert Counter(names) - Counter(set(names)) == {"jaxtyping": 1}


@pytest.mark.parametrize("extra", EXTRAS)
def test_extra_refers_to_known_extras(extra):
    referred = [each.extras for each in map(Requirement, EXTRAS[extra]) if each.name == PROJECT["name"]]
    assert set().union(*referred) <= EXTRAS.keys()


def test_jaxlib_has_the_bounds_of_jax():
    assert specifier_of("jaxlib") == specifier_of("jax")


def test_distributions_are_tested_with_what_builds_them():
    (backend,) = map(Requirement, PYPROJECT["build-system"]["requires"])
    assert backend.specifier == specifier_of(backend.name)


def test_documents_name_the_versions_that_are_required():
    python, jax = PROJECT["requires-python"].removeprefix(">="), bound("jax", ">=")
    major, below = bound("jax", "<").split(".")
    assert f"Python {python} or later, JAX {jax} to {major}.{int(below) - 1}." in (ROOT / "README.md").read_text()
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    assert f"Python {python} or later." in contributing
    assert f"On Python {python} that brings JAX {jax}, the oldest supported;" in contributing


def test_hook_of_ruff_has_a_version_that_the_extras_allow():
    revision = HOOKS["https://github.com/astral-sh/ruff-pre-commit"]["rev"]
    assert Version(revision) in specifier_of("ruff")


@pytest.mark.parametrize("repository", HOOKS)
def test_hooks_are_pinned_to_a_release(repository):
    assert re.fullmatch(r"v\d+\.\d+\.\d+", HOOKS[repository]["rev"])


def test_public_names_of_the_package_are_listed_in_order():
    functions = {name for name, value in vars(jaxsoftmax).items() if callable(value)}
    assert {*functions, "analytic", "forward_mode"} == set(jaxsoftmax.__all__)
    assert sorted(jaxsoftmax.__all__) == jaxsoftmax.__all__

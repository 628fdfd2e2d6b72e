"""Whether what is installed are the lowest versions that pyproject.toml allows: else a bound goes untested; exit 1."""

import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def requirements(listed: list[str]) -> Iterator[Requirement]:
    """The requirements in a list and in the extras of this project that it names."""
    for requirement in map(Requirement, listed):
        if requirement.name == PROJECT["name"]:
            for extra in requirement.extras:
                yield from requirements(PROJECT["optional-dependencies"][extra])
        elif requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def main() -> int:
    """Compares, prints those that differ, judges."""
    lowest: dict[str, Version] = {}
    for requirement in requirements([*PROJECT["dependencies"], f"{PROJECT['name']}[{sys.argv[1]}]"]):
        bound = Version(next(each.version for each in requirement.specifier if each.operator == ">="))
        lowest[requirement.name] = max(bound, lowest.get(requirement.name, bound))  # an extra may need a newer one
    failed = False
    for name, allowed in lowest.items():
        installed = metadata.version(name)
        if Version(installed) != allowed:
            print(f"{name} {installed} is installed, but {allowed} is allowed")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

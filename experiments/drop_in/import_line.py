"""A program, and the same program with the line that imports its loss replaced."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class ImportLine:
    """A program's one line that imports ``function``."""

    program: Path
    library: str
    function: str

    def from_library(self, library: str) -> str:
        """Returns the import line that takes the function from ``library``."""
        return f"from {library} import {self.function}"

    def source_with(self, library: str) -> str:
        """Returns the program's source with the function taken from ``library``.

        Raises:
            ValueError: if the program doesn't have the line exactly once.
        """
        lines = self.program.read_text(encoding="utf-8").splitlines()
        line = self.from_library(self.library)
        if lines.count(line) != 1:
            raise ValueError(f"expected one line {line!r} in {self.program}, got {lines.count(line)}")
        lines[lines.index(line)] = self.from_library(library)
        return "\n".join(lines) + "\n"

    def program_with(self, library: str) -> ModuleType:
        """Returns the program, executed, with the function taken from ``library``."""
        module = ModuleType(f"{self.program.stem}_with_{library.replace('.', '_')}")
        exec(compile(self.source_with(library), str(self.program), "exec"), module.__dict__)
        return module

    def change_to(self, library: str) -> list[str]:
        """Returns the lines by which the two programs differ, each after its "- " or "+ "."""
        before, after = (self.source_with(name).splitlines() for name in (self.library, library))
        return [line for line in difflib.ndiff(before, after) if line[0] in "-+"]

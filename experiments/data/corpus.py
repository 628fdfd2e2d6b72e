"""Text to learn from: the standard library's sources, or the user's own, in a part for training and one held out."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

FEWEST_CHARACTERS = 20_000
_HELD_OUT = 16  # 1/16 of the characters
_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


class Corpus(NamedTuple):
    """Texts in an order that depends on their names alone."""

    name: str
    files: int
    train: list[str]
    held_out: list[str]

    @property
    def characters(self) -> int:
        """The length of all texts."""
        return sum(map(len, self.train)) + sum(map(len, self.held_out))


def read_corpus(path: Path | None, at_most: int | None = None) -> Corpus:
    """Reads a file or a folder of text, or the standard library's sources.

    Files are shuffled with a fixed seed; the last 1/16 of the characters is held out. Files not in UTF-8 are skipped.

    Args:
        path: a file; a folder, of which hidden files are left out; or None for the standard library without its tests.
        at_most: how many characters to take.

    Raises:
        ValueError: if there is no such path, it can't be read, or it has too little text.
    """
    root = Path(sysconfig.get_paths()["stdlib"]) if path is None else path
    name = "the standard library's sources" if path is None else str(path)
    try:
        texts = [text for file in _files(root, path is None) if (text := _text(file)).strip()]
    except OSError as error:
        raise ValueError(f"argument --corpus: cannot read {error.filename}: {error.strerror}") from error
    shuffled = [texts[index] for index in np.random.default_rng(0).permutation(len(texts))]
    taken = list(_first_characters(shuffled, at_most))
    if sum(map(len, taken)) < FEWEST_CHARACTERS:
        found = f"{name} has {sum(map(len, taken))} in {len(taken)} files"
        raise ValueError(f"argument --corpus: expected at least {FEWEST_CHARACTERS} characters of UTF-8 text, {found}")
    return Corpus(name, len(taken), *_split(taken))


def _files(root: Path, is_library: bool) -> list[Path]:
    if not root.is_dir():
        return [root]
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py" if is_library else "*")}
    left_out = {name for name in paths if set(name.split("/")) & _NOT_THE_LIBRARY} if is_library else set()
    hidden = {name for name in paths if any(part.startswith(".") for part in name.split("/"))}
    return [paths[name] for name in sorted(paths.keys() - left_out - hidden) if paths[name].is_file()]


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return ""


def _first_characters(texts: list[str], count: int | None) -> Iterator[str]:
    left = sum(map(len, texts)) if count is None else count
    for text in texts:
        if left > 0:
            yield text[:left]
        left -= len(text)


def _split(texts: list[str]) -> tuple[list[str], list[str]]:
    """Cuts the last characters off, in the midst of a file where need be."""
    train, held_out = list(texts), []
    left = sum(map(len, texts)) // _HELD_OUT
    while left > 0:
        text = train.pop()
        held_out.append(text[-left:])
        if len(text) > left:
            train.append(text[:-left])
        left -= len(held_out[-1])
    return train, held_out

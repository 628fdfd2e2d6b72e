"""What `--against` names: an object whose functions are judged in place of this library's."""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

_MODULES = {"jax": "jax.nn"}  # whose functions are meant by a name


class UnknownImplementationError(ValueError):
    """There is nothing that can be judged; the message is one line for the user."""


class NotOfferedError(Exception):
    """A claim passes a keyword that a function doesn't have."""

    def __init__(self, keyword: str) -> None:
        """Takes the keyword."""
        super().__init__(keyword)
        self.keyword = keyword


def resolve(name: str) -> Any:
    """Returns the object whose functions are to be judged.

    Args:
      name: `jax` (the functions of `jax.nn`), `optax` (its two softmax cross-entropies), `module` or `module:object`,
        the object's name dotted where it lies deeper. Modules are looked up in the working directory first.

    Raises:
      UnknownImplementationError: the module is given as a path, can't be imported, or has no such attribute.
    """
    module_name, colon, path = _MODULES.get(name, name).partition(":")
    module = _import(module_name)
    return _attribute(module, module_name, path) if colon else module


def offered(implementation: Any, functions: Iterable[str]) -> tuple[str, ...]:
    """Returns those of the dotted `functions` that can be called on `implementation`, itself or its `forward_mode`."""
    return tuple(
        function
        for function in functions
        if callable(attribute(implementation, function))
        or callable(attribute(implementation, f"forward_mode.{function}"))
    )


def attribute(found: Any, path: str) -> Any:
    """Returns what a dotted path leads to from an object; None where it leads nowhere.

    Raises:
      UnknownImplementationError: an attribute can't be read, because the code that makes it raises.
    """
    for part in path.split("."):
        with caught() as raised:
            found = getattr(found, part, None)
        if raised:
            raise UnknownImplementationError(f"cannot read {part!r}: {said(raised[0])}") from raised[0]
    return found


def watched(function: Callable[..., Any], passed: set[str]) -> Callable[..., Any]:
    """Returns a function that notes in `passed` the keywords it is given, and refuses those that it doesn't have."""
    known = keywords_of(function)

    def call(*arguments: Any, **keywords: Any) -> Any:
        for keyword in keywords:
            if known is not None and keyword not in known:
                raise NotOfferedError(keyword)
        passed.update(keywords)
        if known is not None:
            return function(*arguments, **keywords)
        try:
            return function(*arguments, **keywords)
        except TypeError as error:
            lacking = re.search(r"unexpected keyword argument '(\w+)'", said(error))
            if lacking and lacking[1] in keywords:
                raise NotOfferedError(lacking[1]) from error
            raise

    return call


def keywords_of(function: Callable[..., Any]) -> frozenset[str] | None:
    """Returns the keywords that a function takes; None if it may take any, or doesn't tell."""
    parameters = []
    with caught() as raised:
        parameters = list(inspect.signature(function, follow_wrapped=False).parameters.values())
    if raised or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(parameter.name for parameter in parameters if parameter.kind in by_name)


def optional_arguments(function: Callable[..., Any] | None) -> frozenset[str]:
    """Returns the names of the arguments that a function takes and doesn't need, as far as its signature tells."""
    parameters = []
    with caught():
        parameters = list(inspect.signature(function).parameters.values()) if function else []
    return frozenset(each.name for each in parameters if each.default is not each.empty)


@contextmanager
def caught() -> Iterator[list[BaseException]]:
    """Catches in a list what foreign code raises, a bare `sys.exit()` included; all but Ctrl-C."""
    raised: list[BaseException] = []
    try:
        yield raised
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raised.append(error)


def said(error: BaseException) -> str:
    """Returns the name of a foreign exception and its message, whose own code may raise too."""
    message = "<exception str() failed>"  # as a traceback has it
    with caught():
        message = str(error)
    return f"{type(error).__name__}: {message}"


def is_function(found: Any) -> bool:
    """Returns whether an object is called itself, rather than a class or a module that holds functions."""
    return callable(found) and not isinstance(found, type)


def holder(name: str) -> str:
    """Returns the name of what holds the object of a name: `module:a` of `module:a.b`, `module` of `module:a`."""
    return name[: max(name.rfind(":"), name.rfind("."))]


def _import(name: str) -> Any:
    if name.endswith(".py") or "/" in name or "\\" in name:
        path = PurePath(name)
        where = "" if path.parent == PurePath() else f", from the folder {path.parent}"
        raise UnknownImplementationError(f"{name!r} is a path; name its module, as an import does: {path.stem}{where}")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the working directory, which an installed command doesn't search
    with caught() as raised:
        return importlib.import_module(name)
    raise UnknownImplementationError(f"cannot import {name!r}: {said(raised[0])}{_meant(name)}") from raised[0]


def _meant(name: str) -> str:
    """What to name instead of a module that can't be imported, if that is an object of one that could."""
    parts = name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        module, path = ".".join(parts[:i]), ".".join(parts[i:])
        found = attribute(sys.modules.get(module), path)
        if is_function(found):
            return f"; it is a function: pass what holds it, {holder(f'{module}:{path}')}"
        if found is not None:
            return f"; it is an object in a module: {module}:{path}"
    return ""


def _attribute(module: Any, module_name: str, path: str) -> Any:
    found = attribute(module, path)
    if found is None:
        raise UnknownImplementationError(f"module {module_name!r} has no attribute {path!r}")
    return found

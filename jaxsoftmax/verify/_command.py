"""The command `jaxsoftmax verify`: what was asked for, the certificate, its files and its verdict."""

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from jaxsoftmax import _terminal, verify
from jaxsoftmax._terminal import RefusedError
from jaxsoftmax.verify._certificate import functions_of
from jaxsoftmax.verify._implementations import UnknownImplementationError, holder, is_function, offered, resolve
from jaxsoftmax.verify._record import Report
from jaxsoftmax.verify._table import print_report
from jaxsoftmax.verify._theorem import Theorem


def run(arguments: argparse.Namespace, command: list[str]) -> int:
    """Runs the command; returns its exit code."""
    known = verify.THEOREMS
    theorems = _known("theorem", arguments.theorem, known)
    dtypes = _known("dtype", arguments.dtype, _dtypes(known.values()))
    chosen = [theorem for number, theorem in known.items() if theorems is None or _stands_for(number, theorems)]
    try:
        implementation = _implementation(arguments.against, chosen)
        files = _files(arguments)
        _terminal.devices()
        report = _certify(implementation, theorems, dtypes, arguments.quick)
    except UnknownImplementationError as error:
        raise RefusedError(f"--against: {error}") from error
    if not report.rows and not report.offered:
        raise RefusedError("nothing was checked: no theorem speaks of this choice")
    if arguments.against is not None:
        report = replace(report, implementation=_label(arguments.against))
    contents = {
        path: render(report, known, command).encode("utf-8", "backslashreplace") for path, render in files.items()
    }
    trouble = _terminal.write_files(contents)
    print_report(report, known, _terminal.console(sys.stdout), verbose=arguments.verbose)
    if trouble:
        raise RefusedError(trouble)
    if report.passed:
        return _terminal.PASSED
    return _terminal.FAILED if report.failed else _terminal.REFUSED


def _known(kind: str, asked: list[str], known: Iterable[str]) -> list[str] | None:
    """Returns the names asked for, each once, or None where nothing was asked."""
    unknown = [name for name in asked if not any(_stands_for(other, [name]) for other in known)]
    if unknown:
        folded = {each.lower(): each for each in known}
        near = [folded[each] for name in unknown for each in get_close_matches(name.lower(), folded, 1)]
        advice = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
        raise RefusedError(f"unknown {kind} {', '.join(map(repr, unknown))}; {advice}")
    return list(dict.fromkeys(asked)) or None


def _stands_for(number: str, asked: list[str]) -> bool:
    """Returns whether a theorem is asked for by its number, or by that of which it is a named part (M8 of M8-empty)."""
    return number in asked or number.partition("-")[0] in asked


def _dtypes(theorems: Iterable[Theorem]) -> list[str]:
    return list(dict.fromkeys(dtype for theorem in theorems for claim in theorem.claims for dtype in claim.dtypes))


def _implementation(against: str | None, theorems: list[Theorem]) -> Any:
    if against is None:
        return importlib.import_module("jaxsoftmax")
    implementation = resolve(against)
    functions = functions_of(theorems) or functions_of(verify.THEOREMS.values())  # M1 to M3 are about jax.jvp alone
    if not offered(implementation, functions):
        raise RefusedError(f"--against: {_nothing_offered(against, implementation, functions)}")
    return implementation


def _nothing_offered(against: str, implementation: Any, functions: list[str]) -> str:
    names = ", ".join(functions)
    if ":" in against and is_function(implementation):
        return f"{against!r} is itself a function: pass what holds it, {holder(against)}, with one of these: {names}"
    remedy = "name a function there as one of these, or pass an object that has one, as module:object"
    return f"{against!r} offers none of the functions to judge: {names}; {remedy}"


def _label(against: str) -> str:
    return "jax.nn" if against == "jax" else against


def _certify(implementation: Any, theorems: list[str] | None, dtypes: list[str] | None, quick: bool) -> Report:
    with _terminal.progress("verify") as progress:
        return verify.certify(implementation, theorems=theorems, dtypes=dtypes, quick=quick, progress=progress)


_Render = Callable[[Report, dict[str, Theorem], list[str]], str]


def _files(arguments: argparse.Namespace) -> dict[Path, _Render]:
    """Returns the files asked for, each with what renders it; proves first that each can be written."""
    renders: dict[str, _Render] = {"json": _as_json, "html": _as_page}
    asked = {name: getattr(arguments, name) for name in renders if getattr(arguments, name)}
    _terminal.require_writable({f"--{name}": path for name, path in asked.items()})
    return {path: renders[name] for name, path in asked.items()}


def _as_json(report: Report, theorems: dict[str, Theorem], command: list[str]) -> str:
    document = {"command": command, "date": _terminal.now()} | report.as_dict()
    return _lines(document)


def _lines(document: dict[str, Any]) -> str:
    """JSON with a line for each row and each other entry of a list."""
    encode = partial(json.dumps, ensure_ascii=False, allow_nan=False)
    entries = []
    for name, value in document.items():
        listed = "[\n" + ",\n".join(map(encode, value)) + "\n]" if name in _LISTS else encode(value)
        entries.append(f"{encode(name)}: {listed}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


_LISTS = ("verdicts", "gaps", "rows")


def _as_page(report: Report, theorems: dict[str, Theorem], command: list[str]) -> str:
    from jaxsoftmax.verify._page import render_page

    return render_page(report, theorems, command, _terminal.now())

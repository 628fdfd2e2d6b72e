"""The experiments' claims, conclusions and figures, from what they wrote under experiments/results."""

import json
from collections.abc import Mapping
from typing import Any

from docs.generate.repository import FIGURES, RESULTS, url_of
from docs.generate.text import details, plain, versioned
from experiments.__main__ import NAMES


def render(repository: str) -> str:
    """Returns a section for each experiment, in the order in which they are run."""
    results = {path.stem: json.loads(path.read_text("utf-8")) for path in RESULTS.glob("*.json")}
    return "\n".join(_section(results[name], repository) for name in NAMES)


def _section(result: Mapping[str, Any], repository: str) -> str:
    name, held = result["experiment"], result["passed"]
    quick = ", in a quick run" if result["quick"] else ""
    parts = [
        f"## {name}\n",
        f"*{plain(result['claim'])}*\n",
        f"**The claim {'holds' if held else 'FAILS'}{quick}.**\n",
        "".join(f"- {plain(sentence)}\n" for sentence in result["conclusion"]),
        *(f"![{name}: {plain(result['claim'])}](/{FIGURES}/{figure})\n" for figure in result["figures"]),
        details("note", f"What was checked ({len(result['checks'])}), and how it was run", _checks(result)),
        f"Source: [`experiments/{name}`]({url_of(repository, f'experiments/{name}')}), "
        f"numbers: [`{name}.json`]({url_of(repository, f'experiments/results/{name}.json')}).\n",
    ]
    return "\n".join(parts)


def _checks(result: Mapping[str, Any]) -> str:
    checks = "".join(f"- {'✓' if holds else '✗'} {plain(check)}\n" for check, holds in result["checks"].items())
    machine = result["machine"]
    resumed = " after it was resumed" if result.get("resumed") else ""
    versions = plain(versioned(result["versions"]))
    return (
        f"{checks}\n`{result['command']}`, {result['seconds']} s{resumed}, seed {result['seed']}, "
        f"{machine['system']} {machine['architecture']}, {machine['cpus']} cores; {versions}.\n"
    )

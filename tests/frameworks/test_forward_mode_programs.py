"""The programs of docs/modes.md that want a loss in forward mode run with `forward_mode`, and with it alone."""

import re
from pathlib import Path

import pytest

from tests.frameworks.recipes import OF_A_FRAMEWORK, framework

pytestmark = OF_A_FRAMEWORK
PAGE = Path(__file__).parents[2] / "docs" / "modes.md"
SECTION = PAGE.read_text("utf-8").partition("## Solvers and samplers")[2].partition("\n## ")[0]
SHARED, *PROGRAMS = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
BY_LIBRARY = dict(zip(("optimistix", "lineax", "numpyro", "jaxopt"), PROGRAMS, strict=True))
VARIANT, WITHOUT = "from jaxsoftmax import forward_mode\n", "import jaxsoftmax as forward_mode\n"


@pytest.fixture(params=BY_LIBRARY)
def program(request):
    framework(request.param, f"needs {request.param}: install the extra `frameworks`")
    return BY_LIBRARY[request.param]


def test_program_runs_with_the_variant(program, capsys):
    assert VARIANT in SHARED
    exec(SHARED + program, {})
    assert capsys.readouterr().out.count("\n") == 1


def test_program_is_refused_without_it(program):
    with pytest.raises(TypeError, match="can't apply forward-mode autodiff"):
        exec(SHARED.replace(VARIANT, WITHOUT) + program, {})

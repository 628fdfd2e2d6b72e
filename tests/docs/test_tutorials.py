"""The tutorials were run when the site was built, and came to what their text says."""

import re

import pytest

from docs.generate.repository import ROOT
from tests.docs.conftest import build, copied
from tests.docs.outline import outline_of

NAMES = sorted(path.stem for path in ROOT.joinpath("docs", "tutorials").glob("*.py"))
PRINTED = re.compile(r'<div class="[^"]*mkd-glr-script-out-disp[^"]*">.*?</div>', re.DOTALL)
VERDICT = re.compile(r"(M\d+): (\d+) of (\d+) rows hold")


def page_of(site, name):
    return site / "generated" / "tutorials" / f"{name}.html"


def printed(site, name):
    """What a tutorial printed, with the page's markup taken out."""
    blocks = PRINTED.findall(page_of(site, name).read_text("utf-8"))
    return [re.sub(r"<[^>]+>", "", block).replace("&lt;", "<").replace("&gt;", ">") for block in blocks]


@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_shows_what_it_prints_and_its_figure_and_no_object(site, name):
    said = printed(site, name)
    assert said
    assert not any(" object at 0x" in block for block in said)
    assert any(f"mkd_glr_{name}_001" in link for link in outline_of(page_of(site, name)).links)


def test_every_try_fails_the_theorems_that_the_text_names(site):
    verdicts = [VERDICT.findall(block) for block in printed(site, "a_rule_of_your_own")]
    fails = [{number for number, held, of in tried if held != of} for tried in verdicts if tried]
    assert fails == [{"M14", "M19", "M20"}, {"M19", "M20"}, {"M15"}, set()]


def test_the_jacobian_is_that_of_paper_and_passes_the_certificate(site):
    said = "".join(printed(site, "the_jacobian"))
    differences = [float(number) for number in re.findall(r"largest difference (\S+)", said)]
    assert len(differences) == 3
    assert max(differences) < 1e-7
    assert "passed" in said.splitlines()
    assert "FAILED" not in said


def test_confident_tokens_go_on_learning_with_this_loss_alone(site):
    said = "".join(printed(site, "train_a_head"))
    losses = dict(re.findall(r"(optax|jaxsoftmax): loss ([^,]+),", said))
    zeros = dict(re.findall(r"(optax|jaxsoftmax): (\d+) of 64 label entries are 0", said))
    assert float(losses["optax"]) == 0
    assert 0 < float(losses["jaxsoftmax"]) < 1e-10
    assert zeros == {"optax": "64", "jaxsoftmax": "0"}


@pytest.mark.usefixtures("site")  # not in a source distribution, from which nothing can be built
def test_a_tutorial_that_fails_stops_this_build_and_the_next(tmp_path):
    sources = copied(tmp_path / "sources")
    for name in NAMES:
        sources.joinpath("docs", "tutorials", f"{name}.py").write_text('"""# A title"""\n\n1 / 0\n')
    for attempt in ("first", "second"):
        built = build(sources, tmp_path / attempt)
        assert built.returncode != 0
        assert "ZeroDivisionError" in built.stdout + built.stderr

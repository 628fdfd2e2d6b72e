"""Which cases are judged with every change, and which nightly."""

import pytest


def _joined(case):
    return "-".join(map(str, case)) if isinstance(case, tuple) else str(case)


def in_tiers(names, cases, first, named=_joined):
    """Parametrises a test with all of the cases nightly, and with the first ones in every run.

    A case is a tuple where there are several names; `named` gives its id.
    """
    cases = list(cases)
    assert first
    assert all(case in cases for case in first), first
    several = not isinstance(names, str)
    slow = [[] if case in first else [pytest.mark.slow] for case in cases]
    each = zip(cases, slow, strict=True)
    parameters = [pytest.param(*case if several else [case], id=named(case), marks=marks) for case, marks in each]
    return pytest.mark.parametrize(names, parameters)

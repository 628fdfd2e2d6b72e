"""What is said where a name leads to nothing that can be judged."""

import pytest

from jaxsoftmax.verify._implementations import UnknownImplementationError, holder, resolve


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("./mended.py", "is a path; name its module, as an import does: mended"),
        ("mended.py:inner", "is a path; name its module, as an import does: mended"),
        ("losses/mended.py", "is a path; name its module, as an import does: mended, from the folder losses"),
        ("jax.nn.relu", "No module named 'jax.nn.relu'; it is a function: pass what holds it, jax.nn"),
        ("types.SimpleNamespace", "'types' is not a package; it is an object in a module: types:SimpleNamespace"),
        ("jax.nn.no_such_name", "No module named 'jax.nn.no_such_name'"),
    ],
)
def test_a_name_that_is_no_module_is_refused_with_what_to_name_instead(name, remedy):
    with pytest.raises(UnknownImplementationError) as refusal:
        resolve(name)
    assert str(refusal.value).endswith(remedy)


@pytest.mark.parametrize(("name", "holds"), [("a.b:c", "a.b"), ("a:b.c", "a:b"), ("a.b:c.d", "a.b:c")])
def test_the_holder_of_an_object_is_its_name_less_the_last_part(name, holds):
    assert holder(name) == holds

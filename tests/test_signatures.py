"""Public signatures: `forward_mode` has those of `jaxsoftmax`, neither shows its rules, and overloads agree."""

import inspect
import pickle
import typing

import jax.numpy as jnp
import pytest

import jaxsoftmax
from jaxsoftmax import forward_mode

NAMES = [name for name in forward_mode.__all__ if getattr(forward_mode, name) is not getattr(jaxsoftmax, name)]


@pytest.mark.parametrize("name", NAMES)
def test_variant_has_the_signature_and_a_docstring_of_its_own(name):
    function, variant = getattr(jaxsoftmax, name), getattr(forward_mode, name)
    assert inspect.signature(function) == inspect.signature(variant)
    assert function.__annotations__.keys() == inspect.signature(function).parameters.keys() | {"return"}
    assert "_rule" not in str(inspect.signature(function))
    assert variant.__doc__.startswith(f"`jaxsoftmax.{name}` with a forward-mode rule")
    assert variant.__module__.startswith("jaxsoftmax.")
    assert pickle.loads(pickle.dumps(variant)) is variant


@pytest.mark.parametrize("library", [jaxsoftmax, forward_mode])
def test_error_counts_the_arguments_that_a_caller_gave(library):
    x = jnp.zeros((1, 2))
    with pytest.raises(TypeError, match=r"^linear_cross_entropy\(\) takes at most 3 positional arguments, got 4$"):
        library.linear_cross_entropy(x, x, x, x)
    with pytest.raises(TypeError, match=r"linear_cross_entropy\(\) missing 1 required positional argument: 'labels'"):
        library.linear_cross_entropy(x, x)
    with pytest.raises(TypeError, match=r"linear_cross_entropy\(\) got an unexpected keyword argument 'weight'"):
        library.linear_cross_entropy(x, x, x, weight=1)


@pytest.mark.parametrize("name", ["cross_entropy", "linear_cross_entropy", "sharded_linear_cross_entropy"])
def test_overload_has_the_arguments_of_its_function(name):
    function = getattr(jaxsoftmax, name)
    expected = inspect.signature(function).parameters
    overloads = typing.get_overloads(function)
    flags = [str(overload.__annotations__["has_aux"]) for overload in overloads]
    assert flags == ["typing.Literal[False]", "typing.Literal[True]", str(bool)]
    for overload in overloads:
        own = dict(inspect.signature(overload).parameters)
        (keywords,) = typing.get_args(own.pop("keywords").annotation)
        annotations = {argument: of.annotation for argument, of in own.items()} | typing.get_type_hints(keywords)
        assert annotations.keys() == expected.keys()
        del annotations["has_aux"], own["has_aux"]
        assert all(str(of) == str(expected[argument].annotation) for argument, of in annotations.items())
        assert all(of.default == expected[argument].default for argument, of in own.items())

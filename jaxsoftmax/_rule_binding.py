"""Binds a public function to its derivative rules: `jax.custom_vjp`, or `jax.custom_jvp` for `forward_mode`."""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

Rules = TypeVar("Rules")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Any])


def with_rules(
    rules: Rules,
) -> Callable[[Callable[Concatenate[Rules, Arguments], Result]], Callable[Arguments, Result]]:
    """Binds `rules` to the decorated function's first parameter, and hides that from the signature."""

    def decorate(function: Callable[Concatenate[Rules, Arguments], Result]) -> Callable[Arguments, Result]:
        return _bound(function, rules, function)

    return decorate


def variant_of(function: Function, rules: Any) -> Callable[[Callable[[], None]], Function]:
    """Replaces a function that is a docstring alone by `function`, bound to other rules."""

    def decorate(documented: Callable[[], None]) -> Function:
        return _bound(inspect.unwrap(function), rules, documented)

    return decorate


def _bound(function: Callable[..., Any], rules: Any, documented: Callable[..., Any]) -> Any:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1:]
    most = sum(each.kind is not inspect.Parameter.KEYWORD_ONLY for each in parameters)
    name = documented.__name__

    def bound(*args: Any, **kwargs: Any) -> Any:
        if len(args) > most:  # Python would count the rules among them
            raise TypeError(f"{name}() takes at most {most} positional arguments, got {len(args)}")
        return function(rules, *args, **kwargs)

    # With the globals of the module that documents it, or doctest takes it for another module's.
    variant: Any = types.FunctionType(bound.__code__, documented.__globals__, name, closure=bound.__closure__)
    functools.update_wrapper(variant, documented)
    variant.__wrapped__ = function
    variant.__signature__ = signature.replace(parameters=parameters)
    named = {each.name for each in parameters} | {"return"}
    variant.__annotations__ = {each: of for each, of in function.__annotations__.items() if each in named}
    return variant

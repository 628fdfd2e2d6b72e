"""Calls of a loss by the kind of their labels, their reduction and their keywords."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from jaxsoftmax.verify._token_loss import CAP, Options

INTEGER, FLOAT, SPARSE = "integer", "float", "sparse"
REDUCTIONS = ("mean", "sum", "none")
SENTINEL = "ignore_index={}".format
SENTINELS = (-100, -1, 0, 3)  # two outside the classes, two inside; 0 because it is falsy
# How a head takes its products, with what is passed: six tokens in chunks of 4 have a ragged last one.
OF_SCHEDULE = {"chunk_size": 4, "memory_budget": 1}
OF_PRODUCTS = {"transposed_kernel": True, "dtype": "float32", "precision": "highest"}
WITHOUT_EFFECT_ON_LOSS = {"has_aux", *OF_SCHEDULE, *OF_PRODUCTS}
_SELDOM_WRONG = {"memory_budget", "dtype", "precision"}
WEIGHTING = {"token_weights", "class_weights", *map(SENTINEL, SENTINELS)}
_OF_OPTIONS = {"label_smoothing": 0.125, "z_loss": 0.0625, "class_weights": True, "logit_softcap": CAP}


@dataclass(frozen=True)
class Case:
    """A call: the kind of its labels, the reduction, and its keywords."""

    labels: str = INTEGER
    reduction: str = "mean"
    given: frozenset[str] = field(default_factory=frozenset)  # keywords; of `ignore_index` with its value

    @property
    def options(self) -> Options:
        """The keywords that change a token's loss."""
        values = (_OF_OPTIONS[name] if name in self.given else None for name in _OF_OPTIONS)
        smoothing, z_loss, weighted, cap = values
        return Options("", smoothing or 0.0, z_loss or 0.0, bool(weighted), cap)

    @property
    def sentinel(self) -> int | None:
        """The label that is ignored."""
        return next((value for value in SENTINELS if SENTINEL(value) in self.given), None)

    def keywords(self, dtype: Any, token_weights: Any) -> dict[str, Any]:
        """What is passed, and nothing else."""
        given = self.options.keywords(dtype)
        given |= {"token_weights": token_weights} if "token_weights" in self.given else {}
        given |= {} if self.sentinel is None else {"ignore_index": self.sentinel}
        given |= {} if self.reduction == "mean" else {"reduction": self.reduction}
        return given | ({"has_aux": True} if "has_aux" in self.given else {})

    @property
    def name(self) -> str:
        """The call in words."""
        keywords = "all keywords" if len(self.given) > 2 else " and ".join(sorted(self.given)) or "no keyword"
        return f"{self.reduction}, {self.labels} labels, {keywords}"

    @property
    def only_in_full(self) -> bool:
        """Whether quick certificates and forward-mode variants skip it."""
        return len(self.given) < 3 and (self.reduction != "mean" or seldom_wrong(self.given))

    def narrowed(self, known: frozenset[str]) -> "Case | None":
        """The call with those of several keywords that a function has; None if it has one or none of them."""
        given = frozenset(name for name in self.given if name.partition("=")[0] in known)
        return replace(self, given=given) if len(given) > 1 else None

    def without(self, keyword: str) -> "Case":
        """The call less one keyword."""
        return replace(self, given=self.given - {keyword})


def seldom_wrong(given: frozenset[str]) -> bool:
    """Whether a call has no keywords but such as are seldom wrong, and one of these."""
    return bool(given) and given <= _SELDOM_WRONG


def cases(labels: str, alone: tuple[str, ...]) -> Iterator[Case]:
    """No keyword, each by itself, and all together; in each reduction."""
    together = frozenset(alone) - set(OF_INTEGERS) | ({SENTINEL(0)} if labels == INTEGER else set())
    for reduction in REDUCTIONS:
        for given in (frozenset(), *map(frozenset, zip(alone)), together):
            yield Case(labels, reduction, given)


OF_TOKENS = ("label_smoothing", "z_loss", "class_weights", "logit_softcap")
ALONE = ("token_weights", *OF_TOKENS, "has_aux")
OF_INTEGERS = tuple(map(SENTINEL, SENTINELS))

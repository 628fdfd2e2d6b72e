"""Sequences of tokens of equal length: a vocabulary learned by byte-pair encoding, and the ends of files padded."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from experiments.data.corpus import Corpus

PADDING, BOUNDARY = 0, 1  # the tokens after the end of a file, and between files
_SPECIAL = ["<|padding|>", "<|file|>"]

Sequences = Int[np.ndarray, "sequences length_and_one"]


class TokenData(NamedTuple):
    """Sequences with one token more than a model reads: each token's label is the one after it."""

    tokenizer: Tokenizer
    train: Sequences
    held_out: Sequences

    @property
    def digest(self) -> str:
        """A fingerprint of the training sequences."""
        return hashlib.sha256(self.train.tobytes()).hexdigest()


def token_data(corpus: Corpus, vocabulary: int, length: int) -> TokenData:
    """Learns a vocabulary from the training texts and encodes all texts.

    Args:
        corpus: the texts.
        vocabulary: how many tokens to have; a small corpus gives fewer.
        length: how many tokens of a sequence the model reads.
    """
    tokenizer = learned_tokenizer(corpus.train, vocabulary)
    train, held_out = (sequences(tokenizer, texts, length) for texts in (corpus.train, corpus.held_out))
    return TokenData(tokenizer, train, held_out)


def learned_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Returns a byte-level tokenizer, which has a token for every byte and so encodes any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True  # a text that spells out "<|padding|>" is not padded by it
    return tokenizer


def sequences(tokenizer: Tokenizer, texts: list[str], length: int) -> Sequences:
    """Cuts each text, between two boundaries, into sequences; the last token of each is the first of the next."""
    every = [part for encoding in tokenizer.encode_batch(texts) for part in _cut(encoding.ids, length)]
    padded = np.full((len(every), length + 1), PADDING, np.int32)
    for row, part in zip(padded, every, strict=True):
        row[: len(part)] = part
    return padded


def _cut(ids: list[int], length: int) -> Iterator[list[int]]:
    bounded = [BOUNDARY, *ids, BOUNDARY]
    for start in range(0, len(bounded) - 1, length):
        yield bounded[start : start + length + 1]


def batch_of(data: Sequences, size: int, seed: int, step: int) -> Sequences:
    """Returns the batch of one step; every sequence comes once before any comes again."""
    places = np.arange(step * size, (step + 1) * size)
    epochs = range(places[0] // len(data), places[-1] // len(data) + 1)
    order = np.concatenate([np.random.default_rng((seed, epoch)).permutation(len(data)) for epoch in epochs])
    return data[order[places - epochs[0] * len(data)]]

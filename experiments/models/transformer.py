"""A small decoder-only transformer in Flax NNX, without biases; its head is left to the loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

Tokens = Int[Array, "batch length"]
Hidden = Float[Array, "batch length embed"]
Kernel = Float[Array, "embed vocab"]
DEVIATION = 0.02  # of the first embeddings and the first head


@dataclass(frozen=True)
class Sizes:
    """The sizes of the model."""

    vocabulary: int
    length: int
    embed: int
    layers: int
    heads: int
    tied: bool  # whether the embeddings are the head's kernel too


class Model(NamedTuple):
    """A model of any framework: its parameters, and what makes the last hidden states and the head's kernel of them."""

    parameters: Any
    forward: Callable[[Any, Tokens], tuple[Hidden, Kernel]]


class Block(nnx.Module):
    """A pre-norm block: causal attention, then an MLP, each with a residual connection."""

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs) -> None:
        """Draws the parameters."""
        embed = sizes.embed
        self.attention_norm = nnx.RMSNorm(embed, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            sizes.heads, embed, use_bias=False, deterministic=True, decode=False, rngs=rngs, keep_rngs=False
        )
        self.perceptron_norm = nnx.RMSNorm(embed, rngs=rngs)
        self.widen = nnx.Linear(embed, 4 * embed, use_bias=False, rngs=rngs)
        self.narrow = nnx.Linear(4 * embed, embed, use_bias=False, rngs=rngs)

    def __call__(self, hidden: Hidden) -> Hidden:
        """Returns the states after this block."""
        causal = nnx.make_causal_mask(hidden[..., 0])
        hidden = hidden + self.attention(self.attention_norm(hidden), mask=causal)
        return hidden + self.narrow(jax.nn.gelu(self.widen(self.perceptron_norm(hidden))))


class Transformer(nnx.Module):
    """Embeddings of tokens and positions, blocks, and a last normalisation."""

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs) -> None:
        """Draws the parameters."""
        draw = nnx.initializers.normal(DEVIATION)
        self.tokens = nnx.Embed(sizes.vocabulary, sizes.embed, embedding_init=draw, rngs=rngs)
        self.places = nnx.Embed(sizes.length, sizes.embed, embedding_init=draw, rngs=rngs)
        self.blocks = nnx.List([Block(sizes, rngs) for _ in range(sizes.layers)])
        self.norm = nnx.RMSNorm(sizes.embed, rngs=rngs)
        self.head = nnx.data(None)
        if not sizes.tied:
            self.head = nnx.Linear(sizes.embed, sizes.vocabulary, use_bias=False, kernel_init=draw, rngs=rngs)

    def __call__(self, tokens: Tokens) -> Hidden:
        """Returns the last hidden states. Padding at the end of a sequence changes none before it."""
        hidden = self.tokens(tokens) + self.places(jnp.arange(tokens.shape[1]))
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)

    @property
    def kernel(self) -> Kernel:
        """The head's kernel."""
        return self.tokens.embedding[...].T if self.head is None else self.head.kernel[...]


def nnx_model(sizes: Sizes, seed: int) -> Model:
    """Returns a new transformer; the same seed draws the same parameters, but for the head, tied or not."""
    structure, parameters = nnx.split(Transformer(sizes, nnx.Rngs(seed)))

    def forward(parameters: nnx.State, tokens: Tokens) -> tuple[Hidden, Kernel]:
        transformer = nnx.merge(structure, parameters)
        return transformer(tokens), transformer.kernel

    return Model(parameters, forward)

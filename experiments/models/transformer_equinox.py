"""The transformer of `transformer.py` as an Equinox module, with the NNX model's parameters."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from experiments.models.transformer import Hidden, Kernel, Model, Sizes, Tokens

States = Float[Array, "length embed"]  # of one sequence


class Block(eqx.Module):
    """Causal attention, then a perceptron; each reads the normalised states and adds to them."""

    attention_norm: eqx.nn.RMSNorm
    attention: eqx.nn.MultiheadAttention
    perceptron_norm: eqx.nn.RMSNorm
    widen: eqx.nn.Linear
    narrow: eqx.nn.Linear

    def __init__(self, sizes: Sizes, key: Array) -> None:
        """Draws the parameters."""
        embed, keys = sizes.embed, jax.random.split(key, 3)
        self.attention_norm = _norm(embed)
        self.attention = eqx.nn.MultiheadAttention(sizes.heads, embed, key=keys[0])
        self.perceptron_norm = _norm(embed)
        self.widen = eqx.nn.Linear(embed, 4 * embed, use_bias=False, key=keys[1])
        self.narrow = eqx.nn.Linear(4 * embed, embed, use_bias=False, key=keys[2])

    def __call__(self, hidden: States) -> States:
        """Returns the states after this block."""
        seen = jax.vmap(self.attention_norm)(hidden)
        hidden = hidden + self.attention(seen, seen, seen, mask=jnp.tril(jnp.ones((len(hidden),) * 2, bool)))
        seen = jax.vmap(self.perceptron_norm)(hidden)
        return hidden + jax.vmap(self.narrow)(jax.nn.gelu(jax.vmap(self.widen)(seen)))


class Transformer(eqx.Module):
    """Embeddings of tokens and places, blocks, and a last normalisation."""

    tokens: eqx.nn.Embedding
    places: eqx.nn.Embedding
    blocks: list[Block]
    norm: eqx.nn.RMSNorm
    head: eqx.nn.Linear | None

    def __init__(self, sizes: Sizes, key: Array) -> None:
        """Draws the parameters."""
        keys = jax.random.split(key, sizes.layers + 3)
        self.tokens = eqx.nn.Embedding(sizes.vocabulary, sizes.embed, key=keys[0])
        self.places = eqx.nn.Embedding(sizes.length, sizes.embed, key=keys[1])
        self.blocks = [Block(sizes, each) for each in keys[3:]]
        self.norm = _norm(sizes.embed)
        head = eqx.nn.Linear(sizes.embed, sizes.vocabulary, use_bias=False, key=keys[2])
        self.head = None if sizes.tied else head

    def __call__(self, tokens: Int[Array, " length"]) -> States:
        """Returns the last hidden states of one sequence."""
        hidden = jax.vmap(self.tokens)(tokens) + self.places.weight[: len(tokens)]
        for block in self.blocks:
            hidden = block(hidden)
        return jax.vmap(self.norm)(hidden)

    @property
    def kernel(self) -> Kernel:
        """The head's kernel."""
        return (self.tokens if self.head is None else self.head).weight.T


def equinox_model(sizes: Sizes, parameters: nnx.State) -> Model:
    """Returns the transformer with the parameters of the one in NNX."""
    shapes = eqx.filter_eval_shape(Transformer, sizes, jax.random.key(0))
    arrays, rest = eqx.partition(_taken_over(shapes, nnx.to_pure_dict(parameters)), eqx.is_array)

    def forward(arrays: Transformer, tokens: Tokens) -> tuple[Hidden, Kernel]:
        transformer = eqx.combine(arrays, rest)
        return jax.vmap(transformer)(tokens), transformer.kernel

    return Model(arrays, forward)


def _norm(embed: int) -> eqx.nn.RMSNorm:
    return eqx.nn.RMSNorm(embed, eps=1e-6, use_bias=False)  # NNX's epsilon


def _taken_over(model: Transformer, given: dict[str, Any]) -> Transformer:
    """Puts NNX's arrays in place of the model's: a weight here is the transpose of a kernel there."""
    blocks = [_block_taken_over(block, given["blocks"][index]) for index, block in enumerate(model.blocks)]

    def places(model: Transformer) -> list[Any]:
        return [model.tokens.weight, model.places.weight, model.norm.weight, model.blocks]

    own = [given["tokens"]["embedding"], given["places"]["embedding"], given["norm"]["scale"], blocks]
    model = eqx.tree_at(places, model, own)
    if model.head is None:
        return model
    return eqx.tree_at(_head_weight, model, given["head"]["kernel"].T)


def _head_weight(model: Transformer) -> Any:
    assert model.head is not None
    return model.head.weight


def _block_taken_over(block: Block, given: dict[str, Any]) -> Block:
    def places(block: Block) -> list[Any]:
        attention = block.attention
        projections = [attention.query_proj, attention.key_proj, attention.value_proj, attention.output_proj]
        linear = [*projections, block.widen, block.narrow]
        return [block.attention_norm.weight, block.perceptron_norm.weight, *(layer.weight for layer in linear)]

    embed = len(given["attention_norm"]["scale"])
    attention = given["attention"]
    heads_last = [attention[name]["kernel"].reshape(embed, embed).T for name in ("query", "key", "value")]
    heads_first = attention["out"]["kernel"].reshape(embed, embed).T
    perceptron = [given[name]["kernel"].T for name in ("widen", "narrow")]
    norms = [given[name]["scale"] for name in ("attention_norm", "perceptron_norm")]
    return eqx.tree_at(places, block, [*norms, *heads_last, heads_first, *perceptron])

"""Text that a language model writes, a token at a time."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from tokenizers import Tokenizer

from experiments.data.token_sequences import BOUNDARY, PADDING
from experiments.models.transformer import Model


def sample(model: Model, tokenizer: Tokenizer, prompt: str, length: int, temperature: float, seed: int) -> str:
    """Returns the prompt, at the beginning of a file, and what the model writes after it.

    Args:
        model: whose parameters are used.
        tokenizer: turns text into its tokens and back.
        prompt: the first characters.
        length: how many tokens to have in all, at most as many as the model reads.
        temperature: 0 takes the likeliest token each time, 1 draws from the model's probabilities.
        seed: of the draws.
    """
    begin = jnp.array([BOUNDARY, *tokenizer.encode(prompt).ids], jnp.int32)
    tokens = jnp.pad(begin, (0, length - len(begin)), constant_values=PADDING)
    places = jnp.arange(len(begin), length)
    keys = jax.random.split(jax.random.key(seed), len(places))
    written = _written(model.forward, model.parameters, tokens, places, keys, jnp.float32(temperature))
    return tokenizer.decode(written.tolist()[1:], skip_special_tokens=False)


@partial(jax.jit, static_argnames="forward")
def _written(
    forward: Any,
    parameters: Any,
    tokens: Int[Array, " length"],
    places: Int[Array, " count"],
    keys: Array,
    temperature: Float[Array, ""],
) -> Int[Array, " length"]:
    """Generates tokens one by one, without a cache of keys and values."""

    def write(tokens: Int[Array, " length"], place_and_key: tuple[Array, Array]) -> tuple[Int[Array, " length"], None]:
        place, key = place_and_key
        hidden, kernel = forward(parameters, tokens[None])
        logits = (hidden[0, place - 1] @ kernel).at[PADDING].set(-jnp.inf)
        drawn = jax.random.categorical(key, logits / temperature)
        return tokens.at[place].set(jnp.where(temperature > 0.0, drawn, jnp.argmax(logits))), None

    return jax.lax.scan(write, tokens, (places, keys))[0]

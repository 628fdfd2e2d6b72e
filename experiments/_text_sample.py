"""Text that a language model writes, a token at a time."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int
from tokenizers import Tokenizer

from experiments._token_sequences import BOUNDARY, PADDING
from experiments._transformer import Model


def sample(model: Model, tokenizer: Tokenizer, prompt: str, length: int, temperature: float, seed: int) -> str:
    """Returns the prompt, at the beginning of a file, and what the model writes after it, up to `length` tokens.

    Args:
        model: whose parameters are used.
        tokenizer: turns text into its tokens and back.
        prompt: the first characters.
        length: how many tokens to have in all, at most those that the model reads.
        temperature: 0 takes the likeliest token each time; 1 draws from the model's probabilities.
        seed: of the draws.
    """
    begin = [BOUNDARY, *tokenizer.encode(prompt).ids]
    tokens = jnp.full(length, PADDING, jnp.int32).at[: len(begin)].set(jnp.array(begin))
    written = _continued(model, length - len(begin), temperature)(
        model.parameters, tokens, len(begin), jax.random.key(seed)
    )
    return tokenizer.decode(written.tolist()[1:], skip_special_tokens=False)


def _continued(model: Model, count: int, temperature: float) -> Any:
    """Returns the compiled writer of that many tokens; it reads all tokens anew for each, since they are few."""

    @jax.jit
    def written(parameters: Any, tokens: Int[Array, " length"], known: int, key: Array) -> Int[Array, " length"]:
        def write(tokens: Int[Array, " length"], place_and_key: tuple[Array, Array]) -> tuple[Array, None]:
            place, key = place_and_key
            hidden, kernel = model.forward(parameters, tokens[None])
            logits = (hidden[0, place - 1] @ kernel).at[PADDING].set(-jnp.inf)
            drawn = jax.random.categorical(key, logits / temperature) if temperature else jnp.argmax(logits)
            return tokens.at[place].set(drawn), None

        places = known + jnp.arange(count)
        return jax.lax.scan(write, tokens, (places, jax.random.split(key, count)))[0]

    return written

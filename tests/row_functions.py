"""Every function over logits, of logits [rows, vocab], integer labels [rows] and weights shaped like the logits."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxsoftmax

KEYWORDS = {"label_smoothing": 0.1, "z_loss": 0.1, "logit_softcap": 5.0}

FUNCTIONS = {
    "logsumexp": lambda f, x, y, t: f.logsumexp(x, -1),
    "masked logsumexp": lambda f, x, y, t: f.logsumexp(x, -1, where=t > 1e-4),
    "softmax": lambda f, x, y, t: f.softmax(x),
    "log_softmax": lambda f, x, y, t: f.log_softmax(x),
    "integer labels": lambda f, x, y, t: f.softmax_cross_entropy_with_integer_labels(x, y),
    "masked integer labels": lambda f, x, y, t: f.softmax_cross_entropy_with_integer_labels(x, y, where=t > 1e-4),
    "float labels": lambda f, x, y, t: f.softmax_cross_entropy(x, t),
    "training, integer": lambda f, x, y, t: f.cross_entropy(x, y, ignore_index=3, reduction="none", **KEYWORDS),
    "training, class weights": lambda f, x, y, t: f.cross_entropy(x, y, class_weights=jnp.arange(x.shape[1]) % 3),
    "training, float": lambda f, x, y, t: f.cross_entropy(x, t, **KEYWORDS),
    "sparse labels": lambda f, x, y, t: f.cross_entropy(
        x, jaxsoftmax.SparseLabels(y[:, None], jnp.max(t, -1, keepdims=True)), **KEYWORDS
    ),
    "token statistics": lambda f, x, y, t: sum(f.token_stats(x, y, temperature=2.5, logit_softcap=5.0)[:3]),
    "distillation": lambda f, x, y, t: f.distillation(x, jnp.sqrt(t), divergence="jensen_shannon", temperature=2.5),
}


def value_and_gradient(function, module):
    """The value, and the gradient of the sum of its entries with weights that differ along each axis."""

    def both(x, y, t):
        value, back = jax.vjp(lambda x: function(module, x, y, t), x)
        numbers = sum(jax.lax.broadcasted_iota(value.dtype, value.shape, axis) for axis in range(value.ndim))
        return value, back(jnp.cos(numbers + jnp.zeros_like(value)))[0]

    return both


def arrays(rows, vocab):
    """Logits with confident rows among them, labels, and weights that add up to 1."""
    rng = np.random.default_rng(rows + vocab)
    x = np.float32(3) * rng.standard_normal((rows, vocab), np.float32)
    x[::3, 1] += 30
    t = rng.random((rows, vocab), np.float32)
    return x, rng.integers(0, vocab, rows, np.int32), t / t.sum(-1, keepdims=True)

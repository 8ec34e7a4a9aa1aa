"""What every server here computes: 784-256-10 with fixed weights, by `jax.jit`."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

SIZES = (784, 256, 10)
# The most examples that servers which join calls compute at once.
BATCH = 32


def parameters():
    """Weights `float32[784, 256]` and `float32[256, 10]`, and their biases."""
    random = np.random.default_rng(0)
    return [
        (
            random.normal(0, rows**-0.5, (rows, columns)).astype(np.float32),
            random.normal(0, 0.1, columns).astype(np.float32),
        )
        for rows, columns in pairwise(SIZES)
    ]


def forward(weights, x):
    """Scores `float32[n, 10]` of `x`, `float32[n, 784]`."""
    (first, before), (second, after) = weights
    return jax.nn.relu(x @ first + before) @ second + after


def example():
    """One of those that are sent, `float32[1, 784]`."""
    return np.random.default_rng(1).random((1, SIZES[0])).astype(np.float32)


def predictor():
    """The function of arrays of NumPy, compiled for every number of examples up to `BATCH`.

    Numbers in between are filled up to a power of two, as whoever serves with JAX has to.
    """
    weights = jax.device_put(parameters())
    call = jax.jit(lambda x: forward(weights, x))
    sizes = [1 << power for power in range(BATCH.bit_length())]
    for size in sizes:
        call(jnp.zeros((size, SIZES[0]))).block_until_ready()

    def predict(x):
        count = len(x)
        size = next((one for one in sizes if one >= count), count)
        if size != count:
            x = np.concatenate([x, np.repeat(x[:1], size - count, axis=0)])
        return np.asarray(call(x))[:count]

    return predict

"""Random keys as programs and readers see them: the uint32 words they are made of.

Every reader has unsigned integers; a typed key exists in JAX alone. So keys become words before
they enter a program and keys again when they leave it.
"""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from signatures.dtypes import DType, KeyType


def is_key(value: object) -> bool:
    """Whether the value is an array of typed random keys."""
    dtype = getattr(value, "dtype", None)
    # NumPy's own dtypes are by far the most common, and this runs for every array of a call.
    if dtype is None or isinstance(dtype, np.dtype):
        return False
    return isinstance(value, jax.Array) and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def to_words(value: object) -> jax.Array:
    """The plain array for a value: keys as words, every other array as it is."""
    plain = jax.random.key_data(cast(jax.Array, value)) if is_key(value) else value
    return cast(jax.Array, plain)


def from_words(value: jax.Array, dtype: DType) -> jax.Array:
    """The array of that dtype for a plain array."""
    if isinstance(dtype, KeyType):
        return cast(jax.Array, jax.random.wrap_key_data(value, impl=dtype.implementation))
    return value

"""Every dtype that XLA computes with, in every place where an array can stand.

Left out are int1, uint1 and the two float6: JAX has names for them, but XLA's CPU refuses their
arrays, or ends the process, in plain `jax.jit` already.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import exporter
from exporter import TensorSpec, Variable, function

NARROW = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int2",
    "uint2",
    "int4",
    "uint4",
    "float16",
    "float32",
    "bfloat16",
    "complex64",
    "float8_e3m4",
    "float8_e4m3",
    "float8_e4m3fn",
    "float8_e4m3b11fnuz",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float4_e2m1fn",
)
WIDE = ("int64", "uint64", "float64", "complex128")
KEYS = ("threefry2x32", "threefry4x32", "rbg", "unsafe_rbg", "philox2x32", "philox4x32")


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def values_of(name):
    if name in KEYS:
        return jax.random.split(jax.random.key(3, impl=name), 3).reshape(1, 3)
    return jnp.asarray(np.array([[1, 0, 1]]).astype(dtype_of(name)))


class Everywhere:
    """An array of one dtype as variable, plain array, array of NumPy, constant and state."""

    def __init__(self, name):
        values = values_of(name)
        self.variable = Variable(values)
        self.plain = values
        self.empty = values[:0]
        self.state = Variable(values)
        if name not in KEYS:
            self.array = np.asarray(values)
        constant = values[:, ::-1]
        spec = TensorSpec(("n", 3), values.dtype)

        def everywhere(x):
            self.state.value = x[:1]
            held = (self.variable, self.plain, self.empty, self.state)
            return {"input": x, "constant": constant, "held": held} | (
                {} if name in KEYS else {"array": self.array}
            )

        self.call = function(everywhere, input_signature=[spec])


def words(array):
    """The bytes of an array, which have an equality that every dtype lacks or shares."""
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    plain = np.asarray(jax.random.key_data(array) if is_key else array)
    return np.ascontiguousarray(plain).view(np.uint8)


def check(names, folder):
    original = SimpleNamespace(**{name: Everywhere(name) for name in names})
    exporter.save(original, folder, {}, platforms=("cpu",))
    loaded = exporter.load(folder)
    for name in names:
        source, copy = getattr(original, name), getattr(loaded, name)
        given = source.variable.value[:, ::-1]
        expected, result = source.call(given), copy.call(given)
        assert jax.tree.structure(result) == jax.tree.structure(expected)
        for one, other in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            np.testing.assert_array_equal(words(one), words(other))
        assert copy.state.value.dtype == source.variable.dtype
        np.testing.assert_array_equal(words(copy.state.value), words(given))
        assert copy.empty.shape == (0, 3)


@pytest.mark.parametrize("names", [NARROW, KEYS], ids=["arrays", "keys"])
def test_every_dtype_stands_in_every_place(names, tmp_path):
    check(names, tmp_path / "model")


def test_64_bits_stand_in_every_place_under_x64(tmp_path):
    with jax.enable_x64(True):
        check((*WIDE, "float32", "int32"), tmp_path / "model")


def test_every_dtype_is_a_default(reload):
    def one(name):
        default = np.asarray(values_of(name))

        def f(x=default):
            return x

        return function(f, input_signature=[TensorSpec((1, 3), dtype_of(name))])

    loaded = reload(SimpleNamespace(**{name: one(name) for name in NARROW}), {})
    for name in NARROW:
        result = getattr(loaded, name)()
        assert result.dtype == dtype_of(name)
        np.testing.assert_array_equal(words(result), words(values_of(name)))

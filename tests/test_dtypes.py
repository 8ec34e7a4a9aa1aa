"""The types of array elements: which there are, and what may be written for each."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signatures.dtypes import KeyType, as_dtype, dtype_name
from signatures.errors import SpecError

UNHURRIED = settings(deadline=None)  # the time of one example says nothing on a busy machine

NAMES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128", "bfloat16"),
    *("int2", "int4", "uint2", "uint4", "float4_e2m1fn", "float8_e4m3fn", "float8_e5m2"),
    *("key<fry>", "key<fry4>", "key<rbg>", "key<urbg>", "key<phx2>", "key<phx4>"),
]
CHOICES = (
    "A program can have bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float16, "
    "float32, float64, complex64, complex128, bfloat16, "
)


@pytest.mark.parametrize("name", NAMES)
def test_a_dtype_is_read_back_from_its_name(name):
    assert dtype_name(as_dtype(name)) == name
    assert as_dtype(as_dtype(name)) is as_dtype(name)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (bool, "bool"),
        (int, "int64"),
        (float, "float64"),
        (complex, "complex128"),
        (np.float32, "float32"),
        (np.dtype("int8"), "int8"),
        (np.dtype(">i4"), "int32"),
        (np.intc, "int32"),
        (np.bool_, "bool"),
        (jnp.bfloat16, "bfloat16"),
        (jnp.float8_e4m3fn, "float8_e4m3fn"),
        (jnp.int4, "int4"),
        (ml_dtypes.uint4, "uint4"),
        (jnp.zeros(1, jnp.uint8).dtype, "uint8"),
        (KeyType("key<rbg>"), "key<rbg>"),
    ],
)
def test_a_dtype_may_be_given_as_any_library_writes_it(value, name):
    assert dtype_name(as_dtype(value)) == name


@pytest.mark.parametrize(
    ("implementation", "name", "words"),
    [
        ("threefry2x32", "key<fry>", 2),
        ("threefry4x32", "key<fry4>", 4),
        ("rbg", "key<rbg>", 4),
        ("unsafe_rbg", "key<urbg>", 4),
        ("philox2x32", "key<phx2>", 1),
        ("philox4x32", "key<phx4>", 2),
    ],
)
def test_a_random_key_has_the_dtype_that_jax_gives_it(implementation, name, words):
    key = jax.random.key(0, impl=implementation)
    dtype = as_dtype(key.dtype)
    assert isinstance(dtype, KeyType)
    assert (str(dtype), dtype.words) == (name, words)
    assert jax.random.key_data(key).shape == (dtype.words,)
    remade = jax.random.wrap_key_data(jax.random.key_data(key), impl=dtype.implementation)
    assert remade.dtype == key.dtype


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("float33", "float33"),
        ("f4", "f4"),
        ("", ""),
        ("Float32", "Float32"),
        ("key<mine>", "key<mine>"),
        (None, "None"),
        (str, "str"),
        (object, "object"),
        (np.dtype("datetime64[s]"), "datetime64[s]"),
        (np.dtype([("a", "f4")]), "void32"),
        (3, "3"),
        ([1, 2], "[1, 2]"),
        ({"a": 1}, "{'a': 1}"),
        (jax.dtypes.float0, "void"),
    ],
)
def test_what_no_program_can_have_is_named_with_the_choices(value, name):
    with pytest.raises(SpecError) as caught:
        as_dtype(value)
    assert str(caught.value).startswith(f"{name!r} is not a dtype name. {CHOICES}")
    assert str(caught.value).endswith(", key<rbg>, key<urbg>, key<phx2>, key<phx4>.")


def test_the_long_doubles_of_one_machine_are_no_dtype():
    with pytest.raises(SpecError, match=r"' is not a dtype name\."):
        as_dtype(np.longdouble)


def test_a_kind_of_key_that_jax_does_not_have_is_refused():
    with pytest.raises(SpecError) as caught:
        KeyType("key<mine>")
    assert str(caught.value) == (
        "'key<mine>' is not a kind of random key. JAX has key<fry>, key<fry4>, "
        "key<rbg>, key<urbg>, key<phx2>, key<phx4>."
    )


@UNHURRIED
@given(st.text(max_size=12))
def test_any_text_is_a_dtype_or_a_spec_error(text):
    try:
        dtype = as_dtype(text)
    except SpecError:
        return
    assert dtype_name(dtype) == text

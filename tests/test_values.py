"""One value of a call as an array: arrays as they are or refused, numbers and lists converted."""

import array
import collections
import decimal
import fractions

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from exporter import TensorSpec, Variable
from signatures.dtypes import as_dtype
from signatures.values import Misfit, as_array, is_array, shown

UNHURRIED = settings(deadline=None)  # the time of one example says nothing on a busy machine

FLOAT32 = "; convert it with .astype('float32') if that is meant"


class Foreign:
    """An array of some other library, which only knows how to become one of NumPy."""

    dtype = "foreign.float"
    shape = (2,)

    def __init__(self, found):
        self.found = found

    def __array__(self, dtype=None, copy=None):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class Box:
    """A mutable array of some framework."""

    def __init__(self, value):
        self.value = value

    def __jax_array__(self):
        return self.value


class Subclass(np.ndarray):
    pass


class Unprintable:
    def __repr__(self):
        raise RuntimeError("not now")


def convert(value, dtype, max_axes=4):
    return as_array(value, as_dtype(dtype), max_axes)


@pytest.mark.parametrize("dtype", ["float32", "bool", "bfloat16", "float8_e5m2", "int4", "uint64"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (2, 3)])
def test_an_array_of_the_dtype_is_taken_as_it_is(dtype, shape):
    values = np.ones(shape, as_dtype(dtype))
    assert convert(values, dtype) is values
    if dtype != "uint64":  # which JAX has under another setting
        values = jnp.asarray(values)
        assert convert(values, dtype) is values


def test_a_key_is_taken_as_it_is():
    key = jax.random.key(0)
    assert convert(key, "key<fry>") is key


@pytest.mark.parametrize("transformation", [jax.jit, jax.vmap, jax.make_jaxpr, jax.jacfwd])
def test_a_traced_array_is_taken_as_it_is(transformation):
    def checked(x):
        assert is_array(x)
        assert convert(x, "float32") is x
        assert convert(x, "int32") == Misfit(
            f"got {shown(x)}; convert it with .astype('int32') if that is meant"
        )
        return x * 2

    transformation(checked)(jnp.ones(3))


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (3, "float32", 3.0),
        (True, "int8", 1),
        (np.float64(1.5), "bfloat16", 1.5),
        (np.int64(7), "int4", 7),
        ([], "float32", []),
        ([[], []], "int32", [[], []]),
        ([[[]]], "bool", [[[]]]),
        ([1, 2.5], "float32", [1.0, 2.5]),
        ((1, 2), "int32", [1, 2]),
        ([(1, 2), [3, 4]], "int32", [[1, 2], [3, 4]]),
        (range(3), "int32", [0, 1, 2]),
        (collections.deque([1, 2]), "int32", [1, 2]),
        (collections.UserList([1, 2]), "int32", [1, 2]),
        ([np.float64(1), 2, True], "float16", [1.0, 2.0, 1.0]),
        ([[True], [False]], "bool", [[True], [False]]),
        ([2j, 1], "complex64", [2j, 1.0]),
        ([np.float32(1), np.ones((), np.float32)], "float32", [1.0, 1.0]),
        ([np.ones(2, np.float32), jnp.zeros(2)], "float32", [[1.0, 1.0], [0.0, 0.0]]),
        ([[np.ones(1, np.int8)], [np.zeros(1, np.int8)]], "int8", [[[1]], [[0]]]),
        ([np.ones(2, ">f4")], "float32", [[1.0, 1.0]]),
        ([Box(jnp.ones(2))], "float32", [[1.0, 1.0]]),
        (np.ones(2, ">f4"), "float32", [1.0, 1.0]),
        (np.ones(2, ">i8"), "int64", [1, 1]),
        (array.array("f", [1, 2]), "float32", [1.0, 2.0]),
        (memoryview(b"ab"), "uint8", [97, 98]),
        (Foreign(np.ones(2, np.float32)), "float32", [1.0, 1.0]),
        (np.ones(1, np.float32).view(Subclass), "float32", [1.0]),
        (Variable(jnp.ones(2)), "float32", [1.0, 1.0]),
        (nnx.Param(jnp.ones(2)), "float32", [1.0, 1.0]),
        (Box(Box(2.5)), "float32", None),
        (Box(2.5), "float32", 2.5),
        (Box([1, 2]), "float32", [1.0, 2.0]),
    ],
)
def test_numbers_lists_and_what_holds_arrays_become_arrays(value, dtype, expected):
    made = convert(value, dtype)
    if expected is None:
        assert isinstance(made, Misfit)
        return
    assert made.dtype == as_dtype(dtype)
    assert is_array(made)
    assert np.asarray(made).tolist() == expected


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        # Numbers.
        (1.5, "int32", "got 1.5 (float); int32 takes ints only"),
        (1.0, "int32", "got 1.0 (float); int32 takes ints only"),
        (1, "bool", "got 1 (int); bool takes bools only"),
        (1j, "float32", "got 1j (complex); float32 takes real numbers only"),
        (300, "int8", "got 300 (int), which int8 cannot hold: it takes -128 to 127"),
        (16777217, "float32", "got 16777217 (int), which float32 cannot hold exactly"),
        (1e40, "float32", "got 1e+40 (float), which is too large for float32"),
        (np.int64(2**40), "int32", "got np.int64(1099511627776) (int64), which int32 cannot hold: "
         "it takes -2147483648 to 2147483647"),
        (decimal.Decimal("1.5"), "float32", "got Decimal('1.5') (Decimal)"),
        (fractions.Fraction(1, 2), "float32", "got Fraction(1, 2) (Fraction)"),
        # What is no number.
        ("1.5", "float32", "got '1.5' (str)"),
        (b"ab", "uint8", "got b'ab' (bytes)"),
        (bytearray(b"ab"), "uint8", "got bytearray(b'ab') (bytearray)"),
        (None, "float32", "got None (NoneType)"),
        ({}, "float32", "got {} (dict)"),
        ({"a": np.ones(2)}, "float32", "got {'a': float64[2]} (dict)"),
        ({1, 2}, "int32", "got {1, 2} (set)"),
        (float, "float32", "got <class 'float'> (type)"),
        (np.float32, "float32", "got <class 'numpy.float32'> (type)"),
        (np.str_("a"), "float32", "got np.str_('a') (str_)"),
        (np.datetime64("2020"), "int64", "got np.datetime64('2020') (datetime64)"),
        (jax.ShapeDtypeStruct((2,), "float32"), "float32", "got ShapeDtypeStruct(shape=(2,), "
         "dtype=float32) (ShapeDtypeStruct)"),
        (TensorSpec((2,)), "float32", "got TensorSpec(shape=(2,), dtype='float32') (TensorSpec)"),
        # Lists.
        ([1, "a"], "float32", "got a list whose item [1] is 'a' (str)"),
        ([None], "float32", "got a list whose item [0] is None (NoneType)"),
        ([{}], "float32", "got a list whose item [0] is {} (dict)"),
        ([[1], [2.5]], "int32", "got a list whose item [1][0] is 2.5 (float); int32 takes ints "
         "only"),
        ((0.5, 16777217), "float32", "got a tuple whose item [1] is 16777217 (int), which float32 "
         "cannot hold exactly"),
        ([1, [2]], "float32", "got a ragged list: item [0] is 1 (int) and item [1] is a list of "
         "1"),
        ([[1, 2], (3,)], "float32", "got a ragged list: item [0] is a list of 2 and item [1] is a "
         "tuple of 1"),
        ([[[1], [2]], [[3], []]], "float32", "got a ragged list: item [0][0] is a list of 1 and "
         "item [1][1] is a list of 0"),
        ([[1], np.ones(1)], "float32", "got a ragged list: item [0] is a list of 1 and item [1] "
         "is float64[1]"),
        ([[[[[1]]]]], "float32", "got [[[[[1]]]]] (list), nested more than 4 deep"),
        # Arrays, in lists and alone.
        (np.float64(1) * np.ones(()), "float32", None),
        (np.ones(()), "float32", f"got float64[]{FLOAT32}"),
        (np.ones((2, 0), np.int64), "float32", f"got int64[2, 0]{FLOAT32}"),
        (jnp.ones(2, jnp.bfloat16), "float32", f"got bfloat16[2]{FLOAT32}"),
        (np.ones(1, ml_dtypes.int4), "float32", f"got int4[1]{FLOAT32}"),
        (np.array([1, None]), "float32", f"got object[2]{FLOAT32}"),
        (np.array(["a"]), "float32", f"got str32[1]{FLOAT32}"),
        ([np.ones(2)], "float32", f"got a list whose item [0] is float64[2]{FLOAT32}"),
        ([jnp.int32(1), 2], "float32", f"got a list whose item [0] is int32[]{FLOAT32}"),
        ([np.ones(2, "f4"), np.ones(3, "f4")], "float32", "got a ragged list: item [0] is "
         "float32[2] and item [1] is float32[3]"),
        ([np.ones(2, "f4"), 1], "float32", "got a ragged list: item [0] is float32[2] and item "
         "[1] is float32[]"),
        (np.ma.masked_array([1.0], [True]), "float64", "got a masked array; fill it with "
         ".filled() first"),
        (array.array("d", [1]), "float32", f"got float64[1]{FLOAT32}"),
        (memoryview(b"ab"), "float32", f"got uint8[2]{FLOAT32}"),
        (Foreign(np.ones(2)), "float32", f"got float64[2]{FLOAT32}"),
        (Foreign(TypeError("it is on\nanother device")), "float32", "got a Foreign that NumPy "
         "cannot read: it is on"),
        (Box("a"), "float32", "got 'a' (str)"),
        (Variable(jnp.ones(2)), "int32", "got float32[2]; convert it with .astype('int32') if that "
         "is meant"),
    ],
)  # fmt: skip
def test_what_would_lose_something_is_refused(value, dtype, text):
    if text is None:  # NumPy makes a scalar of it, and scalars are numbers
        assert isinstance(value, np.generic)
    else:
        assert convert(value, dtype) == Misfit(text)


@pytest.mark.parametrize(
    ("make", "dtype", "text"),
    [
        (lambda key: 1, "key<fry>", "got 1 (int); make a key with jax.random.key"),
        (lambda key: [1, 2], "key<fry>", "got a list; make a key with jax.random.key"),
        (lambda key: np.ones(2, np.uint32), "key<fry>", "got uint32[2]"),
        (lambda key: key, "key<rbg>", "got key<fry>[]"),
        (lambda key: key, "float32", "got key<fry>[]"),
        (lambda key: [key, key], "key<fry>", "got a list whose item [0] is key<fry>[], an array "
         "that only JAX can join; use jnp.stack"),
    ],
)  # fmt: skip
def test_keys_and_numbers_are_never_made_of_each_other(make, dtype, text):
    assert convert(make(jax.random.key(0)), dtype) == Misfit(text)


def test_traced_arrays_in_a_list_are_left_to_the_caller_to_join():
    def checked(x):
        assert convert([x, x], "float32") == Misfit(
            "got a list whose item [0] is float32[2], an array that only JAX can join; use "
            "jnp.stack"
        )
        return x

    jax.jit(checked)(jnp.ones(2))


@pytest.mark.parametrize(("max_axes", "end"), [(0, ""), (1, ", nested more than 1 deep")])
def test_a_list_nested_deeper_than_its_spec_is_refused_without_reading_on(max_axes, end):
    endless: list[object] = [[1]]
    endless[0] = endless
    found = convert(endless, "float32", max_axes)
    assert found == Misfit(f"got {shown(endless)}{end}")


# A list says nothing about the axes inside of one that has no elements.
shapes = st.just(()) | st.builds(
    lambda outer, last: (*outer, last),
    st.lists(st.integers(1, 3), max_size=2),
    st.integers(0, 3),
)
arrays = st.sampled_from(["float32", "int16", "bool", "complex64"]).flatmap(
    lambda dtype: hnp.arrays(dtype, shapes)
)


@UNHURRIED
@given(arrays)
def test_an_array_as_a_nested_list_becomes_the_array_again(values):
    made = convert(values.tolist(), values.dtype.name)
    assert made.shape == values.shape
    np.testing.assert_array_equal(made, values)


@UNHURRIED
@given(arrays.filter(lambda values: values.ndim), st.sampled_from([np.asarray, jnp.asarray]))
def test_the_rows_of_an_array_in_a_list_become_the_array_again(values, make):
    made = convert([make(row) for row in values], values.dtype.name)
    assert made.shape == values.shape
    np.testing.assert_array_equal(made, values)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5 (float)"),
        ("a", "'a' (str)"),
        ("x" * 100, f"'{'x' * 27}...{'x' * 28}' (str)"),
        ([1, 2], "[1, 2] (list)"),
        (list(range(100)), "[0, 1, 2, 3, 4, 5, ...] (list)"),
        ([np.ones(2), {"a": jnp.ones(())}], "[float64[2], {'a': float32[]}] (list)"),
        (np.ones((2, 3), np.int8), "int8[2, 3]"),
        (nnx.Param(jnp.ones(2)), "float32[2]"),
        (np.float32(1.5), "np.float32(1.5) (float32)"),
        (10**50, f"{10**50} (int)"),
        ([10**5000], "[a number of 16610 bits] (list)"),
    ],
)
def test_a_value_is_shown_short_with_its_type(value, text):
    assert shown(value) == text


def test_a_number_too_long_for_python_to_print_is_shown_by_its_length():
    assert shown(10**5000) == "a number of 16610 bits (int)"
    assert convert(10**5000, "float32") == Misfit(
        "got a number of 16610 bits (int), which float32 cannot hold exactly"
    )


def test_a_value_that_cannot_be_printed_is_shown_all_the_same():
    assert shown(Unprintable()).startswith("<Unprintable instance at 0x")


def test_an_array_is_shown_without_being_read():
    class Unread(np.ndarray):
        def __repr__(self):
            raise AssertionError("it was read")

    assert shown([np.ones(2).view(Unread)]) == "[float64[2]] (list)"

"""Python numbers as arrays: a float may be rounded, everything else is kept exactly or refused."""

import enum
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signatures.numbers import Loss, converted, kind_of, kind_of_type

UNHURRIED = settings(deadline=None)  # the time of one example says nothing on a busy machine

INTEGERS = ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64", "int4", "uint4", "int2"]
FLOATS = ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
SMALL = ["int8", "uint8", "int4", "uint4", "int2", "float8_e4m3fn", "float8_e5m2"]
ODD_FLOATS = ["float4_e2m1fn", "float6_e2m3fn", "float8_e8m0fnu", "float8_e4m3fnuz"]


class Colour(enum.IntEnum):
    RED = 3


def dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


wide_integers = st.one_of(
    st.integers(-300, 300),
    st.integers(-(2**70), 2**70),
    st.builds(lambda n, by: 2**n + by, st.integers(0, 70), st.integers(-2, 2)),
)


@UNHURRIED
@given(wide_integers, st.sampled_from(INTEGERS))
def test_an_integer_dtype_takes_exactly_the_numbers_in_its_range(number, name):
    info = ml_dtypes.iinfo(dtype(name))
    made = converted([number], dtype(name))
    if int(info.min) <= number <= int(info.max):
        assert made.dtype == dtype(name)
        assert int(made[0]) == number
    else:
        assert made == Loss(
            0, f", which {name} cannot hold: it takes {int(info.min)} to {int(info.max)}"
        )


@UNHURRIED
@given(wide_integers, st.sampled_from(FLOATS))
def test_a_float_dtype_takes_exactly_the_whole_numbers_it_holds(number, name):
    info = ml_dtypes.finfo(dtype(name))
    odd = abs(number) // (number & -number) if number else 0
    is_held = odd.bit_length() <= info.nmant + 1 and abs(number) <= float(info.max)
    made = converted([number], dtype(name))
    if is_held:
        assert float(made[0]) == number
    else:
        assert made == Loss(0, f", which {name} cannot hold exactly")


@UNHURRIED
@given(st.floats(width=64), st.sampled_from(FLOATS))
def test_a_float_is_rounded_as_numpy_rounds_it_or_is_too_large(number, name):
    with np.errstate(all="ignore"):
        rounded = np.array([number]).astype(dtype(name))
    made = converted([number], dtype(name))
    if math.isfinite(number) and not np.isfinite(rounded.astype(np.float64)).all():
        assert made == Loss(0, f", which is too large for {name}")
    elif math.isinf(number) and not np.isinf(rounded.astype(np.float64)).all():
        assert made == Loss(0, f", which {name} cannot hold")
    else:
        np.testing.assert_array_equal(made.astype(np.float64), rounded.astype(np.float64))


@UNHURRIED
@given(st.lists(st.floats(width=32) | st.integers(-(2**24), 2**24), max_size=6))
def test_what_float32_holds_exactly_is_kept_exactly(numbers):
    made = converted(numbers, np.dtype("float32"))
    np.testing.assert_array_equal(made.astype(np.float64), np.array(numbers, np.float64))


@UNHURRIED
@given(st.complex_numbers(max_magnitude=1e30))
def test_both_parts_of_a_complex_number_are_rounded(number):
    made = converted([number], np.dtype("complex64"))
    assert made[0] == np.complex64(number)


@pytest.mark.parametrize(
    ("numbers", "name", "expected"),
    [
        ([], "float32", []),
        ([], "int4", []),
        ([], "bool", []),
        ([True, False], "bool", [True, False]),
        ([np.True_], "bool", [True]),
        ([True, 2], "int8", [1, 2]),
        ([True], "float8_e5m2", [1.0]),
        ([False, 1, 2.5, 3j], "complex64", [0, 1, 2.5, 3j]),
        ([1, 2.5], "float32", [1.0, 2.5]),
        ([np.int64(7), np.uint8(1)], "int4", [7, 1]),
        ([np.float64(1.5), np.float16(2)], "bfloat16", [1.5, 2.0]),
        ([ml_dtypes.bfloat16(1.5), ml_dtypes.int4(-3)], "float32", [1.5, -3.0]),
        ([np.complex64(2j)], "complex128", [2j]),
        ([Colour.RED], "int32", [3]),
        ([2**24], "float32", [2.0**24]),
        ([2**100, 0.5], "float32", [2.0**100, 0.5]),
        ([2**63, 1], "uint64", [2**63, 1]),
        ([-(2**63)], "int64", [-(2**63)]),
        ([65519.0], "float16", [65504.0]),  # nearer to the largest than to the next one would be
        ([1e-50], "float32", [0.0]),
        ([448.0], "float8_e4m3fn", [448.0]),
        ([3.0], "float8_e8m0fnu", [4.0]),
        ([6, -6.0], "float4_e2m1fn", [6.0, -6.0]),
    ],
)
def test_numbers_of_a_kind_that_a_dtype_holds_are_converted(numbers, name, expected):
    made = converted(numbers, dtype(name))
    assert made.dtype == dtype(name)
    assert made.tolist() == expected


@pytest.mark.parametrize("name", [*FLOATS, "complex64", "complex128"])
def test_not_a_number_stays(name):
    assert np.isnan(converted([math.nan], dtype(name)).astype(np.complex128)).all()


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "bfloat16", "float8_e5m2"])
def test_infinity_stays(name):
    made = converted([math.inf, -math.inf, 1.0], dtype(name))
    assert made.astype(np.float64).tolist() == [math.inf, -math.inf, 1.0]


@pytest.mark.parametrize(
    ("numbers", "name", "loss"),
    [
        ([1], "bool", Loss(0, "; bool takes bools only")),
        ([True, 1.0], "bool", Loss(1, "; bool takes bools only")),
        ([1, 2.0], "int32", Loss(1, "; int32 takes ints only")),
        ([np.float32(1)], "uint8", Loss(0, "; uint8 takes ints only")),
        ([math.nan], "int32", Loss(0, "; int32 takes ints only")),
        ([1.0, 2j], "float32", Loss(1, "; float32 takes real numbers only")),
        ([0, 300], "int8", Loss(1, ", which int8 cannot hold: it takes -128 to 127")),
        ([-1], "uint4", Loss(0, ", which uint4 cannot hold: it takes 0 to 15")),
        ([np.int64(8)], "int4", Loss(0, ", which int4 cannot hold: it takes -8 to 7")),
        ([1.5, 2**24 + 1], "float32", Loss(1, ", which float32 cannot hold exactly")),
        ([np.int64(2**24 + 1)], "float32", Loss(0, ", which float32 cannot hold exactly")),
        ([2**53 + 1], "float64", Loss(0, ", which float64 cannot hold exactly")),
        ([10**400], "float64", Loss(0, ", which float64 cannot hold exactly")),
        ([1j, 2**53 + 1], "complex128", Loss(1, ", which complex128 cannot hold exactly")),
        ([1j, 2**24 + 1], "complex64", Loss(1, ", which complex64 cannot hold exactly")),
        ([257], "bfloat16", Loss(0, ", which bfloat16 cannot hold exactly")),
        ([True, False], "float8_e8m0fnu", Loss(1, ", which float8_e8m0fnu cannot hold exactly")),
        ([0.5, 1e39], "float32", Loss(1, ", which is too large for float32")),
        ([1e5], "float16", Loss(0, ", which is too large for float16")),
        ([1, 1e39j], "complex64", Loss(1, ", which is too large for complex64")),
        ([100.0], "float4_e2m1fn", Loss(0, ", which is too large for float4_e2m1fn")),
        ([math.nan], "float4_e2m1fn", Loss(0, ", which float4_e2m1fn cannot hold")),
        ([math.inf], "float8_e4m3fn", Loss(0, ", which float8_e4m3fn cannot hold")),
        ([0.0], "float8_e8m0fnu", Loss(0, ", which float8_e8m0fnu cannot hold")),
        ([-1.0], "float8_e8m0fnu", Loss(0, ", which float8_e8m0fnu cannot hold")),
    ],
)
def test_the_first_number_that_would_be_lost_is_named(numbers, name, loss):
    assert converted(numbers, dtype(name)) == loss


@pytest.mark.parametrize("name", [*SMALL, *ODD_FLOATS])
def test_every_value_of_a_small_dtype_converts_to_itself(name):
    values = np.arange(256).astype(np.uint8).view(dtype(name))
    made = converted([dtype(name).type(value) for value in values], dtype(name))
    np.testing.assert_array_equal(made.astype(np.float64), values.astype(np.float64))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("bool", 0), *((n, 1) for n in INTEGERS), *((n, 2) for n in FLOATS), ("complex64", 3)],
)
def test_every_dtype_is_of_one_kind_of_number(name, kind):
    assert kind_of(dtype(name)) == kind
    assert kind_of_type(dtype(name).type) == kind


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (bool, 0),
        (int, 1),
        (Colour, 1),
        (float, 2),
        (complex, 3),
        (str, None),
        (type(None), None),
        (list, None),
        (np.ndarray, None),
        (np.str_, None),
        (np.datetime64, None),
        (np.longdouble, None),
        (np.void, None),
    ],
)
def test_types_that_are_no_numbers_have_no_kind(kind, number):
    assert kind_of_type(kind) == number

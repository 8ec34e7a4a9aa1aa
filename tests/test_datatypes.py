"""The datatypes of the Open Inference Protocol: names for every type, bytes that are elements."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.runtime.datatypes import (
    BYTES,
    DATATYPES,
    STANDARD,
    bytes_of,
    datatype_of,
    dtype_of,
    has_stray_bits,
    objects_of,
    texts_of,
)
from signatures import dtypes as ours
from signatures.dtypes import KeyType, as_dtype

# Types that leave bits of their byte unused.
NARROW = [
    "bool",
    "int1",
    "int2",
    "int4",
    "uint1",
    "uint2",
    "uint4",
    "float4_e2m1fn",
    "float6_e2m3fn",
    "float6_e3m2fn",
]


@pytest.mark.parametrize(
    ("name", "datatype"),
    [
        ("bool", "BOOL"),
        ("int8", "INT8"),
        ("uint64", "UINT64"),
        ("float16", "FP16"),
        ("float32", "FP32"),
        ("float64", "FP64"),
        ("bfloat16", "BF16"),
        ("float8_e4m3fn", "FP8_E4M3FN"),
        ("float8_e5m2", "FP8_E5M2"),
        ("float8_e8m0fnu", "FP8_E8M0FNU"),
        ("float6_e2m3fn", "FP6_E2M3FN"),
        ("float4_e2m1fn", "FP4_E2M1FN"),
        ("int4", "INT4"),
        ("uint2", "UINT2"),
        ("complex64", "COMPLEX64"),
        ("complex128", "COMPLEX128"),
    ],
)
def test_a_datatype_is_made_of_a_name_by_one_rule(name, datatype):
    assert datatype_of(as_dtype(name)) == datatype
    assert dtype_of(datatype) is as_dtype(name)


def test_every_type_of_a_program_has_a_datatype_of_its_own():
    types = [one for one in ours._BY_NAME.values() if not isinstance(one, KeyType)]
    assert {datatype_of(one) for one in types} == set(DATATYPES.values())
    assert len(DATATYPES) == len(types)
    for one in types:
        assert dtype_of(datatype_of(one)) is one


def test_the_protocol_itself_has_no_more_than_these():
    assert set(STANDARD.values()) == {
        "BOOL",
        *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
        *("FP16", "FP32", "FP64", "BF16"),
    }


@pytest.mark.parametrize("dtype", [np.dtype("O"), np.dtype("S3"), np.dtype("M8[s]")])
def test_what_no_program_can_have_has_no_datatype(dtype):
    assert datatype_of(dtype) is None


def test_random_keys_have_no_datatype_as_they_pass_as_words():
    assert datatype_of(as_dtype("key<fry>")) is None


@pytest.mark.parametrize("name", [BYTES, "", "fp32", "FLOAT", "FP8", "KEY"])
def test_other_names_stand_for_no_type(name):
    assert dtype_of(name) is None


@pytest.mark.parametrize("name", NARROW)
def test_bytes_that_are_no_elements_are_found(name):
    dtype = as_dtype(name)
    every = np.arange(256, dtype=np.uint8)
    clean = np.unique(every.view(dtype).astype(np.float32).astype(dtype).view(np.uint8))
    assert len(clean) < 256
    for byte in range(256):
        assert has_stray_bits(every[byte : byte + 1].view(dtype)) == (byte not in clean)
    assert not has_stray_bits(clean.view(dtype))
    assert not has_stray_bits(np.empty((0,), dtype))


@pytest.mark.parametrize("name", [one for one in DATATYPES if one not in NARROW])
def test_all_bytes_are_elements_of_the_other_types(name):
    assert not has_stray_bits(np.arange(256, dtype=np.uint8).view(as_dtype(name)))


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_texts_come_back_from_their_bytes(texts):
    raw = bytes_of(texts)
    assert texts_of(raw, len(texts)) == texts
    assert texts_of(memoryview(raw), len(texts)) == texts
    with pytest.raises(ValueError, match="elements"):
        texts_of(raw, len(texts) + 1)
    with pytest.raises(ValueError, match="bytes after the"):
        texts_of(raw + b"\0", len(texts))


@given(st.binary(max_size=40), st.integers(0, 10))
def test_any_bytes_are_texts_or_refused(raw, count):
    try:
        found = texts_of(raw, count)
    except ValueError:
        return
    assert bytes_of(found) == raw
    assert len(found) == count


@pytest.mark.parametrize(
    ("raw", "count", "message"),
    [
        (b"abc", 1, "has 3 bytes, too few for 1 elements"),
        (b"", 2**62, f"has 0 bytes, too few for {2**62} elements"),
        (b"\xff\xff\xff\xff1234", 2, "ends within element 0, which has 4294967295 bytes"),
        (b"\4\0\0\0abcd", 2, "has 1 elements, and 2 by its shape"),
        (b"\1\0\0\0ab", 1, "has 1 bytes after the 1 elements of its shape"),
    ],
)
def test_texts_that_do_not_fit_their_bytes_are_refused(raw, count, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        texts_of(raw, count)


def test_objects_are_not_looked_into():
    found = objects_of(["ab", b"cd", ["e", "f"], {}], (2, 2))
    assert found.dtype == object
    assert found.tolist() == [["ab", b"cd"], [["e", "f"], {}]]
    assert objects_of(["a"], ()).shape == ()
    assert objects_of([], (0, 3)).shape == (0, 3)


def test_the_types_of_ml_dtypes_are_those_that_programs_have():
    known = {name for name in DATATYPES if hasattr(ml_dtypes, name)}
    types = {
        name
        for name, one in vars(ml_dtypes).items()
        if isinstance(one, type) and issubclass(one, np.generic)
    }
    assert known == types - {"complex32", "bcomplex32"}  # which JAX does not have

"""What the Open Inference Protocol calls the types of elements, and how their bytes are read.

The protocol has the names of `STANDARD`. Other types have a name by the same rule, so that they can
pass between two who know it: `FP`, the bits and the rest for floats (`FP8_E4M3FN`), and for all
others the name in capitals (`INT4`, `COMPLEX64`). Texts are `BYTES`, and no type of array.
"""

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from signatures.dtypes import ARRAY_NAMES, DType

# The elements of the protocol that are texts, or bytes of any kind.
BYTES = "BYTES"

_NAMES = (
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
    "bfloat16",
)

# What the names begin with, for floats: the digits of a name are its bits.
_FLOATS = (("bfloat", "BF"), ("float", "FP"))


def _datatype(name: str) -> str:
    prefix = next((one for one in _FLOATS if name.startswith(one[0])), None)
    return (name if prefix is None else prefix[1] + name.removeprefix(prefix[0])).upper()


STANDARD: Mapping[str, str] = {name: _datatype(name) for name in _NAMES}
"""The datatypes that the protocol has, by our names."""

DATATYPES: Mapping[str, str] = {
    **STANDARD,
    **{name: _datatype(name) for name in ARRAY_NAMES if name not in STANDARD},
}
"""These, and those of all other types that a program can have."""

_DTYPES: Mapping[str, np.dtype[Any]] = {
    datatype: np.dtype(getattr(ml_dtypes, name, name)) for name, datatype in DATATYPES.items()
}

_BY_DTYPE = {dtype: datatype for datatype, dtype in _DTYPES.items()}

# Types whose elements leave bits of their byte unused.
_NARROW_KINDS = "bV"
_HAS_UNUSED_BITS = re.compile(r"u?int[124]|float[46]_.*")


def datatype_of(dtype: DType) -> str | None:
    """The datatype of a type, or `None` if it has none: random keys, texts, objects, dates.

    >>> datatype_of(np.dtype("float32")), datatype_of(np.dtype(ml_dtypes.float8_e4m3fn))
    ('FP32', 'FP8_E4M3FN')
    """
    return _BY_DTYPE.get(dtype)  # type: ignore[arg-type]  # keys are not there


def dtype_of(datatype: str) -> np.dtype[Any] | None:
    """The type of a datatype, or `None` for `BYTES` and for what is none.

    >>> dtype_of("BF16")
    dtype(bfloat16)
    """
    return _DTYPES.get(datatype)


def has_stray_bits(array: np.ndarray) -> bool:
    """Whether bytes from elsewhere, read as this array, are no elements of its type.

    Those of bools are 0 and 1, and the narrow types use the lower bits of a byte only.
    """
    dtype = array.dtype
    if dtype.kind not in _NARROW_KINDS:
        return False
    if dtype == np.bool_:
        return bool(array.view(np.uint8).max(initial=0) > 1)
    if _HAS_UNUSED_BITS.fullmatch(dtype.name) is None:
        return False
    clean = array.astype(np.float32).astype(dtype)
    return not np.array_equal(clean.view(np.uint8), array.view(np.uint8))


def texts_of(raw: bytes | memoryview, count: int) -> list[bytes]:
    """So many texts from the bytes of a tensor: each after its length, in four bytes.

    Raises:
      ValueError: if there are fewer or more of them, or the last one ends too early. The message
        is the end of a sentence about the tensor.
    """
    if len(raw) < 4 * count:  # before anything is made of it
        raise ValueError(f"has {len(raw)} bytes, too few for {count} elements")
    found: list[bytes] = []
    start, end = 0, len(raw)
    for number in range(count):
        if end < start + 4:
            raise ValueError(f"has {number} elements, and {count} by its shape")
        (length,) = struct.unpack_from("<I", raw, start)
        start += 4 + length
        if start > end:
            raise ValueError(f"ends within element {number}, which has {length} bytes")
        found.append(bytes(raw[start - length : start]))
    if start != end:
        raise ValueError(f"has {end - start} bytes after the {count} elements of its shape")
    return found


def bytes_of(texts: Iterable[bytes]) -> bytes:
    """The bytes that `texts_of` reads.

    >>> texts_of(bytes_of([b"a", b""]), 2)
    [b'a', b'']
    """
    return b"".join(part for text in texts for part in (struct.pack("<I", len(text)), text))


def objects_of(values: Sequence[object], shape: tuple[int, ...]) -> np.ndarray:
    """Texts as an array of objects.

    Raises:
      ValueError: if there are not so many, or no array has such a shape.
    """
    found = np.empty(len(values), object)
    found[:] = values
    return found.reshape(shape)

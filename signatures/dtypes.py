"""The types of array elements: NumPy's, the small floats and integers of ml_dtypes, random keys."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from signatures.errors import SpecError


@dataclass(frozen=True)
class KeyType:
    """The element type of JAX's typed random keys, for example `key<fry>`.

    Attributes:
      name: as JAX prints it.

    Raises:
      SpecError: if JAX has no such kind of key.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in _KEYS:
            raise SpecError(
                f"{self.name!r} is not a kind of random key. JAX has {', '.join(_KEYS)}."
            )

    @property
    def words(self) -> int:
        """How many uint32 words one key holds."""
        return _KEYS[self.name][0]

    @property
    def implementation(self) -> str:
        """The name under which `jax.random.wrap_key_data` knows this kind of key."""
        return _KEYS[self.name][1]

    def __str__(self) -> str:
        return self.name


DType = np.dtype[np.generic] | KeyType

# For each kind of key, how many words it has and what JAX calls its implementation.
_KEYS = {
    "key<fry>": (2, "threefry2x32"),
    "key<fry4>": (4, "threefry4x32"),
    "key<rbg>": (4, "rbg"),
    "key<urbg>": (4, "unsafe_rbg"),
    "key<phx2>": (1, "philox2x32"),
    "key<phx4>": (2, "philox4x32"),
}

# Those that JAX narrows to 32 bits, or pairs of them, unless it is told not to.
WIDE = frozenset({"int64", "uint64", "float64", "complex128"})

# Every type an artifact may name. NumPy's strings, objects, dates and the long doubles of one
# machine have no counterpart in a program.
ARRAY_NAMES = (
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
    *(
        name
        for name in (
            "bfloat16",
            "int1",
            "int2",
            "int4",
            "uint1",
            "uint2",
            "uint4",
            "float4_e2m1fn",
            "float6_e2m3fn",
            "float6_e3m2fn",
            "float8_e3m4",
            "float8_e4m3",
            "float8_e4m3b11fnuz",
            "float8_e4m3fn",
            "float8_e4m3fnuz",
            "float8_e5m2",
            "float8_e5m2fnuz",
            "float8_e8m0fnu",
        )
        if hasattr(ml_dtypes, name)
    ),
)
_BY_NAME: dict[str, DType] = {
    name: np.dtype(getattr(ml_dtypes, name, name)) for name in ARRAY_NAMES
} | {name: KeyType(name) for name in _KEYS}


def as_dtype(value: object) -> DType:
    """The element type that `value` names or has, in the byte order of this machine.

    >>> as_dtype("bfloat16")
    dtype(bfloat16)
    >>> as_dtype(float)
    dtype('float64')

    Args:
      value: a name (`"bfloat16"`), a NumPy or JAX dtype (`np.float32`, `jnp.bfloat16`), a typed
        key's dtype, or a Python type (`bool`; `float` and `int` are 64 bits wide).

    Raises:
      SpecError: if no array in a program can have it.
    """
    if isinstance(value, KeyType):
        return value
    name = _name_of(value)
    found = _BY_NAME.get(name)
    if found is None:
        raise SpecError(f"{name!r} is not a dtype name. A program can have {', '.join(_BY_NAME)}.")
    return found


def is_inexact(dtype: DType) -> bool:
    """Whether arrays of this type have derivatives: fractions and complex numbers, of any width.

    >>> is_inexact(as_dtype("bfloat16")), is_inexact(as_dtype("int32"))
    (True, False)
    """
    return dtype.name.startswith(("float", "bfloat", "complex"))


def dtype_name(dtype: DType) -> str:
    """The name that `as_dtype` reads back."""
    return dtype.name


def _name_of(value: object) -> str:
    name = value if isinstance(value, str) else getattr(value, "name", None)
    if isinstance(name, str):
        return name
    if value is None:  # to NumPy this would be float64
        return "None"
    try:
        return np.dtype(value).name  # type: ignore[call-overload,no-any-return]  # any object
    except (TypeError, ValueError):
        return repr(value)

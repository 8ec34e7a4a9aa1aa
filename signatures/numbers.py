"""Python numbers as arrays of any dtype, or the first number that would not survive it.

A float may be rounded to a narrower one, as it was rounded when it was written down. Everything
else is kept exactly: whole numbers, infinity, and not-a-number.
"""

from collections.abc import Sequence
from functools import lru_cache

import ml_dtypes
import numpy as np

from signatures.dtypes import as_dtype
from signatures.errors import SpecError

# Each kind holds the ones before it.
_KINDS = ("bool", "int", "float", "complex")
_TAKES = {"bool": "bools", "int": "ints", "float": "real numbers"}


class LossError(Exception):
    """A number that a dtype cannot hold.

    Attributes:
      index: which of the numbers it is.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


def kind_of(dtype: np.dtype[np.generic]) -> int:
    """0 for bools, 1 for whole numbers, 2 for floats and 3 for complex numbers."""
    name = dtype.name.removeprefix("u").removeprefix("b")
    return next((n for n, kind in enumerate(_KINDS) if name.startswith(kind)), 0)


@lru_cache(maxsize=256)
def kind_of_type(kind: type) -> int | None:
    """The same for a type of Python numbers or NumPy scalars, `None` for any other type."""
    if issubclass(kind, np.generic):
        try:
            dtype = as_dtype(kind)
        except SpecError:  # text, dates, and the long doubles of one machine
            return None
        return kind_of(dtype) if isinstance(dtype, np.dtype) else None
    kinds = enumerate((bool, int, float, complex))
    return next((n for n, number in kinds if issubclass(kind, number)), None)


def converted(numbers: Sequence[object], dtype: np.dtype[np.generic]) -> np.ndarray:
    """Python numbers and NumPy scalars as an array with one axis.

    >>> converted([1, 2.5, np.float64("nan")], np.dtype("float16"))
    array([1. , 2.5, nan], dtype=float16)

    Raises:
      LossError: naming the first that is lost.
    """
    target = kind_of(dtype)
    kinds = {kind: kind_of_type(kind) for kind in set(map(type, numbers))}
    too_wide = {kind for kind, number in kinds.items() if number is None or number > target}
    if too_wide:
        index = next(index for index, one in enumerate(numbers) if type(one) in too_wide)
        raise LossError(index, f"; {dtype.name} takes {_TAKES[_KINDS[target]]} only")
    if any(issubclass(kind, np.generic) for kind in kinds):
        numbers = [one.item() if isinstance(one, np.generic) else one for one in numbers]
    if target == 0:
        return np.array(numbers, dtype)
    if target == 1:
        return _as_integers(numbers, dtype)
    has_whole = any(number is not None and number < 2 for number in kinds.values())
    return _as_floats(numbers, dtype, has_whole=has_whole)


def _as_integers(numbers: Sequence[int], dtype: np.dtype[np.generic]) -> np.ndarray:
    info = ml_dtypes.iinfo(dtype)
    least, most = int(info.min), int(info.max)
    if numbers and not (least <= min(numbers) and max(numbers) <= most):
        index = next(index for index, one in enumerate(numbers) if not least <= one <= most)
        raise LossError(index, f", which is not within {least} to {most} as {dtype.name} is")
    return np.array(numbers, np.uint64 if least == 0 else np.int64).astype(dtype)


def _as_floats(
    numbers: Sequence[complex], dtype: np.dtype[np.generic], *, has_whole: bool
) -> np.ndarray:
    """Numbers as floats or complex numbers; of the latter each part is looked at."""
    if has_whole:
        for index, one in enumerate(numbers):
            if isinstance(one, int) and not _is_double(one):
                raise LossError(index, f", which {dtype.name} cannot hold exactly")
    wide_type, parts = (np.complex128, 2) if dtype.kind == "c" else (np.float64, 1)
    wide = np.array(numbers, wide_type)
    with np.errstate(all="ignore"):  # what overflows is found below
        made = wide.astype(dtype)
    part = made.real.dtype if parts == 2 else dtype
    given, kept = wide.view(np.float64), made.view(part).astype(np.float64)
    if has_whole or _saturates(part) or not np.isfinite(kept).all():
        _check(given, kept, part, [isinstance(n, int) for n in numbers for _ in range(parts)])
    return made


...

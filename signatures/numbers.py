"""Python numbers as arrays of any dtype, or the first number that would not survive it.

A float may be rounded to a narrower one, as it was rounded when it was written down. Everything
else is kept exactly: whole numbers, infinity, and not-a-number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

from signatures.dtypes import as_dtype
from signatures.errors import SpecError

# What a dtype takes, by the number of its kind. Each kind holds the ones before it.
_TAKES = ("bools", "ints", "real numbers", "numbers")


@dataclass(frozen=True)
class Loss:
    """A number that a dtype cannot hold.

    Attributes:
      index: which of the numbers it is.
      reason: the end of a sentence that begins with the number.
    """

    index: int
    reason: str


def kind_of(dtype: np.dtype[np.generic]) -> int:
    """0 for bools, 1 for whole numbers, 2 for floats and 3 for complex numbers."""
    name = dtype.name
    if name == "bool":
        return 0
    if "int" in name:
        return 1
    return 3 if name.startswith("complex") else 2


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


def converted(numbers: Sequence[Any], dtype: np.dtype[np.generic]) -> np.ndarray | Loss:
    """Python numbers and NumPy scalars as an array with one axis.

    >>> converted([1, 2.5, np.float64("nan")], np.dtype("float16"))
    array([1. , 2.5, nan], dtype=float16)
    >>> converted([1, 300], np.dtype("int8"))
    Loss(index=1, reason=', which int8 cannot hold: it takes -128 to 127')

    What is no number at all is a loss without a reason.
    """
    target = kind_of(dtype)
    types: set[type] = set(map(type, numbers))
    kinds = {kind: kind_of_type(kind) for kind in types}
    wrong = {kind for kind, number in kinds.items() if number is None or number > target}
    if wrong:
        index = next(index for index, one in enumerate(numbers) if type(one) in wrong)
        is_number = kinds[type(numbers[index])] is not None
        return Loss(index, f"; {dtype.name} takes {_TAKES[target]} only" if is_number else "")
    if any(issubclass(kind, np.generic) for kind in types):
        numbers = [one.item() if isinstance(one, np.generic) else one for one in numbers]
    if target == 0:
        return np.array(numbers, dtype)
    if target == 1:
        return _as_integers(numbers, dtype)
    return _as_floats(numbers, dtype, has_whole=not {0, 1}.isdisjoint(kinds.values()))


def _as_integers(numbers: Sequence[int], dtype: np.dtype[np.generic]) -> np.ndarray | Loss:
    least, most = _range(dtype)
    try:
        wide = np.array(numbers, np.uint64 if least == 0 else np.int64)
        is_within = bool(((wide >= least) & (wide <= most)).all())
    except OverflowError:  # a number beyond 64 bits
        is_within = False
    if not is_within:
        index = next(index for index, one in enumerate(numbers) if not least <= one <= most)
        return Loss(index, f", which {dtype.name} cannot hold: it takes {least} to {most}")
    return wide.astype(dtype)


def _as_floats(
    numbers: Sequence[complex], dtype: np.dtype[np.generic], *, has_whole: bool
) -> np.ndarray | Loss:
    """Numbers as floats or complex numbers; of the latter each part is looked at."""
    parts = 2 if dtype.kind == "c" else 1
    with np.errstate(all="ignore"):  # what overflows is found below
        try:
            wide = np.array(numbers, np.complex128 if parts == 2 else np.float64)
            is_doubtful = has_whole and bool((np.abs(wide) >= 2**53).any())
        except OverflowError:  # a whole number that no float reaches
            is_doubtful = True
        inexact = _first_inexact(numbers) if is_doubtful else None
        if inexact is not None:
            return Loss(inexact, f", which {dtype.name} cannot hold exactly")
        made = wide.astype(dtype)
    part = made.real.dtype
    given, kept = wide.view(np.float64), made.view(part).astype(np.float64)
    if not has_whole and not _saturates(part) and np.isfinite(kept).all():
        return made
    whole = np.repeat([isinstance(one, int) for one in numbers], parts)
    loss = _first_loss(given, kept, part, whole)
    return Loss(loss[0] // parts, loss[1].format(dtype.name)) if loss else made


def _first_loss(
    given: np.ndarray, kept: np.ndarray, part: np.dtype[np.generic], whole: np.ndarray
) -> tuple[int, str] | None:
    """The first number that became another one by more than rounding, and what happened to it.

    Args:
      given: the numbers as doubles.
      kept: the same as doubles, after they were floats of the type `part`.
      part: a float dtype, perhaps that of the parts of complex numbers.
      whole: which of the numbers were written as whole numbers, and must be kept exactly.
    """
    if np.array_equal(kept, given):
        return None
    is_large = np.abs(given) > _largest(part)
    is_same = (kept == given) | (np.isnan(kept) & np.isnan(given))
    is_rounded = np.isfinite(given) & np.isfinite(kept) & ~whole & ~(is_large & _saturates(part))
    lost = np.flatnonzero(~(is_same | is_rounded))
    if not lost.size:
        return None
    first = int(lost[0])
    if whole[first]:
        return first, ", which {} cannot hold exactly"
    if is_large[first] and np.isfinite(given[first]):
        return first, ", which is too large for {}"
    return first, ", which {} cannot hold"


@lru_cache(maxsize=64)
def _saturates(part: np.dtype[np.generic]) -> bool:
    """Whether a dtype has no infinity and no not-a-number, and takes its largest number instead."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.array(np.inf).astype(part).astype(np.float64)))


@lru_cache(maxsize=64)
def _range(dtype: np.dtype[np.generic]) -> tuple[int, int]:
    info = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]  # its stub is incomplete
    return int(info.min), int(info.max)


def _largest(part: np.dtype[np.generic]) -> float:
    return float(ml_dtypes.finfo(part).max)  # type: ignore[no-untyped-call]  # as above


def _first_inexact(numbers: Sequence[complex]) -> int | None:
    """The first whole number that is not exactly a 64-bit float, the widest there is here."""
    for index, one in enumerate(numbers):
        try:
            if isinstance(one, int) and float(one) != one:
                return index
        except OverflowError:
            return index
    return None

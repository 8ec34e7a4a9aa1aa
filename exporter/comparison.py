"""One output compared with what the original returned, element by element, within a tolerance.

How far results may differ: another machine, compiler or number of threads adds in another order
and fuses other operations, so floats differ in their last digits, and a long computation loses more
of them. By default two thirds of the digits of the output's dtype must agree, `eps ** (2 / 3)`
relative to the expected element: 2.4e-5 for float32, 1e-2 for float16, 4e-2 for bfloat16, 4e-11 for
float64. Where terms cancel, what is left is small and the error is not; so as much is allowed
relative to the median magnitude of the elements that are not zero. (The largest would let a single
-1e9 of a mask hide every other error.) GPUs and TPUs multiply float32 matrices with fewer digits
unless told otherwise: raise `jax_default_matmul_precision` there, or pass a tolerance of 1e-2.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from exporter.artifact.records import SampleArrayRecord
from signatures.dtypes import KeyType, as_dtype


@dataclass(frozen=True)
class Comparison:
    """One output of one sample, compared by element.

    Attributes:
      output: its name.
      dtype: its dtype.
      shape: the shape that was expected.
      size: how many elements there are.
      wrong: how many of them are not within the tolerance.
      largest: the largest difference between two numbers, 0 if all are equal, and infinite if one
        of them is not finite and the other is not the same.
      first: the position of the first element that is wrong, or `None`.
      expected: what the original returned there.
      found: what was returned there now.
      rtol: the tolerance relative to the expected element.
      atol: the tolerance beside it.
      problem: what keeps the arrays from being compared, or `None`.
    """

    output: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    wrong: int
    largest: float
    first: tuple[int, ...] | None
    expected: object
    found: object
    rtol: float
    atol: float
    problem: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every element is within the tolerance."""
        return not self.wrong and self.problem is None

    def __str__(self) -> str:
        kind = f"{self.output}: {self.dtype}[{', '.join(map(str, self.shape))}]"
        if self.problem:
            return f"{kind}: {self.problem}"
        if self.ok:
            return f"{kind}: {'equal' if self.largest == 0 else f'within {self.largest:.3g}'}"
        place = f"[{', '.join(map(str, self.first or ()))}]"
        return (
            f"{kind}: {self.wrong:,} of {self.size:,} elements are wrong, the largest difference "
            f"is {self.largest:.3g}; first at {place}: expected {self.expected}, got {self.found} "
            f"(rtol {self.rtol:.2g}, atol {self.atol:.2g})"
        )


def compare(
    tensor: SampleArrayRecord,
    expected: np.ndarray,
    found: np.ndarray,
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> Comparison:
    """One plain array with the one that it should be."""
    if isinstance(as_dtype(tensor.dtype), KeyType):
        rtol, atol = 0.0, 0.0
    problem = None
    if expected.shape != found.shape or expected.dtype != found.dtype:
        problem = (
            f"expected {expected.dtype.name}{list(expected.shape)}, got "
            f"{found.dtype.name}{list(found.shape)}"
        )
        found = expected
    relative, beside = _tolerances(expected, rtol, atol)
    difference, wrong = _differences(expected, found, relative, beside)
    first = np.unravel_index(int(np.argmax(wrong)), wrong.shape) if wrong.any() else None
    return Comparison(
        output=tensor.name,
        dtype=tensor.dtype,
        shape=tuple(tensor.shape),
        size=expected.size,
        wrong=int(wrong.sum()),
        largest=float(difference.max(initial=0.0)),
        first=None if first is None else tuple(int(axis) for axis in first),
        expected=None if first is None else expected[first].item(),
        found=None if first is None else found[first].item(),
        rtol=relative,
        atol=beside,
        problem=problem,
    )


def _tolerances(
    expected: np.ndarray, rtol: float | None, atol: float | None
) -> tuple[float, float]:
    if not jnp.issubdtype(expected.dtype, np.inexact):
        return 0.0, 0.0
    eps = float(jnp.finfo(expected.dtype).eps)  # type: ignore[no-untyped-call]  # JAX's
    relative = eps ** (2 / 3) if rtol is None else float(rtol)
    if atol is not None:
        return relative, float(atol)
    magnitudes = np.abs(_wide(expected))
    counted = magnitudes[np.isfinite(magnitudes) & (magnitudes > 0)]
    return relative, relative * float(np.median(counted)) if counted.size else 0.0


def _differences(
    expected: np.ndarray, found: np.ndarray, rtol: float, atol: float
) -> tuple[np.ndarray, np.ndarray]:
    """The difference of each element, and whether it is too large."""
    same = expected == found
    one, other = _wide(expected), _wide(found)
    same |= np.isnan(one) & np.isnan(other)
    with np.errstate(all="ignore"):
        difference = np.where(same, 0.0, np.abs(one - other))
        difference = np.where(np.isnan(difference), np.inf, difference)
        allowed = atol + rtol * np.abs(one)
    if rtol == atol == 0:
        return difference, ~same
    close = np.isfinite(difference) & (difference <= allowed)
    return difference, ~(same | close)


def _wide(array: np.ndarray) -> np.ndarray:
    """The same with 64-bit floats, or pairs of them, in which differences lose nothing."""
    wide = np.complex128 if jnp.issubdtype(array.dtype, np.complexfloating) else np.float64
    return array.astype(wide)

"""Whether a saved model still computes what the original did: its golden samples, run again.

How far results may differ: another machine, compiler or number of threads adds in another order
and fuses other operations, so floats differ in their last digits, and a long computation loses more
of them. By default two thirds of the digits of the output's dtype must agree, `eps ** (2 / 3)`
relative to the expected element: 2.4e-5 for float32, 1e-2 for float16, 4e-2 for bfloat16, 4e-11 for
float64. Where terms cancel, what is left is small and the error is not; so as much is allowed
relative to the median magnitude of the elements that are not zero. (The largest would let a single
-1e9 of a mask hide every other error.) GPUs and TPUs multiply float32 matrices with fewer digits
unless told otherwise: raise `jax_default_matmul_precision` there, or pass a tolerance of 1e-2.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from exporter.artifact.records import SampleArrayRecord
from exporter.errors import ArtifactError, VerificationError
from exporter.keys import from_words, to_words
from exporter.loading import load
from exporter.runtime.concrete import LoadedConcrete
from exporter.runtime.origin import Origin
from signatures.binding import bind_values
from signatures.dtypes import KeyType, as_dtype
from signatures.errors import BindError


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


@dataclass(frozen=True)
class SampleResult:
    """One sample, run again.

    Attributes:
      name: the signature, or the path of the function.
      number: its position among the samples of the artifact.
      comparisons: one for each output.
    """

    name: str
    number: int
    comparisons: tuple[Comparison, ...]

    @property
    def ok(self) -> bool:
        """Whether every output is as it was."""
        return all(one.ok for one in self.comparisons)

    def __str__(self) -> str:
        lines = [f"sample {self.number} of {self.name}: {'ok' if self.ok else 'FAILED'}"]
        return "\n".join([*lines, *(f"  {one}" for one in self.comparisons)])


@dataclass(frozen=True)
class VerificationReport:
    """Every sample of an artifact, run again. It prints well.

    Attributes:
      path: the artifact.
      platform: where it was run.
      samples: the results, in the order in which the samples were taken.
    """

    path: Path
    platform: str
    samples: tuple[SampleResult, ...]

    @property
    def ok(self) -> bool:
        """Whether every output of every sample is as it was."""
        return all(one.ok for one in self.samples)

    def raise_if_failed(self) -> None:
        """Nothing if all is as it was.

        Raises:
          VerificationError: with this report, if it is not.
        """
        if not self.ok:
            raise VerificationError(str(self), self)

    def __str__(self) -> str:
        failed = sum(not one.ok for one in self.samples)
        what = f"{failed} of {len(self.samples)} samples FAILED" if failed else "all samples agree"
        return "\n".join([f"{self.path} on {self.platform}: {what}", *map(str, self.samples)])


def verify(
    path: str | os.PathLike[str],
    *,
    device: jax.Device | str | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> VerificationReport:
    """Run the samples of an artifact and compare the results with those of the original.

    They run in the order in which they were taken, on variables as they were saved. Nothing is
    changed in the artifact or in another loaded model. Integers, flags and random keys must be
    equal; NaN equals NaN, and an infinity itself. Floats must agree in two thirds of the digits of
    their dtype (2.4e-5 for float32, 4e-2 for bfloat16), relative to the expected element or to the
    median magnitude of all. GPUs and TPUs multiply float32 matrices with fewer digits unless
    `jax_default_matmul_precision` is raised: pass `rtol=1e-2` there.

    Args:
      path: an artifact that was saved with `samples=`.
      device: where to run: a device, or the name of a platform for its first one.
      rtol: the tolerance relative to the expected element, in place of the one of its dtype.
      atol: the tolerance beside it, in place of `rtol` times the median magnitude.

    Returns:
      A report. `report.ok` says whether all agree, and `report.raise_if_failed()` raises if not.

    Raises:
      ArtifactError: if the artifact has no samples, or cannot be loaded.
      IncompatibleRuntimeError: if this machine cannot run it.
    """
    model = load(path, device=device)
    origin: Origin = model.__dict__["__origin__"]
    if not origin.manifest.samples:
        raise ArtifactError(
            f"{path} has no samples to verify it with. Save it with samples=, a list of inputs."
        )
    place = jax.devices(device)[0] if isinstance(device, str) else device
    with jax.default_device(place) if place else contextlib.nullcontext():
        results = tuple(
            _run(origin, number, rtol, atol) for number in range(len(origin.manifest.samples))
        )
    platform = place.platform if place else jax.default_backend()
    return VerificationReport(Path(path), platform, results)


def _run(origin: Origin, number: int, rtol: float | None, atol: float | None) -> SampleResult:
    record = origin.manifest.samples[number]
    inputs, expected = origin.sample(record).arrays()
    values = [
        from_words(jnp.asarray(array), as_dtype(tensor.dtype))
        for tensor, array in zip(record.inputs, inputs, strict=True)
    ]
    concrete = origin.concrete[record.concrete]
    try:
        outputs = _call(concrete, values)
    except Exception as error:
        error.add_note(f"This happened while sample {number} of {record.name} was run.")
        raise
    found = [np.asarray(to_words(output)) for output in outputs]
    triples = zip(record.outputs, expected, found, strict=True)
    compared = tuple(compare(*triple, rtol=rtol, atol=atol) for triple in triples)
    return SampleResult(record.name, number, compared)


def _call(concrete: LoadedConcrete, values: Sequence[object]) -> list[object]:
    def refuse(problems: Sequence[str]) -> BindError:
        return BindError("; ".join(problems), problems)

    bound = bind_values(concrete.signature, values)  # what a file says may still not fit together
    return concrete.run(bound.values, list(concrete.signature.inputs), refuse)


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

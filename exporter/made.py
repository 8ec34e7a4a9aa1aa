"""Inputs that nobody gave: those of a sample of the artifact, or random ones within the specs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from exporter.artifact.layout import verify
from exporter.artifact.records import Manifest
from exporter.artifact.samples import Sample
from exporter.errors import ArtifactError, OptionError
from signatures.errors import SpecError
from signatures.numbers import kind_of
from signatures.signature import Signature
from signatures.spec import Dim, TensorSpec

# Random inputs of more bytes are a slip of the pen.
MAX_BYTES = 4 * 2**30


def sampled(
    folder: Path, manifest: Manifest, concrete: int, position: int
) -> dict[str, np.ndarray] | None:
    """The inputs of one of the samples of a concrete function, or `None` if it has none at all.

    Raises:
      OptionError: if it has fewer samples.
      ArtifactError: if the sample is damaged.
    """
    samples = [one for one in manifest.samples if one.concrete == concrete]
    if not samples:
        return None
    if not 0 <= position < len(samples):
        raise OptionError(
            f"there is no sample {position}: this signature has {len(samples)}, numbered from 0."
        )
    record = samples[position]
    verify(folder, [file for file in manifest.files if file.path == record.file])
    try:
        data = (folder / record.file).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{folder / record.file} cannot be read: {error.strerror}.") from error
    inputs, _ = Sample(record, data).arrays()
    return {tensor.name: array for tensor, array in zip(record.inputs, inputs, strict=True)}


def random_values(
    signature: Signature, sizes: Mapping[str, int], seed: int, ranks: Sequence[int] = ()
) -> dict[str, np.ndarray]:
    """Values for each input that has no default: floats from 0 to 1, whole numbers from 0 to 9.

    Args:
      signature: what is to be called.
      sizes: the sizes of named axes. Others have the smallest size that is allowed, free ones 1.
      seed: the same gives the same values.
      ranks: how many axes each input of any rank has.

    Raises:
      OptionError: if a size is of no axis, or the inputs would be too large or cannot be.
    """
    unknown = [name for name in sizes if name not in signature.dims]
    if unknown:
        axes = ", ".join(signature.dims) or "none"
        raise OptionError(f"--size {unknown[0]}: there is no such axis, the named axes are {axes}.")
    known = {name: sizes.get(name, least(dim)) for name, dim in signature.dims.items()}
    waiting = iter(ranks)
    shapes = {
        name: (1,) * next(waiting, 1) if spec.shape is None else _shape(name, spec, known)
        for name, spec in signature.inputs.items()
    }
    for name in signature.defaults:
        del shapes[name]
    specs = [signature.inputs[name] for name in shapes]
    dtypes = [_plain(spec) for spec in specs]
    made = random_arrays(list(zip(dtypes, shapes.values(), strict=True)), seed)
    return dict(zip(shapes, made, strict=True))


def random_arrays(
    wanted: Sequence[tuple[np.dtype[np.generic], tuple[int, ...]]], seed: int
) -> list[np.ndarray]:
    """An array for each dtype and shape: floats from 0 to 1, whole numbers from 0 to 9.

    Raises:
      OptionError: if they would be too large.
    """
    size = sum(math.prod(shape) * dtype.itemsize for dtype, shape in wanted)
    if size > MAX_BYTES:
        raise OptionError(
            f"random inputs would take {size:,} bytes, and at most {MAX_BYTES:,} are made. Give "
            "smaller sizes with --size."
        )
    rng = np.random.default_rng(seed)
    return [_values(rng, dtype, shape) for dtype, shape in wanted]


def least(dim: Dim) -> int:
    """The smallest size of at least 1 that is allowed."""
    step = dim.multiple_of or 1
    return -(-max(dim.min or 1, 1) // step) * step


def _shape(name: str, spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    try:
        found = spec.evaluate(sizes)
    except SpecError as error:
        raise OptionError(f"{name}: {error} Give other sizes with --size.") from error
    shape = tuple(
        1 if axis is None else size for axis, size in zip(spec.shape or (), found, strict=True)
    )
    if min(shape, default=0) < 0:
        raise OptionError(f"{name} would be {spec} of shape {list(shape)}. Give other --size.")
    return shape


def _plain(spec: TensorSpec) -> np.dtype[np.generic]:
    if not isinstance(spec.dtype, np.dtype):  # keys stand here as the words that they are made of
        raise OptionError(f"{spec} cannot be made at random.")
    return spec.dtype


def _values(
    rng: np.random.Generator, dtype: np.dtype[np.generic], shape: Sequence[int]
) -> np.ndarray:
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(dtype)
    if kind_of(dtype) == 1:
        most = int(ml_dtypes.iinfo(dtype).max)  # type: ignore[no-untyped-call]  # its stub is incomplete
        return rng.integers(0, min(most, 9) + 1, shape).astype(dtype)
    if kind_of(dtype) == 3:
        return (rng.random(shape) + 1j * rng.random(shape)).astype(dtype)
    return rng.random(shape).astype(dtype)

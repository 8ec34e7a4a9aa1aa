"""A converted file run beside the loaded model, on a sample of the artifact or random inputs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import ml_dtypes
import numpy as np

from exporter.artifact.layout import verify as verify_files
from exporter.artifact.records import SampleRecord
from exporter.artifact.samples import Sample, array_record
from exporter.comparison import Comparison, compare
from exporter.conversion.choosing import Choice
from exporter.conversion.program import PlainArray, StaticProgram, Written
from exporter.errors import ConversionError
from exporter.keys import from_words, to_words
from exporter.loading import load
from signatures.numbers import kind_of

# Whole numbers that index something are more likely to be in range if they are small.
_LARGEST_INTEGER = 9

# More is not made up for a check.
_MAX_BYTES = 2**30


@dataclass(frozen=True)
class Check:
    """A file run on one call, compared with the loaded model.

    Attributes:
      inputs: where the inputs came from.
      outputs: the comparison of each output.
    """

    inputs: str
    outputs: tuple[Comparison, ...]

    @property
    def largest(self) -> float:
        """The largest difference between two numbers."""
        return max((one.largest for one in self.outputs), default=0.0)


def check(choice: Choice, program: StaticProgram, written: Written) -> Check:
    """Run a file on one call, and compare what it returns with what the loaded model does.

    Raises:
      ConversionError: if an output is not within the tolerance of its dtype, naming each, or if
        what runs such files fails.
    """
    assert written.run is not None
    count = len(program.inputs) - len(program.state)
    origin, inputs = _sample(choice, program.inputs[:count])
    expected = _expected(choice, inputs)
    try:
        found = written.run([*inputs, *program.state])
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise ConversionError(f"what was made cannot be run: {first}") from error
    compared = tuple(
        compare(array_record(one.name, one.dtype.name, right), right, _like(one, left))
        for one, right, left in zip(program.outputs, expected, found, strict=True)
    )
    wrong = [f"\n  {one}" for one in compared if not one.ok]
    if wrong:
        raise ConversionError(
            f"what was made computes something else than the model, for {origin}:{''.join(wrong)}\n"
            "Nothing is written. Without the check it is: check=False, or --no-check."
        )
    return Check(origin, compared)


def _like(array: PlainArray, found: np.ndarray) -> np.ndarray:
    """The output as the dtype that it is, which a runtime may hand over as plain bits."""
    return found.astype(array.dtype) if found.dtype.kind == "b" else found


def _expected(choice: Choice, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the loaded model returns, and then the state that it has."""
    place = jax.local_devices(backend=choice.platform)[0]
    model = load(choice.folder, device=place, custom_calls=choice.custom_calls, cache=False)
    signature = model.signatures[choice.signature]
    specs = signature.signature.inputs
    named = {
        name: from_words(jax.device_put(value, place), spec.dtype)
        for (name, spec), value in zip(specs.items(), inputs, strict=True)
    }
    outputs = list(signature(**named).values())
    keys = [choice.manifest.variables[number].key for number in choice.record.updates]
    outputs += [_leaf(model.variables, key) for key in keys]
    return [np.asarray(to_words(one)) for one in outputs]


def _leaf(tree: Mapping[str, Any], key: Sequence[str]) -> Any:
    for part in key:
        tree = tree[part]
    return tree


def _sample(choice: Choice, inputs: Sequence[PlainArray]) -> tuple[str, list[np.ndarray]]:
    """Inputs of these shapes, and what to call them."""
    number = choice.manifest.signatures[choice.signature]
    shapes = [one.shape for one in inputs]
    for record in choice.manifest.samples:
        if record.concrete == number:
            values = _read(choice, record)
            if [one.shape for one in values] == shapes:
                return "a sample of the artifact", values
    size = sum(math.prod(one.shape) * one.dtype.itemsize for one in inputs)
    if size > _MAX_BYTES:
        raise ConversionError(
            f"random inputs for the check would take {size:,} bytes, and at most {_MAX_BYTES:,} "
            "are made. Give smaller sizes, or leave the check out: check=False, or --no-check."
        )
    rng = np.random.default_rng(0)
    return "random inputs", [_random(rng, one) for one in inputs]


def _read(choice: Choice, record: SampleRecord) -> list[np.ndarray]:
    files = [one for one in choice.manifest.files if one.path == record.file]
    verify_files(choice.folder, files)
    inputs, _ = Sample(record, (choice.folder / record.file).read_bytes()).arrays()
    return inputs


def _random(rng: np.random.Generator, array: PlainArray) -> np.ndarray:
    dtype = array.dtype
    if dtype == np.bool_:
        return rng.integers(0, 2, array.shape).astype(dtype)
    if kind_of(dtype) == 1:
        most = int(ml_dtypes.iinfo(dtype).max)  # type: ignore[no-untyped-call]  # its stub is incomplete
        return rng.integers(0, min(most, _LARGEST_INTEGER) + 1, array.shape).astype(dtype)
    if kind_of(dtype) == 3:
        return (rng.normal(size=array.shape) + 1j * rng.normal(size=array.shape)).astype(dtype)
    return rng.normal(size=array.shape).astype(dtype)

"""A converted file run beside the loaded model, on a sample of the artifact or random inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from exporter.artifact.samples import array_record
from exporter.comparison import Comparison, compare
from exporter.conversion.choosing import Choice
from exporter.conversion.program import Arrays, PlainArray, Written
from exporter.errors import ConversionError
from exporter.keys import from_words, to_words
from exporter.loading import load
from exporter.made import random_arrays, sampled


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


def check(choice: Choice, program: Arrays, written: Written) -> Check:
    """Run a file on one call, and compare what it returns with what the loaded model does.

    Raises:
      ConversionError: if an output is not within the tolerance of its dtype, naming each, or if
        what runs such files fails.
    """
    assert written.run is not None
    count = len(program.inputs) - len(program.state)
    origin, inputs = _inputs(choice, program.inputs[:count])
    expected = _expected(choice, inputs)
    try:
        found = written.run([*inputs, *program.state])
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise ConversionError(
            f"signature {choice.signature!r} cannot be run there: {first}"
        ) from error
    compared = tuple(
        compare(array_record(one.name, one.dtype.name, right), right, _like(one, left))
        for one, right, left in zip(program.outputs, expected, found, strict=True)
    )
    wrong = [f"\n  {one}" for one in compared if not one.ok]
    if wrong:
        raise ConversionError(
            f"signature {choice.signature!r} computes something else there, for {origin}:"
            f"{''.join(wrong)}\n"
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


def _inputs(choice: Choice, inputs: Sequence[PlainArray]) -> tuple[str, list[np.ndarray]]:
    """Inputs of these shapes, and what to call them."""
    number = choice.manifest.signatures[choice.signature]
    shapes = [one.shape for one in inputs]
    for position in range(sum(one.concrete == number for one in choice.manifest.samples)):
        found = sampled(choice.folder, choice.manifest, number, position)
        if found is not None and [one.shape for one in found.values()] == shapes:
            return "a sample of the artifact", list(found.values())
    return "random inputs", random_arrays([(one.dtype, one.shape) for one in inputs], seed=0)

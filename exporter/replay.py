"""A recorded sample run again, and what it gives compared with what the original gave."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from exporter.artifact.records import SampleRecord
from exporter.comparison import compare
from exporter.keys import from_words, to_words
from exporter.runtime.concrete import LoadedConcrete
from exporter.runtime.origin import Origin
from exporter.verdicts import SampleResult
from signatures.binding import bind_values
from signatures.dtypes import as_dtype
from signatures.errors import BindError


def replay(
    origin: Origin,
    record: SampleRecord,
    number: int,
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> SampleResult:
    """How a sample agrees. It changes the state of the model, if its function does.

    Args:
      origin: of the loaded model.
      record: the sample.
      number: which one it is.
      rtol: as for `exporter.verify`.
      atol: likewise.
    """
    try:
        inputs, expected = origin.sample(record).arrays()
        values = [
            from_words(jnp.asarray(array), as_dtype(tensor.dtype))
            for tensor, array in zip(record.inputs, inputs, strict=True)
        ]
        outputs = _call(origin.concrete[record.concrete], values)
        found = [np.asarray(to_words(output)) for output in outputs]
    except Exception as error:  # noqa: BLE001  # a program that runs may fail in any way
        return SampleResult(record.name, number, (), f"{type(error).__name__}: {told(error)}")
    triples = zip(record.outputs, expected, found, strict=True)
    compared = tuple(compare(*triple, rtol=rtol, atol=atol) for triple in triples)
    return SampleResult(record.name, number, compared)


def told(error: Exception) -> str:
    """An error as one line: its problems if it lists them, which name the files."""
    problems = getattr(error, "problems", ())
    lines = problems or str(error).splitlines()
    return " ".join(line.strip() for line in lines)


def _call(concrete: LoadedConcrete, values: Sequence[object]) -> list[object]:
    def refuse(problems: Sequence[str]) -> BindError:
        return BindError("; ".join(problems), problems)

    bound = bind_values(concrete.signature, values)  # what a file says may still not fit together
    return concrete.run(bound.values, list(concrete.signature.inputs), refuse)

"""Golden samples: what functions return for given inputs, recorded while a model is saved.

The functions run as they are, on this machine and on copies of the variables, so the object stays
as it is. One that updates state finds in each sample what the samples before it left.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from exporter import notices
from exporter.artifact import records
from exporter.artifact.encoding import signature_of_record
from exporter.artifact.samples import Sample, array_record, file_of, joined
from exporter.artifact.stored import StoredModel
from exporter.drafting import Draft
from exporter.errors import OptionError
from exporter.keys import to_words
from exporter.progress import Progress, steps
from exporter.staging.graph import dotted
from exporter.staging.state import dtype_of
from exporter.staging.tracing import ConcreteFunction
from signatures.binding import bind
from signatures.dtypes import KeyType
from signatures.errors import BindError
from signatures.resolver import DEFAULT

# The inputs of one sample by name.
Inputs = Mapping[str, object]

# What `save` takes: samples by the name of a signature or the path of a function, or the samples
# of the default signature alone.
Samples = Mapping[str, Sequence[Inputs]] | Sequence[Inputs]


@dataclass(frozen=True)
class Call:
    """A sample that is to be taken.

    Attributes:
      title: which one it is, for messages.
      name: the signature, or the path of the function.
      choices: the numbers of the concrete functions that it may be for.
      inputs: the inputs by name.
    """

    title: str
    name: str
    choices: Sequence[int]
    inputs: Inputs


def calls_of(samples: Samples, draft: Draft, signatures: Mapping[str, int]) -> list[Call]:
    """The samples that were asked for, in order.

    Raises:
      OptionError: if they are not as they should be, or for something that is not there.
    """
    named = samples if isinstance(samples, Mapping) else {_default(signatures): samples}
    functions = {dotted(one.path): one.function for one in draft.graph.functions}
    found = []
    for name, listed in named.items():
        if not isinstance(listed, list | tuple):
            raise OptionError(
                f"samples[{name!r}] is a list with a dict of inputs for each sample; got "
                f"{type(listed).__name__}."
            )
        for position, inputs in enumerate(listed):
            title = f"samples[{name!r}][{position}]"
            if not isinstance(inputs, Mapping):
                raise OptionError(f"{title} is a dict of inputs by name; got {inputs!r}.")
            if name in signatures:
                numbers = [signatures[name]]
            elif name in functions:
                numbers = draft.add_sources(functions[name])
            else:
                raise OptionError(
                    f"samples has {name!r}, which is neither a signature "
                    f"({_listed(signatures)}) nor the path of a function ({_listed(functions)})."
                )
            found.append(Call(title, name, numbers, inputs))
    return found


def _default(signatures: Mapping[str, int]) -> str:
    if DEFAULT not in signatures and len(signatures) != 1:
        raise OptionError(
            "samples is a list, which is for the default signature, and there is none. Pass a dict "
            f"with the samples of each signature; they are {_listed(signatures)}."
        )
    return DEFAULT if DEFAULT in signatures else next(iter(signatures))


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(names) or "none"


def take(calls: Sequence[Call], draft: Draft, progress: Progress | None) -> Iterator[Sample]:
    """The samples, with what the functions return. Every program must be in the draft already.

    Raises:
      OptionError: if the inputs of a sample do not fit.
    """
    if not calls:
        return
    rehearsal = Rehearsal(draft)
    for number, call in enumerate(steps(calls, "sampling", progress)):
        concrete, values = _bound(call, draft)
        record = draft.concrete[concrete]
        inputs = [np.asarray(to_words(value)) for value in values]
        try:
            outputs = [np.asarray(one) for one in rehearsal.run(concrete, values)]
        except Exception as error:
            error.add_note(f"This happened while {call.title} was recorded.")
            raise
        yield Sample(
            records.SampleRecord(
                name=call.name,
                concrete=concrete,
                file=file_of(number),
                inputs=_described(record.inputs, inputs),
                outputs=_described(record.outputs, outputs),
            ),
            joined([*inputs, *outputs]),
        )


def _described(
    tensors: Sequence[records.TensorRecord], arrays: Sequence[np.ndarray]
) -> list[records.SampleArrayRecord]:
    pairs = zip(tensors, arrays, strict=True)
    return [array_record(tensor.name, tensor.dtype, array) for tensor, array in pairs]


def _bound(call: Call, draft: Draft) -> tuple[int, tuple[object, ...]]:
    """The first concrete function that the inputs fit, and the inputs as its arrays."""
    refusals = []
    for number in call.choices:
        try:
            found = bind(signature_of_record(draft.concrete[number], call.name), (), call.inputs)
        except BindError as error:
            refusals.append(error)
        else:
            _refuse_empty(call, draft.concrete[number].inputs, found.values)
            return number, found.values
    if not refusals:
        raise OptionError(f"{call.title} is for a function that was never called, nor declared.")
    reasons = "\n".join(map(str, refusals))
    raise OptionError(f"{call.title} cannot be recorded: {reasons}") from refusals[0]


def _refuse_empty(
    call: Call, tensors: Sequence[records.TensorRecord], values: Sequence[object]
) -> None:
    """Refuse what no program is for: an axis of size 0 where a spec leaves the size open."""
    for tensor, value in zip(tensors, values, strict=True):
        shape = np.shape(cast(Any, value))
        declared = [None] * len(shape) if tensor.shape is None else tensor.shape
        if any(size == 0 != axis for size, axis in zip(shape, declared, strict=True)):
            raise OptionError(
                f"{call.title} cannot be recorded: {tensor.name} has an axis of size 0, and "
                "programs are for sizes of at least 1."
            )


class Rehearsal:
    """Programs that run on copies of the variables, by the numbers that these have in a draft."""

    def __init__(self, draft: Draft) -> None:
        """With the values that the variables have now."""
        self.draft = draft
        self.state = [_plain(draft, index) for index in draft.kept]

    def run(self, concrete: int, values: Sequence[object]) -> Sequence[jax.Array]:
        """The plain outputs of a concrete function. What it updates is kept for the next."""
        record = self.draft.concrete[concrete]
        pairs = zip(record.inputs, values, strict=True)
        ranks = [np.ndim(cast(Any, value)) for tensor, value in pairs if tensor.shape is None]
        program = self._program(concrete, ranks)
        reads, writes, call = program
        results = call(*(self.state[n] for n in reads), *(to_words(value) for value in values))
        for number, value in zip(writes, results, strict=False):
            self.state[number] = value
        return results[len(writes) :]

    def _program(
        self, concrete: int, ranks: Sequence[int]
    ) -> tuple[Sequence[int], Sequence[int], Callable[..., Sequence[jax.Array]]]:
        """What it reads, what it updates, and how it is called."""
        source = self.draft.sources[concrete]
        if isinstance(source, ConcreteFunction):
            for variant, call in source.calls:
                if list(variant.ranks) == list(ranks):
                    places = [variable.place.key for variable in source.graph.variables]
                    numbers = self.draft.numbers
                    reads = [numbers[places[index]] for index in variant.reads]
                    return reads, [numbers[places[index]] for index in variant.writes], call
        else:
            pairs = zip(source.programs, self.draft.concrete[concrete].programs, strict=True)
            for program, number in pairs:
                record = self.draft.programs[number]
                if record.ranks == list(ranks):
                    return record.variables, record.updates, jax.jit(program.call)
        raise OptionError(f"there is no program for inputs of {list(ranks)} axes.")


def _plain(draft: Draft, index: int) -> jax.Array:
    variable = draft.graph.variables[index]
    dtype = dtype_of(variable)
    plain = to_words(variable.read())
    return jnp.asarray(plain, None if isinstance(dtype, KeyType) else dtype)


def kept(stored: StoredModel, draft: Draft, values_id: Callable[[], str]) -> Iterator[Sample]:
    """The samples of a loaded model whose functions are saved again, as they were recorded.

    They are what the original returned, so they hold only with the variables it had then. With
    other values there are none, and a warning says so.
    """
    numbers = {
        id(getattr(source, "origin", source)): number for number, source in enumerate(draft.sources)
    }
    found = [one for one in stored.samples if id(one.origin) in numbers]
    if found and values_id() != stored.values_id:
        notices.warn(
            "the samples of the loaded model are not saved, since its variables have other values "
            "than when they were recorded. Pass samples= to record new ones, or samples={} for "
            "none.",
        )
        return
    for position, one in enumerate(found):
        record = records.replace(
            one.record, concrete=numbers[id(one.origin)], file=file_of(position)
        )
        yield Sample(record, one.read())

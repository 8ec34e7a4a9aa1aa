"""A function and its inputs become a jaxpr and the specs of its outputs.

The arrays of the tracked object are exchanged for traced ones while the Python code runs, and
whatever lies in their places afterwards are the new values. So code that reads and assigns
attributes becomes a function of arrays, without knowing it.
"""

import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.extend.core
import numpy as np
from jax import export

from exporter.display import MAX_TYPES, card_of, code, cut, quiet, signature_card
from exporter.errors import StateError, TracingError, TrackingError, UntrackedVariableError
from exporter.jax_internals import (
    decided_comparisons,
    evaluated,
    is_of_this_trace,
    is_tracing,
    symbolic_scope,
    symbolic_struct,
    user_lines,
)
from exporter.keys import from_words, to_words
from exporter.staging import outputs as outputs_of
from exporter.staging import shapes
from exporter.staging.graph import TrackedGraph, TrackedVariable, dotted
from exporter.staging.inputs import Inputs
from exporter.staging.partitioning import with_constraints
from exporter.staging.registered import split
from exporter.staging.slots import read_all, write_all
from exporter.staging.state import (
    Held,
    dtype_of,
    exchanged,
)
from exporter.staging.tracking import track
from exporter.variable import INNER, Variable
from signatures.arguments import Parameter, call_arguments
from signatures.binding import bind_positional
from signatures.signature import Signature
from signatures.spec import Dim, TensorSpec
from signatures.tree import (
    Structure,
    unflatten,
)

# Tracing exchanges the arrays of live objects, and running changes them: one thread at a time.
LOCK = threading.RLock()


def refuse_trace(name: str) -> None:
    """Refuse to go on where arrays have no values.

    Raises:
      TracingError: if JAX is tracing a function. `name` is what was called there.
    """
    if is_tracing():
        raise TracingError(
            f"{name} was called while JAX traces a function, where arrays have no values. Call it "
            "outside of jax.jit and of decorated functions."
        )


@dataclass(frozen=True, eq=False)
class Variant:
    """One trace: the function for arrays of given numbers of axes.

    Attributes:
      ranks: the number of axes of each input that may have any, in order.
      jaxpr: takes the arrays it reads, then the inputs; returns the arrays it writes, then the
        outputs. Random keys travel as the words they are made of.
      reads: the variables whose arrays it takes, by position in the graph.
      structs: what `flat` takes. Symbols of other objects would be other symbols to JAX.
      writes: the variables whose arrays it returns anew, by position in the graph.
      inputs: the inputs with every axis a size or a symbol.
      outputs: the outputs likewise.
      dims: the symbols in the inputs, with their bounds.
    """

    ranks: tuple[int, ...]
    jaxpr: jax.extend.core.ClosedJaxpr
    reads: tuple[int, ...]
    structs: tuple[jax.ShapeDtypeStruct, ...]
    writes: tuple[int, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: tuple[Dim, ...]

    def flat(self, *arrays: jax.Array, keep_locations: bool = False) -> list[jax.Array]:
        """The function on flat arrays, for `jax.jit` and `jax.export`; see `evaluated`."""
        state, inputs = arrays[: len(self.reads)], arrays[len(self.reads) :]
        # The jaxpr takes every variable of the graph. Those it does not use may be anything.
        unread = len(self.jaxpr.jaxpr.invars) - len(inputs)
        given: list[jax.Array | None] = [None] * unread
        for position, array in zip(self.reads, state, strict=True):
            given[position] = array
        return evaluated(self.jaxpr, [*given, *inputs], keep_locations=keep_locations)


@dataclass(frozen=True, eq=False)
class ConcreteFunction:
    """One trace of a function, or one for each number of axes where a spec leaves it open.

    Attributes:
      name: what the function is called.
      doc: its docstring.
      parameters: its parameters as Python knows them.
      arguments: for each parameter what stands there, arrays by position in the inputs.
      result: what it returns, arrays by position in the outputs.
      signature: its named inputs and outputs.
      signature_problem: why it cannot be called as a signature, or `None`.
      graph: the object it was traced with.
      variants: the traces.
      untraced: the numbers of axes with which it cannot be traced, and why.
      notes: what the reader of a report should know.
      python_function: what was traced, for messages that name what it holds.
    """

    name: str
    doc: str | None
    parameters: tuple[Parameter, ...]
    arguments: Mapping[str, Structure]
    result: Structure
    signature: Signature
    signature_problem: str | None
    graph: TrackedGraph
    variants: tuple[Variant, ...]
    untraced: tuple[tuple[tuple[int, ...], str], ...] = ()
    notes: tuple[str, ...] = ()
    python_function: Callable[..., object] | None = None

    # Marks the class as one whose instances are saved as functions.
    __exporter_stored__ = None

    @property
    def jaxpr(self) -> jax.extend.core.ClosedJaxpr:
        """The trace, of the first variant: variables and inputs to new variables and outputs."""
        return self.variants[0].jaxpr

    @property
    def structured_input_signature(self) -> tuple[tuple[object, ...], dict[str, object]]:
        """The positional and keyword arguments, each array as its spec."""
        specs = list(self.signature.inputs.values())
        return call_arguments(self.parameters, self.arguments, specs)

    @property
    def structured_outputs(self) -> object:
        """What the function returns, each array as its spec."""
        return unflatten(self.result, list(self.signature.outputs.values()))

    def __call__(self, /, *args: object, **kwargs: object) -> object:
        """Run the trace on the object it was made from, by position or by input name.

        Raises:
          BindError: if the values do not fit the signature.
        """
        bound = bind_positional(self.signature, args, kwargs)
        open_ranks = tuple(
            np.ndim(value)  # type: ignore[arg-type]  # an array
            for value, spec in zip(bound.values, self.signature.inputs.values(), strict=True)
            if spec.shape is None
        )
        for variant, call in self.calls:
            if variant.ranks == open_ranks:
                return unflatten(self.result, run(variant, self.graph, call, bound.values))
        raise TracingError(f"{self.name} was not traced for inputs of {open_ranks} axes.")

    @cached_property
    def calls(self) -> list[tuple[Variant, Callable[..., Sequence[jax.Array]]]]:
        """Each trace, compiled for this machine: what it reads and the inputs, flat and plain."""
        return [
            (variant, jax.jit(export.export(jax.jit(variant.flat))(*variant.structs).call))
            for variant in self.variants
        ]

    @quiet
    def __repr__(self) -> str:
        return f"<ConcreteFunction {cut(str(self.signature), MAX_TYPES)}>"

    @card_of
    def _repr_html_(self) -> str:
        return signature_card(code(self.name), self.signature)


@dataclass(frozen=True)
class Subject:
    """What is traced.

    Attributes:
      call: the Python function, bound to its object.
      name: what it is called in messages.
      doc: its docstring.
      parameters: its parameters as Python knows them.
      surroundings: makes an object that holds what the function can reach by name.
      output_names: names for the arrays of a list or tuple that it returns.
    """

    call: Callable[..., object]
    name: str
    doc: str | None
    parameters: tuple[Parameter, ...]
    surroundings: Callable[[], object]
    output_names: tuple[str, ...] = ()


def trace(subject: Subject, inputs: Inputs, graph: TrackedGraph) -> ConcreteFunction:
    """The traces of a function for some inputs, and the arrays it may read and assign.

    Raises:
      TracingError: if there is no number of axes with which it can be traced.
      StateError: if it leaves an array where none was, or one of another shape or dtype.
      Exception: whatever the function itself raises, with a note that names it.
    """
    shapes.refuse_unsolvable(inputs.specs, subject.name)
    traced: list[_Traced] = []
    untraced: list[tuple[tuple[int, ...], str]] = []
    for ranks in shapes.rank_choices(inputs.specs, subject.name):
        try:
            traced.append(_trace_ranks(subject, inputs, graph, ranks))
        except Exception as error:  # the user's code may refuse some numbers of axes in any way
            if not ranks:
                raise
            untraced.append((ranks, _first_line(error)))
            last = error
    if not traced:
        raise TracingError(
            f"{subject.name} cannot be traced with any number of axes that its input_signature "
            f"allows; the last attempt failed with: {_first_line(last)}"
        ) from last
    results = {one.result for one in traced}
    if len(results) > 1:
        raise TracingError(f"{subject.name} returns other structures for other numbers of axes.")
    result = results.pop()
    names, problem = outputs_of.output_names(result, subject.output_names)
    variants = tuple(one.variant for one in traced)
    public = {str(spec.name): spec for spec in traced[0].public}
    outputs = {
        name: outputs_of.public_output([variant.outputs[index] for variant in variants], name)
        for index, name in enumerate(names)
    }
    return ConcreteFunction(
        name=subject.name,
        doc=subject.doc,
        parameters=subject.parameters,
        arguments=inputs.arguments,
        result=result,
        signature=Signature(subject.name, public, outputs, inputs.defaults),
        signature_problem=problem,
        graph=graph,
        variants=variants,
        untraced=tuple(untraced),
        notes=tuple(dict.fromkeys(one.note for one in traced if one.note)),
        python_function=subject.call,
    )


def run(
    variant: Variant,
    graph: TrackedGraph,
    call: Callable[..., Sequence[jax.Array]],
    values: Sequence[object],
) -> list[object]:
    """Run a trace on an object, write its state back, return the outputs."""
    state = read_all([graph.variables[index].place for index in variant.reads])
    results = list(call(*(to_words(value) for value in (*state, *values))))
    written = [graph.variables[index] for index in variant.writes]
    new = [from_words(a, dtype_of(v)) for a, v in zip(results, written, strict=False)]
    write_all([variable.place for variable in written], new)
    outputs = zip(results[len(new) :], variant.outputs, strict=True)
    return [from_words(value, spec.dtype) for value, spec in outputs]


@dataclass(frozen=True)
class _Traced:
    variant: Variant
    result: Structure
    public: tuple[TensorSpec, ...]
    note: str | None


def _trace_ranks(
    subject: Subject, inputs: Inputs, graph: TrackedGraph, ranks: tuple[int, ...]
) -> _Traced:
    """One variant, with free axes independent of each other if possible, else tied together."""
    first: Exception | None = None
    shown = ", ".join(f"{spec.name}: {spec}" for spec in inputs.specs)
    for attempt in shapes.attempts(inputs.specs, ranks):
        try:
            variant, result = _trace_once(subject, inputs, attempt.specs, graph, ranks)
        except UntrackedVariableError as error:
            raise untracked(subject.name, _way_to(error.variable, subject)) from error
        except Exception as error:  # noqa: BLE001  # the user's own, or JAX's about sizes it cannot compare
            first = first or error
            continue
        return _Traced(variant, result, attempt.public, attempt.note)
    assert first is not None
    first.add_note(f"This happened while tracing {subject.name}({shown}).")
    if isinstance(
        first, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError
    ):
        first.add_note(
            "While a function is traced, its inputs and all arrays that the object holds have no "
            "values, NumPy arrays too. Keep sizes and flags as Python numbers or tuples."
        )
    raise first


def untracked(function: str, variable: str) -> TrackingError:
    """The error for state that a function uses and the saved object does not hold."""
    return TrackingError(
        f"{function} uses {variable}, which is not part of the saved object, so its value would be "
        "lost. Assign what holds it to an attribute of the object."
    )


def _way_to(variable: object, subject: Subject) -> str:
    """How the function reaches a variable: `self.v`, or the name it closes over."""
    reached = track(subject.surroundings()).variables
    ways = (v.path for v in reached if v.place.key == ("variable", id(variable), 0))
    title = variable.title if isinstance(variable, Variable) else "a Variable"
    return next((dotted(path) for path in ways), title)


def _trace_once(
    subject: Subject,
    inputs: Inputs,
    specs: tuple[TensorSpec, ...],
    graph: TrackedGraph,
    ranks: tuple[int, ...],
) -> tuple[Variant, Structure]:
    dims = shapes.dims_of(inputs.specs, specs)
    scope = symbolic_scope(dims)
    variables = graph.variables
    holders = [Held.of(variable) for variable in variables]
    writes: list[int] = []
    outputs: list[TensorSpec] = []
    structures: list[Structure] = []

    def flat(state: list[jax.Array], arrays: list[jax.Array]) -> list[jax.Array]:
        before = [from_words(a, held.dtype) for a, held in zip(state, holders, strict=True)]
        given = [from_words(a, spec.dtype) for a, spec in zip(arrays, specs, strict=True)]
        with exchanged(graph, before) as settle, decided_comparisons():
            args, kwargs = call_arguments(subject.parameters, inputs.arguments, given)
            structure, results = outputs_of.flatten_result(subject.call(*args, **kwargs))
            settle()
            after = [held.after() for held in holders]
            _refuse_inner(subject.name, holders, after, results)
            changed = [
                (index, holders[index].updated(new))
                for index, (old, new) in enumerate(zip(before, after, strict=True))
                if new is not old
            ]
        structures.append(structure)
        writes.extend(index for index, _ in changed)
        outputs.extend(outputs_of.spec_of(array) for array in results)
        return [to_words(jax.numpy.asarray(a)) for a in (*(new for _, new in changed), *results)]

    with LOCK, _outside_kept(subject, graph):
        state = [held.struct for held in holders]
        given = [symbolic_struct(spec, scope) for spec in specs]
        traced = with_constraints(lambda: jax.jit(flat).trace(state, given))
    _refuse_strangers(traced.jaxpr.jaxpr, len(state) + len(given), subject.name)
    jaxpr = _without_dead_code(traced.jaxpr)
    reads = _used(jaxpr, len(variables))
    return Variant(
        ranks=ranks,
        jaxpr=jaxpr,
        reads=tuple(reads),
        structs=(*(state[index] for index in reads), *given),
        writes=tuple(writes),
        inputs=specs,
        outputs=tuple(outputs),
        dims=dims,
    ), structures[0]


def _refuse_inner(
    name: str, holders: Sequence[Held], after: Sequence[object], results: Sequence[object]
) -> None:
    """Refuse arrays that were made in a trace inside this one, and that nobody returned from it."""
    for held, new in zip(holders, after, strict=True):
        if not is_of_this_trace(new):
            raise StateError(f"{dotted(held.variable.path)} is assigned {INNER}")
    if not all(map(is_of_this_trace, results)):
        raise TracingError(f"{name} returns an array that was made {INNER}")


@contextmanager
def _outside_kept(subject: Subject, graph: TrackedGraph) -> Iterator[None]:
    """Refuse to change arrays that the function reaches by name and the object does not hold."""
    known = {variable.place.slot.key for variable in graph.variables}
    outside = [v for v in _reached(subject, graph) if v.place.slot.key not in known]
    before = [(variable, variable.place.slot.read()) for variable in outside]
    changed: list[TrackedVariable] = []
    try:
        yield
    finally:
        for variable, old in before:
            slot = variable.place.slot
            new = slot.read()
            if new is not old and any(isinstance(a, jax.core.Tracer) for a in split(new)[0]):
                slot.write(old)
                changed.append(variable)
    if changed:
        raise untracked(subject.name, dotted(changed[0].path))


def _reached(subject: Subject, graph: TrackedGraph) -> tuple[TrackedVariable, ...]:
    """The variables that a function reaches by name, but for those of objects in the graph."""
    named = vars(subject.surroundings())
    others = {name: value for name, value in named.items() if id(value) not in graph.held}
    try:
        return track(types.SimpleNamespace(**others)).variables
    except TrackingError:  # something that could not be saved, and need not be
        return ()


def _refuse_strangers(jaxpr: jax.extend.core.Jaxpr, expected: int, name: str) -> None:
    """Refuse arrays of another trace, which JAX takes before all others without a word."""
    strangers = {id(variable) for variable in jaxpr.invars[: len(jaxpr.invars) - expected]}
    if not strangers:
        return
    users = (e for e in jaxpr.eqns if strangers & {id(atom) for atom in e.invars})
    line = next((user_lines(equation)[0] for equation in users), None)
    raise TracingError(
        f"{name} uses a traced array without a value{f' at {line}' if line else ''}: it was kept "
        "under jax.jit, jax.grad or the like and has outlived the trace. Use an array in its "
        "place, or make it an input.",
        line,
    )


def _used(jaxpr: jax.extend.core.ClosedJaxpr, count: int) -> list[int]:
    """The positions among the first `count` inputs of a jaxpr that it uses."""
    inner = jaxpr.jaxpr
    used = {id(atom) for equation in inner.eqns for atom in equation.invars}
    used |= {id(atom) for atom in inner.outvars}
    return [index for index, variable in enumerate(inner.invars[:count]) if id(variable) in used]


def _without_dead_code(jaxpr: jax.extend.core.ClosedJaxpr) -> jax.extend.core.ClosedJaxpr:
    """The jaxpr without equations whose results nobody uses, such as unwrapping an unused key."""
    inner = jaxpr.jaxpr
    used = {id(atom) for atom in inner.outvars}
    live = []
    for equation in reversed(inner.eqns):
        if equation.effects or any(id(result) in used for result in equation.outvars):
            live.append(equation)
            used |= {id(atom) for atom in equation.invars}
    return jax.extend.core.ClosedJaxpr(inner.replace(eqns=live[::-1]), jaxpr.consts)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"

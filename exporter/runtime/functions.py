"""Loaded functions and signatures: bind a call, run its program, write its state back."""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import jax
import numpy as np

from exporter.artifact.encoding import structure_of
from exporter.artifact.records import ConcreteRecord
from exporter.artifact.stored import StoredConcrete, StoredFunction, StoredProgram
from exporter.errors import NotBatchableError, PlacementError, StateError
from exporter.jax_internals import is_mapped
from exporter.keys import from_words, to_words
from exporter.pytrees import without_classes
from exporter.runtime.programs import LoadedProgram
from exporter.variable import (
    Variable,
    check_values,
    get_all,
    has_value,
    is_local,
    is_tracing,
    may_be_traced,
    set_raw,
)
from signatures.arguments import (
    Parameter,
    bind_arguments,
    bind_call,
    call_arguments,
    match,
    named_by_path,
    python_signature,
    refused,
)
from signatures.binding import ABSENT, Bound, bind, bind_positional, solve
from signatures.dtypes import KeyType, as_dtype
from signatures.errors import BindError
from signatures.signature import Signature
from signatures.spec import TensorSpec
from signatures.tree import unflatten
from signatures.values import shown

COPYING = (
    "what was loaded cannot be copied or pickled: its programs and locks belong to this process. "
    "Load the folder again, which gives another model with its own variables."
)

# Makes the error for a call, from a line for each thing that does not fit.
Refuse = Callable[[Sequence[str]], BindError]


class LoadedConcrete:
    """One concrete function: what runs when a function or signature is called."""

    def __init__(
        self,
        record: ConcreteRecord,
        signature: Signature,
        programs: Sequence[LoadedProgram],
        variables: Sequence[Variable],
        lock: threading.RLock,
    ) -> None:
        """A concrete function.

        Args:
          record: the manifest's entry.
          signature: its inputs and outputs.
          programs: its programs, one for each choice of ranks.
          variables: all variables of the model, by number.
          lock: held while state is read and written back.
        """
        self.record = record
        self.signature = signature
        self.arguments = {name: structure_of(part) for name, part in record.arguments.items()}
        self.result = structure_of(record.result)
        self._by_path = named_by_path(signature, self.arguments)
        self.paths = list(self._by_path.inputs)
        self.programs = {tuple(program.record.ranks): program for program in programs}
        self.reads = {
            ranks: [variables[number] for number in program.record.variables]
            for ranks, program in self.programs.items()
        }
        self.writes = {
            ranks: [variables[number] for number in program.record.updates]
            for ranks, program in self.programs.items()
        }
        self._open = [
            position
            for position, spec in enumerate(signature.inputs.values())
            if spec.shape is None
        ]
        # Elsewhere variables hold arrays with values, and nobody needs to look.
        self._is_local = any(is_local(variable) for variable in variables)
        read = {id(v): v for reads in self.reads.values() for v in reads}.values()
        self._has_keys = any(isinstance(as_dtype(v.dtype), KeyType) for v in read)
        self._may_lack_values = not all(map(has_value, read))
        self._lock = lock

    def bind_call(self, values: Mapping[str, object]) -> tuple[Bound, list[str]]:
        """The arrays in the values of a call of the function, and what does not fit."""
        return bind_call(self._by_path, self.arguments, values)

    def run(self, values: Sequence[object], names: Sequence[str], refuse: Refuse) -> list[object]:
        """The outputs for arrays that fit the signature. State is written back.

        Args:
          values: the arrays.
          names: what the caller calls each of them.
          refuse: makes the error for arrays that fit the signature and no program.
        """
        ranks = tuple(len(values[position].shape) for position in self._open)  # type: ignore[attr-defined]
        program = self.programs.get(ranks)
        if program is None:
            raise refuse(self._untraced(ranks, values, names))
        plain = [to_words(value) for value in values]
        if self._open or any(0 in value.shape for value in plain):
            empty = self._without_elements(program, values, names, refuse)
            if empty is not None:
                return _restored(empty, program.outputs)
        reads, writes = self.reads[ranks], self.writes[ranks]
        if self._may_lack_values:
            check_values(reads)
        given = plain if not self._is_local else [*plain, *get_all(reads)]
        if is_tracing() or any(isinstance(value, jax.core.Tracer) for value in given):
            return self._run_traced(program, plain, reads, writes)
        with self._lock:
            state = get_all(reads)
            if self._has_keys:
                state = [to_words(value) for value in state]
            results = self._called(program, state, plain, names)
            for variable, value in zip(writes, results, strict=False):
                new = from_words(value, as_dtype(variable.dtype))
                if isinstance(new, jax.core.Tracer):
                    raise self._outlives(variable)
                set_raw(variable, new)
        return _restored(results[len(writes) :], program.outputs)

    def _called(
        self,
        program: LoadedProgram,
        state: Sequence[jax.Array],
        plain: Sequence[jax.Array],
        names: Sequence[str],
    ) -> Sequence[jax.Array]:
        try:
            return program.call(*state, *plain)
        except ValueError as error:
            if "incompatible devices" not in str(error):
                raise
            places = [getattr(value, "sharding", "the host") for value in plain]
            lines = [f"{name}: {place}" for name, place in zip(names, places, strict=True)]
            shown = "".join(f"\n  {line}" for line in lines)
            raise PlacementError(
                f"{self.signature.name} has inputs on other devices than the variables, which are "
                f"on {state[0].sharding if state else 'no device'}:{shown}\nLoad the model with "
                "mesh= to run it on the devices of that mesh, or give arrays of NumPy.",
                lines,
            ) from error

    def _run_traced(
        self,
        program: LoadedProgram,
        plain: Sequence[jax.Array],
        reads: Sequence[Variable],
        writes: Sequence[Variable],
    ) -> list[object]:
        """Inside another trace: its own variables must be part of that trace to be changed."""
        state = [to_words(variable.value) for variable in reads]
        results = program.call_traced(*state, *plain)
        for variable, value in zip(writes, results, strict=False):
            if is_mapped(value) and not is_local(variable):
                raise NotBatchableError(
                    f"{self.signature.name} changes {variable.title}, and under jax.vmap each "
                    "element would leave another value there. Map over models instead, as made by "
                    "model.with_variables(...) in the mapped function."
                )
            new = from_words(value, as_dtype(variable.dtype))
            if isinstance(new, jax.core.Tracer) and not may_be_traced(variable):
                raise self._outlives(variable)
            variable.value = new
        return _restored(results[len(writes) :], program.outputs)

    def _outlives(self, variable: Variable) -> StateError:
        return StateError(
            f"{self.signature.name} changes {variable.title}, and under jax.jit or another "
            "transformation of JAX the new value would outlive its trace. Give the transformed "
            "function a model of its own and return what it changed: new = model.with_variables("
            "values); return new.f(x), new.variables."
        )

    def _without_elements(
        self,
        program: LoadedProgram,
        values: Sequence[object],
        names: Sequence[str],
        refuse: Refuse,
    ) -> list[jax.Array] | None:
        """The outputs for an axis of size 0, which no program was traced with, or an error."""
        shapes = [tuple(value.shape) for value in values]  # type: ignore[attr-defined]  # arrays
        sizes, found = solve(zip(program.inputs, shapes, strict=True))
        problems = [
            f"{name}: {problem}, got {spec.dtype.name}[{', '.join(map(str, shape))}]"
            for name, spec, shape, problem in zip(names, program.inputs, shapes, found, strict=True)
            if problem
        ]
        zeros = [name for name, size in sizes.items() if size == 0]
        if not zeros and not problems:
            return None
        empty = None if problems else program.empty_outputs(sizes)
        if empty is None:
            problems = problems or [
                f"{name}: an axis has size 0, and there is a result for sizes of at least 1 only"
                for name, shape in zip(names, shapes, strict=True)
                if 0 in shape
            ]
            raise refuse(problems)
        return empty

    def _untraced(
        self, ranks: tuple[int, ...], values: Sequence[object], names: Sequence[str]
    ) -> list[str]:
        given = " and ".join(
            f"{names[p]} with {len(values[p].shape)} axes"  # type: ignore[attr-defined]  # arrays
            for p in self._open
        )
        known = ", ".join(str(r[0] if len(r) == 1 else r) for r in self.programs)
        reason = next((u.reason for u in self.record.untraced if tuple(u.ranks) == ranks), None)
        why = f". Tracing it failed with: {reason}" if reason else ""
        return [f"there is no program for {given}; it has programs for {known} axes{why}"]


class LoadedSignature:
    """A signature: named arrays in, named arrays out.

    Attributes:
      name: the name it was saved under.
      signature: its inputs, outputs, defaults and bounds, as plain data.
    """

    def __init__(self, name: str, concrete: LoadedConcrete, function: "LoadedFunction") -> None:
        """The signature of that name on a concrete function."""
        self.name = name
        found = concrete.signature
        self.signature = Signature(name, found.inputs, found.outputs, found.defaults)
        self._concrete = concrete
        self._function = function

    @property
    def structured_input_signature(self) -> tuple[tuple[()], dict[str, TensorSpec]]:
        """No positional arguments, and a spec for each keyword."""
        return (), dict(self.signature.inputs)

    @property
    def structured_outputs(self) -> dict[str, TensorSpec]:
        """A spec for each output."""
        return dict(self.signature.outputs)

    def __call__(self, /, *args: object, **kwargs: object) -> dict[str, Any]:
        """The named outputs for named inputs; a single input may be given by position.

        Raises:
          BindError: naming every input that is missing, unknown or does not fit.
        """
        bound = bind(self.signature, args, kwargs)
        outputs = self._concrete.run(bound.values, list(self.signature.inputs), self._refused)
        return dict(zip(self.signature.outputs, outputs, strict=True))

    def _refused(self, problems: Sequence[str]) -> BindError:
        lines = "".join(f"\n  {problem}" for problem in problems)
        return BindError(
            f"arguments do not fit signature {self.name!r}:{lines}\n"
            f"The signature is {self.signature}.",
            problems,
        )

    @property
    def __exporter_stored__(self) -> StoredFunction:
        stored = self._function.__exporter_stored__
        index = self._function.concrete.index(self._concrete)
        return StoredFunction(stored.name, stored.doc, stored.parameters, [stored.concrete[index]])

    def __repr__(self) -> str:
        return f"<LoadedSignature {self.signature}>"


class LoadedFunction:
    """A function of the saved object, called as the original was.

    Attributes:
      concrete: what it was saved for.
    """

    def __init__(
        self,
        name: str,
        doc: str | None,
        parameters: Sequence[Parameter],
        concrete: Sequence[LoadedConcrete],
        *,
        by_input: bool = False,
    ) -> None:
        """A function with what it was saved for.

        One that is called `by_input` takes the inputs of the one thing that it was saved for, by
        position or by name, as a concrete function does.
        """
        self.__name__ = self.__qualname__ = name
        self.__doc__ = doc
        self.__signature__ = python_signature(parameters)
        self.concrete = tuple(concrete)
        self._parameters = tuple(parameters)
        self._by_input = by_input

    @property
    def signature(self) -> Signature:
        """Its named inputs and outputs, of the first type of arguments it was saved for."""
        return self._first.signature

    @property
    def structured_input_signature(self) -> tuple[tuple[object, ...], dict[str, object]]:
        """The positional and keyword arguments, each array as its spec."""
        first = self._first
        return call_arguments(
            self._parameters, first.arguments, list(first.signature.inputs.values())
        )

    @property
    def structured_outputs(self) -> object:
        """What it returns, each array as its spec."""
        return unflatten(self._first.result, list(self._first.signature.outputs.values()))

    @property
    def _first(self) -> LoadedConcrete:
        if not self.concrete:
            raise self._never_saved()
        return self.concrete[0]

    def __call__(self, /, *args: object, **kwargs: object) -> Any:
        """Call it with the arguments of the original.

        Raises:
          BindError: if they do not fit, saying what was expected and what was given.
        """
        if self._by_input:
            return self._called_by_input(args, kwargs)
        values = self._bound(args, kwargs)
        if len(self.concrete) == 1:
            concrete = self.concrete[0]
            bound, problems = concrete.bind_call(values)
            if problems:
                raise self._refused(concrete, problems)
        else:
            concrete, bound = self._choose(values)
        outputs = concrete.run(bound.values, concrete.paths, partial(self._refused, concrete))
        return unflatten(concrete.result, outputs)

    def _called_by_input(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
        concrete = self._first
        bound = bind_positional(concrete.signature, args, kwargs)
        names = list(concrete.signature.inputs)
        outputs = concrete.run(bound.values, names, partial(self._refused, concrete))
        return unflatten(concrete.result, outputs)

    def _bound(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
        values = bind_arguments(self.__signature__, self.__name__, args, kwargs)
        return {name: without_classes(value) for name, value in values.items()}

    def _refused(self, concrete: LoadedConcrete, problems: Sequence[str]) -> BindError:
        end = f"The signature is {concrete.signature}."
        return refused(self.__name__, self.__signature__, end, problems)

    def get_concrete_function(self, /, *args: object, **kwargs: object) -> "LoadedFunction":
        """This function for the most specific of the types of arguments that fit.

        It is called by its inputs, by position or by name, as any concrete function.

        Args:
          args: specs, arrays or Python values, as the function's own arguments.
          kwargs: likewise.

        Raises:
          BindError: if it was not saved for these types, listing those it was saved for.
        """
        values = self._bound(args, kwargs)
        refusals = []
        fitting = []
        for concrete in self.concrete:
            leaves, problems = match(concrete.arguments, values, len(concrete.signature.inputs))
            pairs = zip(concrete.signature.inputs.items(), leaves, strict=True)
            problems += [
                f"{name}: expected {spec}, got {leaf!r}"
                for (name, spec), leaf in pairs
                if leaf is not ABSENT and not spec.admits(leaf)
            ]
            if not problems:
                fitting.append(concrete)
            refusals.append((concrete, problems))
        if not self.concrete:
            raise self._never_saved()
        if not fitting:
            raise self._no_match(values, refusals)
        chosen = min(fitting, key=lambda one: _openness(one.signature))
        return LoadedFunction(
            self.__name__, self.__doc__, self._parameters, [chosen], by_input=True
        )

    def _choose(self, values: Mapping[str, object]) -> tuple[LoadedConcrete, Bound]:
        """The most specific concrete function that fits: fewest conversions, then free axes."""
        if not self.concrete:
            raise self._never_saved()
        fitting = []
        refusals = []
        for order, concrete in enumerate(self.concrete):
            bound, problems = concrete.bind_call(values)
            refusals.append((concrete, problems))
            if not problems:
                leaves, _ = match(concrete.arguments, values, len(bound.values))
                cost = _conversions(leaves, bound.values)
                fitting.append(((cost, _openness(concrete.signature), order), concrete, bound))
        if not fitting:
            raise self._no_match(values, refusals)
        _, concrete, bound = min(fitting, key=lambda one: one[0])
        return concrete, bound

    def _no_match(
        self,
        values: Mapping[str, object],
        refusals: Sequence[tuple[LoadedConcrete, Sequence[str]]],
    ) -> BindError:
        given = ", ".join(f"{name}: {shown(value)}" for name, value in values.items())
        lines = [
            f"no type of arguments that {self.__name__}{self.__signature__} was saved for fits:",
            f"  given: {given or 'nothing'}",
        ]
        for number, (concrete, problems) in enumerate(refusals, 1):
            lines.append(f"  option {number}: {concrete.signature}")
            lines += [f"    {problem}" for problem in problems]
        return BindError("\n".join(lines), [p for _, problems in refusals for p in problems])

    def _never_saved(self) -> BindError:
        return BindError(
            f"{self.__name__}{self.__signature__} cannot be called: when the model was saved, it "
            "had no input_signature and had never been called, so there is no program for it."
        )

    @property
    def __exporter_stored__(self) -> StoredFunction:
        return StoredFunction(
            self.__name__,
            self.__doc__,
            self._parameters,
            [
                StoredConcrete(
                    concrete.record,
                    [
                        _stored(program, concrete.reads[ranks], concrete.writes[ranks])
                        for ranks, program in concrete.programs.items()
                    ],
                    concrete,
                )
                for concrete in self.concrete
            ],
            self._by_input,
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(COPYING)

    def __repr__(self) -> str:
        return f"<LoadedFunction {self.__name__}{self.__signature__}>"


def _stored(
    program: LoadedProgram, reads: Sequence[Variable], writes: Sequence[Variable]
) -> StoredProgram:
    inner = program.derivative
    derivative = None if inner is None else _stored(inner, reads, ())
    call = partial(_call_without_donating, program)
    return StoredProgram(program.record, program.bytecode, reads, writes, call, derivative)


def _call_without_donating(program: LoadedProgram, *arrays: jax.Array) -> Sequence[jax.Array]:
    return program.call_traced(*arrays)


def _restored(results: Sequence[jax.Array], specs: Sequence[TensorSpec]) -> list[object]:
    return [from_words(value, spec.dtype) for value, spec in zip(results, specs, strict=True)]


def _conversions(given: Sequence[object], bound: Sequence[object]) -> int:
    """How much was converted: Python values, and more where they became another kind of number."""
    kinds = [
        (np.asarray(value).dtype.kind, array.dtype.kind)  # type: ignore[attr-defined]  # an array
        for value, array in zip(given, bound, strict=True)
        if not hasattr(value, "dtype")
    ]
    return sum(1 if before == after else 2 for before, after in kinds)


def _openness(signature: Signature) -> int:
    """How much a signature leaves open: axes of any size, and more for any number of axes."""
    return sum(
        100 if spec.shape is None else sum(not isinstance(axis, int) for axis in spec.shape)
        for spec in signature.inputs.values()
    )

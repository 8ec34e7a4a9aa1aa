"""Concrete functions as they were saved: what runs when a function or signature is called."""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from exporter.artifact.encoding import structure_of
from exporter.artifact.records import ConcreteRecord
from exporter.errors import NotBatchableError, StateError
from exporter.jax_dispatch import is_jit_disabled, is_top_level
from exporter.jax_internals import is_mapped
from exporter.keys import from_words, to_words
from exporter.runtime.bound import BoundProgram
from exporter.runtime.compiling import Outcome
from exporter.runtime.programs import LoadedProgram
from exporter.variable import (
    Variable,
    check_values,
    get_all,
    has_value,
    is_local,
    is_tracing,
    may_be_traced,
)
from signatures.arguments import bind_call, named_by_path
from signatures.binding import Bound, solve
from signatures.dtypes import as_dtype
from signatures.errors import BindError
from signatures.signature import Signature
from signatures.spec import TensorSpec

# Makes the error for a call, from a line for each thing that does not fit.
Refuse = Callable[[Sequence[str]], BindError]


class LoadedConcrete:
    """One concrete function: what runs when a function or signature is called."""

    def __init__(
        self, record: ConcreteRecord, signature: Signature, programs: Sequence[BoundProgram]
    ) -> None:
        """A concrete function.

        Args:
          record: the manifest's entry.
          signature: its inputs and outputs.
          programs: its programs, one for each choice of ranks.
        """
        self.record = record
        self.signature = signature
        self.arguments = {name: structure_of(part) for name, part in record.arguments.items()}
        self.result = structure_of(record.result)
        self._by_path = named_by_path(signature, self.arguments)
        self.paths = list(self._by_path.inputs)
        self.programs = {tuple(one.program.record.ranks): one for one in programs}
        self._open = [
            position
            for position, spec in enumerate(signature.inputs.values())
            if spec.shape is None
        ]
        # What gives the outputs for arrays that are like those of a call before, as `run` would, or
        # `None`, with nothing done, for what has to be looked at closely.
        self.quick = self._quick if self._open or not programs else programs[0].quick
        # Elsewhere variables hold arrays with values, and nobody needs to look.
        read = {id(v): v for one in programs for v in one.reads}.values()
        self._is_local = any(map(is_local, read))
        self._may_lack_values = not all(map(has_value, read))

    def bind_call(self, values: Mapping[str, object]) -> tuple[Bound, list[str]]:
        """The arrays in the values of a call of the function, and what does not fit."""
        return bind_call(self._by_path, self.arguments, values)

    def _quick(self, values: Sequence[object]) -> Sequence[jax.Array] | None:
        if not all(isinstance(values[position], jax.Array | np.ndarray) for position in self._open):
            return None
        bound = self.programs.get(self._ranks(values))
        return None if bound is None else bound.quick(values)

    def _ranks(self, values: Sequence[object]) -> tuple[int, ...]:
        """The numbers of axes of the inputs that may have any, by which a program is chosen."""
        if not self._open:
            return ()
        return tuple(len(values[position].shape) for position in self._open)  # type: ignore[attr-defined]

    def prepare(self, shapes: Sequence[tuple[int, ...]]) -> Outcome:
        """Compile what a call would run with inputs of these shapes. Says what became of it."""
        ranks = tuple(len(shapes[position]) for position in self._open)
        return self.programs[ranks].prepare(shapes)

    def run(self, values: Sequence[object], names: Sequence[str], refuse: Refuse) -> list[object]:
        """The outputs for arrays that fit the signature. State is written back.

        Args:
          values: the arrays.
          names: what the caller calls each of them.
          refuse: makes the error for arrays that fit the signature and no program.
        """
        ranks = self._ranks(values)
        bound = self.programs.get(ranks)
        if bound is None:
            raise refuse(self._untraced(ranks, values, names))
        program = bound.program
        plain = [to_words(value) for value in values]
        if self._open or any(0 in value.shape for value in plain):
            empty = self._without_elements(program, values, names, refuse)
            if empty is not None:
                return _restored(empty, program.outputs)
        if self._may_lack_values:
            check_values(bound.reads)
        given = plain if not self._is_local else [*plain, *get_all(bound.reads)]
        if (
            is_tracing()
            or not is_top_level()
            or is_jit_disabled()
            or any(isinstance(value, jax.core.Tracer) for value in given)
        ):
            return self._run_traced(bound, plain)
        return _restored(bound.run(plain, names), program.outputs)

    def _run_traced(self, bound: BoundProgram, plain: Sequence[jax.Array]) -> list[object]:
        """Inside another trace: its own variables must be part of that trace to be changed."""
        program, writes = bound.program, bound.writes
        program.check_width()
        state = [to_words(variable.value) for variable in bound.reads]
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


def _restored(results: Sequence[jax.Array], specs: Sequence[TensorSpec]) -> list[object]:
    return [from_words(value, spec.dtype) for value, spec in zip(results, specs, strict=True)]

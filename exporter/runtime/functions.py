"""Loaded functions and signatures: bind a call, run its program, write its state back."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import jax
import numpy as np

from exporter.artifact.stored import StoredConcrete, StoredFunction, StoredProgram
from exporter.display import (
    MAX_TYPES,
    card_of,
    code,
    cut,
    lines,
    quiet,
    signature_card,
    signatures_card,
)
from exporter.pytrees import without_classes
from exporter.runtime.concrete import LoadedConcrete
from exporter.runtime.programs import LoadedProgram
from exporter.variable import (
    Variable,
)
from signatures.arguments import (
    Parameter,
    bind_arguments,
    call_arguments,
    match,
    python_signature,
    refused,
)
from signatures.binding import ABSENT, Bound, bind, bind_positional
from signatures.errors import BindError
from signatures.signature import Signature
from signatures.spec import TensorSpec
from signatures.tree import Leaf, unflatten, unflattener
from signatures.values import shown

COPYING = (
    "what was loaded cannot be copied or pickled: its programs and locks belong to this process. "
    "Load the folder again, which gives another model with its own variables."
)


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
        self._inputs = list(found.inputs)
        self._outputs = list(found.outputs)
        self._count = len(found.inputs)
        self._first_input = next(iter(self._inputs), "")
        self._only_output = self._outputs[0] if len(self._outputs) == 1 else None
        self._concrete = concrete
        self._quick = concrete.quick
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
        count = len(args) + len(kwargs)
        if count == self._count and (count == 1 or not args):
            if count == 1:  # what goes for many goes for one, in thrice the time
                quick = self._quick(args or [kwargs.get(self._first_input)])
            else:
                quick = self._quick([kwargs.get(name) for name in self._inputs])
            if quick is not None:
                if self._only_output is not None:  # likewise
                    return {self._only_output: quick[0]}
                return dict(zip(self._outputs, quick, strict=True))
        bound = bind(self.signature, args, kwargs)
        outputs = self._concrete.run(bound.values, self._inputs, self._refused)
        return dict(zip(self._outputs, outputs, strict=True))

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

    def __reduce__(self) -> NoReturn:
        raise TypeError(COPYING)

    @quiet
    def __repr__(self) -> str:
        return f"<LoadedSignature {cut(str(self.signature), MAX_TYPES)}>"

    @card_of
    def _repr_html_(self) -> str:
        return signature_card(code(self.name), self.signature)


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
        self._order = _plain_order(parameters, concrete)
        if self._order:
            self._quick = concrete[0].quick
            self._result = unflattener(concrete[0].result)

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
        order = self._order
        if order and len(args) + len(kwargs) == len(order):
            quick = self._quick([*args, *map(kwargs.get, order[len(args) :])] if kwargs else args)
            if quick is not None:
                return self._result(quick)
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
        try:
            return {name: without_classes(value) for name, value in values.items()}
        except RecursionError:
            raise BindError(
                f"{self.__name__}{self.__signature__}: an argument holds itself, or is nested too "
                "deeply."
            ) from None

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
                        _stored(one.program, one.reads, one.writes)
                        for one in concrete.programs.values()
                    ],
                    concrete,
                )
                for concrete in self.concrete
            ],
            self._by_input,
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(COPYING)

    @quiet
    def __repr__(self) -> str:
        options = (str(one.signature) for one in self.concrete)
        return lines(f"LoadedFunction {self.__name__}{self.__signature__}", options)

    @card_of
    def _repr_html_(self) -> str:
        title = code(f"{self.__name__}{self.__signature__}")
        doc = (self.__doc__ or "").strip().partition("\n")[0]
        return signatures_card(title, [one.signature for one in self.concrete], cut(doc))


def _stored(
    program: LoadedProgram, reads: Sequence[Variable], writes: Sequence[Variable]
) -> StoredProgram:
    inner = program.derivative
    derivative = None if inner is None else _stored(inner, reads, ())
    call = partial(_call_without_donating, program)
    return StoredProgram(program.record, program.bytecode, reads, writes, call, derivative)


def _call_without_donating(program: LoadedProgram, *arrays: jax.Array) -> Sequence[jax.Array]:
    return program.call_traced(*arrays)


def _plain_order(
    parameters: Sequence[Parameter], concrete: Sequence[LoadedConcrete]
) -> list[str] | None:
    """The parameters, if each stands for one array, in the order of the inputs."""
    names = [parameter.name for parameter in parameters]
    kinds = {parameter.kind for parameter in parameters}
    leaves = [Leaf(index) for index in range(len(names))]
    if len(concrete) != 1 or kinds != {"positional_or_keyword"}:
        return None
    return names if [concrete[0].arguments.get(name) for name in names] == leaves else None


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

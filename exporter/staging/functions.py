"""Decorate functions and methods. Decorating traces nothing.

A `Function` is traced when it is called, once for each type of its arguments, and once more when
the object is saved. Within another trace it runs as plain Python, as if it were not decorated.
"""

import functools
import inspect
import types
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, overload

import jax

from exporter.display import card, card_of, code, cut, quiet
from exporter.errors import OptionError
from exporter.jax_internals import is_tracing
from exporter.markup import fragment
from exporter.pytrees import without_classes
from exporter.staging.graph import TrackedGraph
from exporter.staging.inputs import (
    Inputs,
    InputSignature,
    flat_values,
    of_call,
    of_signature,
    parameters_of,
    with_baked,
)
from exporter.staging.slots import is_array
from exporter.staging.state import restored
from exporter.staging.tracing import LOCK, ConcreteFunction, Subject, Variant, run, trace
from exporter.staging.tracking import track
from signatures.arguments import bind_arguments, bind_call, match, named_by_path, refused
from signatures.errors import BindError
from signatures.signature import Signature
from signatures.tree import Structure, parts, unflatten
from signatures.values import shown

F = TypeVar("F", bound=Callable[..., object])


@dataclass
class _Memory:
    """What a function remembers of its calls, for one object that it is bound to."""

    types: dict[tuple[object, ...], Inputs] = field(default_factory=dict)
    compiled: dict[
        tuple[object, ...], tuple[Variant, Structure, Callable[..., list[jax.Array]]]
    ] = field(default_factory=dict)


class Function:
    """A function or method that can be saved with its object.

    Calling it traces and compiles once for each type of arguments. Without an input signature,
    the types it was called with are those it will be saved with.

    Attributes:
      name: the name of the Python function.
      input_signature: the declared specs, or `None`.
      is_default: whether it is to be the default signature of its object.
      owner: the object it is bound to, or `None` for a free function.
    """

    # Marks the class as one whose instances are saved as functions.
    __exporter_stored__ = None

    def __init__(
        self,
        python_function: Callable[..., object],
        input_signature: InputSignature | None = None,
        *,
        is_default: bool = False,
        owner: object = None,
        output_names: tuple[str, ...] = (),
    ) -> None:
        """See `exporter.function`, which is the way to make one."""
        # What binds the function: nothing for a static method, the class for a class method.
        self._binding: type = type(python_function)
        if isinstance(python_function, staticmethod | classmethod):
            python_function = python_function.__func__
        if not callable(python_function):
            raise OptionError(f"exporter.function takes a function; got {shown(python_function)}.")
        if not isinstance(is_default, bool):
            raise OptionError(f"default is True or False; got {is_default!r}.")
        self.python_function = python_function
        self.name: str = getattr(python_function, "__name__", type(python_function).__name__)
        self.input_signature = input_signature
        self.is_default = is_default
        self.owner = owner
        self._output_names = output_names
        self._memories: dict[int, tuple[Callable[[], object], _Memory]] = {}
        self._memory = _Memory()
        functools.update_wrapper(self, python_function)
        self.__signature__ = with_baked(inspect.signature(self.call), input_signature)
        if input_signature is not None:
            self._check_declaration()

    def _check_declaration(self) -> None:
        """Refuse a wrong input signature at once where the parameters are known for sure."""
        assert self.input_signature is not None
        if self.is_unbound_method:
            signature = inspect.signature(self.python_function)
            first = next(iter(signature.parameters), None)
            rest = [p for name, p in signature.parameters.items() if name != first]
            signature = signature.replace(parameters=rest)
            try:
                of_signature(signature, self.input_signature, self.name)
            except BindError:
                return  # a static method, perhaps: it is known when the method is reached
        elif next(iter(self.python_signature.parameters), None) not in ("self", "cls"):
            self.inputs()  # otherwise it may yet be put into a class

    def __get__(self, instance: object, owner: type | None = None) -> "Function":
        if self._binding is classmethod:
            instance = owner
        if instance is None or self._binding is staticmethod:
            return self
        bound = Function.__new__(Function)
        bound.__dict__.update(self.__dict__)
        bound.owner = instance
        bound.__signature__ = self._bound_signature
        bound.__dict__["_memory"] = self._memory_of(instance)
        return bound

    @functools.cached_property
    def _bound_signature(self) -> inspect.Signature:
        """The parameters once it is bound, to whatever object."""
        method = types.MethodType(self.python_function, self)
        return with_baked(inspect.signature(method), self.input_signature)

    def _memory_of(self, instance: object) -> _Memory:
        key = id(instance)
        if key in self._memories:
            return self._memories[key][1]
        memory = _Memory()
        try:
            reference = weakref.ref(instance, lambda _: self._memories.pop(key, None))
        except TypeError:  # an object that cannot be referred to weakly lives as long as its class
            self._memories[key] = (lambda: instance, memory)
        else:
            self._memories[key] = (reference, memory)
        return memory

    @property
    def is_unbound_method(self) -> bool:
        """Whether it was taken from its class and so has nobody to be `self`."""
        around = getattr(self.python_function, "__qualname__", "").rpartition(".")[0]
        in_class = bool(around) and not around.endswith("<locals>")
        return self.owner is None and in_class and self._binding is not staticmethod

    @property
    def lacks_self(self) -> bool:
        """Whether its input signature leaves a parameter over for the object it is not bound to."""
        if not self.is_unbound_method or self.input_signature is None:
            return self.is_unbound_method
        if next(iter(self.python_signature.parameters), None) in ("self", "cls"):
            return True
        try:
            self.inputs()
        except BindError:
            return True
        return False

    @property
    def call(self) -> Callable[..., object]:
        """The Python function, bound to its owner."""
        if self.owner is None:
            return self.python_function
        return types.MethodType(self.python_function, self.owner)

    @property
    def python_signature(self) -> inspect.Signature:
        """The parameters, without `self`."""
        return self.__signature__

    @property
    def subject(self) -> Subject:
        """What `trace` needs to know."""
        signature = self.python_signature
        doc = inspect.getdoc(self.python_function)
        parameters = parameters_of(signature)
        return Subject(
            self.call, self.name, doc, parameters, lambda: surroundings(self), self._output_names
        )

    def inputs(self) -> Inputs:
        """The declared inputs.

        Raises:
          BindError: if they do not fit the parameters.
        """
        assert self.input_signature is not None
        return of_signature(self.python_signature, self.input_signature, self.name)

    def recorded_inputs(self) -> list[Inputs]:
        """The declared inputs, or the types it was called with."""
        return (
            list(self._memory.types.values()) if self.input_signature is None else [self.inputs()]
        )

    def get_concrete_function(self, /, *args: object, **kwargs: object) -> ConcreteFunction:
        """The trace for some types, given as specs, arrays or Python values.

        With an input signature no types need to be given; those that are must fit it.

        Raises:
          BindError: if the types do not fit the input signature or the parameters.
        """
        if self.input_signature is None:
            values = bind_arguments(self.python_signature, self.name, args, kwargs)
            inputs = of_call(values, self.name)
        else:
            inputs = self.inputs()
            if args or kwargs:
                self._check_narrower(inputs, args, kwargs)
        with LOCK:
            graph = track(surroundings(self))
            with restored(graph, self.name):
                concrete = trace(self.subject, inputs, graph)
        self._memory.types.setdefault(inputs.key, inputs)
        return concrete

    def _check_narrower(
        self, inputs: Inputs, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        values = bind_arguments(self.python_signature, self.name, args, kwargs)
        leaves, problems = match(inputs.arguments, without_classes(values), len(inputs.specs))
        for spec, leaf in zip(inputs.specs, leaves, strict=True):
            if not spec.admits(leaf):
                problems.append(f"{spec.name}: expected {spec}, got {leaf!r}")
        if problems:
            raise BindError(
                f"the types do not fit the input_signature of {self.name}:"
                + "".join(f"\n  {problem}" for problem in problems),
                problems,
            )

    def __call__(self, /, *args: object, **kwargs: object) -> object:
        """Call the function: traced and compiled, or inside another trace as plain Python.

        Raises:
          BindError: if the arguments do not fit the input signature.
        """
        if _is_tracing(args, kwargs):
            return self._call_plainly(args, kwargs)
        values = bind_arguments(self.python_signature, self.name, args, kwargs)
        if self.input_signature is not None:
            values = self._converted(values)
        inputs = of_call(values, self.name)
        with LOCK:
            result, outputs = self._run(inputs, flat_values(values))
        self._memory.types.setdefault(inputs.key, inputs)
        return unflatten(result, outputs)

    def _call_plainly(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        if isinstance(self.input_signature, Mapping):  # it may bake in other values than defaults
            bound = self.python_signature.bind(*args, **kwargs)
            bound.apply_defaults()
            args, kwargs = bound.args, bound.kwargs
        return self.call(*args, **kwargs)

    def _run(self, inputs: Inputs, arrays: list[object]) -> tuple[Structure, list[object]]:
        graph = track(surroundings(self))
        key = (inputs.key, _layout(graph))
        if key not in self._memory.compiled:
            concrete = trace(self.subject, inputs, graph)
            variant = concrete.variants[0]
            self._memory.compiled[key] = (variant, concrete.result, jax.jit(variant.flat))
        variant, result, call = self._memory.compiled[key]
        return result, run(variant, graph, call, arrays)

    def _converted(self, values: Mapping[str, object]) -> dict[str, object]:
        """The values with arrays of the declared specs."""
        inputs, python = self.inputs(), self.python_signature
        specs = {str(spec.name): spec for spec in inputs.specs}
        signature = named_by_path(Signature(self.name, specs, {}), inputs.arguments)
        bound, problems = bind_call(signature, inputs.arguments, without_classes(values))
        if problems:
            named = ", ".join(f"{name}: {spec}" for name, spec in specs.items())
            raise refused(self.name, python, f"The inputs are ({named}).", problems)
        return {
            name: unflatten(structure, bound.values) for name, structure in inputs.arguments.items()
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Function) and (
            self.python_function is other.python_function and self.owner is other.owner
        )

    def __hash__(self) -> int:
        return hash((id(self.python_function), id(self.owner)))

    @quiet
    def __repr__(self) -> str:
        return f"<exporter.function {cut(f'{self.name}{self.python_signature}')}>"

    @card_of
    def _repr_html_(self) -> str:
        title = fragment("exporter.function ", code(f"{self.name}{self.python_signature}"))
        declared = self.input_signature
        known = "saved for the types it is called with" if declared is None else ""
        rows = [] if declared is None else [("input_signature", code(str(declared)))]
        return card(title, ("", "") if rows else (), rows, known)


@overload
def function(fn: F) -> Function: ...
@overload
def function(
    fn: None = None, *, input_signature: InputSignature | None = None, default: bool = False
) -> Callable[[F], Function]: ...
@overload
def function(
    fn: F, *, input_signature: InputSignature | None = None, default: bool = False
) -> Function: ...


def function(
    fn: Callable[..., object] | None = None,
    *,
    input_signature: InputSignature | None = None,
    default: bool = False,
) -> Function | Callable[..., Function]:
    """Decorate a function or method so that it is saved with its object. Traces nothing.

    Args:
      fn: the function. Left out when the decorator is given arguments.
      input_signature: for each parameter in order, or by name in a dict, a `TensorSpec`, a
        `jax.ShapeDtypeStruct`, an array, or a nesting of these. A parameter with a default value
        may be left out: the value is then part of the saved function. So is a number, flag, text
        or `None` that a dict has for a parameter: it becomes the default. Without a signature,
        the function is saved for the types it is called with.
      default: whether this is the signature called when none is named.

    Returns:
      The decorated `Function`, or a decorator.

    Raises:
      BindError: if the specs do not fit the parameters.
      SpecError: if a spec has 64 bits where JAX computes with 32, or two inputs have one name.
    """
    if fn is None:
        return functools.partial(function, input_signature=input_signature, default=default)
    return Function(fn, input_signature, is_default=default)


def surroundings(function: Function) -> types.SimpleNamespace:
    """What a function can reach by name: the object it is bound to, and what it closes over."""
    python = inspect.unwrap(function.python_function)
    reached: dict[str, object] = {}
    if inspect.isfunction(python):
        closure = inspect.getclosurevars(python)
        reached = {**closure.globals, **closure.nonlocals}
    if function.owner is not None:
        reached["self"] = function.owner
    kept = {name: value for name, value in reached.items() if _may_hold_state(value)}
    return types.SimpleNamespace(**kept)


def _may_hold_state(value: object) -> bool:
    if isinstance(value, type | types.ModuleType | types.FunctionType) or is_array(value):
        return False
    return not isinstance(value, Function | ConcreteFunction)


def _layout(graph: TrackedGraph) -> tuple[object, ...]:
    """What must be equal for a trace of one graph to serve for another."""
    arrays = tuple(
        (array.shape, str(array.dtype), bool(getattr(array, "weak_type", False)))
        for array in (variable.read() for variable in graph.variables)
    )
    return (graph.layout, arrays)


def _is_tracing(args: tuple[object, ...], kwargs: Mapping[str, object]) -> bool:
    """Whether a trace is running: JAX then makes traced arrays even of constants."""
    given = (jax.tree.leaves(part) for part in parts((args, dict(kwargs))))
    leaves = (leaf for some in given for leaf in some)
    return is_tracing() or any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)

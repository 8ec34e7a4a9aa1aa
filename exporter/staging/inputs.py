"""What a function is traced with: for each parameter, where arrays stand and what they are."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import jax
import numpy as np

from exporter.pytrees import opened, without_classes
from exporter.staging.frameworks import frameworks
from signatures.arguments import REQUIRED, Parameter, match
from signatures.binding import check_values
from signatures.dtypes import KeyType
from signatures.errors import BindError, SpecError
from signatures.signature import Signature
from signatures.spec import TensorSpec
from signatures.tree import (
    Constant,
    Keyed,
    Leaf,
    Scalar,
    Sequential,
    Static,
    Structure,
    flatten,
    leaf_paths,
    map_leaves,
    own_parts,
)

# The words of JAX's own arithmetic over sizes.
_RESERVED = frozenset({"max", "min", "mod", "floordiv", "non_negative"})

# One spec or a nesting of them for each positional parameter, or by name. By name it may also be a
# plain value to bake in: a number, a flag, a text or `None`.
InputSignature = Sequence[object] | Mapping[str, object]


@dataclass(frozen=True)
class Inputs:
    """The inputs of one trace.

    Attributes:
      arguments: for each parameter what stands there, arrays by position in `specs`.
      specs: each array, under the name that callers use.
      defaults: the values of arrays that a caller may leave out, by name.
    """

    arguments: Mapping[str, Structure]
    specs: tuple[TensorSpec, ...]
    defaults: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def key(self) -> tuple[object, ...]:
        """What tells these inputs from others, for a cache."""
        return (tuple(self.arguments.items()), self.specs)


def of_signature(
    python: inspect.Signature, input_signature: InputSignature, function: str
) -> Inputs:
    """The inputs that an `input_signature` declares for the parameters of a function.

    Raises:
      BindError: if a parameter has neither a spec nor a default, or a spec no parameter.
      SpecError: if two arrays have one name.
    """
    given = _by_parameter(python, input_signature, function)
    baked = _baked_values(python, input_signature)
    trees: dict[str, object] = {}
    for name, parameter in python.parameters.items():
        if name in baked:
            trees[name] = _Baked(baked[name])
        elif name in given:
            trees[name] = given[name]
            structure, _ = _flatten(given[name])
            _refuse_statics(structure, given[name], name, f"{function}{python}")
        elif parameter.kind is parameter.VAR_POSITIONAL:
            trees[name] = ()
        elif parameter.kind is parameter.VAR_KEYWORD:
            trees[name] = {}
        elif parameter.default is not REQUIRED:
            trees[name] = _Baked(parameter.default)
        else:
            raise BindError(
                f"input_signature of {function}{python} has no spec for {name!r}, which has no "
                "default either. Give one spec for each parameter, in order or as a dict by name."
            )
    inputs = _named(*_structures(trees, function), function)
    specified = [name for name in given if name not in baked]
    return replace(inputs, defaults=_defaults(python, inputs, specified, function))


def with_baked(
    python: inspect.Signature, input_signature: InputSignature | None
) -> inspect.Signature:
    """The parameters of a function, with the values that its input signature bakes in as defaults.

    A parameter with others after it that must be given stays one that must be given.
    """
    baked = _baked_values(python, input_signature)
    changed: list[inspect.Parameter] = []
    may_be_left_out = True
    for parameter in reversed(list(python.parameters.values())):
        new = parameter
        if parameter.name in baked and (
            may_be_left_out or parameter.kind is parameter.KEYWORD_ONLY
        ):
            new = parameter.replace(default=baked[parameter.name])
        if parameter.kind <= parameter.POSITIONAL_OR_KEYWORD:
            may_be_left_out = new.default is not REQUIRED
        changed.append(new)
    return python.replace(parameters=changed[::-1]) if baked else python


def of_call(values: Mapping[str, object], function: str) -> Inputs:
    """The inputs that describe the values of a call, or specs given in their place."""
    return _named(*_structures(values, function), function)


def flat_values(values: Mapping[str, object]) -> list[object]:
    """The arrays in the values of a call, in the order of the specs of `of_call`."""
    leaves = (leaf for value in values.values() for leaf in _flatten(value)[1])
    return [
        leaf.__jax_array__() if callable(getattr(leaf, "__jax_array__", None)) else leaf  # type: ignore[attr-defined]
        for leaf in leaves
    ]


def is_array_like(value: object) -> bool:
    """Whether the value has a shape and a dtype: an array, a spec, or something like them."""
    return isinstance(value, TensorSpec | np.generic) or (
        hasattr(value, "shape") and hasattr(value, "dtype")
    )


def _flatten(value: object) -> tuple[Structure, list[object]]:
    return flatten(value, is_array_like, _opened)


def _opened(value: object) -> tuple[Sequential | Keyed, Sequence[object]] | None:
    """Objects of classes of their own taken apart, but for those that hold a framework's state.

    A function would work on a copy of such an object, and what it changes there would be lost.
    """
    found = opened(value)
    if found and any(one.box(part) for one in frameworks() for part in found[1]):
        return None
    return found


def check_spec(spec: TensorSpec, where: str) -> None:
    """Refuse names kept for ourselves, and 64-bit arrays where JAX would make 32-bit ones of them.

    Raises:
      SpecError: saying what to write instead.
    """
    reserved = [name for name in spec.names if name.startswith("_") or name in _RESERVED]
    if reserved:
        raise SpecError(
            f"{where} is {spec}: the axis name {reserved[0]!r} is reserved. Names start with a "
            f"letter and are none of {', '.join(sorted(_RESERVED))}."
        )
    if isinstance(spec.dtype, KeyType):
        return
    narrow = jax.dtypes.canonicalize_dtype(spec.dtype)
    if narrow != spec.dtype:
        raise SpecError(
            f"{where} is {spec}, but JAX computes with {narrow.name} here. Declare it as "
            f"{narrow.name!r}, or call jax.config.update('jax_enable_x64', True) first."
        )


@dataclass(frozen=True)
class _Baked:
    """A value that no spec covers, a default or a given one: part of the trace, whatever it is."""

    value: object


def _by_parameter(
    python: inspect.Signature, given: InputSignature, function: str
) -> dict[str, object]:
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in python.parameters]
        if unknown:
            raise BindError(
                f"input_signature of {function}{python} names {unknown[0]!r}, which is not one of "
                f"its parameters: {', '.join(python.parameters) or 'it has none'}."
            )
        return dict(given)
    if not isinstance(given, list | tuple):
        raise BindError(
            f"input_signature of {function} must be a list or tuple with one spec for each "
            f"argument, or a dict by name, got {given!r}."
        )
    parameters = python.parameters.values()
    positional = [p for p in parameters if p.kind <= p.POSITIONAL_OR_KEYWORD]
    rest = next((p for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    named = {p.name: tree for p, tree in zip(positional, given, strict=False)}
    extra = tuple(given[len(positional) :])
    if extra and rest is None:
        raise BindError(
            f"input_signature of {function}{python} has {len(given)} specs, {len(extra)} more than "
            "the function has positional parameters."
        )
    return named | ({rest.name: extra} if rest and extra else {})


def _baked_values(
    python: inspect.Signature, input_signature: InputSignature | None
) -> dict[str, Scalar]:
    """The plain values in an input signature by name. A position without a spec is a mistake."""
    if not isinstance(input_signature, Mapping):
        return {}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        name: value
        for name, value in input_signature.items()
        if isinstance(value, Scalar)
        and not is_array_like(value)
        and name in python.parameters
        and python.parameters[name].kind not in variadic
    }


def _structures(
    trees: Mapping[str, object], function: str
) -> tuple[dict[str, Structure], list[TensorSpec]]:
    structures: dict[str, Structure] = {}
    specs: list[TensorSpec] = []
    for name, tree in trees.items():
        if isinstance(tree, _Baked):
            structures[name] = _baked(tree.value)
            continue
        structure, leaves = _flatten(tree)
        _refuse_containers(structure, name, function)
        structures[name] = _shifted(structure, len(specs))
        for path, index in leaf_paths(structure, name):
            spec = leaves[index]
            if not isinstance(spec, TensorSpec):
                spec = TensorSpec.of(spec)
            check_spec(spec, f"input {path!r}")
            specs.append(spec)
    return structures, specs


def _baked(value: object) -> Structure:
    structure, leaves = _flatten(value)
    return map_leaves(structure, lambda index: _constant(leaves[index]))


def _constant(value: object) -> Structure:
    try:
        return Constant(np.asarray(value), value)
    except TypeError:  # a typed random key has no plain array
        return Static(repr(value), opaque=True, original=value)


_NOTHING = Static(None)


def _refuse_statics(structure: Structure, tree: object, name: str, function: str) -> None:
    """Every part of an input signature is a spec: values to bake in are the defaults."""
    if isinstance(structure, Static):
        raise BindError(
            f"input_signature of {function} has {tree!r} ({type(tree).__name__}) for {name!r}. "
            "Expected a TensorSpec, a jax.ShapeDtypeStruct, an array, or a list, tuple or dict of "
            "these."
        )
    if isinstance(structure, Sequential | Keyed):
        for item in own_parts(structure):
            if structure.static is None or item != _NOTHING:  # an object may have empty parts
                _refuse_statics(item, tree, name, function)


def _refuse_containers(structure: Structure, name: str, function: str) -> None:
    """A container that we cannot look into would be baked in with its arrays."""
    if isinstance(structure, Static) and structure.opaque:
        leaves = jax.tree.leaves(structure.original)
        if any(is_array_like(leaf) for leaf in leaves):
            raise BindError(
                f"{function} is given a {type(structure.original).__name__} with arrays in it for "
                f"{name!r}. Pass its arrays in a dict, a list, a tuple, a namedtuple or an object "
                "of a class registered with JAX."
            )
    if isinstance(structure, Keyed):
        for key in structure.keys:
            if not isinstance(key, Scalar):
                raise BindError(
                    f"{function} is given a dict with the key {key!r} ({type(key).__name__}) for "
                    f"{name!r}; keys are text or numbers."
                )
    if isinstance(structure, Sequential | Keyed):
        for item in structure.items:
            _refuse_containers(item, name, function)


def _shifted(structure: Structure, by: int) -> Structure:
    return map_leaves(structure, lambda index: Leaf(index + by))


def _named(
    arguments: Mapping[str, Structure], specs: Sequence[TensorSpec], function: str
) -> Inputs:
    named: list[TensorSpec] = list(specs)
    where: dict[str, str] = {}
    for parameter, structure in arguments.items():
        for path, index in leaf_paths(structure, parameter):
            name = specs[index].name or path
            if name in where:
                raise SpecError(
                    f"two inputs of {function} are named {name!r}: {where[name]} and {path}. Name "
                    "one of them otherwise, with TensorSpec(name=...)."
                )
            where[name] = path
            named[index] = specs[index].renamed(name)
    return Inputs(arguments, tuple(named))


def _defaults(
    python: inspect.Signature, inputs: Inputs, given: Iterable[str], function: str
) -> dict[str, np.ndarray]:
    """The default values of the parameters that have a spec. `None` means that there is none."""
    defaults: dict[str, np.ndarray] = {}
    for name in given:
        default = python.parameters[name].default
        if default is REQUIRED or default is None:
            continue
        structure = inputs.arguments[name]
        leaves, problems = match(
            {name: structure}, {name: without_classes(default)}, len(inputs.specs)
        )
        paths = list(leaf_paths(structure, name))
        specs = {path: inputs.specs[index] for path, index in paths}
        found, more = check_values(Signature(function, specs, {}), [leaves[i] for _, i in paths])
        problems += more
        for spec, value in zip(specs.values(), found.values, strict=True):
            if not problems:
                defaults[str(spec.name)] = np.asarray(value)
        if problems:
            raise BindError(
                f"the default of {name!r} in {function}{python} does not fit its spec: "
                f"{'; '.join(problems)}.",
                problems,
            )
    return defaults


def parameters_of(python: inspect.Signature) -> tuple[Parameter, ...]:
    """The parameters of a Python function as plain data."""
    return tuple(Parameter.of(parameter) for parameter in python.parameters.values())

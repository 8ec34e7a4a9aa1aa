"""The Python arguments of a function: its parameters, and where its arrays stand in them."""

import inspect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from signatures.binding import ABSENT, Bound, check_values
from signatures.errors import BindError
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
    children,
    describe,
    leaf_paths,
    plain,
    same,
    unflatten,
)
from signatures.values import is_shown_as_spec, shown

REQUIRED = inspect.Parameter.empty

_KINDS = {
    kind.name.lower(): kind
    for kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    )
}


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_UNNAMED = (*_VARIADIC, inspect.Parameter.POSITIONAL_ONLY)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Opaque:
    """A default value of a kind that an artifact cannot hold. Only leaving it out matches it."""

    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Parameter:
    """One parameter of a Python function.

    Attributes:
      name: as in the function's definition.
      kind: as in `inspect`, in lower case: `positional_or_keyword`, `var_positional`, ...
      default: the value taken when the argument is left out, or `REQUIRED`.
    """

    name: str
    kind: str = "positional_or_keyword"
    default: object = REQUIRED

    @classmethod
    def of(cls, parameter: inspect.Parameter) -> "Parameter":
        """The same parameter as plain data."""
        return cls(parameter.name, parameter.kind.name.lower(), parameter.default)

    @property
    def is_variadic(self) -> bool:
        """Whether this is `*args` or `**kwargs`."""
        return self.kind.startswith("var_")


def python_signature(parameters: Iterable[Parameter]) -> inspect.Signature:
    """The signature that `inspect` would give for the function."""
    return inspect.Signature(
        [inspect.Parameter(p.name, _KINDS[p.kind], default=p.default) for p in parameters]
    )


def bind_arguments(
    python: inspect.Signature, name: str, args: Sequence[object], kwargs: Mapping[str, object]
) -> dict[str, object]:
    """The value of every parameter, defaults filled in, in the order of the definition.

    Raises:
      BindError: as Python would for a wrong number of arguments or an unknown keyword.
    """
    try:
        bound = python.bind(*args, **kwargs)
    except TypeError as error:
        raise BindError(
            f"{name}{python}: {'; '.join(_misfits(python, args, kwargs, error))}."
        ) from error
    bound.apply_defaults()
    return dict(bound.arguments)


def _misfits(
    python: inspect.Signature,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    error: TypeError,
) -> list[str]:
    """All that is wrong with the names and numbers of arguments. Python tells the first of it."""
    parameters = python.parameters.values()
    kinds = {parameter.kind for parameter in parameters}
    by_position = [p for p in parameters if p.kind in _POSITIONAL][: len(args)]
    named = [p.name for p in parameters if p.kind not in _UNNAMED]
    unknown = (
        [] if inspect.Parameter.VAR_KEYWORD in kinds else [n for n in kwargs if n not in named]
    )
    missing = [
        p.name
        for p in parameters
        if p.default is REQUIRED
        and p.kind not in _VARIADIC
        and p not in by_position
        and (p.name not in kwargs or p.name not in named)
    ]
    found = [f"missing a required argument: {one!r}" for one in missing]
    found += [f"got an unexpected keyword argument {one!r}" for one in unknown]
    return found if str(error) in found else [str(error), *found]


def call_arguments(
    parameters: Iterable[Parameter], arguments: Mapping[str, Structure], leaves: Sequence[object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """The positional and keyword arguments with which to call, arrays being `leaves`."""
    args: list[object] = []
    kwargs: dict[str, object] = {}
    for parameter in parameters:
        value: Any = unflatten(arguments[parameter.name], leaves)
        if parameter.kind == "keyword_only":
            kwargs[parameter.name] = value
        elif parameter.kind == "var_positional":
            args += value
        elif parameter.kind == "var_keyword":
            kwargs |= value
        else:
            args.append(value)
    return tuple(args), kwargs


def match(
    arguments: Mapping[str, Structure], values: Mapping[str, object], count: int
) -> tuple[list[object], list[str]]:
    """The arrays in the values of a call, by index, and what keeps the values from fitting.

    Args:
      arguments: for each parameter, what was there when the function was traced.
      values: for each parameter, what is given now.
      count: how many arrays the arguments hold. Those that a misfit hides are `ABSENT`.
    """
    leaves: list[object] = [ABSENT] * count
    problems: list[str] = []
    for name, structure in arguments.items():
        _match(structure, values[name], name, leaves, problems)
    return leaves, problems


def named_by_path(signature: Signature, arguments: Mapping[str, Structure]) -> Signature:
    """The signature with its inputs called as the caller of the function knows them: `x/0`."""
    specs = list(signature.inputs.values())
    paths = [
        (path, index)
        for name, structure in arguments.items()
        for path, index in leaf_paths(structure, name)
    ]
    inputs: dict[str, TensorSpec] = {}
    counts = Counter(path for path, _ in paths)
    for path, index in sorted(paths, key=lambda pair: pair[1]):
        # {1: x} and {"1": x} are two places with one path.
        inputs[path if counts[path] == 1 else f"{path} ({index})"] = specs[index]
    return Signature(signature.name, inputs, {})


def bind_call(
    signature: Signature, arguments: Mapping[str, Structure], values: Mapping[str, object]
) -> tuple[Bound, list[str]]:
    """The arrays in the values of a call, and everything that does not fit.

    Args:
      signature: as `named_by_path` gives it.
      arguments: for each parameter, what was there when the function was traced.
      values: for each parameter, what is given now.
    """
    leaves, problems = match(arguments, values, len(signature.inputs))
    bound, more = check_values(signature, leaves)
    return bound, [*problems, *more]


def refused(name: str, python: inspect.Signature, end: str, problems: Sequence[str]) -> BindError:
    """The error for a call of a function with arguments that do not fit."""
    lines = "".join(f"\n  {problem}" for problem in problems)
    return BindError(f"arguments do not fit {name}{python}:{lines}\n{end}", problems)


def _match(
    structure: Structure, value: object, path: str, leaves: list[object], problems: list[str]
) -> None:
    if isinstance(structure, Leaf):
        leaves[structure.index] = value
    elif isinstance(structure, Static):
        if not _is_static(structure, value):
            problems.append(
                f"{path}: the value {describe(structure, str)} is part of the saved function, "
                f"got {_short(value)}"
            )
    elif isinstance(structure, Constant):
        if not structure.equals(value):
            problems.append(
                f"{path}: the value {_cut(describe(structure, str))} is part of the saved "
                f"function, got {_short(value)}"
            )
    elif not _same_container(structure, value):
        expected = describe(structure, lambda _: "array")
        problems.append(f"{path}: expected {expected}, got {_short(value)}")
    else:
        for key, item in children(structure):
            part = getattr(value, str(key)) if _is_record(structure) else value[key]  # type: ignore[index]
            name = key if isinstance(key, str) else repr(key)
            _match(item, part, f"{path}/{name}", leaves, problems)


def _is_static(structure: Static, value: object) -> bool:
    if not structure.opaque:
        if not isinstance(value, Scalar) or hasattr(value, "dtype"):
            return False
        return same(plain(value), structure.value)
    is_default = value is structure.original or isinstance(value, Opaque)
    return (is_default or structure.is_telling) and repr(value) == structure.value


def _is_record(structure: Structure) -> bool:
    return isinstance(structure, Sequential) and bool(structure.fields)


def _same_container(structure: Sequential | Keyed, value: object) -> bool:
    if isinstance(structure, Keyed):
        return isinstance(value, Mapping) and set(value) == set(structure.keys)
    if structure.fields:
        return tuple(getattr(value, "_fields", ())) == structure.fields
    kind = list if structure.kind == "list" else tuple
    return (
        isinstance(value, kind)
        and not hasattr(value, "_fields")
        and len(value) == len(structure.items)
    )


def _short(value: object) -> str:
    text = shown(value)
    return f"an array {text}" if is_shown_as_spec(value) else text


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."

"""Match the values of a call to a signature: find every mismatch, solve the named axes.

Values that carry a shape and a dtype (NumPy and JAX arrays, traced ones included) are taken as
they are or refused. Python numbers, NumPy scalars and nested lists are converted where nothing is
lost.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from signatures.dtypes import KeyType, as_dtype, dtype_name
from signatures.errors import BindError, SpecError
from signatures.expression import Expression
from signatures.signature import Signature
from signatures.spec import Dim, TensorSpec


@dataclass(frozen=True)
class Bound:
    """The values of one call that fit its signature.

    Attributes:
      values: one array for each input, in the signature's order.
      sizes: the size of each named dimension.
    """

    values: tuple[object, ...]
    sizes: Mapping[str, int]


def bind(signature: Signature, args: Sequence[object], kwargs: Mapping[str, object]) -> Bound:
    """The arrays of a call by keyword, or of one positional value where there is one input.

    Raises:
      BindError: naming every input that is missing, unknown or does not fit.
    """
    given = dict(kwargs)
    names = list(signature.inputs)
    if args:
        if len(args) > 1 or len(names) != 1:
            raise BindError(
                f"signature {signature.name!r} takes its inputs by keyword, got {len(args)} "
                f"positional {'value' if len(args) == 1 else 'values'}. Name each one, as in "
                f"{_keywords(names)}.\nThe signature is {signature}."
            )
        if names[0] in given:
            raise _refused(signature, [f"{names[0]}: given twice, by position and by keyword"])
        given[names[0]] = args[0]
    problems = [
        f"{name}: missing, expected {spec}"
        for name, spec in signature.inputs.items()
        if name not in given and name not in signature.defaults
    ]
    problems += [
        f"{name}: not an input, the inputs are {', '.join(names) or 'none'}"
        for name in given
        if name not in signature.inputs
    ]
    if problems:
        raise _refused(signature, problems)
    return bind_values(signature, [given.get(n, signature.defaults.get(n)) for n in names])


# Stands for a value that is not there, whose absence was reported already.
ABSENT = object()


def bind_values(signature: Signature, values: Sequence[object]) -> Bound:
    """The arrays for values in the signature's order.

    Raises:
      BindError: naming every input that does not fit.
    """
    bound, problems = check_values(signature, values)
    if problems:
        raise _refused(signature, problems)
    return bound


def check_values(signature: Signature, values: Sequence[object]) -> tuple[Bound, list[str]]:
    """The arrays for values in the signature's order, and a line for each that does not fit."""
    arrays: list[object] = []
    problems: dict[str, str] = {}
    for (name, spec), value in zip(signature.inputs.items(), values, strict=True):
        if value is ABSENT:
            problems[name] = ""
            arrays.append(None)
            continue
        try:
            arrays.append(convert(value, spec))
        except BindError as error:
            problems[name] = f"{name}: {error}"
            arrays.append(None)
    sizes = _check_sizes(signature, arrays, problems)
    found = [problems[name] for name in signature.inputs if problems.get(name)]
    return Bound(tuple(arrays), sizes), found


def convert(value: object, spec: TensorSpec) -> object:
    """`value` as an array of the spec's dtype and number of axes.

    Raises:
      BindError: if something would be lost. The message says what was expected and found.
    """
    unwrap = getattr(value, "__jax_array__", None)
    if callable(unwrap):  # a mutable array; traced arrays have the attribute, but it is None
        value = unwrap()
    if isinstance(value, np.generic) or not hasattr(value, "dtype"):
        value = _from_python(value, spec)
    elif not hasattr(value, "__array__"):  # a spec, or something else that only looks like one
        raise BindError(f"expected {spec}, got {_short(value)}")
    elif isinstance(value, np.ndarray) and not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    shape = tuple(value.shape)  # type: ignore[attr-defined]  # checked above
    if value.dtype is not spec.dtype and not _same_dtype(value, spec):
        raise BindError(f"expected {spec}, got {_describe(value)}{_advice(value, spec)}")
    if spec.shape is None:
        if len(shape) > spec.max_rank:
            raise BindError(f"expected at most {spec.max_rank} axes, got {_describe(value)}")
    elif len(shape) != len(spec.shape):
        raise BindError(f"expected {spec}, got {_describe(value)}")
    return value


def solve(
    shapes: Iterable[tuple[TensorSpec, Sequence[int]]],
) -> tuple[dict[str, int], list[str | None]]:
    """The sizes of the named dimensions, and for each array why its shape does not fit.

    Args:
      shapes: specs with the shapes of the arrays given for them, of the same number of axes.
    """
    pairs = list(shapes)
    sizes: dict[str, int] = {}
    waiting = [
        (axis, size)
        for spec, shape in pairs
        for axis, size in zip(spec.expressions, shape, strict=True)
        if isinstance(axis, Expression)
    ]
    for axis, size in waiting:
        if axis.is_name:
            sizes.setdefault(axis.text, size)
    progress = True
    while progress:
        progress = False
        for axis, size in waiting:
            unknown = [name for name in axis.names if name not in sizes]
            if len(unknown) == 1:
                found = axis.solve(unknown[0], size, sizes)
                if found is not None and found >= 0:
                    sizes[unknown[0]] = found
                    progress = True
    return sizes, [_shape_problem(spec, shape, sizes) for spec, shape in pairs]


def _shape_problem(spec: TensorSpec, shape: Sequence[int], sizes: Mapping[str, int]) -> str | None:
    for axis, size in zip(spec.expressions, shape, strict=True):
        if isinstance(axis, Expression):
            unknown = [name for name in axis.names if name not in sizes]
            if unknown or axis.evaluate(sizes) != size:
                known = {name: sizes[name] for name in spec.names if name in sizes}
                shown = ", ".join(f"{name}={value}" for name, value in known.items())
                return f"expected {spec}{f' with {shown}' if shown else ''}"
        elif axis is not None and axis != size:
            return f"expected {spec}"
    return None


def _check_sizes(
    signature: Signature, arrays: Sequence[object], problems: dict[str, str]
) -> dict[str, int]:
    fitting = [
        (name, spec, array)
        for (name, spec), array in zip(signature.inputs.items(), arrays, strict=True)
        if name not in problems and spec.shape is not None
    ]
    sizes, found = solve((spec, array.shape) for _, spec, array in fitting)  # type: ignore[attr-defined]
    for (name, _, array), problem in zip(fitting, found, strict=True):
        if problem:
            problems[name] = f"{name}: {problem}, got {_describe(array)}"
    bounds: dict[str, Dim] = signature.dims
    for name, spec, array in fitting:
        for dim in spec.names:
            problem = bounds[dim].problem(sizes[dim]) if dim in sizes else None
            if problem and name not in problems:
                problems[name] = (
                    f"{name}: expected {spec} where {problem}, got {_describe(array)} "
                    f"with {dim}={sizes[dim]}"
                )
    return sizes


def _from_python(value: object, spec: TensorSpec) -> object:
    """A Python number, a NumPy scalar or a nested list as an array, if nothing is lost."""
    if isinstance(spec.dtype, KeyType):
        raise BindError(f"expected {spec}, got a {type(value).__name__}; make one with jax.random")
    if isinstance(value, str | bytes | Mapping) or value is None:
        raise BindError(f"expected {spec}, got {_short(value)}")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise BindError(f"expected {spec}, got {_short(value)}: {error}") from error
    if array.dtype.kind not in "biufcV" or array.dtype.hasobject:
        raise BindError(f"expected {spec}, got {_short(value)}")
    if array.size == 0 and not isinstance(value, np.generic):
        return array.astype(spec.dtype)
    lost = _loss(array, spec.dtype)
    if lost:
        raise BindError(f"expected {spec}, got {_short(value)}, which {lost}")
    return array.astype(spec.dtype)


_ORDER = "bufc"  # bool, integer, float, complex: each holds the kinds before it


def _loss(array: np.ndarray, target: np.dtype[np.generic]) -> str | None:
    """What would be lost by making `array` an array of `target`, or `None`."""
    source, kind = _kind(array.dtype), _kind(target)
    if _ORDER.index(source) > _ORDER.index(kind):
        return f"{target.name} cannot hold without loss"
    with np.errstate(all="ignore"):
        made = array.astype(target)
        if source == "u" and not bool(np.all(made.astype(object) == array.astype(object))):
            return f"{target.name} cannot hold exactly"
        if source in "fc" and not bool(np.all(_finite(made) >= _finite(array))):
            return f"is too large for {target.name}"
    return None


def _finite(array: np.ndarray) -> np.ndarray:
    wide = array.astype(np.complex128 if _kind(array.dtype) == "c" else np.float64)
    return np.isfinite(wide)


def _kind(dtype: np.dtype[np.generic]) -> str:
    """`b`, `u` (any integer), `f` or `c`; the small types of ml_dtypes have no kind of their own."""
    if dtype.kind == "V" or dtype.name.startswith(("float", "bfloat", "int", "uint")):
        return "u" if "int" in dtype.name else "f"
    return "u" if dtype.kind == "i" else dtype.kind


def _same_dtype(value: object, spec: TensorSpec) -> bool:
    try:
        return as_dtype(value.dtype) == spec.dtype  # type: ignore[attr-defined]  # has a dtype
    except SpecError:
        return False


def _advice(value: object, spec: TensorSpec) -> str:
    if isinstance(spec.dtype, KeyType):
        return ""
    return f"; convert it with .astype('{dtype_name(spec.dtype)}') if that is meant"


def _describe(array: object) -> str:
    shape, dtype = array.shape, array.dtype  # type: ignore[attr-defined]  # an array
    return f"{getattr(dtype, 'name', dtype)}[{', '.join(map(str, shape))}]"


def _short(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _keywords(names: Sequence[str]) -> str:
    return f"({', '.join(f'{name}=...' for name in names)})"


def _refused(signature: Signature, problems: Sequence[str]) -> BindError:
    lines = "".join(f"\n  {problem}" for problem in problems)
    return BindError(
        f"arguments do not fit signature {signature.name!r}:{lines}\nThe signature is {signature}.",
        problems,
    )

"""Match the values of a call to a signature: find every mismatch, solve the named axes.

A call that fits is the usual one, and is let through by one comparison for each axis. Only a call
that does not is looked at closely, to say everything that is wrong with it at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword

from signatures.errors import BindError
from signatures.expression import Expression, parse
from signatures.mismatches import bound_problem, expected, misfit, mismatches
from signatures.signature import Signature
from signatures.sizes import Sizes, fits, solved
from signatures.spec import TensorSpec
from signatures.values import as_array, is_array

# Stands for a value that is not there, whose absence was reported already.
ABSENT = object()


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

    Examples:
      >>> double = Signature("double", {"x": TensorSpec(("n",), "float32")}, {})
      >>> bind(double, (), {"x": [1, 2, 3]})
      Bound(values=(array([1., 2., 3.], dtype=float32),), sizes={'n': 3})

    Raises:
      BindError: naming every input that is missing, unknown or does not fit.
    """
    given = _by_name(signature, args, kwargs) if args else kwargs
    if given.keys() != signature.inputs.keys():
        given = {**signature.defaults, **given}
        if given.keys() != signature.inputs.keys():
            raise _refused(signature, _named_problems(signature, given))
    return bind_values(signature, [given[name] for name in signature.inputs])


def bind_positional(
    signature: Signature, args: Sequence[object], kwargs: Mapping[str, object]
) -> Bound:
    """The arrays of a call by position, in the order of the inputs, or by keyword.

    Raises:
      BindError: naming every input that is missing, unknown, given twice or does not fit.
    """
    names = list(signature.inputs)
    if len(args) > len(names):
        raise BindError(
            f"{signature.name!r} has {len(names)} inputs, got {len(args)} positional values.\n"
            f"The signature is {signature}."
        )
    given = dict(zip(names, args, strict=False))  # the rest by keyword
    twice = [f"{name}: given twice, by position and by keyword" for name in given if name in kwargs]
    if twice:
        raise _refused(signature, twice)
    return bind(signature, (), {**given, **kwargs})


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
    """The arrays for values in the signature's order, and a line for each that does not fit.

    Args:
      signature: what is promised.
      values: one for each input. Those that are `ABSENT` have no line.
    """
    specs = signature.inputs.values()
    arrays = tuple([_arrived(value, spec) for value, spec in zip(values, specs, strict=True)])
    known = _sizes_if_fitting(signature, arrays)
    if known is not None:
        return Bound(arrays, known), []
    named = zip(signature.inputs, arrays, strict=True)
    sizes, lines = mismatches(signature, {n: a for n, a in named if a is not ABSENT})
    return Bound(arrays, sizes.known), list(lines.values())


def convert(value: object, spec: TensorSpec) -> object:
    """`value` as an array of the spec's dtype and number of axes.

    Raises:
      BindError: if something would be lost. The message says what was expected and found.
    """
    found = _arrived(value, spec)
    problem = misfit(found, spec)
    if problem:
        raise BindError(f"{expected(spec, Sizes({}, {}))}, {problem}")
    return found


def solve(
    shapes: Iterable[tuple[TensorSpec, Sequence[int]]],
) -> tuple[dict[str, int], list[str | None]]:
    """The sizes of the named dimensions, and for each array why its shape does not fit.

    >>> solve([(TensorSpec(("2*n",)), (6,)), (TensorSpec(("n", 3)), (3, 4))])
    ({'n': 3}, [None, 'expected float32[n, 3] with n=3'])

    Args:
      shapes: specs with the shapes of the arrays given for them, of the same number of axes.
    """
    pairs = [(spec, tuple(zip(spec.expressions, shape, strict=True))) for spec, shape in shapes]
    sizes = solved(
        [
            (axis, size, "")
            for _, axes in pairs
            for axis, size in axes
            if isinstance(axis, Expression)
        ]
    )
    return dict(sizes.known), [
        None if all(fits(axis, size, sizes.known) for axis, size in axes) else expected(spec, sizes)
        for spec, axes in pairs
    ]


def _by_name(
    signature: Signature, args: Sequence[object], kwargs: Mapping[str, object]
) -> Mapping[str, object]:
    """The values of a call with positional ones, of which there may be one."""
    names = list(signature.inputs)
    count = f"{len(args)} positional {'value' if len(args) == 1 else 'values'}"
    if not names:
        raise BindError(
            f"signature {signature.name!r} has no inputs, got {count}.\n"
            f"The signature is {signature}."
        )
    if len(args) > 1 or len(names) > 1:
        raise BindError(
            f"signature {signature.name!r} takes its inputs by keyword, got {count}. Name each "
            f"one, as in {_keywords(names)}.\nThe signature is {signature}."
        )
    if names[0] in kwargs:
        twice = f"{names[0]}: given twice, by position and by keyword"
        raise _refused(signature, [twice, *_misnamed(signature, kwargs)])
    return {names[0]: args[0], **kwargs}


def _named_problems(signature: Signature, given: Mapping[str, object]) -> list[str]:
    """A line for each input that is missing or does not fit, then for each name that is none."""
    inputs = signature.inputs
    found = {name: _arrived(given[name], spec) for name, spec in inputs.items() if name in given}
    sizes, lines = mismatches(signature, found)
    for name, spec in inputs.items():
        if name not in given:
            lines[name] = f"{name}: missing, {expected(spec, sizes)}"
    return [*(lines[name] for name in inputs if name in lines), *_misnamed(signature, given)]


def _misnamed(signature: Signature, given: Iterable[str]) -> list[str]:
    names = ", ".join(signature.inputs) or "none"
    return [
        f"{name}: not an input, the inputs are {names}"
        for name in given
        if name not in signature.inputs
    ]


def _arrived(value: object, spec: TensorSpec) -> object:
    """The value as an array of the spec's dtype, or a `Misfit`."""
    # Nearly every value is an array with this very dtype: NumPy and JAX have one object for each.
    if is_array(value) and value.dtype is spec.dtype:  # type: ignore[attr-defined]  # an array
        return value
    if value is ABSENT:
        return value
    return as_array(value, spec.dtype, spec.max_rank if spec.shape is None else len(spec.shape))


def _sizes_if_fitting(signature: Signature, arrays: Sequence[object]) -> dict[str, int] | None:
    """The sizes of the named dimensions, or `None` if anything at all does not fit."""
    found: dict[str, int] = {}  # by the text of an axis
    for spec, array in zip(signature.inputs.values(), arrays, strict=True):
        if array is ABSENT or misfit(array, spec):
            return None
        if spec.shape is None:
            continue
        for axis, size in zip(spec.shape, array.shape, strict=True):  # type: ignore[attr-defined]
            if isinstance(axis, str):
                if found.setdefault(axis, size) != size:
                    return None
            elif axis is not None and axis != size:
                return None
    known = _evaluated(found) if signature.has_arithmetic else found
    if known is None or any(bound_problem(d, known[d.name]) for d in signature.bounded_dims):
        return None
    return known


def _evaluated(found: Mapping[str, int]) -> dict[str, int] | None:
    """The sizes of the names in axes with arithmetic, or `None` if the axes do not agree."""
    axes = [(parse(text), size, "") for text, size in found.items()]
    known = solved(axes).known
    return dict(known) if all(fits(axis, size, known) for axis, size, _ in axes) else None


def _keywords(names: Sequence[str]) -> str:
    if all(name.isidentifier() and not iskeyword(name) for name in names):
        return f"({', '.join(f'{name}=...' for name in names)})"
    return f"(**{{{', '.join(f'{name!r}: ...' for name in names)}}})"


def _refused(signature: Signature, problems: Sequence[str]) -> BindError:
    lines = "".join(f"\n  {problem}" for problem in problems)
    return BindError(
        f"arguments do not fit signature {signature.name!r}:{lines}\nThe signature is {signature}.",
        problems,
    )

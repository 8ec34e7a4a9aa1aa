"""Match the values of a call to a signature: find every mismatch, solve the named axes.

A call that fits is the usual one, and is let through by one comparison for each axis. Only a call
that does not is looked at closely, to say everything that is wrong with it at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from signatures.errors import BindError, SpecError
from signatures.expression import Expression, parse
from signatures.signature import Signature
from signatures.spec import Dim, TensorSpec
from signatures.values import Misfit, as_array, described, is_array

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
    arrays = tuple(_arrived(value, spec) for value, spec in zip(values, specs, strict=True))
    sizes = _sizes_if_fitting(signature, arrays)
    if sizes is not None:
        return Bound(arrays, sizes), []
    given = {
        name: array
        for name, array in zip(signature.inputs, arrays, strict=True)
        if array is not ABSENT
    }
    known, problems = _examined(signature, given)
    return Bound(arrays, known), [problems[name] for name in given if name in problems]


def convert(value: object, spec: TensorSpec) -> object:
    """`value` as an array of the spec's dtype and number of axes.

    Raises:
      BindError: if something would be lost. The message says what was expected and found.
    """
    found = _arrived(value, spec)
    problem = _misfit(found, spec)
    if problem:
        raise BindError(f"expected {spec}{problem}")
    return found


def solve(
    shapes: Iterable[tuple[TensorSpec, Sequence[int]]],
) -> tuple[dict[str, int], list[bool]]:
    """The sizes of the named dimensions, and for each array whether its shape fits them.

    >>> solve([(TensorSpec(("2*n",)), (6,)), (TensorSpec(("n", 3)), (3, 4))])
    ({'n': 3}, [True, False])

    Args:
      shapes: specs with the shapes of the arrays given for them, of the same number of axes.
    """
    pairs = [(spec, tuple(zip(spec.expressions, shape, strict=True))) for spec, shape in shapes]
    axes = [(axis, size, "") for _, axes in pairs for axis, size in axes if _is_named(axis)]
    sizes, _ = _solved(axes)  # type: ignore[arg-type]  # only expressions are left
    return sizes, [all(_fits(axis, size, sizes) for axis, size in axes) for _, axes in pairs]


def _arrived(value: object, spec: TensorSpec) -> object:
    """An array of the spec's dtype, or a `Misfit`."""
    # Nearly every value is an array with this very dtype: NumPy and JAX have one object for each.
    if (is_array(value) and value.dtype is spec.dtype) or value is ABSENT:  # type: ignore[attr-defined]
        return value
    return as_array(value, spec.dtype, spec.max_rank if spec.shape is None else len(spec.shape))


def _sizes_if_fitting(signature: Signature, arrays: Sequence[object]) -> dict[str, int] | None:
    """The sizes of the named dimensions, or `None` if anything at all does not fit."""
    found: dict[str, int] = {}  # by the text of an axis
    for spec, array in zip(signature.inputs.values(), arrays, strict=True):
        if isinstance(array, Misfit) or array is ABSENT:
            return None
        shape: tuple[int, ...] = array.shape  # type: ignore[attr-defined]  # an array
        if spec.shape is None:
            if len(shape) > spec.max_rank:
                return None
        elif len(shape) != len(spec.shape):
            return None
        else:
            for axis, size in zip(spec.shape, shape, strict=True):
                if axis is None:
                    continue
                if (found.setdefault(axis, size) if isinstance(axis, str) else axis) != size:
                    return None
    sizes = _evaluated(found) if signature.has_arithmetic else found
    if sizes is None or any(_broken(dim, sizes[dim.name]) for dim in signature.bounded_dims):
        return None
    return sizes


def _evaluated(found: Mapping[str, int]) -> dict[str, int] | None:
    """The sizes of the names in axes that are expressions, or `None` if they do not agree."""
    axes = [(parse(text), size, "") for text, size in found.items()]
    sizes, _ = _solved(axes)
    return sizes if all(_fits(axis, size, sizes) for axis, size, _ in axes) else None


def _solved(
    axes: Sequence[tuple[Expression, int, str]],
) -> tuple[dict[str, int], dict[str, str]]:
    """The size of each name that the axes give, and where it was found.

    Args:
      axes: expressions with the size each has, and in which input. The first to give a name its
        size decides, those that are the name itself before those that have to be solved.
    """
    sizes: dict[str, int] = {}
    origins: dict[str, str] = {}
    for axis, size, where in axes:
        if axis.is_name and axis.text not in sizes:
            sizes[axis.text], origins[axis.text] = size, where
    waiting = [one for one in axes if not one[0].is_name]
    progress = True
    while progress:
        progress = False
        for axis, size, where in waiting:
            unknown = [name for name in axis.names if name not in sizes]
            found = _solution(axis, unknown[0], size, sizes) if len(unknown) == 1 else None
            if found is not None:
                sizes[unknown[0]], origins[unknown[0]] = found, where
                progress = True
    return sizes, origins


def _solution(axis: Expression, name: str, size: int, sizes: Mapping[str, int]) -> int | None:
    try:
        return axis.solve(name, size, sizes)
    except SpecError:  # it divides by zero, which is reported when it is compared
        return None


def _is_named(axis: int | Expression | None) -> bool:
    return isinstance(axis, Expression)


def _fits(axis: int | Expression | None, size: int, sizes: Mapping[str, int]) -> bool:
    if not isinstance(axis, Expression):
        return axis is None or axis == size
    try:
        return all(name in sizes for name in axis.names) and axis.evaluate(sizes) == size
    except SpecError:  # it divides by zero
        return False


def _broken(dim: Dim, size: object) -> str | None:
    """Which bounds a size breaks. A symbolic size, inside a trace of JAX, is left for JAX."""
    return dim.problem(size) if isinstance(size, int) else None


def _named_problems(signature: Signature, given: Mapping[str, object]) -> list[str]:
    """A line for each input that is missing or does not fit, then for each name that is none."""
    inputs = signature.inputs
    found = {n: _arrived(value, inputs[n]) for n, value in given.items() if n in inputs}
    sizes, problems = _examined(signature, found)
    missing = {
        name: f"{name}: missing, expected {spec}{_with(spec, sizes)}"
        for name, spec in inputs.items()
        if name not in given
    }
    problems |= missing
    return [
        *(problems[name] for name in inputs if name in problems),
        *(
            f"{name}: not an input, the inputs are {', '.join(inputs) or 'none'}"
            for name in given
            if name not in inputs
        ),
    ]


def _examined(
    signature: Signature, found: Mapping[str, object]
) -> tuple[dict[str, int], dict[str, str]]:
    """The sizes that the arrays of a call tell, and a line for each input that does not fit."""
    specs = {name: signature.inputs[name] for name in found}
    misfits = {name: _misfit(array, specs[name]) for name, array in found.items()}
    shapes: dict[str, tuple[int, ...]] = {
        name: array.shape  # type: ignore[attr-defined]  # an array, as it is no misfit
        for name, array in found.items()
        if misfits[name] is None and specs[name].shape is not None
    }
    # An array with a wrong size elsewhere may still tell a size, but the others are heard first.
    heard = sorted(shapes, key=lambda name: not _fits_fixed(specs[name], shapes[name]))
    sizes, origins = _solved(
        [
            (axis, size, name)
            for name in heard
            for axis, size in zip(specs[name].expressions, shapes[name], strict=True)
            if isinstance(axis, Expression)
        ]
    )
    problems = {}
    for name, array in found.items():
        others = {dim: where for dim, where in origins.items() if where != name}
        wrong = misfits[name]
        if wrong is not None:
            problems[name] = f"{name}: expected {specs[name]}{_with(specs[name], sizes)}{wrong}"
        elif name in shapes:
            text = _size_problem(specs[name], shapes[name], sizes, others)
            text = text or _bound_problem(specs[name], sizes, signature.dims)
            if text:
                problems[name] = f"{name}: expected {specs[name]}{text.format(described(array))}"
    return sizes, problems


def _misfit(found: object, spec: TensorSpec) -> str | None:
    """How an array differs from its spec in dtype or number of axes, after the spec in a line."""
    if isinstance(found, Misfit):
        return f", {found.text}"
    axes = len(found.shape)  # type: ignore[attr-defined]  # an array
    if spec.shape is None:
        limit = f" with at most {spec.max_rank} axes, got {described(found)}"
        return limit if axes > spec.max_rank else None
    return f", got {described(found)}" if axes != len(spec.shape) else None

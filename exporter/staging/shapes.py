"""Which traces a function needs for axes and numbers of axes that its specs leave open."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exporter.errors import TracingError
from signatures.binding import solve
from signatures.expression import Expression
from signatures.spec import Axis, Dim, TensorSpec

# Beyond this many combinations of ranks, an artifact would be mostly programs nobody calls.
MAX_VARIANTS = 64

Specs = tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Attempt:
    """One way to give every free axis a symbol.

    Attributes:
      specs: the inputs, every axis a size, a name or an expression.
      public: the inputs as callers see them: independent free axes stay free.
      note: what was tied together, or `None`.
    """

    specs: Specs
    public: Specs
    note: str | None = None


def rank_choices(specs: Specs, function: str) -> list[tuple[int, ...]]:
    """The numbers of axes to trace with: for each input of any rank one of its ranks.

    Raises:
      TracingError: if there would be too many.
    """
    open_specs = [spec for spec in specs if spec.shape is None]
    choices = list(itertools.product(*(range(spec.max_rank + 1) for spec in open_specs)))
    if len(choices) > MAX_VARIANTS:
        raise TracingError(
            f"{function} has {len(open_specs)} inputs of any rank, which makes {len(choices)} "
            f"programs; at most {MAX_VARIANTS} are written. Give some a shape, or a smaller "
            "TensorSpec(max_rank=...)."
        )
    return choices


def attempts(specs: Specs, ranks: Sequence[int]) -> Iterator[Attempt]:
    """The ways to give free axes symbols, the most general first.

    Axes without a name are independent of each other if the function can be traced so. If not,
    the leading ones are one dimension, as a batch is; then those at the same position.
    """
    ranked = _with_ranks(specs, ranks)
    yield Attempt(_independent(ranked), specs)
    taken = {name for spec in specs for name in spec.names}
    batch = _fresh("batch", taken)
    if _count_free(ranked, 0) > 1:
        tied = _named(ranked, {0: batch})
        yield Attempt(
            _independent(tied),
            specs if ranks else tied,
            f"the leading axes given as None are one dimension, {batch!r}: the function cannot be "
            "traced with sizes independent of each other.",
        )
    longest = max((len(spec.shape or ()) for spec in ranked), default=0)
    if any(_count_free(ranked, axis) > 1 for axis in range(1, longest)):
        names = {axis: _fresh(f"axis_{axis}", taken) for axis in range(1, longest)}
        tied = _named(ranked, {0: batch} | names)
        yield Attempt(
            tied,
            specs if ranks else tied,
            "the axes given as None at the same position are one dimension: the function cannot "
            "be traced with sizes independent of each other.",
        )


def refuse_unsolvable(specs: Specs, function: str) -> None:
    """Refuse a name whose size no call could tell.

    Raises:
      TracingError: naming the input and the name.
    """
    sized = [spec for spec in specs if spec.shape is not None]
    # If distinct sizes can be told from the shapes they make, so can all others.
    sizes = {name: 101 + 7 * n for n, name in enumerate({n for s in sized for n in s.names})}
    shapes = [
        tuple(
            axis.evaluate(sizes) if isinstance(axis, Expression) else axis or 1
            for axis in spec.expressions
        )
        for spec in sized
    ]
    solved, _ = solve(zip(sized, shapes, strict=True))
    for spec in sized:
        for name in spec.names:
            if name not in solved:
                raise TracingError(
                    f"input {spec.name!r} of {function} is {spec}: no call can tell {name} from "
                    f"it. Let an input have an axis that is {name}, or one in which {name} is only "
                    "added to or multiplied by a number."
                )


def dims_of(declared: Specs, specs: Specs) -> tuple[Dim, ...]:
    """Every symbol in `specs`, with the bounds that `declared` give it.

    Raises:
      TracingError: if two specs give one name different bounds.
    """
    bounds: dict[str, Dim] = {}
    for spec in declared:
        for dim in spec.dims:
            if bounds.setdefault(dim.name, dim) != dim:
                raise TracingError(f"two bounds for one dimension: {bounds[dim.name]} and {dim}.")
    names = dict.fromkeys(name for spec in specs for name in spec.names)
    return tuple(bounds.get(name) or Dim(name) for name in names)


def public_shape(spec: TensorSpec) -> tuple[Axis, ...]:
    """The shape as callers see it: a size that depends on a free axis is free."""
    return tuple(
        None
        if isinstance(parsed, Expression) and any(name.startswith("_") for name in parsed.names)
        else axis
        for axis, parsed in zip(spec.shape or (), spec.expressions, strict=True)
    )


def _with_ranks(specs: Specs, ranks: Sequence[int]) -> Specs:
    left = iter(ranks)
    return tuple(
        spec.with_shape((None,) * next(left)) if spec.shape is None else spec for spec in specs
    )


def _independent(specs: Specs) -> Specs:
    """Every axis that is still free becomes a symbol of its own: `_1`, `_2`, ..."""
    count = itertools.count(1)
    return tuple(
        spec.with_shape(
            tuple(f"_{next(count)}" if axis is None else axis for axis in spec.shape or ())
        )
        for spec in specs
    )


def _named(specs: Specs, names: dict[int, str]) -> Specs:
    """Every free axis at a position that has a name becomes that dimension."""
    return tuple(
        spec.with_shape(
            tuple(
                names.get(position) if axis is None else axis
                for position, axis in enumerate(spec.shape or ())
            )
        )
        for spec in specs
    )


def _count_free(specs: Specs, axis: int) -> int:
    return sum(len(spec.shape or ()) > axis and spec.shape[axis] is None for spec in specs)  # type: ignore[index]


def _fresh(name: str, taken: set[str]) -> str:
    """A name nobody has: `batch`, else `batch_2`, `batch_3`, ..."""
    names = itertools.chain([name], (f"{name}_{n}" for n in itertools.count(2)))
    return next(candidate for candidate in names if candidate not in taken)

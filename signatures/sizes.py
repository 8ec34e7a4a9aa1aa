"""The sizes of named dimensions, as the shapes of arrays tell them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from signatures.errors import SpecError
from signatures.expression import Expression


@dataclass(frozen=True)
class Sizes:
    """What is known of the named dimensions.

    Attributes:
      known: the size of each dimension that the arrays tell.
      origins: for each of them, the array that told it.
    """

    known: Mapping[str, int]
    origins: Mapping[str, str]


def solved(axes: Sequence[tuple[Expression, int, str]]) -> Sizes:
    """The sizes of all the names that can be told from axes.

    Where two axes tell different sizes of one name, the first is taken. A name that stands alone in
    an axis is taken before one that has to be solved for.

    Args:
      axes: expressions, each with the size of its axis and the name of the array.
    """
    known: dict[str, int] = {}
    origins: dict[str, str] = {}
    for axis, size, where in axes:
        if axis.is_name and axis.text not in known:
            known[axis.text], origins[axis.text] = size, where
    waiting = [one for one in axes if not one[0].is_name]
    progress = True
    while progress:
        progress = False
        for axis, size, where in waiting:
            unknown = [name for name in axis.names if name not in known]
            found = _solution(axis, unknown[0], size, known) if len(unknown) == 1 else None
            if found is not None:
                known[unknown[0]], origins[unknown[0]] = found, where
                progress = True
    return Sizes(known, origins)


def fits(axis: int | Expression | None, size: int, known: Mapping[str, int]) -> bool:
    """Whether an axis may have a size. One with an unknown name may not."""
    if not isinstance(axis, Expression):
        return axis is None or axis == size
    try:
        return all(name in known for name in axis.names) and axis.evaluate(known) == size
    except SpecError:  # it divides by zero
        return False


def _solution(axis: Expression, name: str, size: int, known: Mapping[str, int]) -> int | None:
    try:
        return axis.solve(name, size, known)
    except SpecError:  # it divides by zero
        return None

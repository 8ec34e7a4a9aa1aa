"""Whether one signature can take the place of another: every call that fitted still fits.

A name that stands for an axis in the new signature is given what stands there in the old one. Then
the axes of the new signature are expressions over the names of the old, and two of them that print
alike are equal, whatever the sizes are. Where that does not tell, the answer is no.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from signatures.errors import SpecError
from signatures.expression import Expression, parse
from signatures.signature import Signature
from signatures.spec import Dim, TensorSpec

_NAME = re.compile(r"[^\W\d]\w*")

Axis = int | Expression | None


@dataclass(frozen=True)
class Change:
    """One way in which a signature differs from an older one.

    Attributes:
      name: what changed, as in `"input image"`.
      text: the end of a sentence that begins with it.
      breaks: whether there are calls that fitted and no longer do, or outputs that are missed.
    """

    name: str
    text: str
    breaks: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.text}"


def changes(old: Signature, new: Signature) -> tuple[Change, ...]:
    """Everything in which a signature differs from an older one, in the order of the old.

    Calls are by keyword. What inputs are called in signatures, not where they stand, matters.

    >>> def doubling(*axes):
    ...     return Signature("double", {"x": TensorSpec(axes)}, {"y": TensorSpec(axes)})
    >>> changes(doubling(3), doubling("n"))[0].breaks
    False
    >>> changes(doubling("n"), doubling(3))[0].text
    'is float32[3], was float32[n]: its axis 0 is 3 only'
    """
    axes = _Axes(old, new)
    return (
        *_named_inputs(old, new, axes),
        *(
            change
            for name, spec in old.inputs.items()
            if name in new.inputs
            for change in _input(name, old, new, axes.problems(name, spec))
        ),
        *_outputs(old, new, axes),
    )


def _named_inputs(old: Signature, new: Signature, axes: "_Axes") -> Iterator[Change]:
    """The inputs that are gone, those that are new, and their order."""
    for name in old.inputs:
        if name not in new.inputs:
            yield Change(f"input {name}", "is gone", breaks=True)
    for name in new.inputs:
        if name not in old.inputs and name not in new.defaults:
            yield Change(f"input {name}", "is new and has no default", breaks=True)
        elif name not in old.inputs:
            problems = axes.own_problems(name)
            reasons = f" that does not fit all calls: {'; '.join(problems)}" if problems else ""
            yield Change(f"input {name}", f"is new, with a default{reasons}", bool(problems))
    if len(old.inputs) == 1 < len(new.inputs):
        yield Change("inputs", "are several: a value without a name is no longer taken")
    yield from _order("inputs", old.inputs, new.inputs)


def _order(name: str, old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[Change]:
    now = [one for one in new if one in old]
    if now != [one for one in old if one in new]:
        yield Change(name, f"are in another order: {', '.join(now)}")


def _input(name: str, old: Signature, new: Signature, problems: list[str]) -> Iterator[Change]:
    """What is different about an input that both have."""
    one, other = old.inputs[name], new.inputs[name]
    if problems or _shown(one) != _shown(other):
        reasons = f": {'; '.join(dict.fromkeys(problems))}" if problems else ""
        text = f"is {_shown(other)}, was {_shown(one)}{reasons}"
        yield Change(f"input {name}", text, bool(problems))
    before, after = old.defaults.get(name), new.defaults.get(name)
    if before is None and after is not None:
        yield Change(f"input {name}", "may be left out now")
    elif before is not None and after is None:
        yield Change(f"input {name}", "has no default any more", breaks=True)
    elif before is not None and after is not None:
        same = (before.dtype, before.shape) == (after.dtype, after.shape)
        if not same or before.tobytes() != after.tobytes():
            yield Change(f"input {name}", "has another default")


def _outputs(old: Signature, new: Signature, axes: "_Axes") -> Iterator[Change]:
    for name, one in old.outputs.items():
        if name not in new.outputs:
            yield Change(f"output {name}", "is gone", breaks=True)
            continue
        other = new.outputs[name]
        problems = _output_problems(one, other, axes)
        if problems or _shown(one) != _shown(other):
            reasons = f": {'; '.join(problems)}" if problems else ""
            text = f"is {_shown(other)}, was {_shown(one)}{reasons}"
            yield Change(f"output {name}", text, bool(problems))
    for name in new.outputs:
        if name not in old.outputs:
            yield Change(f"output {name}", "is new")
    yield from _order("outputs", old.outputs, new.outputs)


def _output_problems(one: TensorSpec, other: TensorSpec, axes: "_Axes") -> list[str]:
    """Why what is returned now is not what was returned. A free axis leaves it open."""
    if one.dtype != other.dtype:
        return [f"its dtype is {other.dtype.name}"]
    if one.shape is None or other.shape is None:
        return []
    if len(one.shape) != len(other.shape):
        return [f"it has {len(other.shape)} axes"]
    pairs = zip(one.expressions, other.expressions, strict=True)
    return [
        f"its axis {place} is {after}"
        for place, (before, after) in enumerate(pairs)
        if before is not None and after is not None and axes.in_old_names(after) != _text(before)
    ]


class _Axes:
    """The axes of the inputs of a new signature, in the names of the old one."""

    def __init__(self, old: Signature, new: Signature) -> None:
        self._old = old
        self._new = new
        self._before = _places(old)
        self._after = _places(new)
        # An input that is new is always left out: its axes have the sizes of its default.
        for name, value in new.defaults.items():
            if name not in old.inputs:
                sizes: dict[tuple[str, int], Axis] = {
                    (name, place): size for place, size in enumerate(value.shape)
                }
                self._before |= sizes
        self._meaning: dict[str, str] = {}
        self._where: dict[str, str] = {}  # the input that gives a name its meaning
        for (name, place), axis in self._after.items():
            if (name, place) in self._before and isinstance(axis, Expression) and axis.is_name:
                meaning = _text(self._before[name, place]) or f"?{name}.{place}"
                if self._meaning.setdefault(axis.text, meaning) == meaning:
                    self._where.setdefault(axis.text, name)

    def problems(self, name: str, one: TensorSpec) -> list[str]:
        """Why arrays that fitted an input of the old signature may not fit that of the new."""
        other = self._new.inputs[name]
        if one.dtype != other.dtype:
            return [f"its dtype is {other.dtype.name}"]
        if one.shape is None or other.shape is None:
            most = one.max_rank if one.shape is None else len(one.shape)
            if other.shape is not None or most > other.max_rank:
                return [f"it does not take up to {most} axes"]
            return []
        if len(one.shape) != len(other.shape):
            return [f"it has {len(other.shape)} axes"]
        return [*self.own_problems(name), *self._default_problems(name, other)]

    def own_problems(self, name: str) -> list[str]:
        """Why the sizes of the axes of an input may not fit, and the bounds that it tells."""
        found = [
            self._problem((name, place), axis)
            for place, axis in enumerate(self._new.inputs[name].expressions)
        ]
        found += [
            self._bound(axis, self._meaning[axis])
            for axis, where in self._where.items()
            if where == name
        ]
        return [problem for problem in found if problem]

    def in_old_names(self, axis: Axis) -> str | None:
        """An axis with each name replaced by what it stands for, `None` if that is not known."""
        if not isinstance(axis, Expression):
            return _text(axis)
        meanings = {name: self._meaning.get(name, name) for name in axis.names}
        if any(meaning.startswith("?") for meaning in meanings.values()):
            return None
        if all(name == meaning for name, meaning in meanings.items()):
            return axis.text
        if "(" in axis.text and any(name != meaning for name, meaning in meanings.items()):
            return self._renamed(axis, meanings)
        text = _NAME.sub(lambda found: f"({meanings[found[0]]})", axis.text)
        return _parsed(text)

    def _renamed(self, axis: Expression, meanings: Mapping[str, str]) -> str | None:
        """An axis with functions in it. They may divide, so names are exchanged for names only."""
        values = list(meanings.values())
        if len(set(values)) < len(values) or not all(_NAME.fullmatch(one) for one in values):
            return None
        if any(f"{name}(" in axis.text for name in axis.names):  # it is called like a function
            return None
        return _parsed(_NAME.sub(lambda found: meanings.get(found[0], found[0]), axis.text))

    def _problem(self, place: tuple[str, int], axis: Axis) -> str | None:
        """Why a size that fitted may not fit an axis, but for the bounds of names."""
        before = self._before.get(place)
        number = place[1]
        if axis is None:
            return None
        if isinstance(axis, int):
            return None if before == axis else f"its axis {number} is {axis} only"
        if axis.is_name:
            meaning = _text(before) or f"?{place[0]}.{number}"
            where = self._where.get(axis.text)
            if where is None or self._meaning[axis.text] == meaning:
                return None
            return f"its axis {number} must be the {axis} of {where}"
        if self.in_old_names(axis) != _text(before) or not self._is_told(axis):
            return f"its axis {number} must be {axis}"
        solved = [name for name in axis.names if name not in self._meaning]
        return next((text for name in solved if (text := self._bound(name, name))), None)

    def _is_told(self, axis: Expression) -> bool:
        """Whether the arrays of each call tell the names in an axis.

        They do for a name that stands alone. Another name is solved for: that is sure to succeed
        where it did before, from the very same axes.
        """
        for name in axis.names:
            if name in self._meaning:
                continue
            before = {place: a for place, a in self._before.items() if _has(a, name)}
            if before != {place: a for place, a in self._after.items() if _has(a, name)}:
                return False
        return True

    def _bound(self, name: str, meaning: str) -> str | None:
        """Why a size that a name may stand for is not allowed now."""
        dim = self._new.dims[name]
        if not dim.is_bounded:
            return None
        if meaning.isdecimal():
            problem = dim.problem(int(meaning))
        else:
            problem = _narrower(self._old.dims.get(meaning, Dim("any")), dim)
        return f"{problem} now" if problem else None

    def _default_problems(self, name: str, other: TensorSpec) -> list[str]:
        """Why a call that leaves an input out may not fit: its default has another shape."""
        before, after = self._old.defaults.get(name), self._new.defaults.get(name)
        if before is None or after is None or before.shape == after.shape or not other.names:
            return []
        return ["its default has another shape"]


def _places(signature: Signature) -> dict[tuple[str, int], Axis]:
    """Every axis of the inputs, by input and position."""
    return {
        (name, place): axis
        for name, spec in signature.inputs.items()
        for place, axis in enumerate(spec.expressions)
    }


def _has(axis: Axis, name: str) -> bool:
    return isinstance(axis, Expression) and name in axis.names


def _text(axis: Axis) -> str | None:
    return None if axis is None else str(axis)


def _parsed(text: str) -> str | None:
    try:
        return parse(text).text
    except SpecError:  # it would be too long
        return None


def _narrower(before: Dim, after: Dim) -> str | None:
    """Which bounds are narrower than they were."""
    step, needed = before.multiple_of or 1, after.multiple_of or 1
    least = -(-(before.min or 0) // step) * step
    most = None if before.max is None else before.max // step * step
    if least == most:
        return after.problem(least)
    broken = " and ".join(
        text
        for is_broken, text in (
            (after.min is not None and least < after.min, f"at least {after.min}"),
            (
                after.max is not None and (most is None or most > after.max),
                f"at most {after.max}",
            ),
            (step % needed != 0, f"a multiple of {needed}"),
        )
        if is_broken
    )
    return f"{after.name} is {broken}" if broken else None


def _shown(spec: TensorSpec) -> str:
    """A spec with its bounds."""
    bounds = [
        f"{dim.name} {what} {bound}"
        for dim in spec.dims
        for what, bound in (
            ("at least", dim.min),
            ("at most", dim.max),
            ("a multiple of", dim.multiple_of),
        )
        if bound is not None
    ]
    most = [f"at most {spec.max_rank} axes"] if spec.shape is None else []
    limits = ", ".join([*bounds, *most])
    return f"{spec} with {limits}" if limits else str(spec)

"""Which specs a function that cannot be traced with its own could be traced with.

A function that works for fixed sizes and not for named ones has a problem with its sizes, any other
one with its code. Which bound, tie or fixed size would do is not guessed: each that is told was
tried.
"""

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from exporter.errors import InconclusiveSizesError, Problem
from exporter.staging.findings import problem_of
from exporter.staging.graph import TrackedGraph
from exporter.staging.inputs import Inputs
from exporter.staging.state import restored
from exporter.staging.tracing import Subject, trace
from signatures.errors import ExporterError, SpecError
from signatures.spec import Dim, TensorSpec

# Each attempt runs the user's code once. Most problems are settled after a few.
MAX_ATTEMPTS = 24

# Large enough for windows and strides, and a multiple of what sizes are usually divided by.
_SAMPLE = 8

Specs = tuple[TensorSpec, ...]


def explained(
    error: Exception, path: str, subject: Subject, inputs: Inputs, graph: TrackedGraph
) -> Problem:
    """Why a function cannot be traced, and with which specs it could be, if there are any."""
    problem = replace(problem_of(error, path), inputs=_shown(inputs.specs))
    if isinstance(error, ExporterError) and not isinstance(error, InconclusiveSizesError):
        return problem
    search = _Search(subject, inputs, graph)
    found = search.found(_numbers(str(error)))
    if found is None:
        return problem
    own = set(_dims(search.named)) - set(_dims(inputs.specs))
    changed = [
        f"{new.name}: {_freed(new, found, own).renamed(None)!r}"
        for old, new in zip(search.named, found, strict=True)
        if new != old
    ]
    remedy = f"It can be traced with {', '.join(changed)}."
    return replace(problem, kind="dimension", remedy=f"{problem.remedy} {remedy}".strip())


@dataclass
class _Search:
    """The attempts to trace one function, counted."""

    subject: Subject
    inputs: Inputs
    graph: TrackedGraph
    left: int = MAX_ATTEMPTS

    @property
    def named(self) -> Specs:
        """The specs, each free axis with a name of its own."""
        return tuple(_with_names(spec) for spec in self.inputs.specs)

    def found(self, numbers: Sequence[int]) -> Specs | None:
        """Specs near the declared ones that can be traced."""
        if any(spec.shape is None for spec in self.inputs.specs):
            return None
        dims = _dims(self.named)
        if not dims:
            return None
        sizes = next(
            (s for s in _samples(dims, numbers) if self.works(_sized(self.named, s))), None
        )
        if sizes is None:
            return None
        candidates = itertools.chain(
            _bounded(self.named, dims, numbers), _tied(self.named, dims), _fixed(self.named, sizes)
        )
        return next((specs for specs in candidates if self.works(specs)), None)

    def works(self, specs: Specs) -> bool:
        self.left -= 1
        if self.left < 0:
            return False
        try:
            with restored(self.graph, self.subject.name):
                trace(self.subject, replace(self.inputs, specs=specs), self.graph)
        except Exception:  # noqa: BLE001  # the user's code may refuse in any way
            return False
        return True


def _with_names(spec: TensorSpec) -> TensorSpec:
    stem = re.sub(r"\W", "_", str(spec.name))
    axes = (
        f"{stem}_{position}" if axis is None else axis
        for position, axis in enumerate(spec.shape or ())
    )
    return spec if spec.shape is None else spec.with_shape(tuple(axes))


def _freed(spec: TensorSpec, specs: Specs, own: Collection[str]) -> TensorSpec:
    """The spec without names that we gave its free axes, where nothing else needs them."""
    texts = [str(axis) for one in specs for axis in one.shape or ()]
    bound = {dim.name for dim in spec.dims}
    return spec.with_shape(
        tuple(
            None if axis in own and axis not in bound and texts.count(str(axis)) == 1 else axis
            for axis in spec.shape or ()
        )
    )


def _dims(specs: Specs) -> dict[str, Dim]:
    bounds = {dim.name: dim for spec in specs for dim in spec.dims}
    return {name: bounds.get(name, Dim(name)) for spec in specs for name in spec.names}


def _samples(dims: Mapping[str, Dim], numbers: Sequence[int]) -> Iterator[dict[str, int]]:
    """Sizes to try: all the same, all different, and those that the error speaks of."""
    for size in (_SAMPLE, *numbers):
        yield {name: _allowed(dim, size) for name, dim in dims.items()}
    yield {name: _allowed(dim, _SAMPLE * (n + 1)) for n, (name, dim) in enumerate(dims.items())}
    for name, size in itertools.product(dims, numbers):
        yield {
            other: _allowed(dim, size if other == name else _SAMPLE) for other, dim in dims.items()
        }


def _allowed(dim: Dim, size: int) -> int:
    """The size itself, or the nearest that the bounds of the dimension allow."""
    step = dim.multiple_of or 1
    size = -(-max(size, dim.min or 1) // step) * step
    return size if dim.max is None or size <= dim.max else dim.max // step * step


def _sized(specs: Specs, sizes: Mapping[str, int]) -> Specs:
    return tuple(
        TensorSpec(spec.evaluate(sizes), spec.dtype, spec.name) if spec.names else spec
        for spec in specs
    )


def _bounded(specs: Specs, dims: Mapping[str, Dim], numbers: Sequence[int]) -> Iterator[Specs]:
    """One dimension, or all of them, with a bound more."""
    for least in dict.fromkeys((2, *(number + 1 for number in numbers))):
        changed = [
            replace(dim, min=least)
            for dim in dims.values()
            if (dim.min or 0) < least <= (dim.max or least)
        ]
        yield from _some_and_all(specs, changed)
    for step in dict.fromkeys((2, 4, *(number for number in numbers if number > 1))):
        changed = [replace(dim, multiple_of=step) for dim in dims.values() if not dim.multiple_of]
        yield from _some_and_all(specs, changed)


def _some_and_all(specs: Specs, changed: Sequence[Dim]) -> Iterator[Specs]:
    choices = [*((dim,) for dim in changed), *([tuple(changed)] if len(changed) > 1 else [])]
    for chosen in choices:
        try:
            yield tuple(_with_bounds(spec, chosen) for spec in specs)
        except SpecError:  # a bound that does not go with the others
            continue


def _with_bounds(spec: TensorSpec, dims: Sequence[Dim]) -> TensorSpec:
    new = {dim.name: dim for dim in dims if dim.name in spec.names}
    kept = {dim.name: dim for dim in spec.dims}
    return spec.with_bounds(tuple((kept | new).values())) if new else spec


def _tied(specs: Specs, dims: Mapping[str, Dim]) -> Iterator[Specs]:
    """One name for two dimensions."""
    for kept, dropped in itertools.combinations(dims, 2):
        yield tuple(_exchanged(spec, dropped, kept) for spec in specs)


def _fixed(specs: Specs, sizes: Mapping[str, int]) -> Iterator[Specs]:
    """One dimension of a fixed size, or all of them."""
    for name, size in sizes.items():
        yield tuple(_exchanged(spec, name, str(size)) for spec in specs)
    yield _sized(specs, sizes)


def _exchanged(spec: TensorSpec, name: str, by: str) -> TensorSpec:
    """The spec with another name, or a size, wherever a name stands."""
    if name not in spec.names:
        return spec
    texts = (re.sub(rf"\b{re.escape(name)}\b", by, str(axis)) for axis in spec.shape or ())
    new = spec.with_shape(tuple(int(text) if text.isdigit() else text for text in texts))
    return new.with_bounds(tuple(dim for dim in spec.dims if dim.name in new.names))


def _numbers(text: str) -> list[int]:
    """The sizes that an error speaks of, a few of them. Those of free axes are no sizes."""
    found = (int(digits) for digits in re.findall(r"(?<![\w.])\d{1,6}(?![\w.])", text))
    return list(dict.fromkeys(number for number in found if number > 0))[:3]


def _shown(specs: Specs) -> str:
    return ", ".join(f"{spec.name}: {spec}" for spec in specs)

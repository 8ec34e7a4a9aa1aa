"""Elements found by positions that are computed: gathered, scattered, cut out and put in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exporter.conversion.onnx.graph import BOOL, INT64, Graph, Shape, Tensor
from exporter.conversion.onnx.layout import cut, cut_axis, full, join, reshape, transpose
from exporter.conversion.onnx.reduction import combiner
from exporter.dataflow import Block, Instruction
from exporter.errors import ConversionError


def _clamped(graph: Graph, starts: Tensor, most: Sequence[int]) -> Tensor:
    """Positions moved so that what begins there lies inside."""
    least = graph.elementwise("Max", starts, graph.integers([0]))
    return graph.elementwise("Min", least, graph.integers(list(most)))


def dynamic_slice(graph: Graph, instruction: Instruction, given: Sequence[Tensor]) -> Tensor:
    """`Slice`, from a start along each axis that is moved to lie inside."""
    array, *starts = given
    sizes = instruction.attributes["slice_sizes"]
    axes = [axis for axis, size in enumerate(array.shape) if sizes[axis] < size]
    if not axes:
        return array
    first = _starts(graph, starts, axes, [array.shape[axis] - sizes[axis] for axis in axes])
    limits = graph.elementwise("Add", first, graph.integers([sizes[axis] for axis in axes]))
    return graph.one("Slice", [array, first, limits, graph.integers(axes)], array.dtype, sizes)


def _starts(
    graph: Graph, starts: Sequence[Tensor], axes: Sequence[int], most: Sequence[int]
) -> Tensor:
    rows = [reshape(graph, graph.cast(starts[axis], INT64), (1,)) for axis in axes]
    return _clamped(graph, join(graph, rows, 0), most)


def dynamic_update_slice(graph: Graph, _: Instruction, given: Sequence[Tensor]) -> Tensor:
    """What lies before along an axis, the new part, and what lies behind; and so on inwards."""
    array, update, *starts = given
    axes = [axis for axis, size in enumerate(array.shape) if update.shape[axis] < size]
    if not axes:
        return update
    most = [array.shape[axis] - update.shape[axis] for axis in axes]
    first = _starts(graph, starts, axes, most)
    limits = graph.elementwise("Add", first, graph.integers([update.shape[axis] for axis in axes]))

    def put(outer: Tensor, depth: int) -> Tensor:
        if depth == len(axes):
            return update
        axis = axes[depth]
        start, limit = (cut_axis(graph, one, 0, depth, depth + 1) for one in (first, limits))
        shape = (*outer.shape[:axis], update.shape[axis], *outer.shape[axis + 1 :])
        place = graph.integers([axis])
        inside = outer
        if depth + 1 < len(axes):
            inside = graph.one("Slice", [outer, start, limit, place], outer.dtype, shape)
        # Their sizes are not known, and nothing asks for them.
        before = graph.one("Slice", [outer, graph.integers([0]), start, place], outer.dtype, ())
        end = graph.integers([outer.shape[axis]])
        behind = graph.one("Slice", [outer, limit, end, place], outer.dtype, ())
        parts = [before, put(inside, depth + 1), behind]
        return graph.one("Concat", parts, outer.dtype, outer.shape, axis=axis)

    return put(array, 0)


@dataclass(frozen=True)
class _Places:
    """Where windows of an array begin, its axes in two groups: those with positions come first.

    Attributes:
      hot: the axes along which windows begin at a position.
      rest: the others, along which windows are whole.
      window: the size of a window along each axis in `hot`.
      starts: int64[batch..., hot], the position along each.
    """

    hot: tuple[int, ...]
    rest: tuple[int, ...]
    window: tuple[int, ...]
    starts: Tensor

    def order(self) -> tuple[int, ...]:
        return (*self.hot, *self.rest)

    def sizes(self, shape: Shape) -> tuple[int, ...]:
        return tuple(shape[axis] for axis in self.hot)

    def most(self, shape: Shape) -> list[int]:
        """The last position along each axis at which a window still lies inside."""
        rows = zip(self.sizes(shape), self.window, strict=True)
        return [size - width for size, width in rows]

    def batch(self) -> Shape:
        return self.starts.shape[:-1]

    def flat(self, graph: Graph, shape: Shape, starts: Tensor) -> Tensor:
        """int64[batch..., window...], which of the elements along the hot axes, counted as one."""
        sizes = self.sizes(shape)
        strides = [math.prod(sizes[place + 1 :]) for place in range(len(sizes))]
        if len(sizes) == 1:
            found = reshape(graph, starts, self.batch())
        else:
            each = graph.elementwise("Mul", starts, graph.integers(strides))
            axis = graph.integers([len(self.batch())])
            found = graph.compute("ReduceSum", [each, axis], INT64, self.batch(), keepdims=0)
        if math.prod(self.window) == 1:
            return reshape(graph, found, (*self.batch(), *self.window))
        offsets = sum(
            (one * stride for one, stride in zip(np.indices(self.window), strides, strict=True)),
            np.zeros(self.window, np.int64),
        )
        found = reshape(graph, found, (*self.batch(), *(1,) * len(self.window)))
        return graph.elementwise("Add", found, graph.constant(offsets.astype(np.int64)))


def _places(
    graph: Graph,
    indices: Tensor,
    shape: Shape,
    *,
    vector: int,
    mapped: Sequence[int],
    batching: Sequence[tuple[int, int]],
    widths: Sequence[int],
) -> _Places:
    """Where windows begin.

    Args:
      indices: the positions.
      shape: that of the array.
      vector: which axis of `indices` has one position for each axis in `mapped`.
      mapped: the axes of the array that they are for.
      batching: the axes of the array along which windows begin where they are themselves along an
        axis of `indices`, and that axis.
      widths: how large a window is along each axis of the array.
    """
    indices = graph.cast(indices, INT64)
    if vector == len(indices.shape):
        indices = reshape(graph, indices, (*indices.shape, 1))
    batch_axes = [axis for axis in range(len(indices.shape)) if axis != vector]
    starts = transpose(graph, indices, [*batch_axes, vector])
    batch = starts.shape[:-1]
    columns = [starts] if mapped else []
    for _, axis in batching:
        place = batch_axes.index(axis)
        line = [1] * (len(batch) + 1)
        line[place] = batch[place]
        own = np.arange(batch[place], dtype=np.int64).reshape(line)
        columns.append(graph.constant(np.broadcast_to(own, (*batch, 1))))
    hot = [*mapped, *(axis for axis, _ in batching)]
    partial = [axis for axis, size in enumerate(shape) if axis not in hot and widths[axis] < size]
    if partial or not hot:  # they begin at 0; where nothing else does, the first axis is as good
        added = partial or [0]
        columns.append(graph.constant(np.zeros((*batch, len(added)), np.int64)))
        hot += added
    rest = tuple(axis for axis in range(len(shape)) if axis not in hot)
    window = tuple(widths[axis] for axis in hot)
    return _Places(tuple(hot), rest, window, join(graph, columns, len(batch)))


def gather(graph: Graph, instruction: Instruction, given: Sequence[Tensor]) -> Tensor:
    """`Gather`, from an array whose axes with positions are one. Positions outside are moved in."""
    array, indices = given
    axes = instruction.attributes["dimension_numbers"]
    sizes = instruction.attributes["slice_sizes"]
    result = instruction.results[0]
    if not array.shape or math.prod(result.shape) == 0:
        return full(graph, graph.like(array, 0) if array.shape else array, result.shape)
    own, theirs = axes["operand_batching_dims"], axes["start_indices_batching_dims"]
    places = _places(
        graph,
        indices,
        array.shape,
        vector=axes["index_vector_dim"],
        mapped=axes["start_index_map"],
        batching=list(zip(own, theirs, strict=True)),
        widths=sizes,
    )
    dropped = {*axes["collapsed_slice_dims"], *own}
    starts = _clamped(graph, places.starts, places.most(array.shape))
    flat = places.flat(graph, array.shape, starts)
    if len(places.hot) == 1 and places.window == (1,) and places.hot[0] in dropped:
        # One axis is replaced by those of the positions where it stands.
        axis = places.hot[0]
        flat = reshape(graph, flat, places.batch())
        before, behind = array.shape[:axis], array.shape[axis + 1 :]
        shape = (*before, *flat.shape, *behind)
        found = graph.one("Gather", [array, flat], array.dtype, shape, axis=axis)
        kept = [one for one in range(len(array.shape)) if one != axis]
        batch = list(range(axis, axis + len(flat.shape)))
        windows = [one for one in range(len(shape)) if one not in batch]
    else:
        kept = [axis for axis in places.order() if axis not in dropped]
        rest = tuple(array.shape[axis] for axis in places.rest)
        array = transpose(graph, array, places.order())
        array = reshape(graph, array, (math.prod(places.sizes(given[0].shape)), *rest))
        shape = (*flat.shape, *rest)
        found = graph.one("Gather", [array, flat], array.dtype, shape, axis=0)
        found = reshape(graph, found, (*places.batch(), *(sizes[axis] for axis in kept)))
        batch = list(range(len(places.batch())))
        windows = list(range(len(batch), len(found.shape)))
    by_axis = iter(window for _, window in sorted(zip(kept, windows, strict=True)))
    others = iter(batch)
    offsets = axes["offset_dims"]
    order = [
        next(by_axis) if axis in offsets else next(others) for axis in range(len(result.shape))
    ]
    return transpose(graph, found, order)


_REDUCTIONS = {"add": "add", "multiply": "mul", "maximum": "max", "minimum": "min"}


def scatter(graph: Graph, instruction: Instruction, given: Sequence[Tensor]) -> Tensor:
    """`ScatterND`, into an array whose axes with positions are one. What begins outside is lost.

    Raises:
      ConversionError: if ONNX cannot combine elements so, or there are several arrays.
    """
    if len(given) != 3:
        raise ConversionError("it scatters into several arrays at once")
    array, indices, updates = given
    how = _reduction(instruction.blocks[0], array)
    if math.prod(updates.shape) == 0 or array.size == 0:
        return array
    axes = instruction.attributes["scatter_dimension_numbers"]
    own, theirs = axes["input_batching_dims"], axes["scatter_indices_batching_dims"]
    single = {*axes["inserted_window_dims"], *own}
    kept = [axis for axis in range(len(array.shape)) if axis not in single]
    windows = dict(zip(kept, axes["update_window_dims"], strict=True))
    widths = [
        updates.shape[windows[axis]] if axis in windows else 1 for axis in range(len(array.shape))
    ]
    if not array.shape:
        array = reshape(graph, array, (1,))
        widths = [1]
    places = _places(
        graph,
        indices,
        array.shape,
        vector=axes["index_vector_dim"],
        mapped=axes["scattered_dims_to_operand_dims"],
        batching=list(zip(own, theirs, strict=True)),
        widths=widths,
    )
    count = math.prod(places.sizes(array.shape))
    flat = _inside(graph, places, array.shape, count)
    rest = tuple(array.shape[axis] for axis in places.rest)
    rows = reshape(graph, transpose(graph, array, places.order()), (count, *rest))
    nowhere = full(graph, graph.like(array, 0), (1, *rest))
    batch = [axis for axis in range(len(updates.shape)) if axis not in windows.values()]
    updates = transpose(
        graph, updates, [*batch, *(windows[one] for one in places.order() if one in windows)]
    )
    updates = reshape(graph, updates, (flat.shape[0], *rest))
    inputs = [join(graph, [rows, nowhere], 0), flat, updates]
    shape = (count + 1, *rest)
    made = _scattered(graph, inputs, shape, how)
    made = cut(graph, made, [0] * len(shape), [count, *rest])
    moved = tuple(array.shape[axis] for axis in places.order())
    order = places.order()
    back = [order.index(axis) for axis in range(len(order))]
    made = transpose(graph, reshape(graph, made, moved), back)
    return reshape(graph, made, instruction.results[0].shape)


def _inside(graph: Graph, places: _Places, shape: Shape, count: int) -> Tensor:
    """int64[elements, 1], where each goes, which is `count` for those of windows not inside."""
    least, most = graph.integers([0]), graph.integers(places.most(shape))
    not_before = graph.elementwise("GreaterOrEqual", places.starts, least, dtype=BOOL)
    not_behind = graph.elementwise("LessOrEqual", places.starts, most, dtype=BOOL)
    fits = graph.cast(graph.elementwise("And", not_before, not_behind), np.dtype(np.int32))
    last = graph.integers([len(places.batch())])
    all_fit = graph.compute("ReduceMin", [fits, last], fits.dtype, places.batch(), keepdims=0)
    ok = graph.cast(all_fit, BOOL)
    ok = reshape(graph, ok, (*places.batch(), *(1,) * len(places.window)))
    flat = places.flat(graph, shape, places.starts)
    found = graph.elementwise("Where", ok, flat, graph.integers([count]))
    return reshape(graph, found, (found.size, 1))


def _scattered(graph: Graph, inputs: Sequence[Tensor], shape: Shape, how: str) -> Tensor:
    if how == "none":  # nothing is computed
        return graph.one("ScatterND", inputs, inputs[0].dtype, shape)
    return graph.compute("ScatterND", inputs, inputs[0].dtype, shape, reduction=how)


def _reduction(block: Block, array: Tensor) -> str:
    if not block.instructions and block.results == (block.arguments[1],):
        return "none"
    name = combiner(block)
    how = _REDUCTIONS.get(name or "")
    if array.dtype == BOOL:
        how = {"or": "max", "and": "min"}.get(name or "")
    if how is None:
        raise ConversionError(f"it scatters with {name or 'a function'} of old and new elements")
    return how

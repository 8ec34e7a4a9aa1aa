"""Arrays sorted together by what a block says of two elements.

Where the block compares one array by itself, `TopK` sorts it, which keeps the order of equal
elements. Any other block is asked of each two elements, and the place of an element is the number
of those before it.
"""

import math
from collections.abc import Sequence

import numpy as np

from exporter.conversion.onnx.graph import BOOL, INT64, DType, Graph, Tensor
from exporter.conversion.onnx.layout import full, reshape
from exporter.conversion.onnx.reduction import Apply
from exporter.dataflow import Block, Instruction, Value
from exporter.errors import ConversionError

# For as many pairs it takes 64 MB for each operation of the block.
_MOST_PAIRS = 2**26


def sort(
    graph: Graph, instruction: Instruction, given: Sequence[Tensor], apply: Apply
) -> list[Tensor]:
    """Each array with its elements along an axis in order.

    Raises:
      ConversionError: if there are too many elements to compare each two.
    """
    axis = instruction.attributes["dimension"] % max(1, len(given[0].shape))
    if given[0].size == 0 or given[0].shape[axis] == 1:
        return list(given)
    key = _key(instruction.blocks[0])
    if key is None or given[key[0]].dtype.name == "uint64":
        order = _by_pairs(graph, given, axis, apply)
    else:
        order = _by_key(graph, given[key[0]], axis, descending=key[1])
    return [
        graph.one("GatherElements", [one, order], one.dtype, one.shape, axis=axis) for one in given
    ]


def _key(block: Block) -> tuple[int, bool] | None:
    """Which array a block compares, and whether the largest is first. `None` if it is not just so.

    JAX takes zeros as equal, and what is no number as one, before it compares. Both are what is
    done here anyway.
    """
    makers = {result: one for one in block.instructions for result in one.results}
    last = makers.get(block.results[0])
    if last is None or last.name != "compare":
        return None
    direction = last.attributes["comparison_direction"]
    if direction not in ("LT", "GT"):
        return None
    sides = [_source(one, makers) for one in last.operands]
    pairs = list(zip(block.arguments[::2], block.arguments[1::2], strict=True))
    for position, (left, right) in enumerate(pairs):
        if sides == [left, right]:
            return position, direction == "GT"
        if sides == [right, left]:
            return position, direction == "LT"
    return None


def _source(value: Value, makers: dict[Value, Instruction]) -> Value | None:
    """The value of which another only says zeros and what is no number in one way."""
    maker = makers.get(value)
    while maker is not None:
        if maker.name != "select" or not _is_canonical(maker, makers):
            return None
        value = maker.operands[2]
        maker = makers.get(value)
    return value


def _is_canonical(select: Instruction, makers: dict[Value, Instruction]) -> bool:
    """Whether it replaces zeros by one, or what is no number."""
    test = makers.get(select.operands[0])
    if test is None or test.name != "compare":
        return False
    left, right = test.operands
    direction = test.attributes["comparison_direction"]
    if direction == "NE":
        return left is right
    return direction == "EQ" and right is select.operands[1]


def _by_key(graph: Graph, key: Tensor, axis: int, *, descending: bool) -> Tensor:
    """int64, where each element comes from."""
    if key.dtype == BOOL:
        key = graph.cast(key, np.dtype(np.int32))
    if key.dtype.kind in "iu":
        return _top(graph, key, axis, descending=descending)
    key = graph.wide(key)
    is_number = graph.elementwise("Equal", key, key, dtype=BOOL)
    most = graph.elementwise("Where", is_number, key, graph.like(key, math.inf))
    order = _top(graph, most, axis, descending=descending)
    # What is no number is behind all else, or before: they are told apart once all is in order.
    strange = graph.cast(graph.elementwise("Not", is_number), np.dtype(np.int32))
    shape = key.shape
    moved = graph.one("GatherElements", [strange, order], strange.dtype, shape, axis=axis)
    again = _top(graph, moved, axis, descending=descending)
    return graph.one("GatherElements", [order, again], INT64, shape, axis=axis)


def _top(graph: Graph, key: Tensor, axis: int, *, descending: bool) -> Tensor:
    """All positions, in order of their elements. Of equal ones the first is first."""
    key = graph.cast(key, _ordered(key.dtype))
    outputs = [(key.dtype, key.shape), (INT64, key.shape)]
    count = graph.integers([key.shape[axis]])
    return graph.add("TopK", [key, count], outputs, axis=axis, largest=int(descending))[1]


def _ordered(dtype: DType) -> DType:
    """A dtype that `TopK` takes and that has the same order."""
    if dtype.kind in "iu" and dtype.itemsize < 4:
        return np.dtype(np.int32)
    return INT64 if dtype.name == "uint32" else dtype


def _by_pairs(graph: Graph, given: Sequence[Tensor], axis: int, apply: Apply) -> Tensor:
    shape = given[0].shape
    size = shape[axis]
    if given[0].size * size > _MOST_PAIRS:
        raise ConversionError(
            f"it sorts {size:,} elements by several keys, or in an order of its own, which ONNX "
            f"does not, and comparing each two is for at most {_MOST_PAIRS:,} pairs"
        )
    # The element whose place is asked is along one axis, and the other one along the next.
    asked = (*shape[: axis + 1], 1, *shape[axis + 1 :])
    other = (*shape[:axis], 1, *shape[axis:])
    pairs = (*shape[: axis + 1], size, *shape[axis + 1 :])
    own = [reshape(graph, one, asked) for one in given]
    others = [reshape(graph, one, other) for one in given]
    before = apply([one for pair in zip(others, own, strict=True) for one in pair])[0]
    behind = apply([one for pair in zip(own, others, strict=True) for one in pair])[0]
    line = np.arange(size)
    earlier = (line[None, :] < line[:, None]).reshape(
        (1,) * axis + (size, size) + (1,) * (len(shape) - axis - 1)
    )
    equal = graph.elementwise("Not", behind)
    first = graph.elementwise("And", equal, graph.constant(earlier))
    found = full(graph, graph.elementwise("Or", before, first), pairs)
    counted = graph.cast(found, np.dtype(np.int32))
    inputs = [counted, graph.integers([axis + 1])]
    place = graph.compute("ReduceSum", inputs, counted.dtype, shape, keepdims=0)
    return _top(graph, place, axis, descending=False)

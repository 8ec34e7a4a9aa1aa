"""A graph of ONNX as it is written: tensors, and the nodes that make them.

An operation of StableHLO whose arrays repeat along an axis, as after a broadcast, is written on the
arrays as they were before, for operators of ONNX broadcast as NumPy does. So a tensor may have a
size of 1, or no axes at all, where the value that it stands for has others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

DType = np.dtype[Any]
Shape = tuple[int, ...]

BOOL = np.dtype(np.bool_)
INT64 = np.dtype(np.int64)

# The oldest that has bitwise operators and reductions by axes that are inputs, and the first of
# those operators that it lacks.
OPSET = 18
_NEWER_OPERATORS = {"BitCast": 26}

_SMALL = ("int8", "int16", "uint8", "uint16")
_UNSIGNED = ("uint8", "uint16", "uint32", "uint64")

# The dtypes for which onnxruntime lacks an operator on processors. It casts float16 by itself. None
# of those that compute have bfloat16.
_LACKING: dict[str, frozenset[str]] = {
    **dict.fromkeys(("Max", "Min"), frozenset({"int16", "uint16"})),
    "Where": frozenset({"bool", "int16", "uint16", "uint64"}),
    "Neg": frozenset(_UNSIGNED),
    **dict.fromkeys(("Less", "LessOrEqual", "Greater", "GreaterOrEqual"), frozenset({"bool"})),
    **dict.fromkeys(("ReduceSum", "ReduceProd", "Pow"), frozenset({*_SMALL, *_UNSIGNED})),
    **dict.fromkeys(("ReduceMax", "ReduceMin"), frozenset({"bool", "int16", *_UNSIGNED[1:]})),
    "MatMul": frozenset(_SMALL),
    "TopK": frozenset({"bool", *_UNSIGNED[1:]}),
    "ScatterND": frozenset({"float16", "bool"}),
}

# What is computed with instead. Whole numbers keep the same lowest bits.
_WIDER = {
    "bool": "uint8",
    **dict.fromkeys(_SMALL, "int32"),
    **dict.fromkeys(("uint32", "uint64"), "int64"),
    **dict.fromkeys(("float16", "bfloat16"), "float32"),
}


@dataclass(frozen=True)
class Tensor:
    """What a node makes, or a graph takes.

    Attributes:
      name: unlike that of any other in the file.
      dtype: its dtype.
      shape: its shape.
    """

    name: str
    dtype: DType
    shape: Shape

    @property
    def size(self) -> int:
        """How many elements it has."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass
class _File:
    """What the graphs of one file share."""

    names: set[str]
    read: set[str] = field(default_factory=set)
    count: int = 0
    opset: int = OPSET
    constants: dict[tuple[str, Shape, bytes], Tensor] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)


class Graph:
    """The main graph of a file, or one that stands in a node of another."""

    def __init__(self, names: Sequence[str] = (), *, outer: "Graph | None" = None) -> None:
        self._file: _File = _File(set(names)) if outer is None else outer._file  # noqa: SLF001  # our own
        self.nodes: list[NodeProto] = []

    def inner(self) -> "Graph":
        """One to stand in a node of this. It sees all that is here so far."""
        return Graph(outer=self)

    @property
    def opset(self) -> int:
        """The oldest version of the operators that has all that are used."""
        return self._file.opset

    @property
    def initializers(self) -> list[TensorProto]:
        """The constants that nodes of this graph and those inside read: the main graph has them."""
        file = self._file
        return [
            numpy_helper.from_array(value, name)
            for name, value in file.values.items()
            if name in file.read
        ]

    def fresh(self, word: str) -> str:
        """A name that nothing has yet."""
        file = self._file
        while True:
            file.count += 1
            name = f"{word}_{file.count}"
            if name not in file.names:
                file.names.add(name)
                return name

    def constant(self, value: np.ndarray, name: str | None = None) -> Tensor:
        """A constant. Those without a name are the same if they are equal."""
        array = np.ascontiguousarray(value).reshape(value.shape)
        if name is None:
            key = (array.dtype.name, array.shape, array.tobytes())
            if key not in self._file.constants:
                self._file.constants[key] = self.constant(array, self.fresh("constant"))
            return self._file.constants[key]
        self._file.values[name] = array
        return Tensor(name, array.dtype, array.shape)

    def integers(self, values: Sequence[int]) -> Tensor:
        """A list of sizes, positions or axes."""
        return self.constant(np.asarray(values, np.int64))

    def like(self, tensor: Tensor, value: float) -> Tensor:
        """A number of the dtype of a tensor."""
        return self.constant(np.asarray(value).astype(tensor.dtype))

    def value(self, tensor: Tensor) -> np.ndarray | None:
        """What a constant is."""
        return self._file.values.get(tensor.name)

    def add(
        self,
        operator: str,
        inputs: Sequence[Tensor | None],
        outputs: Sequence[tuple[DType, Shape]],
        **attributes: Any,
    ) -> list[Tensor]:
        """A node, with what it makes."""
        made = [Tensor(self.fresh(operator), dtype, shape) for dtype, shape in outputs]
        names = ["" if one is None else one.name for one in inputs]
        self._file.read.update(names)
        self.nodes.append(
            helper.make_node(
                operator,
                names,
                [one.name for one in made],
                name=self.fresh("node"),
                **attributes,
            )
        )
        self._file.opset = max(self._file.opset, _NEWER_OPERATORS.get(operator, OPSET))
        return made

    def one(
        self,
        operator: str,
        inputs: Sequence[Tensor | None],
        dtype: DType,
        shape: Shape,
        **attributes: Any,
    ) -> Tensor:
        """A node that makes one tensor."""
        return self.add(operator, inputs, [(dtype, shape)], **attributes)[0]

    def compute(
        self,
        operator: str,
        inputs: Sequence[Tensor],
        dtype: DType,
        shape: Shape,
        **attributes: Any,
    ) -> Tensor:
        """A node that computes with numbers, in a wider dtype where no runtime has theirs.

        The dtype in question is that of the last input which is no list of positions.
        """
        numbers = inputs[0].dtype if operator in _POSITIONED else inputs[-1].dtype
        lacking = _LACKING.get(operator, frozenset())
        if numbers.name != "bfloat16" and numbers.name not in lacking:
            return self.one(operator, inputs, dtype, shape, **attributes)
        wider = np.dtype(_WIDER[numbers.name])
        tests = 1 if operator == "Where" else 0
        cast = [
            self.cast(one, wider) if place >= tests and one.dtype == numbers else one
            for place, one in enumerate(inputs)
        ]
        made = self.one(operator, cast, wider if dtype == numbers else dtype, shape, **attributes)
        return self.cast(made, dtype)

    def elementwise(
        self, operator: str, *inputs: Tensor, dtype: DType | None = None, **attributes: Any
    ) -> Tensor:
        """A node that computes element by element, on arrays that broadcast."""
        shape = np.broadcast_shapes(*(one.shape for one in inputs))
        return self.compute(operator, inputs, dtype or inputs[-1].dtype, shape, **attributes)

    def cast(self, tensor: Tensor, dtype: DType) -> Tensor:
        """The same numbers in another dtype."""
        if tensor.dtype == dtype:
            return tensor
        value = self.value(tensor)
        if value is not None and value.size <= 1:
            return self.constant(value.astype(dtype))
        return self.one("Cast", [tensor], dtype, tensor.shape, to=element_type(dtype))

    def wide(self, tensor: Tensor) -> Tensor:
        """A float in the dtype in which it is computed with."""
        narrow = tensor.dtype.name in ("bfloat16", "float16")
        return self.cast(tensor, np.dtype(np.float32)) if narrow else tensor

    def proto(
        self, name: str, inputs: Sequence[Tensor], outputs: Sequence[tuple[str, Tensor]]
    ) -> GraphProto:
        """The graph as it is written, with its outputs by name. Constants are in the main graph."""
        self._file.read.update(tensor.name for _, tensor in outputs)
        for given, tensor in outputs:
            self.nodes.append(helper.make_node("Identity", [tensor.name], [given], given))
        made = [Tensor(given, one.dtype, one.shape) for given, one in outputs]
        return helper.make_graph(
            self.nodes, name, [_info(one) for one in inputs], [_info(one) for one in made]
        )


# Operators whose inputs after the first are positions.
_POSITIONED = frozenset({"ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin", "TopK", "ScatterND"})


def element_type(dtype: DType) -> int:
    """The number that ONNX has for a dtype."""
    if dtype == np.dtype(ml_dtypes.bfloat16):
        return int(TensorProto.BFLOAT16)
    return int(helper.np_dtype_to_tensor_dtype(dtype))


def _info(tensor: Tensor) -> ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, element_type(tensor.dtype), tensor.shape)

"""A program as plain data in which each value is known: who makes it, and who takes it.

`jax_dataflow.py` makes these from MLIR. They hold nothing of JAX, so that a program can be written
in another language anywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Value:
    """An array that a program computes or takes. Each is itself alone.

    Attributes:
      dtype: its dtype.
      shape: its shape.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Instruction:
    """One operation of StableHLO, on values.

    Attributes:
      name: without its dialect, such as `add`, but for those of others, such as `func.call`.
      operands: what it takes.
      results: what it gives.
      attributes: by name, as numbers, words, tuples of these, arrays, and dicts of axes.
      blocks: what stands in it.
    """

    name: str
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    attributes: Mapping[str, Any]
    blocks: tuple["Block", ...]


@dataclass(frozen=True, eq=False)
class Block:
    """Instructions in order. They also see the values of the blocks around them.

    Attributes:
      arguments: what it takes.
      instructions: in order, without the last, which returns.
      results: what it returns.
    """

    arguments: tuple[Value, ...]
    instructions: tuple[Instruction, ...] = field(repr=False)
    results: tuple[Value, ...]

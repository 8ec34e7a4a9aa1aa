"""The operations of a program as plain data: what is left of MLIR once a program has been read.

`jax_programs.py` makes these values from bytecode. They hold nothing of JAX, so that texts, pages
and checks can be made of them anywhere.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

FUNCTION = "func.func"
MAIN = "main"

# The native call with which every program checks its own arguments. It is no code of anybody.
OWN_CALLS = ("shape_assertion",)

# What leads from one function to another. A composite names the function that computes the same.
_CALLS = frozenset({"func.call", "stablehlo.composite"})

# Operations that hold others together and compute nothing.
_FRAMES = frozenset({FUNCTION, "func.return", "stablehlo.return", "sdy.return"})

# A small file can say that something is done more often than anybody can wait for, or that Python
# prints. What is larger than this is as good as endless.
MOST = 10**24


@dataclass(frozen=True)
class Array:
    """The type of a value in a program.

    Attributes:
      dtype: the element type as MLIR writes it, such as `f32` or `complex<f32>`, or the whole type
        if it is that of no array, such as `token`.
      shape: the size of each axis, `None` where the program does not say it.
    """

    dtype: str
    shape: tuple[int | None, ...] = ()

    def __str__(self) -> str:
        axes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype}[{axes}]"

    @cached_property
    def elements(self) -> int | None:
        """How many elements it has, or `None` if that depends on the call."""
        known = [size for size in self.shape if size is not None]
        return math.prod(known) if len(known) == len(self.shape) else None

    @cached_property
    def item_bytes(self) -> int:
        """The size of an element in memory; 0 for what is no array. Small ones take a byte each."""
        found = re.fullmatch(r"(complex<)?[a-z]+(\d{1,3})[A-Za-z0-9_]*>?", self.dtype)
        if found is None:
            return 8 if self.dtype == "index" else 0
        return -(-int(found[2]) // 8) * (2 if found[1] else 1)


@dataclass(frozen=True)
class Operation:
    """One operation of a program.

    Attributes:
      name: with its dialect, such as `stablehlo.add`.
      operands: the types of what it takes; for a function, of its arguments.
      results: the types of what it gives.
      parent: the position in the list of the operation that it stands in, or -1.
      region: in which of the regions of its parent it stands.
      target: what it is called or calls by name: the name of a function, the function that it
        calls, the native function of a custom call. Anybody may have chosen it.
      constant_bytes: the size of the values and texts that are written into it.
      numbers: what its cost depends on beside its types, by name.
    """

    name: str
    operands: tuple[Array, ...] = ()
    results: tuple[Array, ...] = ()
    parent: int = -1
    region: int = 0
    target: str = ""
    constant_bytes: int = 0
    numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Operations:
    """All operations of a program.

    Attributes:
      all: in the order of the text of the program. What stands in an operation follows it.
    """

    all: tuple[Operation, ...]

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.all)

    @cached_property
    def functions(self) -> dict[str, range]:
        """Where each function and what stands in it is, by its name."""
        starts = [i for i, one in enumerate(self.all) if one.parent < 0] + [len(self.all)]
        return {
            self.all[start].target: range(start, end)
            for start, end in pairwise(starts)
            if self.all[start].name == FUNCTION
        }

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The functions, each after those that it calls.

        Raises:
          ValueError: if they call each other in a circle.
        """
        sorter: TopologicalSorter[str] = TopologicalSorter()
        for name, where in self.functions.items():
            sorter.add(name, *filter(None, (self.called(self.all[i]) for i in where)))
        try:
            return tuple(sorter.static_order())
        except CycleError as error:
            raise ValueError("its functions call each other in a circle.") from error

    def called(self, operation: Operation) -> str | None:
        """The function of the program that an operation calls, if it is a call."""
        is_call = operation.name in _CALLS and operation.target in self.functions
        return operation.target if is_call else None

    @cached_property
    def histogram(self) -> dict[str, int]:
        """How often each operation stands in the program, the most frequent first.

        Those of a function count wherever it is called, and those of a loop once.
        """
        times: Counter[str] = Counter({MAIN: 1})
        found: Counter[str] = Counter()
        for name in reversed(self.order):
            count = min(times[name], MOST)
            for i in self.functions[name] if count else ():
                callee = self.called(self.all[i])
                if callee is not None:
                    times[callee] += count
                if self.all[i].name not in _FRAMES and self.all[i].name != "func.call":
                    found[self.all[i].name] += count
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    @property
    def count(self) -> int:
        """How many operations there are where every function is written out where it is called."""
        return sum(self.histogram.values())

    @cached_property
    def custom_calls(self) -> dict[str, int]:
        """How often each native function is called by name, in whatever part of the program."""
        calls = (one.target for one in self.all if one.name == "stablehlo.custom_call")
        return dict(sorted(Counter(calls).items()))

    @property
    def constant_bytes(self) -> int:
        """The size of all values and texts that are written into the program."""
        return sum(one.constant_bytes for one in self.all)

    def function_of(self, position: int) -> str:
        """The name of the function in which the operation at a position stands."""
        where = (name for name, span in self.functions.items() if position in span)
        return next(where, "")

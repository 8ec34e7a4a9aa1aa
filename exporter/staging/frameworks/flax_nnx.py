"""Flax NNX: modules are walked by attribute, variables swapped in place.

NNX refuses to change a module or variable in another trace than the one that made it. While a
function is traced the objects are therefore told that they belong to the running trace, and
afterwards that they belong to the old one. The marks are private attributes of Flax (`_trace_state`
of variables, and of the state of modules), the same in every release since 0.11; `nnx.jit` makes
new objects instead, which would leave functions that close over a module without its state.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from flax import nnx
from flax.nnx import tracers

from exporter.staging.frameworks import APART, BoxParts, ForwardPass
from exporter.staging.slots import Slot

# Attributes in which NNX keeps its own books.
_PRIVATE = ("_pytree__", "_object__")


@dataclass(frozen=True, eq=False)
class NnxSlot(Slot):
    """The raw value of an `nnx.Variable`, past the hooks that run on reading and writing."""

    variable: nnx.Variable[object]

    def read(self) -> object:
        return self.variable.get_raw_value()

    def write(self, value: object) -> None:
        object.__setattr__(self.variable, "_raw_value", value)

    @property
    def key(self) -> tuple[object, ...]:
        return ("nnx", id(self.variable))

    @contextmanager
    def opened(self) -> Iterator[None]:
        with _in_this_trace(self.variable):
            yield


class FlaxNnx:
    """See `exporter.staging.frameworks.Framework`."""

    def is_node(self, value: object) -> bool:
        return isinstance(value, nnx.Pytree)

    def box(self, value: object) -> BoxParts | None:
        if not isinstance(value, nnx.Variable):
            return None
        trainable = isinstance(value, nnx.Param)
        return BoxParts(NnxSlot(value), trainable, type(value).__name__)

    def attributes(self, value: object) -> Iterable[tuple[str, object]]:
        if isinstance(value, nnx.List):
            return [(str(index), item) for index, item in enumerate(value)]
        attributes = vars(value).items()
        kept = [(name, item) for name, item in attributes if not name.startswith(_PRIVATE)]
        return sorted(((name, _by_text(item)) for name, item in kept), key=lambda pair: pair[0])

    def kind(self, value: object) -> Literal["object", "list", "dict"]:
        if isinstance(value, nnx.List):
            return "list"
        return "dict" if isinstance(value, nnx.Dict) else "object"

    def forward_pass(self, root: object, /) -> ForwardPass | None:
        """The module that `nnx.split` took apart. A whole one has its own `__call__`, like any."""
        if not isinstance(root, tuple) or not root or not isinstance(root[0], nnx.GraphDef):
            return None
        model = nnx.merge(*root)
        return ForwardPass(model, type(model).__call__, problem=APART) if callable(model) else None

    @contextmanager
    def opened(self, value: object) -> Iterator[None]:
        with _in_this_trace(vars(value)["_pytree__state"]):
            yield


def _by_text(item: object) -> object:
    """The item, or variables that stand in a dict under paths as `nnx.SpectralNorm` has them.

    The keys of a dict that is saved are text. A dict made for the walk will do: it is the variables
    whose values are exchanged.
    """
    if not isinstance(item, dict) or not any(isinstance(key, tuple) for key in item):
        return item
    if not all(isinstance(value, nnx.Variable) for value in item.values()):
        return item
    return {"/".join(map(str, k)) if isinstance(k, tuple) else k: v for k, v in item.items()}


@contextmanager
def _in_this_trace(owner: object) -> Iterator[None]:
    before = object.__getattribute__(owner, "_trace_state")
    object.__setattr__(owner, "_trace_state", tracers.TraceState())
    try:
        yield
    finally:
        object.__setattr__(owner, "_trace_state", before)


FRAMEWORK = FlaxNnx()

"""How the objects of other libraries are walked and their state swapped, one file for each."""

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, Protocol

from exporter.staging.slots import Slot

# The packages whose objects need a file of this folder, and that file. A file is imported only
# when its package already is, so that nothing is paid for frameworks that are not in use.
_FILES = {"flax": "flax_nnx"}


@dataclass(frozen=True)
class BoxParts:
    """A framework's own mutable array.

    Attributes:
      slot: where its value lives.
      trainable: whether an optimiser should change it.
      collection: the framework's name for this kind of state.
    """

    slot: Slot
    trainable: bool
    collection: str


class Framework(Protocol):
    """What a file of this folder offers."""

    def is_node(self, value: object) -> bool:
        """Whether the value is an object of the framework that holds state."""

    def box(self, value: object) -> BoxParts | None:
        """The parts of a mutable array, or `None` if the value is none."""

    def attributes(self, value: object) -> Iterable[tuple[str, object]]:
        """The attributes of a node that may hold state, in the framework's order."""

    def kind(self, value: object) -> Literal["object", "list", "dict"]:
        """What a node comes back as. The attributes of a list are its items in order."""

    def opened(self, value: object) -> AbstractContextManager[None]:
        """Within the block the node may be changed, even under a trace."""


def frameworks() -> list[Framework]:
    """The frameworks that are in use in this process."""
    return [
        import_module(f"{__name__}.{file}").FRAMEWORK
        for package, file in _FILES.items()
        if package in sys.modules
    ]

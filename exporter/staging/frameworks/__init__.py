"""How the objects of other libraries are walked and their state swapped, one file for each."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:  # the files here know the slots, and the slots ask for frameworks
    from exporter.staging.slots import Slot

# The files of this folder and the package that each is for. A file is imported only when its
# package already is, so that nothing is paid for frameworks that are not in use. Python functions
# come last: a framework knows its own better. Keras comes first: its layers may be modules of NNX.
_FILES = {
    "keras": "keras",
    "flax_nnx": "flax.nnx",
    "flax_linen": "flax.linen",
    "haiku": "haiku",
    "equinox": "equinox",
    "plain_functions": "builtins",
}


@dataclass(frozen=True)
class BoxParts:
    """A framework's own mutable array.

    Attributes:
      slot: where its value lives.
      trainable: whether an optimiser should change it.
      collection: the framework's name for this kind of state.
    """

    slot: "Slot"
    trainable: bool
    collection: str


@dataclass(frozen=True)
class ForwardPass:
    """What is saved for a model that has no decorated methods.

    Attributes:
      holder: the object that is saved: the model itself, or one made to hold its parts.
      function: computes the forward pass. Its first parameter is the holder, the others are named
        as callers know them.
      input_signature: the inputs, if the model itself knows them, as `exporter.function` takes
        them.
      output_names: what the model itself calls the arrays of a list or tuple that it returns.
      problem: why the model does not know its inputs, and what to do.
    """

    holder: object
    function: Callable[..., object]
    input_signature: Sequence[object] | Mapping[str, object] | None = None
    output_names: tuple[str, ...] = ()
    problem: str | None = None


# Why the forward pass of a pair is not saved without being asked for.
APART = (
    "a model apart from its parameters is saved as its forward pass. Pass input_signature= with a "
    "spec for each of its inputs, in order or as a dict by name."
)


class Models(Protocol):
    """What every file of this folder offers: which things it can call."""

    def forward_pass(self, root: object, /) -> ForwardPass | None:
        """The forward pass of what is to be saved, or `None` if it is no model of the framework.

        Raises:
          TrackingError: if it is a model of the framework from which something is missing.
        """


@runtime_checkable
class Framework(Models, Protocol):
    """What the file of a framework with objects of its own offers as well: how to walk them."""

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


def frameworks() -> tuple[Framework, ...]:
    """The frameworks in use in this process whose objects hold state."""
    return _walked(_in_use())


def forward_pass_of(root: object) -> ForwardPass | None:
    """The forward pass of a model, as its framework or its own `__call__` computes it."""
    found = (models.forward_pass(root) for models in _made(_in_use()))
    own = ForwardPass(root, type(root).__call__) if callable(root) else None
    return next((one for one in found if one is not None), own)


def _in_use() -> tuple[str, ...]:
    """The files of the frameworks that this process has imported."""
    return tuple(file for file, package in _FILES.items() if package in sys.modules)


@cache
def _made(files: tuple[str, ...]) -> tuple[Models, ...]:
    return tuple(import_module(f"{__name__}.{file}").FRAMEWORK for file in files)


@cache
def _walked(files: tuple[str, ...]) -> tuple[Framework, ...]:
    """Those with objects of their own. Every value of a graph asks, and the answer takes long."""
    return tuple(models for models in _made(files) if isinstance(models, Framework))

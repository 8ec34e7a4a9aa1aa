"""An object and all it reaches, as a graph of named variables and functions.

The walk goes depth first through attributes, lists, dicts and tuples, and remembers what it has
seen, so that a thing with two names is one node and a circle ends. Plain objects are walked
through their attributes; those of a framework as its file under `frameworks/` says. Whatever
leads to no variable and no function is left out, except inside a list, tuple or dict, whose
lengths and keys stay as they are.
"""

import sys
import types
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from exporter.errors import TrackingError
from exporter.staging.frameworks import frameworks
from exporter.staging.graph import (
    Node,
    Path,
    TrackedFunction,
    TrackedGraph,
    TrackedVariable,
    dotted,
)
from exporter.staging.slots import (
    AttributeSlot,
    ItemSlot,
    Place,
    Slot,
    VariableSlot,
    is_array,
)
from exporter.variable import Variable
from signatures.tree import Scalar

# The attribute by which a loaded function or a trace offers itself to be saved again.
STORED = "__exporter_stored__"

# The attribute by which a loaded model offers its signatures, and the note for those it misses.
CARRIED = "__exporter_signatures__"

# Objects of these packages are values to us, not holders of a user's state.
_CLOSED_PACKAGES = frozenset(sys.stdlib_module_names | {"numpy", "jax", "jaxlib", "ml_dtypes"})


def track(root: object) -> TrackedGraph:
    """The graph of everything that `root` reaches.

    Raises:
      TrackingError: if the root is not an object with attributes, or an array is held in a way
        that cannot be saved.
    """
    return _Walk().graph(root)


def as_function(value: object) -> object:
    """The value, or the bound function that a class method of it is."""
    if isinstance(value, types.MethodType) and is_function(value.__func__):
        return value.__func__.__get__(value.__self__, type(value.__self__))
    return value


def is_function(value: object) -> bool:
    """Whether the value is a decorated, concrete or loaded function."""
    return hasattr(type(value), STORED)


class _Walk:
    """The state of one walk. Nodes are reserved before their children, so that circles close."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.seen: dict[object, int] = {}
        self.variables: list[TrackedVariable] = []
        self.functions: list[TrackedFunction] = []
        self.holders: list[tuple[Path, object]] = []
        self.frameworks = frameworks()
        self.classes: dict[type, list[str]] = {}

    def graph(self, root: object) -> TrackedGraph:
        closed = isinstance(root, list | dict | tuple) or is_function(root) or self.box(root)
        if closed or not self.is_holder(root):
            raise TrackingError(
                f"{_short(root)} cannot be saved: an object with attributes was expected, such as "
                "an instance of your class or a Flax module. To save functions or arrays, assign "
                "them to the attributes of one."
            )
        self.visit(root, (), None)
        return TrackedGraph(
            tuple(self.variables),
            tuple(self.functions),
            tuple(self.holders),
            tuple(self.nodes),
            tuple(self.frameworks),
        )

    def is_holder(self, value: object) -> bool:
        if isinstance(value, list | dict | tuple):
            return True
        if isinstance(value, type | types.ModuleType | types.FunctionType | types.MethodType):
            return False
        if any(framework.is_node(value) for framework in self.frameworks):
            return True
        package = type(value).__module__.partition(".")[0]
        if package in _CLOSED_PACKAGES and not isinstance(value, types.SimpleNamespace):
            return False
        return hasattr(value, "__dict__") or bool(_slot_names(value))

    def visit(self, value: object, path: Path, slot: Slot | None) -> int:
        """The position of the node for a value found at `path`, in `slot` if it can be swapped."""
        if value is None or isinstance(value, bool | int | float | str):
            return self.add(Node("value", value=value, token=type(value).__name__))
        value = as_function(value)
        box = self.box(value)
        if box is not None:
            return self.visit_box(value, box, path)
        if is_function(value):
            return self.visit_function(value, path)
        if is_array(value):
            return self.visit_array(Place(slot, 0) if slot else None, path)
        if not self.is_holder(value):
            return self.add(_value_node(value))
        if id(value) in self.seen:
            return self.seen[id(value)]
        if isinstance(value, tuple):
            return self.visit_tuple(value, path, slot, [0])
        index = self.seen[id(value)] = self.add(Node("value"))
        self.holders.append((path, value))
        self.nodes[index] = self.contents(value, path)
        return index

    def contents(self, value: object, path: Path) -> Node:
        if isinstance(value, list):
            items = [
                self.visit(item, (*path, i), ItemSlot(value, i)) for i, item in enumerate(value)
            ]
            return Node("list", children=tuple(items))
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str | int | bool | float | None):
                    raise TrackingError(
                        f"{dotted(path)} has the key {_short(key)}; the keys of a dict that is "
                        "saved are text or numbers."
                    )
            children = [
                self.visit(item, (*path, key), ItemSlot(value, key)) for key, item in value.items()
            ]
            return Node("dict", keys=tuple(value), children=tuple(children))
        kind = next((f.kind(value) for f in self.frameworks if f.is_node(value)), "object")
        names, children = [], []
        for name, item in self.attributes(value):
            names.append(name)
            key = int(name) if kind == "list" else name
            children.append(self.visit(item, (*path, key), AttributeSlot(value, name)))
        if kind == "list":
            return Node("list", children=tuple(children))
        if kind == "dict":
            return Node("dict", keys=tuple(names), children=tuple(children))
        class_name = getattr(value, "__dict__", {}).get("__class_name__", type(value).__name__)
        carried = getattr(value, CARRIED, None)
        signatures = tuple(carried[0].items()) if carried and path else None
        return Node("object", class_name, tuple(names), tuple(children), signatures=signatures)

    def attributes(self, value: object) -> Iterator[tuple[str, object]]:
        """What the object holds, then the decorated functions of its class."""
        framework = next((f for f in self.frameworks if f.is_node(value)), None)
        own = {
            name: item
            for name, item in (
                framework.attributes(value) if framework else _attributes(value).items()
            )
            if name == "__call__" or not name.startswith("__")  # the books of loaded models
        }
        yield from own.items()
        for name in self.decorated(type(value)):
            if name not in own:
                yield name, getattr(value, name)

    def decorated(self, cls: type) -> list[str]:
        """The names of the decorated functions of a class, and of variables that it holds."""
        if cls not in self.classes:
            attributes = _class_attributes(cls).items()
            self.classes[cls] = [
                name
                for name, one in attributes
                if isinstance(one, Variable) or is_function(_unwrapped(one))
            ]
        return self.classes[cls]

    def visit_tuple(
        self, value: tuple[object, ...], path: Path, slot: Slot | None, position: list[int]
    ) -> int:
        """A tuple cannot be changed, so its arrays live in the slot that holds the tuple."""
        fields = getattr(value, "_fields", ())
        children = []
        for key, item in zip(fields or range(len(value)), value, strict=True):
            here = (*path, key)
            if is_array(item):
                children.append(self.visit_array(Place(slot, position[0]) if slot else None, here))
                position[0] += 1
            elif isinstance(item, tuple):
                children.append(self.visit_tuple(item, here, slot, position))
            else:
                children.append(self.visit(item, here, None))
        kind, name = ("namedtuple", type(value).__name__) if fields else ("tuple", "")
        return self.add(Node(kind, name, fields, tuple(children)))

    def box(self, value: object) -> tuple[Slot, bool, str] | None:
        if isinstance(value, Variable):
            return VariableSlot(value), value.trainable, value.collection
        for framework in self.frameworks:
            parts = framework.box(value)
            if parts:
                return parts.slot, parts.trainable, parts.collection
        return None

    def visit_box(self, value: object, box: tuple[Slot, bool, str], path: Path) -> int:
        slot, trainable, collection = box
        if slot.key in self.seen:
            return self.seen[slot.key]
        content = slot.read()
        if is_array(content):
            name = value.name if isinstance(value, Variable) else None
            variable = TrackedVariable(path, Place(slot, 0), trainable, collection, name)
            index = self.add_variable(variable)
        elif isinstance(content, tuple):
            index = self.visit_tuple(content, path, slot, [0])
        else:
            index = self.add(_value_node(content))
        self.seen[slot.key] = index
        return index

    def visit_array(self, place: Place | None, path: Path) -> int:
        assert place is not None, "every array is found in a slot"
        value = place.read()
        trainable = jax.numpy.issubdtype(value.dtype, np.inexact)  # type: ignore[attr-defined]
        return self.add_variable(
            TrackedVariable(path, place, bool(trainable), "array", shareable=True)
        )

    def add_variable(self, variable: TrackedVariable) -> int:
        self.variables.append(variable)
        return self.add(Node("variable", index=len(self.variables) - 1))

    def visit_function(self, value: object, path: Path) -> int:
        key = ("function", value)
        if key not in self.seen:
            self.functions.append(TrackedFunction(path, value))
            self.seen[key] = self.add(Node("function", index=len(self.functions) - 1))
        return self.seen[key]

    def add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1


def _value_node(value: object) -> Node:
    if isinstance(value, Scalar):
        return Node("value", value=value, token=type(value).__name__)
    try:
        hash(value)
    except TypeError:  # a set, say: it may change and stay the same object
        return Node("value", token=(id(value), repr(value)))
    return Node("value", token=(type(value), value))


def _attributes(value: object) -> dict[str, object]:
    found = {name: getattr(value, name) for name in _slot_names(value) if hasattr(value, name)}
    return found | dict(getattr(value, "__dict__", {}))


def _slot_names(value: object) -> list[str]:
    names: list[str] = []
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _class_attributes(cls: type) -> Mapping[str, object]:
    """The attributes of a class, the inherited ones first, each as its last override has it."""
    found: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        found.update(vars(base))
    return found


def _unwrapped(attribute: object) -> object:
    return attribute.__func__ if isinstance(attribute, staticmethod | classmethod) else attribute


def _short(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"

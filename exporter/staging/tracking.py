"""An object and all it reaches, as a graph of named variables and functions.

The walk goes depth first through attributes, lists, dicts and tuples, and remembers what it has
seen, so that a thing with two names is one node and a circle ends. Plain objects are walked
through their attributes; those of a framework as its file under `frameworks/` says; and what is
registered with JAX as `registered.py` says. Whatever leads to no variable, function or asset is
left out, except inside a list, tuple or dict, whose lengths and keys stay as they are.

A class of a library that is not known here needs nothing, if its arrays lie in attributes or it is
registered with JAX. To be walked otherwise, it may have one method, `__exporter_attributes__`,
that gives the pairs of names and values to be walked: fewer than there are, to leave out a cache,
or others. An array, tuple or registered value that it gives must be what the attribute of that
name holds, so that another can be put there; a list, dict or object may have any name.
"""

import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import TypeGuard

import jax
import numpy as np

from exporter.asset import Asset
from exporter.errors import TrackingError
from exporter.pytrees import Branch, is_registered
from exporter.staging.frameworks import frameworks
from exporter.staging.graph import (
    Node,
    Path,
    TrackedAsset,
    TrackedFunction,
    TrackedGraph,
    TrackedVariable,
    dotted,
)
from exporter.staging.registered import (
    STORED,
    attributes_of,
    data_of,
    is_array,
    is_record,
    parts_of,
    slot_names,
    split,
)
from exporter.staging.slots import (
    AttributeSlot,
    ItemSlot,
    NumberSlot,
    Place,
    Slot,
    VariableSlot,
)
from exporter.variable import Variable
from signatures.tree import Scalar

# The method by which an object of any library names what it holds. See the top of this file.
ATTRIBUTES = "__exporter_attributes__"

# The attribute by which a loaded model offers its signatures, and the note for those it misses.
CARRIED = "__exporter_signatures__"

# Objects of these packages are values to us, not holders of a user's state.
_CLOSED_PACKAGES = frozenset(sys.stdlib_module_names | {"numpy", "jax", "jaxlib", "ml_dtypes"})


# More decorators than this on one function are a circle.
_MAX_WRAPPERS = 100


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
        self.assets: list[TrackedAsset] = []
        self.holders: list[tuple[Path, object]] = []
        self.frameworks = frameworks()
        self.classes: dict[type, list[str]] = {}

    def graph(self, root: object) -> TrackedGraph:
        if isinstance(root, type):
            raise TrackingError(
                f"{root.__name__} is a class, and what it makes is saved: give an object, as in "
                f"{root.__name__}(...)."
            )
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
            tuple(self.assets),
        )

    def is_holder(self, value: object) -> bool:
        if isinstance(value, list | dict | tuple):
            return True
        if isinstance(value, type | types.ModuleType | types.FunctionType | types.MethodType):
            return False
        if is_registered(value) or hasattr(type(value), ATTRIBUTES):
            return True
        if any(framework.is_node(value) for framework in self.frameworks):
            return True
        package = type(value).__module__.partition(".")[0]
        if package in _CLOSED_PACKAGES and not isinstance(value, types.SimpleNamespace):
            return False
        return hasattr(value, "__dict__") or bool(slot_names(value))

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
        if isinstance(value, Asset):
            return self.visit_asset(value, path)
        if is_array(value):
            return self.visit_array(Place(slot, 0) if slot else None, path)
        if id(value) in self.seen:
            return self.seen[id(value)]
        parts = _taken_apart(value, path) if slot or isinstance(value, tuple) else None
        if parts is not None:
            return self.visit_parts(value, parts, path, slot)
        if not self.is_holder(value):
            return self.add(_value_node(value))
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
            _check_keys(value, path)
            children = [
                self.visit(item, (*path, key), ItemSlot(value, key)) for key, item in value.items()
            ]
            return Node("dict", keys=tuple(value), children=tuple(children))
        kind = next((f.kind(value) for f in self.frameworks if f.is_node(value)), "object")
        names, children = [], []
        has_method = hasattr(type(value), ATTRIBUTES)
        data = None if has_method else data_of(value)
        numbers = data if data and is_record(value) else frozenset()
        for name, item in self.attributes(value):
            names.append(name)
            here = (*path, int(name) if kind == "list" else name)
            if data is not None and name not in data and _has_arrays(item):
                children.append(self.add(_value_node(item)))
            elif name in numbers and _is_number(item):
                children.append(self.visit_number(NumberSlot.of(value, name, item), here))
            else:
                if has_method:
                    _check_held(value, name, item, here)
                children.append(self.visit(item, here, AttributeSlot(value, name)))
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
        named: Iterable[tuple[str, object]]
        if hasattr(type(value), ATTRIBUTES):
            named = getattr(value, ATTRIBUTES)()
        else:
            named = framework.attributes(value) if framework else attributes_of(value).items()
        own = {
            name: item
            for name, item in named
            if name == "__call__" or not name.startswith("__")  # the books of loaded models
        }
        yield from own.items()
        for name in self.decorated(type(value)):
            if name not in own:
                yield name, getattr(value, name)

    def decorated(self, cls: type) -> list[str]:
        """The names of the decorated functions of a class, and of what else it holds for us."""
        if cls not in self.classes:
            attributes = _class_attributes(cls)
            found = {
                name: _unwrapped(one)
                for name, one in attributes.items()
                if isinstance(one, Variable | Asset) or is_function(_unwrapped(one))
            }
            _check_outermost(cls, attributes, found.values())
            self.classes[cls] = list(found)
        return self.classes[cls]

    def visit_parts(
        self,
        value: object,
        parts: Branch,
        path: Path,
        slot: Slot | None,
        position: "Iterator[int] | None" = None,
        *,
        inside: bool = False,
    ) -> int:
        """A value that is made anew to change it: its arrays live in the slot that holds it."""
        position = position or count()
        inside = inside or is_registered(value)
        if isinstance(value, dict):
            _check_keys(value, path)
        children = []
        for key, item in zip(parts.keys, parts.children, strict=True):
            here = (*path, key)
            inner = None if is_array(item) else parts_of(item, inside=inside)
            if is_array(item):
                child = self.visit_array(Place(slot, next(position)) if slot else None, here)
            elif inner is not None:
                child = self.visit_parts(item, inner, here, slot, position, inside=inside)
            else:
                child = self.visit(item, here, None)
            children.append(child)
        return self.add(_node_of_parts(value, parts, tuple(children)))

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
        else:
            parts = parts_of(content)
            index = (
                self.add(_value_node(content))
                if parts is None
                else self.visit_parts(content, parts, path, slot)
            )
        self.seen[slot.key] = index
        return index

    def visit_array(self, place: Place | None, path: Path) -> int:
        assert place is not None, "every array is found in a slot"
        value = place.read()
        trainable = jax.numpy.issubdtype(value.dtype, np.inexact)  # type: ignore[attr-defined]
        return self.add_variable(
            TrackedVariable(path, place, bool(trainable), "array", shareable=True)
        )

    def visit_number(self, slot: NumberSlot, path: Path) -> int:
        """A number that programs take as an array. Equal ones are no aliases of each other."""
        return self.add_variable(TrackedVariable(path, Place(slot, 0), False, "array"))

    def add_variable(self, variable: TrackedVariable) -> int:
        self.variables.append(variable)
        return self.add(Node("variable", index=len(self.variables) - 1))

    def visit_function(self, value: object, path: Path) -> int:
        key = ("function", value)
        if key not in self.seen:
            self.functions.append(TrackedFunction(path, value))
            self.seen[key] = self.add(Node("function", index=len(self.functions) - 1))
        return self.seen[key]

    def visit_asset(self, value: Asset, path: Path) -> int:
        if id(value) not in self.seen:
            self.assets.append(TrackedAsset(path, value))
            node = Node("asset", index=len(self.assets) - 1, token=value)
            self.seen[id(value)] = self.add(node)
        return self.seen[id(value)]

    def add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1


def _taken_apart(value: object, path: Path) -> Branch | None:
    """The parts of a value that is made anew.

    Raises:
      TrackingError: if its own class refuses, as Equinox's does of a state that was replaced.
    """
    try:
        return parts_of(value)
    except Exception as error:
        raise TrackingError(
            f"{dotted(path)} is a {type(value).__name__} that JAX cannot take apart: {error}"
        ) from error


def _has_arrays(value: object) -> bool:
    """Whether the value is an array or made anew with its arrays."""
    return is_array(value) or (parts_of(value) is not None and bool(split(value)[0]))


def _is_number(value: object) -> TypeGuard[complex]:
    return isinstance(value, int | float | complex) and not isinstance(value, bool)


def _check_held(owner: object, name: str, item: object, path: Path) -> None:
    """Refuse arrays that the object does not hold where its own method says."""
    if _has_arrays(item) and getattr(owner, name, None) is not item:
        raise TrackingError(
            f"{dotted(path)} is an array, or a value with arrays, that {ATTRIBUTES} of "
            f"{type(owner).__name__} gives and its attribute {name!r} does not hold, so no other "
            "can be put there. Give the list, dict or object that holds it."
        )


def _value_node(value: object) -> Node:
    if isinstance(value, Scalar):
        return Node("value", value=value, token=type(value).__name__)
    return Node("value", token=_token(value))


def _token(value: object) -> object:
    """What tells a value from others, when it is compared and hashed."""
    if is_array(value):
        return id(value)
    try:
        hash(value)
    except TypeError:  # a set, say: it may change and stay the same object
        return (id(value), repr(value))
    return (type(value), value)


def _node_of_parts(value: object, parts: Branch, children: tuple[int, ...]) -> Node:
    """What a value that is made anew comes back as.

    A tuple, list or dict stays one. A registered object becomes an object, if JAX knows its
    children by the names of attributes; a dict, if it knows them by keys; and otherwise a tuple.
    """
    if isinstance(value, list):
        return Node("list", children=children)
    if isinstance(value, dict):
        return Node("dict", keys=parts.keys, children=children)
    name = type(value).__name__
    if isinstance(value, tuple):
        kind, name = ("namedtuple", name) if parts.has_names and parts.keys else ("tuple", "")
        return Node(kind, name, parts.keys if kind == "namedtuple" else (), children)
    token = _token(parts.static)
    if parts.keys == tuple(range(len(children))) or len(set(parts.keys)) < len(parts.keys):
        return Node("tuple", name, children=children, token=token)
    has_names = parts.has_names and not any(str(key).startswith("__") for key in parts.keys)
    return Node("object" if has_names else "dict", name, parts.keys, children, token=token)


def _check_keys(value: dict[object, object], path: Path) -> None:
    for key in value:
        if not isinstance(key, str | int | bool | float | None):
            raise TrackingError(
                f"{dotted(path)} has the key {_short(key)}; the keys of a dict that is "
                "saved are text or numbers."
            )


def _class_attributes(cls: type) -> Mapping[str, object]:
    """The attributes of a class, the inherited ones first, each as its last override has it."""
    found: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        found.update(vars(base))
    return found


def _check_outermost(cls: type, attributes: Mapping[str, object], found: Iterable[object]) -> None:
    """Refuse functions that another decorator hides, unless they are there without it too."""
    known = {id(one) for one in found}
    for name, attribute in attributes.items():
        inner = outer = _unwrapped(attribute)
        for _ in range(_MAX_WRAPPERS):
            inner = getattr(inner, "__wrapped__", None)
            if inner is None or is_function(inner):
                break
        if inner is not None and is_function(inner) and id(inner) not in known:
            raise TrackingError(
                f"{cls.__name__}.{name} is hidden by another decorator, which makes a "
                f"{type(outer).__name__} of it, so it would not be saved. Write "
                "@exporter.function above the other decorator, as the outermost one."
            )


def _unwrapped(attribute: object) -> object:
    return attribute.__func__ if isinstance(attribute, staticmethod | classmethod) else attribute


def _short(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"

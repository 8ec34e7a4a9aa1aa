"""Keras 3 on JAX: layers are walked by their attributes, their variables swapped in place.

A layer keeps books of what its attributes hold: lists of its variables and layers, a tracker, its
place in a graph of operations. These are left out, as are optimizers and metrics, so that a path
says what the user wrote (`encoder/kernel`) or, in a model that is a graph or a sequence, the name
of the layer (`layers/dense/kernel`).

The value of a variable is read and written in its private attribute `_value`, the same in every
release of Keras 3: the public `value` casts to the dtype of a running layer, and `assign` places
arrays on devices.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import keras

from exporter.errors import StateError, TrackingError
from exporter.staging.frameworks import BoxParts, ForwardPass
from exporter.staging.frameworks.keras_forward import forward_pass, unbuilt
from exporter.staging.slots import AttributeSlot, Slot, is_array

# They have variables, and are no part of a layer that holds them.
_TOOLS = keras.Metric | keras.optimizers.Optimizer

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, eq=False)
class KerasSlot(Slot):
    """The value of a `keras.Variable`, past the casts and checks of reading and assigning."""

    variable: Any

    def read(self) -> object:
        return object.__getattribute__(self.variable, "_value")

    def write(self, value: object) -> None:
        object.__setattr__(self.variable, "_value", value)

    @property
    def key(self) -> tuple[object, ...]:
        return ("keras", id(self.variable))


@dataclass(frozen=True)
class _Held:
    """An array that a layer holds as it is, such as the mean of `Normalization`: no weight."""

    slot: AttributeSlot


class Keras:
    """See `exporter.staging.frameworks.Framework`."""

    def is_node(self, value: object) -> bool:
        if not isinstance(value, keras.Layer | _TOOLS):
            return False
        _check_backend()
        return True

    def box(self, value: object) -> BoxParts | None:
        if isinstance(value, _Held):
            return BoxParts(value.slot, trainable=False, collection="array")
        if isinstance(value, keras.random.SeedGenerator):
            return BoxParts(_slot(value.state), trainable=False, collection="seed")
        if not isinstance(value, keras.Variable):
            return None
        collection = "trainable" if value.trainable else "non_trainable"
        return BoxParts(_slot(value), value.trainable, collection)

    def attributes(self, value: object) -> Iterable[tuple[str, object]]:
        found = _parts(value) if isinstance(value, keras.Layer) else {}
        return [*found.items(), *_nameless(value, found)]

    def kind(self, _: object) -> Literal["object", "list", "dict"]:
        return "object"

    def forward_pass(self, root: object, /) -> ForwardPass | None:
        if not isinstance(root, keras.Layer):
            return None
        _check_backend()
        return forward_pass(root)

    @contextmanager
    def opened(self, value: object) -> Iterator[None]:
        with _errors_as_they_are(), _not_building(value):
            if isinstance(value, keras.Layer):
                with _losses_kept(value), _tools_kept(value):
                    yield
            else:
                yield


def _check_backend() -> None:
    if keras.backend.backend() != "jax":
        raise TrackingError(
            f"Keras runs on {keras.backend.backend()} here, and only models that run on JAX can be "
            "saved. Set the environment variable KERAS_BACKEND=jax before Keras is imported."
        )


def _slot(variable: Any) -> KerasSlot:
    _check_backend()
    slot = KerasSlot(variable)
    if slot.read() is None:
        raise TrackingError(
            f"the variable {variable.path!r} has no value yet. Call its layer once on an array."
        )
    return slot


@cache
def _books(is_model: bool) -> frozenset[str]:  # noqa: FBT001  # a cache is keyed by position
    """The attributes that Keras itself gives to each layer or model."""
    names = {*vars(keras.Layer(name="layer"))}
    if is_model:
        inputs = keras.Input((1,), name="inputs")
        graph = keras.Model(inputs, inputs, name="graph")
        graph.compile()
        names |= {*vars(graph), *vars(keras.Sequential(name="sequence"))}
    return frozenset(names)


def _parts(layer: Any) -> dict[str, object]:
    """What a layer is made of, and the values that say how it computes."""
    if isinstance(layer, keras.Model):
        layer.jax_state_sync()  # while `fit` runs, its variables are elsewhere
    found: dict[str, object] = {"trainable": layer.trainable}  # BatchNormalization obeys it
    if isinstance(layer, keras.Function | keras.Sequential):
        kept = (one for one in layer.layers if not isinstance(one, keras.layers.InputLayer))
        found["layers"] = {one.name: one for one in kept}
    books = _books(isinstance(layer, keras.Model))
    for name, item in vars(layer).items():
        if name not in books and not _is_bookkeeping(item, layer):
            held = _Held(AttributeSlot(layer, name)) if is_array(item) else item
            found.setdefault(_public_name(layer, name), held)
    return found


def _is_bookkeeping(item: object, layer: object) -> bool:
    """Whether an attribute is of no use without Keras: metrics, initializers and the like.

    So are the lists of numbers by which Keras's own layers were made, such as strides.
    """
    if isinstance(item, list | tuple | dict):
        items = item.values() if isinstance(item, dict) else item
        settings = _PLAIN if _is_of_keras(layer) else ()
        left_out = (isinstance(one, settings) or _is_bookkeeping(one, layer) for one in items)
        return all(left_out) and (bool(item) or _is_of_keras(layer))
    if isinstance(item, keras.Layer | keras.Variable | keras.random.SeedGenerator):
        return False
    return isinstance(item, keras.Loss | _TOOLS) or _is_of_keras(item)


def _is_of_keras(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "keras"


def _public_name(layer: object, name: str) -> str:
    """The name of the property through which users see a private attribute, if there is one."""
    public = name.lstrip("_")
    if public == name or public in vars(layer):
        return name
    return public if isinstance(getattr(type(layer), public, None), property) else name


def _nameless(owner: Any, found: dict[str, object]) -> Iterator[tuple[str, object]]:
    """The variables that an object has and no attribute of it holds, by their own names."""
    reached = {id(variable) for item in found.values() for variable in _variables_in(item)}
    taken = set(found)
    for variable in owner.variables:
        if id(variable) not in reached:
            choices = (f"{variable.name}{f'_{n}' if n else ''}" for n in range(len(taken) + 1))
            name = next(choice for choice in choices if choice not in taken)
            taken.add(name)
            yield name, variable


def _variables_in(item: object) -> Iterator[Any]:
    if isinstance(item, list | tuple | dict):
        for part in item.values() if isinstance(item, dict) else item:
            yield from _variables_in(part)
    elif isinstance(item, keras.Layer):
        yield from item.variables
    elif isinstance(item, keras.random.SeedGenerator):
        yield item.state
    elif isinstance(item, keras.Variable):
        yield item


@contextmanager
def _not_building(layer: Any) -> Iterator[None]:
    """Refuse to make variables within the block: under a trace they would have no values."""
    build = getattr(layer, "build", None)
    if getattr(layer, "built", True) or getattr(build, "_is_default", False):  # it makes none
        yield
        return

    def refuse(*_: object, **__: object) -> None:
        raise TrackingError(unbuilt(layer))

    before = dict(vars(layer))
    vars(layer)["build"] = refuse
    try:
        yield
    finally:
        if "build" in before:
            vars(layer)["build"] = before["build"]
        else:
            del vars(layer)["build"]


@contextmanager
def _losses_kept(layer: object) -> Iterator[None]:
    """Forget the losses that a call within the block adds, which would outlive its trace."""
    fields = vars(layer)
    losses, known = list(fields["_losses"]), set(fields["_loss_ids"])
    try:
        yield
    finally:
        fields["_losses"][:] = losses
        fields["_loss_ids"].intersection_update(known)


@contextmanager
def _tools_kept(layer: Any) -> Iterator[None]:
    """Refuse to change metrics and optimizers, which are not saved with a layer."""
    tools = [*vars(layer)["_metrics"], getattr(layer, "optimizer", None)]
    variables = [variable for tool in tools if tool is not None for variable in tool.variables]
    before = [(KerasSlot(variable), KerasSlot(variable).read()) for variable in variables]
    changed: list[Any] = []
    try:
        yield
    finally:
        for slot, old in before:
            if slot.read() is not old:
                changed.append(slot.variable)
                slot.write(old)
    if changed:
        raise StateError(
            f"the function assigns {changed[0].path!r}, and the metrics and the optimizer "
            f"of a model are not saved with it: this one is of {type(layer).__name__} "
            f"{layer.name!r}. Leave it out of the function, or hold it beside the model in a class "
            "of your own."
        )


@contextmanager
def _errors_as_they_are() -> Iterator[None]:
    """Within the block errors keep their class, which Keras loses as it adds to their text."""
    was_enabled = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()
    try:
        yield
    finally:
        if was_enabled:
            keras.config.enable_traceback_filtering()


FRAMEWORK = Keras()

"""Equinox: modules are walked by their fields; the static ones say how to compute.

Modules are frozen dataclasses that JAX knows, so little is needed here: they say themselves which
fields are static. A number in another field stays one, as it does under `equinox.filter_jit`.
"""

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from typing import Any, Literal

import equinox as eqx

from exporter.errors import TrackingError
from exporter.staging.boxes import holder_of, method_of
from exporter.staging.frameworks import APART, BoxParts, ForwardPass
from exporter.staging.registered import attributes_of, is_array


class Equinox:
    """See `exporter.staging.frameworks.Framework`."""

    def is_node(self, value: object) -> bool:
        return isinstance(value, eqx.Module)

    def box(self, _: object, /) -> BoxParts | None:
        return None

    def attributes(self, value: object) -> Iterable[tuple[str, object]]:
        assert isinstance(value, eqx.Module)
        static = {field.name for field in fields(value) if field.metadata.get("static")}
        for name, item in attributes_of(value).items():
            # A bound method is a module that holds the one it is bound to as `__self__`.
            shown = "self" if name == "__self__" else name
            if not (name in static and is_array(item)):
                yield shown, item

    def kind(self, _: object, /) -> Literal["object", "list", "dict"]:
        return "object"

    def forward_pass(self, root: object, /) -> ForwardPass | None:
        """The pair that `make_with_state` gives. A module alone is called by its own `__call__`."""
        if type(root) is not tuple or len(root) != 2 or not isinstance(root[0], eqx.Module):
            return None
        module, state = root
        if not isinstance(state, eqx.nn.State):
            return None
        holder = holder_of(type(module).__name__, {"model": module, "state": state})
        return ForwardPass(holder, _with_state(module), problem=APART)

    def opened(self, _: object, /) -> AbstractContextManager[None]:
        return nullcontext()


def _with_state(module: Any) -> Callable[..., object]:
    """The forward pass `module(x, state) -> (y, state)` as one that keeps the state itself."""
    own = inspect.signature(module)
    if "state" not in own.parameters:
        raise TrackingError(
            f"{type(module).__name__}{own} was paired with an equinox.nn.State, but has no "
            "parameter 'state' for it. Name the parameter so, or hold both in an object with a "
            "decorated method."
        )
    position = list(own.parameters).index("state")
    parameters = [
        one.replace(kind=one.KEYWORD_ONLY)
        if index > position and one.kind is one.POSITIONAL_OR_KEYWORD
        else one
        for index, one in enumerate(own.parameters.values())
        if index != position
    ]

    def described() -> None:
        """Nothing but the parameters that are left to callers."""

    described.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]  # as inspect reads it
    described.__doc__ = inspect.getdoc(type(module).__call__)

    def forward(holder: Any, /, *args: object, **kwargs: object) -> object:
        result, holder.state = holder.model(*args, state=holder.state, **kwargs)
        return result

    return method_of(forward, described, 0)


FRAMEWORK = Equinox()

"""Equinox: modules are walked by their fields; the static ones say how to compute.

Modules are frozen dataclasses that JAX knows, so little is needed here: they say themselves which
fields are static. A number in another field stays one, as it does under `equinox.filter_jit`.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from typing import Literal

import equinox as eqx

from exporter.staging.frameworks import BoxParts, ForwardPass
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

    def forward_pass(self, _: object, /) -> ForwardPass | None:
        return None  # a module is called by its own __call__, as any other object

    def opened(self, _: object, /) -> AbstractContextManager[None]:
        return nullcontext()


FRAMEWORK = Equinox()

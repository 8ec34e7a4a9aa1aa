"""What a trace prints with `jax.debug`, left out: no program can hold it, no result needs it."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import jax.extend.core

from exporter import notices
from exporter.staging.obstacles import Placed, equations
from exporter.staging.tracing import Variant

_PRINTS = ("debug_callback", "debug_print")


def is_print(equation: Any) -> bool:
    """Whether an equation prints with `jax.debug`."""
    return equation.primitive.name in _PRINTS


def without_prints(variant: Variant, name: str, prints: Iterable[Placed]) -> Variant:
    """The trace without its `prints`, with a warning that says where they stand."""
    lines = dict.fromkeys(placed.line or "an unknown line" for placed in prints)
    notices.warn(
        f"{name} is saved without what it prints with jax.debug, which needs Python: "
        f"{'; '.join(lines)}.",
    )
    stripped = _stripped(variant.jaxpr.jaxpr)
    return replace(variant, jaxpr=jax.extend.core.ClosedJaxpr(stripped, variant.jaxpr.consts))


def _stripped(jaxpr: Any) -> Any:
    kept = [
        equation.replace(
            params={key: _inside(value) for key, value in equation.params.items()},
            effects=_without_debug(equation.effects),
        )
        for equation in jaxpr.eqns
        if not is_print(equation)
    ]
    return jaxpr.replace(eqns=kept, effects=_without_debug(jaxpr.effects))


def _inside(param: Any) -> Any:
    """A parameter of an equation with the programs in it stripped: bodies, branches."""
    if isinstance(param, tuple | list) and param:
        items = [_inside(item) for item in param]
        if all(new is old for new, old in zip(items, param, strict=True)):
            return param
        return type(param)(*items) if hasattr(param, "_fields") else type(param)(items)
    is_closed = isinstance(param, jax.extend.core.ClosedJaxpr)
    if not is_closed and not isinstance(param, jax.extend.core.Jaxpr):
        return param
    inner = param.jaxpr if is_closed else param
    if not any(is_print(placed.equation) for placed in equations(inner)):
        return param
    stripped = _stripped(inner)
    return jax.extend.core.ClosedJaxpr(stripped, param.consts) if is_closed else stripped


def _without_debug(effects: Any) -> Any:
    kept = {effect for effect in effects if "DebugEffect" not in type(effect).__name__}
    return type(effects)(kept)

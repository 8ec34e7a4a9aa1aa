"""Python functions of a tree of parameters: the pair of `apply(params, *inputs)` and `params`."""

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from exporter.errors import TrackingError
from exporter.staging.boxes import holder_of, method_of
from exporter.staging.frameworks import APART, ForwardPass


class PlainFunctions:
    """See `exporter.staging.frameworks.Models`."""

    def forward_pass(self, root: object, /) -> ForwardPass | None:
        if type(root) is not tuple or len(root) != 2 or not callable(root[0]):
            return None
        apply, parameters = root
        name = getattr(apply, "__name__", type(apply).__name__)
        if not _takes_parameters(apply):
            raise TrackingError(
                f"{name}{inspect.signature(apply)} was paired with parameters, but has no "
                "positional parameter for them. Save (function, parameters), where "
                "function(parameters, *inputs) is the forward pass."
            )
        holder = holder_of(name, {"params": parameters})
        return ForwardPass(holder, _function(apply), problem=APART)


def _takes_parameters(apply: Callable[..., Any]) -> bool:
    parameters = list(inspect.signature(apply).parameters.values())
    return bool(parameters) and parameters[0].kind <= inspect.Parameter.VAR_POSITIONAL


def _function(apply: Callable[..., Any]) -> Callable[..., object]:
    def forward(holder: SimpleNamespace, /, *args: object, **kwargs: object) -> object:
        return apply(holder.params, *args, **kwargs)

    return method_of(forward, apply, 1)


FRAMEWORK = PlainFunctions()

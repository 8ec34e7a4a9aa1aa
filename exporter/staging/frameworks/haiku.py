"""Haiku: what `transform` gives, with its parameters, as a pair; state is written back.

A Haiku module exists only while a transformed function runs, so there are no objects to walk.
"""

import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import haiku as hk

from exporter.errors import TracingError, TrackingError
from exporter.staging.boxes import arrays_of, assign, boxed, holder_of, method_of
from exporter.staging.frameworks import APART, ForwardPass

PyTree = Any

_TRANSFORMED = hk.Transformed | hk.TransformedWithState | hk.MultiTransformed


class Haiku:
    """See `exporter.staging.frameworks.Models`."""

    def forward_pass(self, root: object, /) -> ForwardPass | None:
        if isinstance(root, _TRANSFORMED):
            raise TrackingError(
                f"a {type(root).__name__} holds no arrays. Save it with its parameters, as in "
                "exporter.save((transformed, params), path, input_signature=[...])."
            )
        if type(root) is not tuple or len(root) != 2 or not isinstance(root[0], _TRANSFORMED):
            return None
        transformed, trees = root
        if isinstance(transformed, hk.MultiTransformed):
            raise TrackingError(
                "a MultiTransformed has several functions. Save an object of your own that holds "
                "the parameters, with a decorated method for each function."
            )
        if isinstance(transformed, hk.Transformed):
            return _forward_pass(transformed.apply, {"params": trees})
        if type(trees) is not tuple or len(trees) != 2:
            raise TrackingError(
                f"what transform_with_state gives was paired with {type(trees).__name__}. Expected "
                "(transformed, (params, state))."
            )
        return _forward_pass(transformed.apply, dict(zip(("params", "state"), trees, strict=True)))


def _forward_pass(apply: Callable[..., Any], trees: Mapping[str, PyTree]) -> ForwardPass:
    plain = {
        name: boxed(_plain(tree, name), name, trainable=name == "params")
        for name, tree in trees.items()
    }
    holder = holder_of("Transformed", plain)
    return ForwardPass(holder, _function(apply, tuple(plain)), problem=APART)


def _plain(tree: object, name: str) -> dict[str, PyTree]:
    """The arrays of each module in plain dicts, whatever mapping Haiku was set to make."""
    if not isinstance(tree, Mapping):
        raise TrackingError(
            f"{name} is {type(tree).__name__}. Expected a dict of modules as transformed.init "
            "returns it: {'linear': {'w': ..., 'b': ...}, ...}."
        )
    return {
        module: dict(arrays) if isinstance(arrays, Mapping) else arrays
        for module, arrays in tree.items()
    }


def _function(apply: Callable[..., Any], trees: tuple[str, ...]) -> Callable[..., object]:
    """The forward pass. A key, where `apply` takes one, comes by keyword: not before the inputs."""
    names = list(inspect.signature(apply).parameters)[len(trees) :]
    takes_key = names[:1] == ["rng"]

    def forward(holder: SimpleNamespace, /, *args: object, **kwargs: object) -> object:
        before = {name: arrays_of(getattr(holder, name)) for name in trees}
        key = [kwargs.pop("rng", None)] if takes_key else []
        try:
            result = apply(*before.values(), *key, *args, **kwargs)
        except ValueError as error:
            if key != [None] or "PRNGKey" not in str(error):
                raise
            raise TracingError(
                "the transformed function draws random numbers and has no key for them. Make the "
                "key an input, as in input_signature={..., 'rng': TensorSpec((), 'key<fry>')}, or "
                "bake in a seed, as in {..., 'rng': 0}."
            ) from error
        if "state" in trees:
            result, state = result
            assign(holder.state, before["state"], _plain(state, "state"), "state")
        return result

    return method_of(forward, apply, len(trees) + takes_key, "rng" if takes_key else "")


FRAMEWORK = Haiku()

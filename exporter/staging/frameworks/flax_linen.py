"""Flax Linen: a module and its variables, as a pair, bound together, or as a `TrainState`.

A Linen module is a description that holds no arrays. Its forward pass is `module.apply(variables,
...)`, with every collection but `params` mutable; what the module really changed is written back.
So batch statistics move in training mode and stay in the other, and a cache fills.
"""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, Literal

from flax import linen as nn
from flax.core import meta, unfreeze
from flax.errors import InvalidRngError, ScopeCollectionNotFound, ScopeParamNotFoundError

from exporter.errors import TracingError, TrackingError
from exporter.staging.boxes import arrays_of, assign, boxed, holder_of, method_of
from exporter.staging.frameworks import APART, BoxParts, ForwardPass

PyTree = Any

# What `sow` gathers unless told otherwise: a report on one call and no state.
_REPORTS = "intermediates"


class FlaxLinen:
    """See `exporter.staging.frameworks.Framework`."""

    def is_node(self, value: object) -> bool:
        return isinstance(value, nn.Module)

    def box(self, _: object) -> BoxParts | None:
        return None

    def attributes(self, value: object) -> Iterable[tuple[str, object]]:
        """What a module was made with. Its scope and the like are the books of Linen."""
        assert isinstance(value, nn.Module)
        names = (field.name for field in dataclasses.fields(value))
        made_with = (name for name in names if name not in ("parent", "name"))
        return [(name, vars(value)[name]) for name in made_with if name in vars(value)]

    def kind(self, _: object) -> Literal["object", "list", "dict"]:
        return "object"

    def opened(self, _: object) -> AbstractContextManager[None]:
        return nullcontext()

    def forward_pass(self, root: object, /) -> ForwardPass | None:
        if isinstance(root, nn.Module):
            return _forward_pass(*_unbound(root))
        if type(root) is tuple and len(root) == 2:
            module = _module_of(root[0])
            return None if module is None else _forward_pass(module, root[1])
        return _of_train_state(root)


def _module_of(value: object) -> nn.Module | None:
    """The module, also if it is given as its `apply`, compiled or not."""
    if isinstance(value, nn.Module):
        return value
    for function in (value, getattr(value, "__wrapped__", None)):  # `jax.jit` wraps
        owner = getattr(function, "__self__", None)
        if isinstance(owner, nn.Module) and getattr(function, "__name__", "") == "apply":
            return owner
    return None


def _unbound(module: nn.Module) -> tuple[nn.Module, PyTree]:
    if module.scope is None:
        raise TrackingError(
            f"{type(module).__name__} is a Linen module, which holds no arrays. Save it with its "
            "variables, as in exporter.save((module, variables), path, input_signature=[...])."
        )
    return module.unbind()


def _of_train_state(root: object) -> ForwardPass | None:
    """The forward pass of a `TrainState`: its parameters, and the collections of a subclass."""
    known = sys.modules.get("flax.training.train_state")
    if known is None or not isinstance(root, known.TrainState):
        return None
    state: Any = root
    module = _module_of(state.apply_fn)
    if module is None:
        raise TrackingError(
            f"the apply_fn of this {type(root).__name__} is not the apply of a Linen module, so "
            "how it takes its parameters is not known. Save the pair (function, state.params), "
            "where function(params, *inputs) is the forward pass."
        )
    usual = {field.name for field in dataclasses.fields(known.TrainState)}
    own = (field.name for field in dataclasses.fields(state) if field.name not in usual)
    collections = {name: getattr(state, name) for name in own}
    mappings = {name: tree for name, tree in collections.items() if isinstance(tree, Mapping)}
    return _forward_pass(module, {"params": state.params, **mappings})


def _forward_pass(module: nn.Module, variables: PyTree) -> ForwardPass:
    name = type(module).__name__
    if not isinstance(variables, Mapping):
        raise TrackingError(
            f"{name} is given {type(variables).__name__} as its variables. Expected a dict of "
            "collections as module.init returns it: {'params': {...}, ...}."
        )
    if not callable(module):
        raise TrackingError(
            f"{name} has no __call__, so it has no forward pass. Save an object of your own with "
            "decorated methods that call module.apply(variables, ..., method=...)."
        )
    plain = {
        name: boxed(_plain(tree), name, trainable=name == "params")
        for name, tree in variables.items()
        if name != _REPORTS
    }
    return ForwardPass(holder_of(name, plain), _function(module, tuple(plain)), problem=APART)


def _plain(tree: PyTree) -> PyTree:
    """The tree in plain dicts, without the boxes that carry names of mesh axes."""
    return unfreeze(meta.unbox(tree))


def _function(module: Any, collections: tuple[str, ...]) -> Callable[..., object]:
    call = module.__call__
    mutable = [name for name in collections if name != "params"]
    own_rngs = "rngs" in inspect.signature(call).parameters

    def forward(holder: SimpleNamespace, /, *args: object, **kwargs: object) -> object:
        before = {name: arrays_of(getattr(holder, name)) for name in collections}
        try:
            result, after = module.apply(before, *args, mutable=mutable, **kwargs)
        except InvalidRngError as error:
            raise TracingError(_no_rng(module, error)) from error
        except (ScopeCollectionNotFound, ScopeParamNotFoundError) as error:
            if "params" in collections:
                raise
            raise TracingError(
                f"{type(module).__name__} finds no parameters: its variables have no 'params', but "
                f"{', '.join(collections) or 'nothing'}. Save (module, {{'params': ...}})."
            ) from error
        for name in mutable:
            assign(getattr(holder, name), before[name], _plain(after.get(name, {})), name)
        return result

    return method_of(forward, call, 0, "" if own_rngs else "rngs")


def _no_rng(module: nn.Module, error: InvalidRngError) -> str:
    reason = str(error).partition(" (http")[0]
    return (
        f"{type(module).__name__} draws random numbers and has no key for them: {reason}. Make the "
        "key an input, as in input_signature={..., 'rngs': {'dropout': TensorSpec((), "
        "'key<fry>')}}, or bake in the flag that turns them off, as in {..., 'train': False}."
    )


FRAMEWORK = FlaxLinen()

"""Parameters that a forward pass takes as an argument, held by an object made to be saved.

Functional frameworks keep a model apart from its arrays: `apply(params, x)`. What is saved is then
an object whose attributes are these trees, so that the loaded model has the paths which the
framework's users know. Each array is in a box of its own, for the state that a call returns anew.
"""

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import SequenceKey, keystr, tree_flatten_with_path

from exporter.errors import StateError
from exporter.staging.slots import is_array
from exporter.variable import Variable, set_raw

PyTree = Any


def holder_of(class_name: str, trees: dict[str, PyTree]) -> SimpleNamespace:
    """An object with the trees as its attributes, which says it is of the class `class_name`."""
    return SimpleNamespace(**trees, __class_name__=class_name)


def boxed(tree: PyTree, collection: str, *, trainable: bool) -> PyTree:
    """A copy of the tree with each of its arrays in a `Variable`.

    Args:
      tree: the arrays. Anything else in it stays as it is.
      collection: what kind of state they are.
      trainable: whether an optimiser should change those that it can: numbers with fractions.
    """

    def box(leaf: Any) -> object:
        if not is_array(leaf):
            return leaf
        inexact = bool(jnp.issubdtype(leaf.dtype, jnp.inexact))
        return Variable(leaf, trainable=trainable and inexact, collection=collection)

    return jax.tree.map(box, tree)


def arrays_of(tree: PyTree) -> PyTree:
    """The tree with the arrays themselves in place of their boxes."""
    return jax.tree.map(lambda leaf: leaf.value if _is_box(leaf) else leaf, tree, is_leaf=_is_box)


def assign(tree: PyTree, before: PyTree, after: PyTree, name: str) -> None:
    """Put into the boxes of a tree what a function made of their arrays.

    What is appended to a list or tuple is dropped: it reports on one call, as Linen's `sow` does,
    and is no state.

    Args:
      tree: as `boxed` gives it.
      before: the arrays that the function was given.
      after: those that it returned.
      name: what the tree is called in messages.

    Raises:
      StateError: if there is an array where none was before.
    """
    boxes = dict(tree_flatten_with_path(tree, is_leaf=_is_box)[0])
    old = dict(tree_flatten_with_path(before)[0])
    for path, new in tree_flatten_with_path(after)[0]:
        if path in boxes and _is_box(boxes[path]):
            if new is not old[path]:
                set_raw(
                    boxes[path], new
                )  # of another shape or dtype, it is refused after the trace
        elif not any(isinstance(key, SequenceKey) for key in path):
            raise StateError(
                f"the function makes an array at {name}{keystr(path)}, where none was before. "
                "State must exist before it is saved: initialise the model in the same mode, and "
                "save it with what that gives."
            )


def method_of(
    forward: Callable[..., object], described: Callable[..., object], skipped: int, extra: str = ""
) -> Callable[..., object]:
    """The forward pass as a method of the object that holds the trees, called as users know it.

    Args:
      forward: takes the object, then what `described` takes after the trees. Arguments that are
        the default are left out, as most callers do: `jax.jit` would trace a flag that is given.
      described: has the parameters and the docstring.
      skipped: how many of its parameters are the trees.
      extra: the name of one more parameter, given by keyword or `None`. Empty if there is none.
    """
    parameters = list(inspect.signature(described).parameters.values())
    if parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
        parameters = parameters[skipped:]
    last = [p for p in parameters if p.kind is p.VAR_KEYWORD]
    first = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    if extra:
        first.append(inspect.Parameter(extra, inspect.Parameter.KEYWORD_ONLY, default=None))
    own = inspect.Signature([*first, *last])

    def method(holder: SimpleNamespace, /, *args: object, **kwargs: object) -> object:
        args, kwargs = _without_defaults(own, args, kwargs)
        return forward(holder, *args, **kwargs)

    owner = inspect.Parameter("__holder__", inspect.Parameter.POSITIONAL_ONLY)
    method.__name__ = "__call__"
    method.__doc__ = inspect.getdoc(described)
    method.__signature__ = own.replace(parameters=[owner, *first, *last])  # type: ignore[attr-defined]  # Python's own protocol
    return method


def _without_defaults(
    signature: inspect.Signature, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    parameters = signature.parameters
    positional = [p for p in parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    while args and len(args) <= len(positional) and args[-1] is positional[len(args) - 1].default:
        args = args[:-1]
    kept = {
        name: value
        for name, value in kwargs.items()
        if name not in parameters or value is not parameters[name].default
    }
    return args, kept


def _is_box(value: object) -> bool:
    return isinstance(value, Variable)

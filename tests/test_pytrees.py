"""Nodes of registered classes, taken apart one level at a time and put together again."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

from exporter.pytrees import branch_of


@jax.tree_util.register_pytree_node_class
class Pair:
    def __init__(self, left: object, right: object, label: str = "pair") -> None:
        self.left, self.right, self.label = left, right, label

    def tree_flatten(self):
        return (self.left, self.right), self.label

    @classmethod
    def tree_unflatten(cls, label, children):
        return cls(*children, label)


@jax.tree_util.register_static
class Setting:
    pass


class Point(NamedTuple):
    x: object


def test_a_node_gives_its_children_without_looking_into_them():
    inner = Pair(1, 2)
    branch = branch_of(Pair(inner, None))
    assert branch.keys == (0, 1)
    assert not branch.has_names
    assert branch.children[0] is inner
    assert branch.children[1] is None


def test_a_node_is_put_together_again_with_other_children():
    again = branch_of(Pair(1, 2, "named")).rebuild(["a", "b"])
    assert (again.left, again.right, again.label) == ("a", "b", "named")


def test_nodes_are_built_alike_if_their_static_parts_are_equal():
    one, other, third = (
        branch_of(pair) for pair in (Pair(1, 2), Pair(3, Pair(4, 5)), Pair(1, 2, "x"))
    )
    assert one.static == other.static != third.static


@pytest.mark.parametrize(
    ("value", "keys", "has_names"),
    [
        (FrozenDict({"a": {"b": 1}, "c": 2}), ("a", "c"), False),
        (eqx.nn.Linear(2, 3, key=jax.random.key(0)), ("weight", "bias"), True),
        (Setting(), (), True),
    ],
)
def test_keys_are_those_that_jax_knows(value, keys, has_names):
    branch = branch_of(value)
    assert (branch.keys, branch.has_names) == (keys, has_names)


@pytest.mark.parametrize(
    "value",
    [None, 3, "text", [1], (1,), {"a": 1}, Point(1), jnp.ones(2), np.ones(2), jax.random.key(0)],
)
def test_arrays_containers_and_other_values_are_no_nodes(value):
    assert branch_of(value) is None

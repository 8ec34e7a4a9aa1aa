"""How an array is split over a mesh, by the names of the mesh's axes."""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.sharding import AxisType, NamedSharding

T = TypeVar("T")
PartitionSpec = list[str | list[str] | None]


def partition_spec(value: object) -> PartitionSpec | None:
    """For each axis of an array the mesh axes that split it, or `None` if nothing does.

    Sizes and devices are not kept: who loads the array has a mesh of their own.
    """
    sharding = value.sharding if isinstance(value, jax.Array) else None
    if not isinstance(sharding, NamedSharding):
        return None
    spec: PartitionSpec = [
        list(part) or None if isinstance(part, tuple) else part for part in sharding.spec
    ]
    while spec and spec[-1] is None:
        spec.pop()
    return spec or None


def with_constraints(trace: Callable[[], T]) -> T:
    """What `trace` gives, in a surrounding in which sharding constraints may be written.

    Arrays are traced whole, however a mesh around the call (`jax.set_mesh`) splits the model's own.
    On a mesh of explicit axes `with_sharding_constraint` asserts how an array is split already, so
    where that fails the axes are left to the compiler, and it is a constraint again.
    """
    try:
        return trace()
    except AssertionError as error:
        mesh = jax.sharding.get_abstract_mesh()
        if "with_sharding_constraint" not in str(error) or mesh.empty:
            raise
        kinds = (AxisType.Auto,) * len(mesh.axis_names)
        auto = jax.sharding.AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=kinds)
        with jax.sharding.use_abstract_mesh(auto):
            return trace()

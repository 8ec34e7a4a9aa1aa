"""How an array is split over a mesh, by the names of the mesh's axes."""

import jax
from jax.sharding import NamedSharding

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

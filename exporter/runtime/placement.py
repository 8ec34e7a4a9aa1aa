"""Where the arrays of a loaded model lie: on one device, or split over a mesh of them.

A program takes its variables and inputs wherever they lie, and XLA splits the work accordingly. So
to run a model on a mesh is to place its variables there. All arrays of a model lie on the same
devices; an input that comes from elsewhere is copied to each of them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

from exporter.artifact.records import VariableRecord
from exporter.errors import PlacementError
from exporter.jax_internals import shown_mesh
from exporter.runtime.paths import values_by_key

# What a caller may give for `sharding`: one for all, a tree of them like the model's `variables`,
# or what makes one of a path, a shape and a dtype's name.
Rule = Callable[[str, tuple[int, ...], str], Sharding | None]
Shardings = Sharding | Mapping[str, Any] | Rule


@dataclass(frozen=True)
class Placement:
    """Where the arrays of a model lie.

    Attributes:
      variables: the place of each variable.
      mesh: the mesh that they are split over, if the caller chose one.
      rest: where everything else goes, if the caller said so.
    """

    variables: tuple[Sharding, ...]
    mesh: Mesh | None = None
    rest: Sharding | None = None

    @cached_property
    def axes(self) -> dict[str, int]:
        """The axes of the mesh with their sizes, none without a mesh."""
        return dict(self.mesh.shape) if self.mesh else {}

    def of_inputs(self, values: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """The arrays on the devices of the mesh: those that are elsewhere are copied to each."""
        if self.mesh is None or self.rest is None:
            return values
        return [_moved(value, self.rest) for value in values]


def _moved(value: jax.Array, whole: Sharding) -> jax.Array:
    found = getattr(value, "sharding", None)
    if isinstance(found, Sharding) and found.device_set == whole.device_set:
        plain = _plain(found)
        return value if plain is found else _put(value, plain)
    # Where there are devices of other processes, every process has the same value.
    return _put(value if whole.is_fully_addressable else np.asarray(value), whole)


def _put(value: jax.Array | np.ndarray, place: Sharding) -> jax.Array:
    return cast(jax.Array, jax.device_put(value, place))


def placement_of(
    variables: Sequence[VariableRecord],
    *,
    mesh: Mesh | None = None,
    sharding: Shardings | None = None,
    device: jax.Device | str | None = None,
) -> Placement:
    """Where the variables go, by one of the three.

    Raises:
      PlacementError: if there is more than one, or a variable cannot be placed as asked. It names
        every such variable.
    """
    given = {"mesh": mesh, "sharding": sharding, "device": device}
    named = [f"{name}=" for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise PlacementError(
            f"load was given {' and '.join(named)}, which each say where the variables go. "
            "Give one of them."
        )
    if mesh is not None:
        return _on_mesh(variables, mesh)
    if sharding is not None:
        return _by_shardings(variables, sharding)
    if not isinstance(device, str | jax.Device | None):
        raise PlacementError(
            f"device= is {device!r} ({type(device).__name__}). Expected a device of jax.devices(), "
            "or the name of a platform, such as 'cpu'."
        )
    found = _first_of(device) if isinstance(device, str) else device
    one = SingleDeviceSharding(found or _default_device())
    return Placement((one,) * len(variables), rest=one if found else None)


def _default_device() -> jax.Device:
    """Where JAX puts an array for which nobody says where."""
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]  # made when it runs
    if isinstance(chosen, str):
        return jax.local_devices(backend=chosen)[0]
    return chosen or jax.local_devices()[0]


def _on_mesh(variables: Sequence[VariableRecord], mesh: Mesh) -> Placement:
    """Each variable split as it was when it was saved."""
    if not isinstance(mesh, Mesh):
        raise PlacementError(
            f"mesh= is {mesh!r} ({type(mesh).__name__}). Expected a jax.sharding.Mesh, such as "
            "jax.make_mesh((4, 2), ('data', 'model')) gives."
        )
    problems = []
    for record in variables:
        for position, part in enumerate(record.partition_spec or ()):
            names = [part] if isinstance(part, str) else part or []
            problem = _misfit(names, record.shape[position], mesh)
            if problem:
                problems.append(f"{_path(record)}: axis {position} {problem}")
    if problems:
        raise _refused(
            f"the variables cannot be split over the mesh ({shown_mesh(mesh.shape)}) as they were "
            "when they were saved:",
            problems,
            "Load with a mesh that has these axes in sizes that divide, or say with sharding= "
            "where each variable goes.",
        )
    plain = _auto(mesh)
    places = tuple(NamedSharding(plain, _spec(record)) for record in variables)
    return Placement(places, plain, NamedSharding(plain, PartitionSpec()))


def _misfit(names: Sequence[str], size: int, mesh: Mesh) -> str | None:
    missing = [name for name in names if name not in mesh.shape]
    if missing:
        return f"was split over {', '.join(map(repr, missing))}, which the mesh does not have"
    parts = math.prod(mesh.shape[name] for name in names)
    if size % parts:
        shown = " and ".join(map(repr, names))
        return f"has size {size}, which {shown} cannot split in {parts} equal parts"
    return None


def _spec(record: VariableRecord) -> PartitionSpec:
    parts = record.partition_spec or ()
    return PartitionSpec(*(tuple(part) if isinstance(part, list) else part for part in parts))


def _by_shardings(variables: Sequence[VariableRecord], given: Shardings) -> Placement:
    chosen = _chosen(variables, given)
    problems = [
        f"{_path(record)}: {problem}"
        for record, sharding in zip(variables, chosen, strict=True)
        if (problem := _fault(sharding, record))
    ]
    found = [sharding for sharding in chosen if isinstance(sharding, Sharding)]
    if isinstance(given, Sharding):
        found = found or [given]
    if not problems and len({frozenset(one.device_set) for one in found}) > 1:
        problems = ["they lie on other devices than each other, and a program runs on one set"]
    if not problems and not found:
        problems = ["there is none in it"]
    if problems:
        raise _refused(
            "the variables cannot be placed as sharding= says:",
            problems,
            "Give a jax.sharding.NamedSharding or SingleDeviceSharding for all, a tree of them in "
            "the shape of the model's variables, or a function (path, shape, dtype) of them.",
        )
    meshes = [_auto(_mesh(one)) for one in found if isinstance(one, NamedSharding)]
    mesh = meshes[0] if meshes else None
    rest = NamedSharding(mesh, PartitionSpec()) if mesh else found[0]
    places = tuple(rest if one is None else _plain(one) for one in chosen)
    return Placement(places, mesh, rest)


def _chosen(variables: Sequence[VariableRecord], given: Shardings) -> list[Any]:
    if isinstance(given, Sharding):
        return [given] * len(variables)
    if isinstance(given, Mapping):
        leaves = dict(values_by_key(given))
        known = {tuple(record.key) for record in variables}
        unknown = [f"{'/'.join(key)}: not a variable" for key in leaves if key not in known]
        if unknown:
            paths = ", ".join(_path(record) for record in variables) or "none"
            raise _refused("sharding= has places for:", unknown, f"The variables are: {paths}.")
        return [leaves.get(tuple(record.key)) for record in variables]
    if not callable(given):
        raise PlacementError(
            f"sharding= is {given!r} ({type(given).__name__}). Expected a jax.sharding.Sharding, a "
            "tree of them in the shape of the model's variables, or a function that gives one."
        )
    return [given(_path(record), tuple(record.shape), record.dtype) for record in variables]


def _fault(sharding: object, record: VariableRecord) -> str | None:
    """What keeps an array from being placed so, if anything."""
    if sharding is None:
        return None
    if not isinstance(sharding, NamedSharding | SingleDeviceSharding):
        return f"expected a sharding, got {sharding!r}"
    if isinstance(sharding, SingleDeviceSharding):
        return None
    spec = sharding.spec
    shown = f"{record.dtype}[{', '.join(map(str, record.shape))}]"
    if len(spec) > len(record.shape):
        return f"{shown} has fewer axes than {spec}"
    for position, part in enumerate(spec):
        names = [part] if isinstance(part, str) else part or ()
        problem = _misfit(names, record.shape[position], _mesh(sharding))
        if problem:
            return f"{shown} cannot be split as {spec}: axis {position} {problem}"
    return None


def _plain(sharding: Sharding) -> Sharding:
    """The same place, its axes left to the compiler."""
    if not isinstance(sharding, NamedSharding) or _is_auto(_mesh(sharding)):
        return sharding
    mesh = _auto(_mesh(sharding))
    return NamedSharding(mesh, sharding.spec, memory_kind=sharding.memory_kind)


def _mesh(sharding: NamedSharding) -> Mesh:
    """The devices: what places an array has some."""
    return cast(Mesh, sharding.mesh)


def _first_of(platform: str) -> jax.Device:
    try:
        return jax.local_devices(backend=platform or "''")[0]  # none at all would be the default
    except RuntimeError as error:
        here = ", ".join(sorted({device.platform for device in jax.local_devices()}))
        raise PlacementError(
            f"device={platform!r} is no platform that JAX has here: it has {here}."
        ) from error


def _is_auto(mesh: Mesh) -> bool:
    return all(kind == AxisType.Auto for kind in mesh.axis_types)


def _auto(mesh: Mesh) -> Mesh:
    """The same mesh, its axes left to the compiler: a program has no types that name them."""
    kinds = (AxisType.Auto,) * len(mesh.axis_names)
    return mesh if _is_auto(mesh) else Mesh(mesh.devices, mesh.axis_names, axis_types=kinds)


def _path(record: VariableRecord) -> str:
    return "/".join(record.key)


def _refused(start: str, problems: Sequence[str], end: str) -> PlacementError:
    lines = "".join(f"\n  {problem}" for problem in problems)
    return PlacementError(f"{start}{lines}\n{end}", problems)

"""The variable tree on disk, as an Orbax checkpoint. The only file that knows Orbax.

The tree is nested dicts by attribute path, the one that Flax users know as a pure dict of the
model's state, so that Orbax alone restores it. What TensorStore cannot hold is kept otherwise: an
array without elements is nothing but its shape, and small unsigned integers are bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp

from exporter.artifact.layout import VARIABLES
from exporter.artifact.manifest import VariableRecord, scalar_record, shown
from exporter.errors import ArtifactError
from signatures.dtypes import KeyType, as_dtype
from signatures.tree import Scalar

# TensorStore knows int4 and int2 and none of these.
_AS_BYTES = frozenset(
    name for name in ("uint4", "uint2", "uint1", "int1") if hasattr(ml_dtypes, name)
)

Tree = dict[str, Any]


def storage_of(dtype: str, shape: Sequence[int]) -> str:
    """How an array is kept: as an `array`, as `bytes`, or `empty` as its shape alone."""
    if 0 in shape:
        return "empty"
    return "bytes" if dtype in _AS_BYTES else "array"


def key_of(path: Iterable[Scalar]) -> tuple[str, ...]:
    """The path of an array in the checkpoint.

    Orbax joins keys with dots, so a dot inside a key is written `%2E`, and a percent sign `%25`.
    """
    return tuple(str(key).replace("%", "%25").replace(".", "%2E") or "%" for key in path)


def write_variables(
    folder: Path, records: Sequence[VariableRecord], values: Sequence[object]
) -> None:
    """Write the arrays under `folder/variables`. Without any there is no such folder."""
    tree: Tree = {}
    for record, value in zip(records, values, strict=True):
        if record.storage == "empty":
            continue
        inner = tree
        for key in record.key[:-1]:
            inner = inner.setdefault(key, {})
        inner[record.key[-1]] = _to_disk(value, record)
    if tree:
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save((folder / VARIABLES).absolute(), tree)
        _forget_place(folder / VARIABLES)


def _forget_place(folder: Path) -> None:
    """Take the writer's path out of the file with which Orbax marks a checkpoint as complete.

    Orbax looks whether the file is there, not at what it says.
    """
    mark = folder / "commit_success.txt"
    if mark.exists():
        mark.write_text("Checkpoint commit was successful.\n")


def read_variables(
    folder: Path, records: Sequence[VariableRecord], sharding: jax.sharding.Sharding
) -> list[jax.Array]:
    """The arrays, in the order of the records, placed as `sharding` says.

    Raises:
      ArtifactError: if the checkpoint does not hold them.
    """
    targets: Tree = {}
    for record in records:
        if record.storage != "empty":
            inner = targets
            for key in record.key[:-1]:
                inner = inner.setdefault(key, {})
            inner[record.key[-1]] = _target(record, sharding)
    restored: Mapping[str, Any] = {}
    if targets:
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                restored = checkpointer.restore((folder / VARIABLES).absolute(), targets)
        except Exception as error:  # noqa: BLE001  # whatever Orbax makes of files nobody vouches for
            lines = str(error).strip().splitlines()
            raise ArtifactError(
                f"{folder / VARIABLES} cannot be restored: "
                f"{shown(lines[0] if lines else type(error).__name__)}"
            ) from error
    return [_from_disk(_at(restored, record), record, sharding) for record in records]


def variable_record(
    path: Sequence[Scalar],
    dtype: str,
    shape: Sequence[int],
    *,
    trainable: bool,
    collection: str,
    name: str | None = None,
) -> VariableRecord:
    """The manifest's entry for an array."""
    return VariableRecord(
        path=[scalar_record(key) for key in path],
        key=list(key_of(path)),
        dtype=dtype,
        shape=list(shape),
        trainable=trainable,
        collection=collection,
        name=name,
        storage=storage_of(dtype, shape),  # type: ignore[arg-type]  # one of the three
    )


def _at(tree: Mapping[str, Any], record: VariableRecord) -> object:
    if record.storage == "empty":
        return None
    found: Any = tree
    for key in record.key:
        found = found[key]
    return found


def _to_disk(value: object, record: VariableRecord) -> object:
    if record.storage == "bytes":
        return np.asarray(value).astype(np.uint8)
    if isinstance(value, np.ndarray):  # NumPy's 64 bits are 32 to JAX unless x64 is on
        return value.astype(as_dtype(record.dtype), copy=False)
    return value


def _target(record: VariableRecord, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    shape = tuple(record.shape)
    if record.storage == "bytes":
        return jax.ShapeDtypeStruct(shape, np.uint8, sharding=sharding)
    dtype = as_dtype(record.dtype)
    if isinstance(dtype, KeyType):
        key_dtype = jax.random.key(0, impl=dtype.implementation).dtype
        return jax.ShapeDtypeStruct(shape, key_dtype, sharding=sharding)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _from_disk(value: object, record: VariableRecord, sharding: jax.sharding.Sharding) -> jax.Array:
    dtype = as_dtype(record.dtype)
    if record.storage == "empty":
        if isinstance(dtype, KeyType):
            words = np.zeros((*record.shape, dtype.words), np.uint32)
            return jax.random.wrap_key_data(words, impl=dtype.implementation)
        return jax.device_put(np.zeros(record.shape, dtype), sharding)
    if record.storage == "bytes":
        assert isinstance(dtype, np.dtype)
        return jax.device_put(np.asarray(value).astype(dtype), sharding)
    return value  # type: ignore[return-value]  # Orbax gave what the target asked for

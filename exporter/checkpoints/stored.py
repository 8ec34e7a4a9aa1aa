"""What lies on disk, whoever wrote it: a checkpoint of ours, an artifact, a checkpoint of Orbax."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from exporter.artifact import checkpoint
from exporter.artifact.checkpoint import Key
from exporter.artifact.encoding import scalar_of
from exporter.artifact.layout import VARIABLES, verify
from exporter.artifact.manifest import read as read_manifest
from exporter.artifact.records import Manifest, VariableRecord
from exporter.artifact.variables import key_of, read_variables, values_id
from exporter.checkpoints.aliases import Branch, aliases_of
from exporter.checkpoints.folders import METADATA
from exporter.errors import ArtifactError, CheckpointError
from exporter.keys import from_words
from signatures.dtypes import KeyType, as_dtype

# Gives the arrays of some records, each placed by its sharding.
Reader = Callable[[Sequence[VariableRecord], Sequence[jax.sharding.Sharding]], list[jax.Array]]


@dataclass(frozen=True)
class StoredArray:
    """One array on disk.

    Attributes:
      dtype: its name, for an array that Orbax wrote alone that of the words of random keys.
      shape: likewise.
    """

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Stored:
    """What can be restored from a folder.

    Attributes:
      folder: for messages.
      arrays: each array by its path.
      aliases: other names of them.
      read: reads arrays, given records whose keys are in `arrays`.
      has_words: whether random keys are known only as the words they are made of.
    """

    folder: Path
    arrays: Mapping[Key, StoredArray]
    aliases: Mapping[Key, Key]
    read: Reader
    has_words: bool = False

    def fits(self, key: Key, record: VariableRecord) -> bool:
        """Whether the array at `key` can take the place of one that the record describes."""
        found = self.arrays[key]
        dtype = as_dtype(record.dtype)
        if self.has_words and isinstance(dtype, KeyType):
            return found == StoredArray("uint32", (*record.shape, dtype.words))
        return found == StoredArray(record.dtype, tuple(record.shape))


def of_checkpoint(folder: Path) -> Stored:
    """What a step of ours holds."""
    record = checkpoint.read(folder)
    aliases = {tuple(alias.name): tuple(alias.key) for alias in record.aliases}
    keys = (tuple(one.key) for one in record.variables)
    digests = dict(zip(keys, record.digests, strict=True))
    return Stored(
        folder, _arrays(record.variables), aliases, _checked(folder, _reader(folder), digests)
    )


def of_artifact(folder: Path) -> Stored:
    """What an artifact holds. The digests of its arrays' files are checked first.

    Raises:
      ArtifactError: if the manifest or one of these files is damaged.
    """
    manifest = read_manifest(folder)
    verify(folder, [file for file in manifest.files if file.path.startswith(f"{VARIABLES}/")])
    aliases = aliases_of(_branches(manifest))
    return Stored(folder, _arrays(manifest.variables), aliases, _reader(folder))


def _arrays(records: Sequence[VariableRecord]) -> dict[Key, StoredArray]:
    return {tuple(one.key): StoredArray(one.dtype, tuple(one.shape)) for one in records}


def _branches(manifest: Manifest) -> list[Branch]:
    branches = []
    for position, node in enumerate(manifest.nodes):
        keys = [scalar_of(key) for key in node.keys] or range(len(node.children))
        ways = [
            (key_of((key,))[0], child)
            for key, child in zip(keys, node.children, strict=True)
            if manifest.nodes[child].kind not in ("value", "function")
        ]
        identity = ("variable", node.index) if node.kind == "variable" else position
        branches.append(Branch(identity, ways))
    return branches


def _reader(folder: Path) -> Reader:
    def read(
        records: Sequence[VariableRecord], shardings: Sequence[jax.sharding.Sharding]
    ) -> list[jax.Array]:
        try:
            return read_variables(folder, records, shardings)
        except ArtifactError as error:
            raise CheckpointError(
                "\n  ".join([f"{folder / VARIABLES} is damaged:", *error.problems])
            ) from error

    return read


def _checked(folder: Path, reader: Reader, digests: Mapping[Key, str]) -> Reader:
    """The reader, which refuses arrays that are not those that were saved."""

    def read(
        records: Sequence[VariableRecord], shardings: Sequence[jax.sharding.Sharding]
    ) -> list[jax.Array]:
        values = reader(records, shardings)
        altered = [
            "/".join(record.key)
            for record, value in zip(records, values, strict=True)
            if values_id([record], [value]) != digests[tuple(record.key)]
        ]
        if altered:
            raise CheckpointError(
                f"the checkpoint '{folder}' is damaged: {', '.join(altered)} is not what was "
                "saved. Nothing is restored: restore another step."
            )
        return values

    return read


def of_orbax(folder: Path) -> Stored:
    """What a checkpoint holds that Orbax wrote alone, of arrays and Python numbers.

    Raises:
      CheckpointError: if Orbax cannot read it.
    """
    import orbax.checkpoint as ocp

    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = checkpointer.metadata(folder).item_metadata.tree
    except Exception as error:  # Orbax passes on whatever the disk and its parsers raise
        raise CheckpointError(f"Orbax cannot read {folder / METADATA}: {error}") from error
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_leaf)
    keys = [key_of(_part(part) for part in path) for path, _ in leaves]
    if keys and all(key[-1] == "value" for key in keys):  # as Flax writes an `nnx.State`
        keys = [key[:-1] for key in keys]
    arrays = {
        key: StoredArray(np.dtype(leaf.dtype).name, tuple(leaf.shape))
        for key, (_, leaf) in zip(keys, leaves, strict=True)
        if _is_array(leaf)
    }

    def read(
        records: Sequence[VariableRecord], shardings: Sequence[jax.sharding.Sharding]
    ) -> list[jax.Array]:
        wanted = {tuple(record.key) for record in records}
        item = jax.tree.unflatten(
            treedef, [0 if key in wanted else ocp.PLACEHOLDER for key in keys]
        )
        how = jax.tree.unflatten(treedef, [ocp.RestoreArgs(restore_type=np.ndarray)] * len(keys))
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            restored = checkpointer.restore(
                folder, args=ocp.args.PyTreeRestore(item=item, restore_args=how)
            )
        values = dict(zip(keys, jax.tree.leaves(restored, is_leaf=_is_leaf), strict=True))
        return [
            _placed(values[tuple(record.key)], record, sharding)
            for record, sharding in zip(records, shardings, strict=True)
        ]

    return Stored(folder, arrays, {}, read, has_words=True)


def _is_array(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _is_leaf(value: object) -> bool:
    return value is None or _is_array(value)


def _part(key: Any) -> str:
    """The name of one step of a path as JAX tells it."""
    found = (getattr(key, name, None) for name in ("key", "idx", "name"))
    return str(next(part for part in found if part is not None))


def _placed(value: object, record: VariableRecord, sharding: jax.sharding.Sharding) -> jax.Array:
    return from_words(jax.device_put(np.asarray(value), sharding), as_dtype(record.dtype))

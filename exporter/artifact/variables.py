"""The variable tree on disk, as an Orbax checkpoint.

The tree is nested dicts by attribute path, the one that Flax users know as a pure dict of the
model's state, so that Orbax alone restores it. What TensorStore cannot hold is kept otherwise: an
array without elements is nothing but its shape, and some small numbers are bytes.

Orbax writes the checkpoint, with the layout that `FORMAT.md` describes asked for by name. Nothing
is compressed: 1 GB of weights became 8% smaller, and took 6 s to write instead of 0.6.

It is read without Orbax, as that page tells other readers to. An array that is needed whole and
lies in a file as it is goes straight from there to its place, and the digest of the file is taken
on the way. TensorStore reads the rest: what is compressed, as it once was, or in chunks, and what
devices need in parts. Either way an array is compared with the manifest before memory is taken.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import blake3
import jax
import numpy as np
import tensorstore as ts
from jax.experimental import multihost_utils

from exporter.artifact import blocks
from exporter.artifact.encoding import scalar_record
from exporter.artifact.layout import VARIABLES, FileRecord, checked_when_read, verify
from exporter.artifact.manifest import digest_of, shown
from exporter.artifact.raw import REFUSALS, Arrays, Wanted
from exporter.artifact.records import AS_BYTES, VariableRecord
from exporter.errors import ArtifactError
from exporter.keys import from_words, to_words
from signatures.dtypes import KeyType, as_dtype
from signatures.tree import Scalar

# What TensorStore keeps of the index of the checkpoint while it is read.
_CACHE_BYTES = 100 * 2**20

_MAX_PROBLEMS_IN_MESSAGE = 10

# Slashes next to which a part of a path would be empty.
_NAMELESS = re.compile(r"^/|/$|/(?=/)")

Tree = dict[str, Any]
Source = ts.TensorStore
Slices = tuple[slice, ...]
Parts = dict[tuple[object, ...], Any]  # futures, by what `_key` makes of an index


def storage_of(dtype: str, shape: Sequence[int]) -> str:
    """How an array is kept: as an `array`, as `bytes`, or `empty` as its shape alone."""
    if 0 in shape:
        return "empty"
    return "bytes" if dtype in AS_BYTES else "array"


def key_of(path: Iterable[Scalar]) -> tuple[str, ...]:
    """The path of an array in the checkpoint.

    Orbax joins keys with dots, so a dot inside a key is written `%2E`, and a percent sign `%25`. A
    slash that begins or ends a key or follows another one would make a folder without a name, so
    it is written `%2F`.
    """
    escaped = (str(key).replace("%", "%25").replace(".", "%2E") or "%" for key in path)
    return tuple(_NAMELESS.sub("%2F", key) for key in escaped)


def tree_on_disk(records: Sequence[VariableRecord], values: Sequence[object]) -> Tree:
    """What Orbax writes for the arrays: nested dicts, without those that have no elements."""
    tree: Tree = {}
    for record, value in zip(records, values, strict=True):
        if record.storage == "empty":
            continue
        inner = tree
        for key in record.key[:-1]:
            inner = inner.setdefault(key, {})
        inner[record.key[-1]] = _to_disk(value, record)
    return tree


def write_variables(
    folder: Path, records: Sequence[VariableRecord], values: Sequence[object]
) -> None:
    """Write the arrays under `folder/variables`. Without any there is no such folder.

    Raises:
      ArtifactError: if the disk does not take them.
    """
    tree = tree_on_disk(records, values)
    if not tree:
        return
    import orbax.checkpoint as ocp

    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False, use_compression=False)
    try:
        with ocp.Checkpointer(handler) as checkpointer:
            # Without a limit to the size of a file, an array of any size is one chunk.
            arguments = ocp.args.PyTreeSave(tree, ocdbt_target_data_file_size=0)
            checkpointer.save((folder / VARIABLES).resolve(), arguments)
    except Exception as error:  # Orbax passes on whatever the disk and TensorStore raise
        raise ArtifactError(
            f"the variables cannot be written: {_reason(error)}. Save to a disk with room for them."
        ) from error
    if jax.process_index() == 0:  # the others would write while the first digests
        _forget_place(folder / VARIABLES)


def _forget_place(folder: Path) -> None:
    """Take the writer's path out of the file with which Orbax marks a checkpoint as complete.

    Orbax looks whether the file is there, not at what it says.
    """
    mark = folder / "commit_success.txt"
    if mark.exists():
        mark.write_text("Checkpoint commit was successful.\n")


def read_variables(
    folder: Path,
    records: Sequence[VariableRecord],
    sharding: jax.sharding.Sharding | Sequence[jax.sharding.Sharding],
    *,
    files: Sequence[FileRecord] = (),
    read_ahead_bytes: int = 2**30,
) -> list[jax.Array]:
    """The arrays, in the order of the records, placed as `sharding` says: all alike, or each.

    Args:
      folder: the artifact.
      records: what the manifest says of the arrays.
      sharding: where they go. Only the parts that devices of this process hold are read.
      files: the files that are being verified. Of these the digests are checked here that
        `checked_when_read` leaves.
      read_ahead_bytes: how much TensorStore reads before it is placed, which keeps a disk busy.

    Raises:
      ArtifactError: if the checkpoint does not hold them, or a file is altered. Its `problems` has
        a line for each.
    """
    shardings = (
        [sharding] * len(records) if isinstance(sharding, jax.sharding.Sharding) else list(sharding)
    )
    whole = {
        number: Wanted(".".join(record.key), *_plain(record))
        for number, (record, place) in enumerate(zip(records, shardings, strict=True))
        if record.storage != "empty" and place.is_fully_replicated
    }
    read = {
        number: _placed(partial(_whole_part, found), records[number], shardings[number])
        for number, found in _as_they_lie(folder, whole, files)
    }
    rest = [number for number in range(len(records)) if number not in read]
    placed = _by_tensorstore(
        folder,
        [records[number] for number in rest],
        [shardings[number] for number in rest],
        read_ahead_bytes,
    )
    read.update(zip(rest, placed, strict=True))
    return [read[number] for number in range(len(records))]


def _as_they_lie(
    folder: Path, wanted: Mapping[int, Wanted], files: Sequence[FileRecord]
) -> Iterator[tuple[int, np.ndarray]]:
    """The arrays that are read without TensorStore, in any order. In the end all is verified."""
    arrays = Arrays(folder / VARIABLES, wanted)
    late = checked_when_read(files)
    paths = {f"{VARIABLES}/{file}": file for file in arrays.files}
    verify(folder, [record for path, record in late.items() if path not in paths])
    yield from arrays.small()
    for path, file in paths.items():
        record = late.get(path)
        hasher = None if record is None else blocks.new_hasher(record.size)
        try:
            yield from arrays.of_file(file, hasher)
        except OSError as error:
            raise _damaged(folder / VARIABLES, [f"{file}: {_reason(error)}"]) from error
        if record is not None and hasher is not None and hasher.hexdigest() != record.blake3:
            verify(folder, files)  # names all that is wrong
            raise _damaged(folder / VARIABLES, [f"{file}: changed while it was read"])


def _by_tensorstore(
    folder: Path,
    records: Sequence[VariableRecord],
    shardings: Sequence[jax.sharding.Sharding],
    ahead_bytes: int,
) -> list[jax.Array]:
    """The arrays in the order of the records, in the parts that devices need."""
    context = ts.Context({"cache_pool": {"total_bytes_limit": _CACHE_BYTES}})
    opening = [
        None
        if record.storage == "empty"
        else ts.open(_spec(folder, record), open=True, read=True, context=context)
        for record in records
    ]
    problems = []
    sources: list[Source | None] = []
    for record, future in zip(records, opening, strict=True):
        try:
            sources.append(None if future is None else _checked(future.result(), record))
        except REFUSALS as error:
            problems.append(f"{'/'.join(record.key)}: {_reason(error)}")
    if problems:
        raise _damaged(folder / VARIABLES, problems)
    arrays = []
    started = _started(sources, shardings, ahead_bytes)
    for record, place, parts in zip(records, shardings, started, strict=True):
        try:
            arrays.append(_placed(partial(_part, parts, record), record, place))
        except REFUSALS as error:
            problems.append(f"{'/'.join(record.key)}: {_reason(error)}")
    if problems:
        raise _damaged(folder / VARIABLES, problems)
    return arrays


def variable_record(
    path: Sequence[Scalar],
    dtype: str,
    shape: Sequence[int],
    *,
    trainable: bool,
    collection: str,
    name: str | None = None,
    partition_spec: list[str | list[str] | None] | None = None,
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
        partition_spec=partition_spec,
    )


def _whole(value: object) -> object:
    """The array with all of its elements here, gathered from other processes where they lie."""
    is_spread = isinstance(value, jax.Array) and not value.is_fully_addressable
    if not is_spread or value.is_fully_replicated:  # type: ignore[attr-defined]  # then it is an array
        return value
    return multihost_utils.process_allgather(value, tiled=True)


def _to_disk(value: object, record: VariableRecord) -> object:
    if record.storage == "bytes":
        return np.asarray(_whole(value)).view(np.uint8)
    if isinstance(value, jax.Array) and jax.process_count() > 1 and value.is_fully_addressable:
        # An array of this process alone. Each has its own with the same values; one writes it.
        return np.asarray(to_words(value))
    if isinstance(value, np.ndarray):  # NumPy's 64 bits are 32 to JAX unless x64 is on
        return value.astype(_plain(record)[1], copy=False)
    return value


def _plain(record: VariableRecord) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """The shape and dtype of the array that is stored for a variable."""
    dtype = as_dtype(record.dtype)
    if isinstance(dtype, KeyType):
        return (*record.shape, dtype.words), np.dtype(np.uint32)
    stored = np.dtype(np.uint8) if record.storage == "bytes" else dtype
    return tuple(record.shape), stored


def _spec(folder: Path, record: VariableRecord) -> dict[str, Any]:
    """What TensorStore opens for a variable."""
    return {
        "driver": "zarr",
        "kvstore": {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{(folder / VARIABLES).resolve()}/"},
            "path": f"{'.'.join(record.key)}/",
        },
        "recheck_cached_data": False,
        "recheck_cached_metadata": False,
        "fill_missing_data_reads": False,
    }


def _checked(store: Source, record: VariableRecord) -> Source:
    """The same, if it is what the record says. Nothing is allocated before."""
    shape, dtype = _plain(record)
    found = f"{store.dtype.name}{list(store.shape)}"
    if found != f"{ts.dtype(dtype).name}{list(shape)}":
        raise ValueError(f"expected {dtype.name}{list(shape)}, found {found}")
    chunk = store.chunk_layout.read_chunk.shape or ()
    if any((part or 0) > max(size, 1) for part, size in zip(chunk, shape, strict=False)):
        # A chunk is allocated whole, however little of it there is.
        raise ValueError(f"{found} has chunks of {list(chunk)}")
    return store


def _started(
    sources: Iterable[Source | None],
    shardings: Iterable[jax.sharding.Sharding],
    ahead_bytes: int,
) -> Iterator[Parts]:
    """The parts of each array that devices here need, read a little ahead of their use."""
    ahead: deque[tuple[int, Parts]] = deque()
    waiting = 0
    for store, sharding in zip(sources, shardings, strict=True):
        parts: Parts = {}
        size = 0
        if store is not None:
            for index in sharding.addressable_devices_indices_map(store.shape).values():
                if _key(index) not in parts:
                    parts[_key(index)] = store[index].read()
            size = store.size * store.dtype.numpy_dtype.itemsize
        ahead.append((size, parts))
        waiting += size
        while waiting > ahead_bytes:
            size, parts = ahead.popleft()
            waiting -= size
            yield parts
    yield from (parts for _, parts in ahead)


def _key(index: Slices | None) -> tuple[object, ...]:
    return tuple((part.start, part.stop) for part in index or ())


def _whole_part(array: np.ndarray, _: Slices | None) -> np.ndarray:
    """What every device gets of an array that is whole on each."""
    return array


def _part(parts: Parts, record: VariableRecord, index: Slices | None) -> np.ndarray:
    """The part of an array at an index, when TensorStore has read it."""
    if record.storage == "empty":
        shape, stored = _plain(record)
        return np.zeros(shape, stored)[index or ()]
    array: np.ndarray = parts[_key(index)].result()
    return array


def _placed(
    stored: Callable[[Slices | None], np.ndarray],
    record: VariableRecord,
    sharding: jax.sharding.Sharding,
) -> jax.Array:
    """The array whose stored parts these are. JAX may keep their memory as its own."""
    dtype = as_dtype(record.dtype)

    def part(index: Slices | None) -> np.ndarray:
        array = stored(index)
        if record.storage == "bytes":
            assert isinstance(dtype, np.dtype)
            return array.view(dtype)
        return array

    plain = jax.make_array_from_callback(_plain(record)[0], sharding, part)
    if isinstance(dtype, KeyType):
        return from_words(plain, dtype)
    return plain


# What TensorStore adds to every error: its class, its settings, and where we know we are.
_NOISE = re.compile(
    r"^[A-Z_]+: |Error opening \"zarr\" driver: | in OCDBT database at local file \"[^\"]*\""
    r"|Failed writing: \"[^\"]*\": | \[(?:tensorstore_spec|source locations|os_error_code).*"
)


def _reason(error: Exception) -> str:
    """What TensorStore has against an array, in one line."""
    return shown(_NOISE.sub("", " ".join(str(error).split())))


def _damaged(folder: Path, problems: Sequence[str]) -> ArtifactError:
    listed = [f"  {problem}" for problem in problems[:_MAX_PROBLEMS_IN_MESSAGE]]
    if len(problems) > len(listed):
        listed.append(f"  and {len(problems) - len(listed)} more")
    return ArtifactError(
        "\n".join([f"{folder} does not hold the arrays of the manifest:", *listed]), problems
    )


def values_id(records: Iterable[VariableRecord], values: Iterable[object]) -> str:
    """The same for the same values under the same keys, whenever they are saved."""
    hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
    for record, value in zip(records, values, strict=True):
        hasher.update(digest_of([record.key, record.dtype, record.shape]).encode())
        array = np.ascontiguousarray(np.asarray(_to_disk(_whole(to_words(value)), record)))
        hasher.update(array.reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()

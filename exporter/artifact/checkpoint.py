"""What a training checkpoint says of its arrays, beside them: what Orbax alone cannot.

A step is a folder like an artifact, with the arrays in `variables/` and this in a JSON file instead
of a manifest. `FORMAT.md` describes it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from exporter.artifact.manifest import MAX_MANIFEST_BYTES, shown
from exporter.artifact.records import Digest, Record, VariableRecord
from exporter.artifact.variables import values_id
from exporter.errors import CheckpointError

# The folder and the file beside `variables/`.
ITEM = "exporter"
FILE = "checkpoint.json"

FORMAT = "jax-exporter-checkpoint"
FORMAT_VERSION = 1

# The path of an array in a checkpoint, as `variables.key_of` makes it.
Key = tuple[str, ...]


class AliasRecord(Record, frozen=True):
    """Another way to an array or to all that is below a node: `name` leads where `key` does."""

    name: list[str]
    key: list[str]


class CheckpointRecord(Record, frozen=True):
    """The arrays of a checkpoint and the other names that they have."""

    format: str
    format_version: int
    variables: list[VariableRecord]
    aliases: list[AliasRecord]
    digests: list[Digest]


def to_json(
    records: Sequence[VariableRecord], values: Sequence[object], aliases: Mapping[Key, Key]
) -> dict[str, Any]:
    """The content of the file, for Orbax to write."""
    found = [AliasRecord(list(name), list(key)) for name, key in aliases.items()]
    digests = [values_id([one], [value]) for one, value in zip(records, values, strict=True)]
    record = CheckpointRecord(FORMAT, FORMAT_VERSION, list(records), found, digests)
    document: dict[str, Any] = msgspec.to_builtins(record)
    return document


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` is a step that was saved here. Its file is not read."""
    return (folder / ITEM / FILE).is_file()


def read(folder: Path) -> CheckpointRecord:
    """What the file of a step says.

    Raises:
      CheckpointError: if it is damaged or of a format that we do not read.
    """
    path = folder / ITEM / FILE
    with path.open("rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise CheckpointError(
            f"{path} has more than {MAX_MANIFEST_BYTES:,} bytes, so it is damaged."
        )
    try:
        record = msgspec.json.decode(data, type=CheckpointRecord)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {shown(error)}.") from error
    if (record.format, record.format_version) != (FORMAT, FORMAT_VERSION):
        raise CheckpointError(
            f"{path} is written in format {shown(record.format)} {record.format_version}; this "
            f"version of jax-exporter reads {FORMAT} {FORMAT_VERSION}. Install a newer one."
        )
    if len(record.digests) != len(record.variables):
        raise CheckpointError(f"{path} is damaged: it has not one digest for each array.")
    return record

"""The manifest: everything about an artifact that is not a program, an array or a file.

`FORMAT.md` beside this file says what each field means to a reader in another language. JSON is
parsed into the classes of `records.py` or refused. No other code touches the raw JSON.
"""

import dataclasses
import json
import stat
from pathlib import Path

import blake3
import msgspec
from msgspec import Struct

from exporter.artifact.layout import MANIFEST, FileRecord
from exporter.artifact.records import (
    FORMAT,
    FORMAT_VERSION,
    OLDEST_FORMAT_VERSION,
    Digest,
    Manifest,
)
from exporter.errors import ArtifactError, ArtifactNotFoundError, FormatVersionError

# A manifest of 1,000 signatures with three inputs each takes 1.5 MiB. This leaves room for ten
# times that, or for 30,000 variables. Reading a hostile file takes 30 times its size in memory.
MAX_MANIFEST_BYTES = 16 * 2**20

# As much of a value from a file as is worth showing in a message.
_MAX_SHOWN = 400


class _Stored(Manifest, frozen=True, kw_only=True):
    """A manifest as it is in its file."""

    digest: Digest


class _Writer(Struct, frozen=True):
    jax_exporter: str = "?"


class _Head(Struct, frozen=True):
    """What every version of the format has, so that a reader can name the one it cannot read."""

    format: str = ""
    format_version: int = 0
    producer: _Writer = _Writer()


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON for the folder, with a digest of itself as its first field.

    Raises:
      ArtifactError: if no reader would take it.
    """
    document = msgspec.to_builtins(manifest)
    compact = msgspec.json.encode({"digest": _digest(document), **document})
    data = msgspec.json.format(compact, indent=1) + b"\n"
    if len(data) > MAX_MANIFEST_BYTES:
        raise ArtifactError(
            f"the manifest would have {len(data):,} bytes, and readers take {MAX_MANIFEST_BYTES:,} "
            "at most. Stack arrays that are used alike, or save parts of the object by themselves."
        )
    return data


def read(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
      ArtifactNotFoundError: if there is none.
      FormatVersionError: if it is of a format that we do not read.
      ArtifactError: if it is damaged or says what cannot be.
    """
    path = folder / MANIFEST
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would never end
            raise ArtifactError(f"{path} is not a file.")
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactNotFoundError(_nothing_at(folder)) from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from error
    return decode(data, path)


def decode(data: bytes, path: Path) -> Manifest:
    """The manifest in a file's bytes. `path` is for messages. Raises as `read` does."""
    from exporter.artifact.soundness import check  # it needs the classes of this file

    if len(data) > MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{path} has more than {MAX_MANIFEST_BYTES:,} bytes, so it is damaged.")
    try:
        # Fields that are not asked for are passed over, so this takes no memory.
        head = msgspec.json.decode(data, type=_Head)
    except msgspec.ValidationError as error:
        raise ArtifactError(
            f"{path} is not the manifest of an artifact: {shown(error)}."
        ) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged, it is not JSON: {shown(error)}.") from error
    if head.format != FORMAT:
        raise ArtifactError(f'{path} is not the manifest of an artifact: no "format": "{FORMAT}".')
    if not OLDEST_FORMAT_VERSION <= head.format_version <= FORMAT_VERSION:
        raise FormatVersionError(
            f"{path} is written in format {shown(head.format_version)}; this version of "
            f"jax-exporter reads {OLDEST_FORMAT_VERSION} to {FORMAT_VERSION}. It was written by "
            f"jax-exporter {shown(head.producer.jax_exporter)}: install that or a newer one."
        )
    try:
        stored = msgspec.json.decode(data, type=_Stored)
        _check_digest(stored.digest, data)
        fields = msgspec.structs.asdict(stored)
        del fields["digest"]
        manifest = Manifest(**fields)
        check(manifest)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {shown(error)}") from error
    return manifest


def _check_digest(digest: str, data: bytes) -> None:
    document = msgspec.json.decode(data)
    del document["digest"]
    if digest != _digest(document):
        raise ValueError("it was altered after it was written, its digest is that of other content")
    # Classes of the standard library, as the records of files are, let unknown fields pass.
    if any(len(file) != len(dataclasses.fields(FileRecord)) for file in document["files"]):
        raise ValueError("files has an entry with an unknown field")


def shown(value: object) -> str:
    """Something from a file as text for a message: not too long, and harmless to a terminal."""
    text = str(value)
    text = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def digest_of(part: object) -> str:
    """The BLAKE3 of records or plain values, the same on every machine."""
    return _digest(msgspec.to_builtins(part))


def _digest(document: object) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        return blake3.blake3(canonical.encode()).hexdigest()
    except UnicodeEncodeError as error:
        text = canonical[: error.end].rpartition('"')[2][-60:]
        raise ArtifactError(
            f"a manifest cannot hold the text {text!a}, which has half of a surrogate pair. It is "
            "the name, the key or the default value of something that is saved, or its docstring."
        ) from error


def _nothing_at(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} does not exist."
    if not folder.is_dir():
        return f"{folder} is a file; an artifact is a folder with a {MANIFEST}."
    inside = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    hint = f" It has artifacts in it: {', '.join(inside[:10])}." if inside else ""
    return f"{folder} is not an artifact: it has no {MANIFEST}.{hint}"

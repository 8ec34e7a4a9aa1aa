"""Programs on disk: MLIR bytecode, compressed with gzip.

Portable bytecode says the same thing often, a layer of a model like the one before it: compressed
it has a third of its size. A program that is not compressed is read as well, as older releases
wrote it.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path

from exporter.artifact.layout import PROGRAMS, inside
from exporter.errors import ArtifactError, ArtifactNotFoundError

_BYTECODE = ".mlirbc"
_COMPRESSED = ".gz"

# How zlib knows that it is to write and read the format of gzip. It sets no time in it, so that the
# same bytecode is the same file.
_GZIP = 31

# MLIR takes no more. It bounds what a small file can ask for: zeros are compressed 1,032 times.
_MAX_BYTES = 2**31 - 1


def name_of(stem: str) -> str:
    """The path, in an artifact, of the program of that name."""
    return f"{PROGRAMS}/{stem}{_BYTECODE}{_COMPRESSED}"


def packed(path: str, bytecode: bytes) -> bytes:
    """The content of the file at `path` for a program."""
    return zlib.compress(bytecode, wbits=_GZIP) if path.endswith(_COMPRESSED) else bytecode


def read_program(
    folder: Path, path: str, sizes: Mapping[str, int], *, limit: int = _MAX_BYTES
) -> bytes:
    """The bytecode in a file of an artifact.

    Args:
      folder: the artifact.
      path: the file, relative to it.
      sizes: the sizes of files in the manifest, by path.
      limit: how many bytes a program may have at most.

    Raises:
      ArtifactError: if the file is missing, of another size, or no program was compressed to it, or
        one that is too large.
    """
    file, size = inside(folder, path), sizes[path]
    if not file.is_file():
        raise ArtifactNotFoundError(f"{file} is missing, or is not a file.")
    if size > limit:
        raise ArtifactError(f"{file} has {size:,} bytes, and at most {limit:,} are read.")
    with file.open("rb") as stream:
        data = stream.read(size + 1)
    if len(data) != size:
        raise ArtifactError(f"{file} has another size than the {size:,} bytes it was saved with.")
    if not path.endswith(_COMPRESSED):
        return data
    reader = zlib.decompressobj(wbits=_GZIP)
    try:
        bytecode = reader.decompress(data, limit)
    except zlib.error as error:
        raise ArtifactError(f"{file} is not what gzip compresses to: {error}.") from error
    if not reader.eof or reader.unused_data:
        raise ArtifactError(
            f"{file} is not one program compressed with gzip: it ends too early, has other bytes "
            f"after it, or holds more than {limit:,} bytes."
        )
    return bytecode

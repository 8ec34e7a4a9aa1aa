"""Arrays in files of NumPy: `.npy`, and the archives `.npz`. Pickled objects are never loaded."""

import io
import warnings
from typing import Any, BinaryIO

import numpy as np

from exporter.cli.arrays.sources import Source
from signatures.dtypes import DType
from signatures.errors import BindError

# How a .npy file and a zip archive, empty or not, begin. NumPy takes all else for a pickle.
_MAGIC = (b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")

# An array of more bytes is not unpacked if it was packed to less than a hundredth: deflate packs
# zeros a thousandfold, so a small file can claim all memory there is.
_MAX_UNPACKED_BYTES = 64 * 2**20
_MAX_RATIO = 100

_MAX_SHOWN_KEYS = 10


def read_array(source: Source, dtype: DType | None) -> np.ndarray:
    """The array in a file, or the one of the key in brackets in an archive.

    Raw bytes are taken for `dtype` if it is a type that such files cannot name: they are all that
    `np.save` keeps of the small types of `ml_dtypes`.

    Raises:
      BindError: if the file is missing, damaged, of another kind, or holds Python objects.
    """
    with source.opened() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what NumPy has to say of odd headers
        start = file.read(6)
        file.seek(0)
        if not start.startswith(_MAGIC):
            raise BindError(f"{source.name} is not a NumPy file")
        try:
            array = _array_in(_loaded(file, dtype), source.name, source.suffix)
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            raise BindError(
                f"{source.name} holds pickled Python objects, which are never loaded; save arrays "
                "of numbers"
            ) from error
    return _typed(array, dtype)


def _loaded(file: BinaryIO, dtype: DType | None) -> Any:
    """What NumPy reads, and an array of a small type whose name NumPy writes but does not know."""
    try:
        return np.load(file, allow_pickle=False)
    except ValueError:
        if not isinstance(dtype, np.dtype) or not is_small(dtype):
            raise
        file.seek(0)
        data = file.read()
        named = f"'{dtype.str}'".encode()
        raw = f"'|V{dtype.itemsize}'".encode()
        if named not in data[:128] or len(named) != len(raw):
            raise
        return np.load(io.BytesIO(data.replace(named, raw, 1)), allow_pickle=False)


def is_small(dtype: np.dtype[np.generic]) -> bool:
    """Whether the type is one of `ml_dtypes`, which `.npy` has no names for.

    Their kind does not tell: float8_e5m2 says that it is one of NumPy's own floats.
    """
    return dtype.isbuiltin == 2


def _typed(array: np.ndarray, dtype: DType | None) -> np.ndarray:
    if array.dtype.kind != "V" or array.dtype.names:
        return array
    if not isinstance(dtype, np.dtype) or not is_small(dtype):
        return array
    return array.view(dtype) if dtype.itemsize == array.dtype.itemsize else array


def _array_in(loaded: Any, path: str, key: str | None) -> np.ndarray:
    if isinstance(loaded, np.ndarray):
        if key is not None:
            raise BindError(f"{path} is one array and no archive, write {path} without [{key}]")
        return loaded
    with loaded as archive:
        known = _listed(archive.files)
        if key is None:
            raise BindError(
                f"{path} is an archive, write {path}[KEY] with one of its keys: {known}"
            )
        if key not in archive.files:
            raise BindError(f"{path} has no array {key!r}, its keys are: {known}")
        _check_size(archive, path, key)
        array = archive[key]
        if not isinstance(array, np.ndarray):  # any zip archive may be called .npz
            raise BindError(f"{path} holds something else than an array as {key!r}")
        return array


def _check_size(archive: Any, path: str, key: str) -> None:
    members = archive.zip.namelist()
    member = archive.zip.getinfo(key if key in members else f"{key}.npy")
    packed, unpacked = member.compress_size, member.file_size
    if unpacked > max(_MAX_UNPACKED_BYTES, _MAX_RATIO * packed):
        raise BindError(
            f"{path} has {key!r} packed from {unpacked:,} bytes to {packed:,}, which may be a "
            "trap; save it with np.savez, which does not pack"
        )


def _listed(keys: list[str]) -> str:
    shown = ", ".join(map(repr, keys[:_MAX_SHOWN_KEYS])) or "none"
    more = len(keys) - _MAX_SHOWN_KEYS
    return f"{shown} and {more:,} more" if more > 0 else shown

"""Arrays of a command: inputs from files and JSON, outputs to files. Nothing is ever executed."""

import dataclasses
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter.artifact.layout import inside
from exporter.errors import ArtifactExistsError
from signatures.dtypes import DType, KeyType
from signatures.errors import BindError
from signatures.signature import Signature
from signatures.spec import TensorSpec

_IN_ARCHIVE = re.compile(r"(?P<file>.+\.npz)\[(?P<key>.+)\]", re.DOTALL)

# How a .npy file and a zip archive, empty or not, begin. NumPy takes all else for a pickle.
_MAGIC = (b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")


def without_keys(signature: Signature) -> Signature:
    """The signature with random keys as the words they are made of: `uint32[..., n]`.

    Neither files nor JSON can hold keys, and only JAX can make them.
    """
    inputs = dict(signature.inputs)
    for name, spec in signature.inputs.items():
        if isinstance(spec.dtype, KeyType) and spec.shape is not None:
            words = TensorSpec((*spec.shape, spec.dtype.words), "uint32", name)
            inputs[name] = words.with_bounds(spec.dims)
    return dataclasses.replace(signature, inputs=inputs)


def read_values(given: Sequence[str], specs: Mapping[str, TensorSpec]) -> dict[str, object]:
    """The values in words like `image=x.npy`, `image=data.npz[test]` and `ids=[[1, 2]]`.

    They are not matched with the specs, but raw bytes in a file are taken for the type of their
    input if it is one that such files cannot name.

    Raises:
      BindError: naming every input that cannot be read.
    """
    values: dict[str, object] = {}
    problems = []
    for word in given:
        name, equals, text = word.partition("=")
        try:
            if not name or not equals:
                raise BindError(f"expected NAME=VALUE, got {word!r}")
            if name in values:
                raise BindError(f"{name}: given twice")
            values[name] = _value(name, text, specs.get(name))
        except BindError as error:
            problems.append(str(error))
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise BindError(f"inputs cannot be read:{lines}", problems)
    return values


def check_files(folder: Path, names: Iterable[str], *, overwrite: bool) -> dict[str, Path]:
    """The file of each output: `folder/NAME.npy`, a `/` in a name making a folder.

    Nothing is written or made.

    Raises:
      ArtifactError: if a name would lead out of the folder.
      ArtifactExistsError: naming everything that is in the way.
    """
    files = {name: inside(folder, f"{name}.npy") for name in names}
    problems = dict.fromkeys(
        problem
        for file in files.values()
        if (problem := _obstacle(folder, file, files.values(), overwrite=overwrite))
    )
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise ArtifactExistsError(f"outputs cannot be written:{lines}", problems)
    return files


def write_file(file: Path, array: np.ndarray, *, overwrite: bool) -> np.dtype[np.generic]:
    """Write an array as `.npy`. Gives the dtype in the file, which `.npy` must have a name for.

    Raises:
      OSError: if it cannot be written, or has appeared since `check_files`.
    """
    stored = storable(array)
    file.parent.mkdir(parents=True, exist_ok=True)
    if overwrite:
        file.unlink(missing_ok=True)  # not opened: where a link leads, nothing is changed
    with file.open("xb") as stream:
        np.save(stream, stored, allow_pickle=False)
    return stored.dtype


def storable(array: np.ndarray) -> np.ndarray:
    """The array itself, or one of a type that `.npy` has a name for, with the same values."""
    if not _is_small(array.dtype):
        return array
    if "int" in array.dtype.name:
        return array.astype(np.uint8 if array.dtype.name.startswith("u") else np.int8)
    with np.errstate(invalid="ignore"):  # some NaNs are signals
        return array.astype(np.float32)


def _value(name: str, text: str, spec: TensorSpec | None) -> object:
    try:
        value: object
        if found := _IN_ARCHIVE.fullmatch(text):
            value = _load(Path(found["file"]), found["key"])
        elif text.endswith((".npy", ".npz")):
            value = _load(Path(text), None)
        else:
            value = _literal(text)
        return value if spec is None else _typed(value, spec.dtype)
    except BindError as error:
        raise BindError(f"{name}: {error}") from error


def _typed(value: object, dtype: DType) -> object:
    """The value, or an array of `dtype` if it is raw bytes of such numbers.

    This is all that `np.save` keeps of the small types of `ml_dtypes`.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind != "V" or value.dtype.names:
        return value
    if not isinstance(dtype, np.dtype) or not _is_small(dtype):
        return value
    return value.view(dtype) if dtype.itemsize == value.dtype.itemsize else value


def _is_small(dtype: np.dtype[np.generic]) -> bool:
    """Whether the type is one of `ml_dtypes`, which `.npy` has no names for.

    Their kind does not tell: float8_e5m2 says that it is one of NumPy's own floats.
    """
    return dtype.isbuiltin == 2


def _load(path: Path, key: str | None) -> np.ndarray:
    """The array in a file, or the one of that key in an archive.

    Raises:
      BindError: if the file is missing, damaged, of another kind, or holds Python objects.
    """
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what NumPy has to say of odd headers
            if not file.peek(6).startswith(_MAGIC):
                raise BindError(f"{path} is not a NumPy file")
            return _array_in(np.load(file, allow_pickle=False), path, key)
    except BindError:
        raise
    except FileNotFoundError as error:
        raise BindError(f"{path} does not exist") from error
    except Exception as error:  # NumPy, zipfile and zlib raise almost anything for damaged files
        if "allow_pickle" in str(error):
            message = f"{path} holds pickled Python objects, which are never loaded"
            raise BindError(message) from error
        lines = (getattr(error, "strerror", None) or str(error) or repr(error)).splitlines()
        raise BindError(f"{path} cannot be read: {' '.join(lines[0].split())}") from error


def _array_in(loaded: Any, path: Path, key: str | None) -> np.ndarray:
    if isinstance(loaded, np.ndarray):
        if key is not None:
            raise BindError(f"{path} is one array and no archive, write {path} without [{key}]")
        return loaded
    with loaded as archive:
        known = ", ".join(map(repr, archive.files)) or "none"
        if key is None:
            raise BindError(
                f"{path} is an archive, write {path}[KEY] with one of its keys: {known}"
            )
        if key not in archive.files:
            raise BindError(f"{path} has no array {key!r}, its keys are: {known}")
        array = archive[key]
        if not isinstance(array, np.ndarray):  # any zip archive may be called .npz
            raise BindError(f"{path} holds something else than an array as {key!r}")
        return array


def _literal(text: str) -> object:
    try:
        return json.loads(text, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise BindError(
            f"{shown!r} is neither FILE.npy, nor FILE.npz[KEY], nor JSON: {error}"
        ) from error


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large for a number")
    return value


def _obstacle(folder: Path, file: Path, files: Iterable[Path], *, overwrite: bool) -> str | None:
    """What keeps a file from being written, if anything does."""
    if any(file in other.parents for other in files):
        return f"{file} would have to be a file and a folder"
    above = [parent for parent in file.parents if parent == folder or folder in parent.parents]
    for parent in above:
        if _exists(parent) and not parent.is_dir():
            return f"{parent} is not a folder"
    if not _exists(file):
        return None
    if file.is_dir():
        return f"{file} is a folder"
    return None if overwrite else f"{file} exists, pass --overwrite to replace it"


def _exists(path: Path) -> bool:
    """Whether something is there, be it a link that leads nowhere.

    Raises:
      OSError: if nothing can ever be there, for example because the name is too long.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True

"""The outputs of a call in files: `.npy` for each in a folder, or all in one `.npz` or `.json`."""

import io
import json
import os
import secrets
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from exporter.artifact.layout import inside
from exporter.cli.arrays.numpy_files import is_small
from exporter.errors import ArtifactExistsError
from exporter.runtime.summary import json_values

# How the name of one file for all outputs ends. Any other name is that of a folder.
TOGETHER = (".npz", ".json")


def planned_files(out: Path, names: Iterable[str], *, overwrite: bool) -> dict[str, Path]:
    """The file of each output: one for all if `out` ends so, else one each in the folder `out`.

    Nothing is written or made.

    Raises:
      ArtifactError: if a name would lead out of the folder, or out of where an archive is unpacked.
      ArtifactExistsError: naming everything that is in the way.
    """
    if out.suffix.lower() not in TOGETHER:
        return check_files(out, names, overwrite=overwrite)
    names = list(names)
    for name in names:
        inside(out, f"{name}.npy")
    problem = _obstacle(out.parent, out, [out], overwrite=overwrite)
    if problem:
        raise ArtifactExistsError(f"outputs cannot be written:\n  {problem}", [problem])
    return dict.fromkeys(names, out)


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


def write_files(
    files: Mapping[str, Path], arrays: Mapping[str, np.ndarray], *, overwrite: bool
) -> None:
    """Write each array to its file. Each file appears whole, and only when all could be written.

    Raises:
      OSError: if one cannot be written, or has appeared since `planned_files`.
    """
    together = {file: {} for file in files.values()}  # type: dict[Path, dict[str, np.ndarray]]
    for name, array in arrays.items():
        together[files[name]][name] = array
    with _scratch(together) as drafts:
        for file, content in together.items():
            _write(drafts[file], file.suffix.lower(), content)
        for file, draft in drafts.items():
            if overwrite:
                draft.replace(file)  # where a link leads, nothing is changed
            else:
                _move_if_absent(draft, file)


def as_json(arrays: Mapping[str, np.ndarray]) -> str:
    """All arrays as one JSON object."""
    return json.dumps({name: json_values(array) for name, array in arrays.items()})


@contextmanager
def _scratch(files: Iterable[Path]) -> Iterator[dict[Path, Path]]:
    """A name beside each file for it to be written under. What is left there is removed."""
    drafts = {}
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        drafts[file] = file.with_name(f".{secrets.token_hex(8)}.writing")
    try:
        yield drafts
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def _write(draft: Path, suffix: str, arrays: Mapping[str, np.ndarray]) -> None:
    with draft.open("xb") as stream:
        if suffix == ".json":
            stream.write(as_json(arrays).encode() + b"\n")
        elif suffix == ".npz":
            _write_archive(stream, arrays)
        else:
            (array,) = arrays.values()
            np.save(stream, storable(array), allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())


def _write_archive(stream: io.BufferedWriter, arrays: Mapping[str, np.ndarray]) -> None:
    """As `np.savez` does, which takes no output that is called `file`."""
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, storable(array), allow_pickle=False)


def _move_if_absent(draft: Path, file: Path) -> None:
    """Give a draft its name, unless something has it."""
    try:
        file.hardlink_to(draft)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if _exists(file):
            raise FileExistsError(17, "File exists", str(file)) from None
        draft.rename(file)


def storable(array: np.ndarray) -> np.ndarray:
    """The array itself, or one of a type that `.npy` has a name for, with the same values."""
    if not is_small(array.dtype):
        return array
    if "int" in array.dtype.name:
        return array.astype(np.uint8 if array.dtype.name.startswith("u") else np.int8)
    with np.errstate(invalid="ignore"):  # some NaNs are signals
        return array.astype(np.float32)


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

"""Where the parts of an artifact lie, whether they are intact, and how all appear at once.

A save grows in a scratch folder beside its target, is written through to the disk there, and moves
into place as the last step, in one operation of the file system. So at every moment the target is
what it was before or what it is to be.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import blake3

from exporter.artifact import blocks, scratch
from exporter.errors import ArtifactError, ArtifactExistsError, ArtifactNotFoundError, OptionError

MANIFEST = "saved_model.json"
PROGRAMS = "programs"
VARIABLES = "variables"
ASSETS = "assets"
SAMPLES = "samples"

_PARTS = frozenset({MANIFEST, PROGRAMS, VARIABLES, ASSETS, SAMPLES})

# `gs://` and the like, also after pathlib made one slash of two. A scheme has two letters or more,
# so that the drive letter in `C:/` is not one.
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|.*://")
_DRIVE = re.compile(r"[A-Za-z]:")

# Characters that UTF-8 has no place for, that file systems refuse, or that change a terminal.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

# Large files of variables are not read twice: their digests are checked on what becomes arrays.
_LARGE_BYTES = 2**20

_MAX_PROBLEMS_IN_MESSAGE = 10


@dataclass(frozen=True)
class FileRecord:
    """What the manifest says of one file.

    Attributes:
      path: relative to the artifact, with `/` between its parts.
      size: in bytes.
      blake3: the BLAKE3 digest of the content, as 64 lower-case hexadecimal digits.
    """

    path: str
    size: int
    blake3: str


def is_artifact(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a folder with a manifest. The manifest is not read."""
    return (as_path("path", path) / MANIFEST).is_file()


def check_outside(path: Path) -> None:
    """Refuse a file or folder that would lie in an artifact, where nothing else belongs.

    Raises:
      OptionError: naming the artifact.
    """
    target = Path(os.path.realpath(path))
    above = (target, *target.parents)
    outer = next((one for one in above if os.path.isfile(one / MANIFEST)), None)  # noqa: PTH113  # no name is too long for it
    if outer is not None:
        raise OptionError(
            f"cannot write '{target}': '{outer}' is an artifact, and nothing else belongs inside "
            "it. Write beside it."
        )


def as_path(name: str, path: object) -> Path:
    """The path that somebody gave as the argument of that name.

    Raises:
      OptionError: if it is none of a local file or folder.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise OptionError(
            f"{name} is the path of a file or folder, such as 'models/digits/1'; got {path!r}."
        )
    return Path(text)


def inside(folder: Path, relative: str) -> Path:
    """`folder / relative`, for a path from a manifest, which nobody has vouched for.

    Symbolic links are followed, since where a file lies is of no account when its digest agrees.

    Raises:
      ArtifactError: if `relative` is not the plain name of something below `folder`.
    """
    if fault := _fault_in_name(relative):
        raise ArtifactError(f"'{folder}' cannot have a file {relative!r}: the path {fault}.")
    return folder / relative


def _fault_in_name(relative: str) -> str | None:
    """What keeps `relative` from naming one file below a folder on every system, if anything."""
    if not relative:
        return "is empty"
    if _UNPRINTABLE.search(relative):
        return "holds a control character or half of one of UTF-16's pairs"
    if "\\" in relative:
        return "holds a backslash"
    if _DRIVE.match(relative):
        return "begins with a drive letter"
    if relative.startswith("/"):
        return "is absolute"
    if ".." in relative.split("/"):
        return "leaves the folder"
    if not {"", "."}.isdisjoint(relative.split("/")):
        return "has an empty part"
    return None


def check_target(path: str | os.PathLike[str] | None, *, overwrite: bool) -> Path:
    """The absolute path of the folder to save to, with symbolic links resolved.

    Nothing is created. An absent or an empty folder will do, and so will an artifact if `overwrite`
    is true and its top level holds nothing else: what no save wrote, no save deletes.

    Raises:
      ArtifactExistsError: if there is something that this save may not replace.
      ArtifactError: if `path` is not that of a local folder, or nothing can be written there.
    """
    target = _local_path(path)
    with naming(target):
        _check_replaceable(target, overwrite=overwrite)
        outer = next((folder for folder in target.parents if is_artifact(folder)), None)
        if outer is not None:
            raise ArtifactError(
                f"cannot save to '{target}': '{outer}' is an artifact, and nothing else belongs "
                "inside it. Save beside it."
            )
        parent = next(folder for folder in target.parents if folder.exists())
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent))
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(parent))
    return target


def _local_path(path: object) -> Path:
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise ArtifactError(
            f"expected the path of a folder to save to, got {path!r}. "
            "Pass a local path, for example 'models/digits/1'."
        )
    if _REMOTE.match(text):
        raise ArtifactError(
            f"cannot save to '{text}': only local folders can appear whole or not at all. "
            "Save to a local folder and copy it from there."
        )
    return Path(os.path.realpath(text))


def _check_replaceable(target: Path, *, overwrite: bool) -> None:
    """Raises ArtifactExistsError unless `target` is absent, empty, or an artifact to overwrite."""
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        fault = "it is not a folder. Remove it first, or save to another path"
    elif target.is_mount():
        fault = "it is a mount point, which cannot be replaced. Save to a folder inside it"
    elif not (names := sorted(entry.name for entry in target.iterdir())):
        return
    elif not is_artifact(target):
        fault = (
            f"it is a folder that is not an artifact and holds {_listed(names)}. Such a folder is "
            "never overwritten. Save to a path that does not exist"
        )
    elif not overwrite:
        fault = "there is an artifact already. Pass overwrite=True, or save to another path"
    elif foreign := [name for name in names if name not in _PARTS]:
        fault = (
            f"beside the artifact there, the folder holds {_listed(foreign)}, which no save wrote "
            "and overwriting would delete. Move that away first, or save to another path"
        )
    else:
        return
    raise ArtifactExistsError(f"cannot save to '{target}': {fault}.")


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


@contextlib.contextmanager
def naming(target: Path) -> Iterator[None]:
    """Names the target in what the operating system has against a save."""
    try:
        yield
    except ArtifactError:  # some are OSErrors too, and those name the target already
        raise
    except OSError as cause:
        raise ArtifactError(
            f"cannot save to '{target}': {cause}. "
            "Save to a folder that this process may write to, on a disk with room for it."
        ) from cause


@contextlib.contextmanager
def staged(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[Path]:
    """A scratch folder that becomes the artifact at `path` when the `with` block ends well.

    The block ends by writing the manifest. If it raises, the scratch folder goes and the target is
    as it was. If the process is killed, the target is as it was too, and the next save removes the
    scratch folder. Of two saves at once, the later one wins if it may overwrite, and fails if not.

    A reader that has files of a replaced artifact open keeps them. One that opens files by path
    while the artifact is replaced may see some of each: see `reading.py`.

    Yields:
      An empty folder beside the target, on the same file system.

    Raises:
      ArtifactExistsError: if there is something that this save may not replace, from the start or
        by the time that the block ends.
      ArtifactError: if `path` is not that of a local folder, or writing there fails.
    """
    target = check_target(path, overwrite=overwrite)
    with contextlib.ExitStack() as stack:
        with naming(target):
            scratch.make_folders(target.parent)
            scratch.remove_leftovers(target)
            folder = stack.enter_context(scratch.beside(target))
        yield folder
        assert is_artifact(folder), "a save ends by writing its manifest"
        with naming(target):
            _files_below(folder)
            scratch.sync_all(folder)
            _move_into_place(folder, target, overwrite=overwrite)
            scratch.sync(target.parent)


def _move_into_place(folder: Path, target: Path, *, overwrite: bool) -> None:
    """Makes `folder` the target. What the target was before, if anything, is then at `folder`.

    Raises:
      ArtifactExistsError: if something has appeared there that this save may not replace.
    """
    moved = False
    while not moved:
        try:
            folder.rename(target)
            moved = True
        except OSError as error:  # a folder takes the place of nothing, or of an empty folder
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
            _check_replaceable(target, overwrite=overwrite)
            with contextlib.suppress(FileNotFoundError):  # it has gone since it was in the way
                scratch.exchange(folder, target)
                moved = True


def record_files(folder: Path) -> tuple[FileRecord, ...]:
    """A record of every file below `folder` except the manifest, sorted by path.

    Raises:
      ArtifactError: if something below is neither a file nor a folder, or has a name that an
        artifact cannot hold.
    """
    names = [path.relative_to(folder).as_posix() for path in _files_below(folder)]
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(partial(_record, folder), sorted(set(names) - {MANIFEST})))


def _record(folder: Path, name: str) -> FileRecord:
    path = inside(folder, name)
    return FileRecord(path=name, size=path.stat().st_size, blake3=blocks.digest(path))


def _files_below(folder: Path) -> list[Path]:
    entries = [Path(below, name) for below, _, names in os.walk(folder) for name in names]
    folders = [Path(below, name) for below, names, _ in os.walk(folder) for name in names]
    for path in entries + folders:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise ArtifactError(
                f"an artifact holds files and folders only, and '{path}' is neither. "
                "Copy what it stands for instead."
            )
    return entries


def walked(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """What `os.walk` gives, without going through links, or an error for what cannot be listed.

    Raises:
      ArtifactError: naming a folder that cannot be read: what is in it would go unseen.
    """

    def refuse(error: OSError) -> None:
        reason = error.strerror or error
        raise ArtifactError(
            f"{error.filename} cannot be listed: {reason}. Nobody can tell what is in it."
        ) from error

    return os.walk(folder, onerror=refuse)


def unrecorded_files(folder: Path, records: Iterable[FileRecord]) -> tuple[str, ...]:
    """What lies below `folder` beside the manifest and what `records` name, sorted by path.

    Symbolic links to folders are not followed. One that holds no recorded file is told itself.
    """
    known = {MANIFEST, *(record.path for record in records)}
    parents = {path[:end] for path in known for end, mark in enumerate(path) if mark == "/"}
    found = []
    for below, folders, files in walked(folder):
        links = (name for name in folders if Path(below, name).is_symlink())
        paths = [Path(below, name).relative_to(folder).as_posix() for name in (*files, *links)]
        found += [path for path in paths if path not in known and path not in parents]
    return tuple(sorted(found))


def digest_bytes(data: bytes) -> str:
    """The BLAKE3 digest of what would be a file's content."""
    return blake3.blake3(data).hexdigest()


def checked_when_read(records: Iterable[FileRecord]) -> dict[str, FileRecord]:
    """The large files of variables, by path: whoever reads these may check their digests then."""
    return {
        record.path: record
        for record in records
        if record.path.startswith(f"{VARIABLES}/") and record.size >= _LARGE_BYTES
    }


def verify(folder: Path, records: Iterable[FileRecord], *, late: Collection[str] = ()) -> None:
    """Checks the size and the digest of every file in `records`. Other files are not looked at.

    Args:
      folder: the artifact.
      records: what the manifest says of the files.
      late: the paths of files whose digests are checked later, unless something is wrong now.

    Raises:
      ArtifactNotFoundError: if `folder` is not a folder.
      ArtifactError: if files are missing, of another size, altered or not below the folder. Its
        `problems` has a line for each, of which the message shows the first ten.
    """
    if not folder.is_dir():
        raise ArtifactNotFoundError(
            f"there is no artifact at '{folder}'. Pass the folder that `exporter.save` wrote."
        )
    checked = tuple(records)
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda one: _problem(folder, one, only_size=one.path in late), checked)
        problems = [problem for problem in found if problem]
    if not problems:
        return
    if late:
        verify(folder, checked)  # one error has all that is wrong
    lines = [
        f"artifact '{folder}' is damaged: {len(problems)} of {len(checked)} files are wrong:",
        *(f"  {problem}" for problem in problems[:_MAX_PROBLEMS_IN_MESSAGE]),
        "Copy it again from where it was saved, or save it again.",
    ]
    if hidden := len(problems[_MAX_PROBLEMS_IN_MESSAGE:]):
        lines.insert(-1, f"  and {hidden} more")
    raise ArtifactError("\n".join(lines), problems)


def _problem(folder: Path, record: FileRecord, *, only_size: bool) -> str | None:
    """What is wrong with one file, beginning with its path; None if nothing is."""
    if fault := _fault_in_name(record.path):
        return f"{record.path!r}: the path {fault}"
    path = folder / record.path
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return f"{record.path}: expected a file, found something else"
        if status.st_size != record.size:
            return f"{record.path}: expected {record.size} bytes, found {status.st_size}"
        found = record.blake3 if only_size else blocks.digest(path)
    except (FileNotFoundError, NotADirectoryError):
        return f"{record.path}: missing"
    except OSError as error:
        return f"{record.path}: cannot be read ({error.strerror})"
    if found != record.blake3:
        return f"{record.path}: altered, expected BLAKE3 {record.blake3}, found {found}"
    return None

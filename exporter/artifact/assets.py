"""The files of a model on disk: which there are, what they are called in the folder, their copies.

Files are copied as their content; symbolic links are followed. A name that is taken gets a number.
"""

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from exporter.artifact import blocks
from exporter.artifact.layout import ASSETS, FileRecord, digest_bytes, inside
from exporter.errors import ArtifactError, AssetNotFoundError, TrackingError

# The relative path of a file of an asset, as parts; none for an asset that is a single file.
Parts = tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A file, or a folder with its files, that is to be copied.

    Attributes:
      path: where it is.
      files: where each file is, or its content, by its path in the folder.
    """

    path: Path
    files: Mapping[Parts, Path | bytes]

    def content(self) -> tuple[tuple[Parts, str], ...]:
        """The same for two sources that hold the same."""
        return tuple(
            (parts, digest_bytes(file) if isinstance(file, bytes) else blocks.digest(file))
            for parts, file in self.files.items()
        )


def sources(places: Iterable[tuple[str, Path]]) -> list[Source]:
    """What is at the paths of assets, each with the place in the object that holds it.

    Raises:
      AssetNotFoundError: naming every place whose file is not there.
      TrackingError: naming every place whose file cannot be copied.
    """
    found, missing, problems = [], [], []
    for place, path in places:
        try:
            found.append(_source(path))
        except (FileNotFoundError, NotADirectoryError):
            missing.append(f"{place} is Asset({str(path)!r}), and there is no such file")
        except OSError as error:
            problems.append(f"{place} is Asset({str(path)!r}), which cannot be read: {error}")
        except ValueError as error:
            problems.append(f"{place} is Asset({str(path)!r}), which cannot be copied: {error}")
    if missing or problems:
        kind = TrackingError if problems else AssetNotFoundError
        raise kind(". ".join([*missing, *problems]) + ".")
    return found


def _source(path: Path) -> Source:
    real = Path(os.path.realpath(path, strict=True))
    files = dict(_files(real, (), frozenset()))
    if not files:
        raise ValueError("it is a folder without files")
    return Source(path, files)


def _files(path: Path, parts: Parts, above: frozenset[Path]) -> Iterator[tuple[Parts, Path]]:
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        if not os.access(path, os.R_OK):
            raise PermissionError(13, os.strerror(13), str(path))
        yield parts, path
        return
    if not stat.S_ISDIR(mode):
        raise ValueError(f"{path} is neither a file nor a folder")
    real = path.resolve()
    if real in above:
        raise ValueError(f"{path} is a symbolic link to a folder that it lies in")
    for entry in sorted(path.iterdir()):
        yield from _files(entry, (*parts, entry.name), above | {real})


def named(sources: Iterable[Source]) -> list[str]:
    """The path in the artifact of each source. Equal content of one name has one path."""
    taken: dict[str, Source] = {}  # by the name without case, which some file systems ignore
    return [f"{ASSETS}/{_name(one, taken)}" for one in sources]


def _name(one: Source, taken: dict[str, Source]) -> str:
    name = PurePath(one.path).name or "asset"
    is_file = () in one.files
    stem, suffix = (PurePath(name).stem, PurePath(name).suffix) if is_file else (name, "")
    number = 0
    while True:
        choice = f"{stem}_{number}{suffix}" if number else name
        other = taken.setdefault(choice.casefold(), one)
        same_name = other.path.name == one.path.name
        if other is one or (same_name and _is_same(other, one)):
            return choice
        number += 1


def _is_same(one: Source, other: Source) -> bool:
    return one.files == other.files or one.content() == other.content()


def write_assets(folder: Path, sources: Sequence[Source], paths: Sequence[str]) -> None:
    """Copy each source to its path in the folder."""
    done = set()
    for one, path in zip(sources, paths, strict=True):
        for parts, file in one.files.items():
            target = folder.joinpath(path, *parts)
            if target not in done:
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(file, bytes):
                    target.write_bytes(file)
                else:
                    shutil.copyfile(file, target)
                done.add(target)


def read_asset(folder: Path, files: Iterable[FileRecord], path: str) -> bytes:
    """The content of a file of the artifact in a folder.

    Raises:
      ArtifactError: if it is not as it was when it was saved.
    """
    file = inside(folder, path)
    known = next(one for one in files if one.path == path)
    try:
        with file.open("rb") as stream:
            data = stream.read(known.size + 1)
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read: {error.strerror}.") from error
    if digest_bytes(data) != known.blake3:
        raise ArtifactError(f"{file} is not what it was when the model was saved.")
    return data

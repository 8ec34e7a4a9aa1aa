"""The file that a conversion fills: it appears whole or not at all, and replaces only its like."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from exporter.artifact import scratch
from exporter.artifact.layout import check_outside
from exporter.conversion.formats import Format
from exporter.errors import ArtifactExistsError, OptionError


def check_target(out: str | os.PathLike[str], format_: Format, *, overwrite: bool) -> Path:
    """The absolute path of the file to write.

    Raises:
      OptionError: if its name does not end as those of the format do, or it lies in an artifact.
      ArtifactExistsError: if something is there that may not be replaced.
    """
    target = Path(os.path.realpath(out))
    if format_.extensions and target.suffix not in format_.extensions:
        wanted = " or ".join(format_.extensions)
        raise OptionError(
            f"files of {format_.name} end in {wanted}, got {str(out)!r}. Choose another name."
        )
    check_outside(target.parent)
    _check_replaceable(target, format_, overwrite=overwrite)
    return target


def _check_replaceable(target: Path, format_: Format, *, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise ArtifactExistsError(
            f"'{target}' is there already. Pass overwrite=True, --overwrite in a shell, or choose "
            "another name."
        )
    # A folder that lacks what folders of the format have is somebody's own.
    if target.is_dir() and not (format_.marker and (target / format_.marker).is_file()):
        raise ArtifactExistsError(
            f"'{target}' is a folder, and not one that a conversion made: it is not replaced. "
            "Choose another name."
        )


@contextlib.contextmanager
def filled(target: Path, format_: Format, *, overwrite: bool) -> Iterator[Path]:
    """A path of the same name, which becomes the target when the block ends well.

    Raises:
      ArtifactExistsError: if something has appeared there that may not be replaced.
      OSError: if nothing can be written there.
    """
    scratch.make_folders(target.parent)
    scratch.remove_leftovers(target)
    with scratch.beside(target) as folder:
        file = folder / target.name
        yield file
        scratch.sync_all(folder)
        _check_replaceable(target, format_, overwrite=overwrite)
        if file.is_dir() and target.is_dir():
            scratch.exchange(file, target)  # what was there goes with the scratch folder
        elif file.is_dir():
            target.unlink(missing_ok=True)
            file.rename(target)
        elif overwrite:
            file.replace(target)
        else:
            try:
                os.link(file, target)  # unlike a rename, it fails if something has appeared there
            except FileExistsError:
                _check_replaceable(target, format_, overwrite=overwrite)
                raise
        scratch.sync(target.parent)

"""An artifact as a page in a file, written whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from exporter.artifact.records import Manifest
from exporter.errors import ArtifactError, ArtifactExistsError, OptionError
from exporter.runtime.inspection import Reader, inspect
from exporter.runtime.page.examples import sizes_of
from exporter.runtime.page.programs import Inside, looked_into


def write_page(
    folder: Path,
    manifest: Manifest,
    target: Path,
    *,
    sizes: Mapping[str, int] | None,
    with_values: bool,
    overwrite: bool,
) -> None:
    """Write the page of an artifact to a file.

    Args:
      folder: the artifact.
      manifest: its manifest.
      target: the file.
      sizes: of the named axes, for what calls cost. `None` leaves the programs unread.
      with_values: whether variables are read.
      overwrite: whether the file may be replaced.

    Raises:
      OptionError: if an axis cannot have its size.
      ArtifactExistsError: if the file is there and may not be replaced.
      OSError: if it cannot be written.
    """
    if target.is_dir() or (os.path.lexists(target) and not overwrite):
        raise _exists(target)
    # The package of the page reads arrays, which TensorStore does: nobody else waits for it.
    from exporter.runtime.page.document import page

    inside = None if sizes is None else _inside(folder, manifest, sizes)
    text = page(manifest, folder, with_values=with_values, inside=inside)
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with scratch.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            scratch.replace(target)
        else:
            os.link(scratch, target)  # fails where something has appeared meanwhile
    except FileExistsError as error:
        raise _exists(target) from error
    except OSError as error:
        error.filename = str(target)  # nobody knows the scratch file
        error.filename2 = None
        raise
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def _inside(folder: Path, manifest: Manifest, sizes: Mapping[str, int]) -> dict[int, Inside] | str:
    """What is in each program, by its number, or why they cannot be read."""
    try:
        with closing(Reader()) as reader:
            found = inspect(folder, manifest, reader, sizes_of(manifest) | {**sizes})
    except OptionError:
        raise
    except ArtifactError as error:  # the rest of the page is worth having
        return str(error)
    return {number: looked_into(one) for number, one in enumerate(found)}


def _exists(target: Path) -> ArtifactExistsError:
    if target.is_dir():
        return ArtifactExistsError(f"'{target}' is a folder. Give --html the name of a file.")
    return ArtifactExistsError(
        f"'{target}' exists. Give --html another name, or replace it with --overwrite."
    )

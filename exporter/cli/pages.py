"""An artifact as a page in a file, written whole or not at all."""

import contextlib
import os
import secrets
from pathlib import Path

from exporter.artifact.records import Manifest
from exporter.errors import ArtifactExistsError


def write_page(
    folder: Path, manifest: Manifest, target: Path, *, with_values: bool, overwrite: bool
) -> None:
    """Write the page of an artifact to a file.

    Raises:
      ArtifactExistsError: if the file is there and may not be replaced.
      OSError: if it cannot be written.
    """
    if target.is_dir() or (os.path.lexists(target) and not overwrite):
        raise _exists(target)
    # The package of the page reads arrays, which TensorStore does: nobody else waits for it.
    from exporter.runtime.page.document import page

    text = page(manifest, folder, with_values=with_values)
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


def _exists(target: Path) -> ArtifactExistsError:
    if target.is_dir():
        return ArtifactExistsError(f"'{target}' is a folder. Give --html the name of a file.")
    return ArtifactExistsError(
        f"'{target}' exists. Give --html another name, or replace it with --overwrite."
    )

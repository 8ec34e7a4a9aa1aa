"""Where checkpoints lie: steps in a directory, and the spellings by which people name one."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from exporter.artifact.checkpoint import is_checkpoint
from exporter.artifact.layout import VARIABLES, is_artifact
from exporter.errors import CheckpointError, CheckpointNotFoundError

# The files by which a checkpoint of Orbax and a step of its manager are known.
METADATA = "_METADATA"
STEP_METADATA = "_CHECKPOINT_METADATA"

# As Orbax's manager names the folders of steps. One that is being written has another name.
_STEP = re.compile(r"0|[1-9][0-9]*")

_MAX_NAMED = 20


def local_path(path: object) -> Path:
    """The path as given, if it is one of a local file system.

    Raises:
      CheckpointError: if it is something else.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text or "://" in text:
        raise CheckpointError(
            f"expected the path of a local folder, got {path!r}. "
            "Pass one such as 'runs/first', and copy it to other storage from there."
        )
    return Path(os.path.abspath(text))  # noqa: PTH100  # links stay links


def steps_in(directory: Path) -> dict[int, Path]:
    """The folder of each step that was saved completely, in ascending order."""
    if not directory.is_dir():
        return {}
    found = {
        int(entry.name): entry
        for entry in directory.iterdir()
        if _STEP.fullmatch(entry.name) and _holds_one(entry)
    }
    return dict(sorted(found.items()))


def strangers_in(directory: Path) -> list[str]:
    """What is named as steps are and is none. Orbax's manager would take it for old steps."""
    entries = directory.iterdir() if directory.is_dir() else ()
    named = sorted(entry for entry in entries if _STEP.fullmatch(entry.name))
    return [entry.name for entry in named if is_artifact(entry) or not _holds_one(entry)]


def _holds_one(folder: Path) -> bool:
    if is_checkpoint(folder) or is_artifact(folder):
        return True
    return any((folder / name).is_file() for name in (METADATA, STEP_METADATA))


def found_at(path: Path) -> Path:
    """The folder of the checkpoint or artifact that a path means.

    That is the folder itself, its `variables/` or `variables/variables`, for a directory of steps
    the newest one, and for a step of another program's manager its only item.

    Raises:
      CheckpointNotFoundError: if there is none, naming those that are near.
    """
    folder = path
    while folder.name.partition(".")[0] == VARIABLES and not _is_ours(folder):
        folder = folder.parent
    if _is_ours(folder):
        return folder
    if (path / METADATA).is_file():
        return path
    items = [entry.parent for entry in sorted(path.glob(f"*/{METADATA}"))]
    if (path / STEP_METADATA).is_file() and len(items) == 1:
        return items[0]
    steps = steps_in(path)
    if steps:
        return found_at(list(steps.values())[-1])
    raise CheckpointNotFoundError(f"there is no checkpoint at '{path}'. {_near(path)}")


def _is_ours(folder: Path) -> bool:
    return is_artifact(folder) or is_checkpoint(folder)


def _near(path: Path) -> str:
    """The checkpoints that somebody who named this path may have meant."""
    steps = steps_in(path.parent)
    if steps:
        return f"'{path.parent}' has the steps {_listed(map(str, steps))}."
    parent = path.parent
    names = sorted(entry.name for entry in parent.iterdir()) if parent.is_dir() else []
    alike = [name for name in names if name.startswith(f"{path.name}-") and _is_ours(parent / name)]
    if alike:
        return f"'{parent}' has {_listed(alike)}."
    entries = sorted(path.iterdir()) if path.is_dir() else []
    below = [entry.name for entry in entries if steps_in(entry)]
    if below:
        return f"There are steps in {_listed(below)} below it."
    return "Pass what `save` returned, a directory of steps, or an artifact."


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    hidden = len(found) - _MAX_NAMED
    shown = ", ".join(found[-_MAX_NAMED:])
    return f"{shown} and {hidden} older" if hidden > 0 else shown

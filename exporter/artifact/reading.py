"""What is read of a folder that others may replace meanwhile: all of one artifact, or read again.

A save puts another folder at the path, and never writes into one that is there. So whoever holds
the folder open, which keeps its number from being given to another, and finds the same folder at
the path in the end, has read that one alone. Digests would not do: a file can be replaced between
its digest and its use.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from exporter.errors import ArtifactReplacedError

T = TypeVar("T")

# A save takes longer than a load of the same, so a second attempt is nearly always the last.
_ATTEMPTS = 10

# Enough to hold a folder, even one that this process may enter but not list. Only Linux has it.
_HOLD = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY


def unmixed(folder: Path, read: Callable[[], T]) -> T:
    """What `read` gives or raises, having read one artifact from beginning to end.

    Args:
      folder: where the artifact is, or a link to it.
      read: reads it by its path. It is called again if another is there in the end.

    Raises:
      ArtifactReplacedError: if that happens again and again.
    """
    for _ in range(_ATTEMPTS):
        with watched(folder) as was_replaced:
            try:
                found = read()
            except Exception:
                if not was_replaced():
                    raise
            else:
                if not was_replaced():
                    return found
                del found  # the next attempt may need its memory
    raise ArtifactReplacedError(
        f"'{folder}' was replaced each of {_ATTEMPTS} times while it was read. Read it again when "
        "nobody saves there, or save to a new path each time."
    )


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[Callable[[], bool]]:
    """Tells whether another folder is at the path now than when the `with` block began."""
    with contextlib.ExitStack() as held:
        first = _at(folder)
        if first is not None:  # nothing but a folder is opened
            with contextlib.suppress(OSError):
                descriptor = os.open(folder, _HOLD)
                held.callback(os.close, descriptor)
                first = os.fstat(descriptor)
        yield lambda: not _is_same(first, _at(folder))


def _at(folder: Path) -> os.stat_result | None:
    """What the system tells of a folder, nothing if there is none."""
    try:
        return folder.stat() if folder.is_dir() else None
    except OSError:
        return None


def _is_same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    if one is None or other is None:
        return one is other
    return os.path.samestat(one, other)

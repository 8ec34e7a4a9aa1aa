"""A folder that grows beside its target, and the moves that make it the target.

Nothing here knows what an artifact is: these are the promises of the file system, gathered.

A saver holds a lock (`flock`) on its scratch folder itself, which the kernel releases when the
process ends, however it ends. A scratch folder that nobody has locked is therefore the leftover of
a killed save, and the next save of the same target removes it. On a file system without such locks,
leftovers stay.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# From <fcntl.h> and <linux/fs.h>: the os module has neither the call nor its constants.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A new folder that this process holds the lock on, and that is gone in the end."""
    with contextlib.ExitStack() as held:
        ours = False
        while not ours:
            folder = target.with_name(f".{target.name}.saving-{secrets.token_hex(8)}")
            folder.mkdir()
            try:
                # False if a cleaning saver was faster; the folder is gone then.
                ours = _lock(folder, held)
            except OSError:  # no locks on this file system, so nobody takes this for a leftover
                ours = True
        try:
            yield folder
        finally:
            # After an exchange, what was replaced is here. What cannot be removed is a leftover.
            shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path, held: contextlib.ExitStack) -> bool:
    """Whether this process has the lock on `folder` now, and until `held` ends.

    Raises:
      OSError: if folders cannot be locked on this file system.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        held.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The folder may have been removed, or have moved into place, since it was opened.
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def remove_leftovers(target: Path) -> None:
    """Removes the scratch folders of `target` that no living process has the lock on."""
    pattern = re.compile(re.escape(f".{target.name}.saving-") + "[0-9a-f]{16}")
    for folder in [entry for entry in target.parent.iterdir() if pattern.fullmatch(entry.name)]:
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            if _lock(folder, held):
                shutil.rmtree(folder, ignore_errors=True)


def make_folders(folder: Path) -> None:
    """Creates `folder` and what is missing above it, so that it outlasts a power cut."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent)


def sync_all(folder: Path) -> None:
    """Waits until every file and folder from `folder` down is on the disk."""
    levels = list(os.walk(folder))
    with ThreadPoolExecutor() as pool:
        list(pool.map(sync, [Path(below, name) for below, _, names in levels for name in names]))
        list(pool.map(sync, [Path(below) for below, _, _ in levels]))


def sync(path: Path) -> None:
    """Waits until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no fsync for folders.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> None:
    """Gives each of two folders the other's name, in one step where Linux and its disk allow it.

    Raises:
      FileNotFoundError: if one of them does not exist.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    code = errno.ENOSYS
    if renameat2 is not None:
        here, there = os.fsencode(one), os.fsencode(other)
        failed = renameat2(_AT_FDCWD, here, _AT_FDCWD, there, _RENAME_EXCHANGE)
        code = ctypes.get_errno() if failed else 0
    if code in {errno.ENOSYS, errno.EINVAL}:
        exchange_by_renames(one, other)
    elif code:
        raise OSError(code, os.strerror(code), str(other))


def exchange_by_renames(one: Path, other: Path) -> None:
    """As `exchange`, but for a moment there is nothing at `other`.

    Other systems than Linux, and some file systems (NFS is one), cannot do better. A process that
    is killed in that moment leaves nothing at `other`, and what was there under a name beside it
    that no save removes.
    """
    aside = other.with_name(f".{other.name}.replaced-{secrets.token_hex(8)}")
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)

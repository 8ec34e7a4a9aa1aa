"""Several processes of one `jax.distributed` run that save or load together.

Each of them runs the same program and calls `save` at the same point. What only one can do, such as
to give the folder its name, is done by the first; and before each goes on, all hear whether all
have come so far, so that an error in one ends the others too instead of leaving them waiting.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from exporter.errors import ArtifactError

# Longer than any path that a file system takes.
_MAX_TEXT_BYTES = 2**14


def is_first() -> bool:
    """Whether this process does what only one can."""
    return jax.process_index() == 0


def is_alone() -> bool:
    """Whether there are no other processes."""
    return bool(jax.process_count() == 1)


@contextmanager
def together(step: str) -> Iterator[None]:
    """If the block fails in one process, it fails in all. None leaves it before all have.

    Args:
      step: what is done, for the message of those who did not fail: `tracing the functions`.

    Raises:
      ArtifactError: if the block failed in other processes only, naming them.
    """
    if jax.process_count() == 1:
        yield
        return
    try:
        yield
    except Exception:
        _failed(here=True)
        raise
    failed = _failed(here=False)
    if failed:
        raise ArtifactError(
            f"process {', '.join(map(str, failed))} of {jax.process_count()} failed while {step}, "
            "so nothing is saved. Its own error says why."
        )


def _failed(*, here: bool) -> list[int]:
    """The processes that failed, as all tell each other."""
    flags = multihost_utils.process_allgather(np.array(here, np.int32))
    return [int(index) for index in np.flatnonzero(np.atleast_1d(flags))]


def told_by_first(text: str) -> str:
    """The text that the first process has, in all of them."""
    if jax.process_count() == 1:
        return text
    buffer = np.zeros(_MAX_TEXT_BYTES, np.uint8)
    data = text.encode("utf-8", "surrogateescape")
    buffer[: len(data)] = np.frombuffer(data, np.uint8)
    told = multihost_utils.broadcast_one_to_all(buffer)
    return bytes(np.asarray(told, np.uint8)).rstrip(b"\0").decode("utf-8", "surrogateescape")

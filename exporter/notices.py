"""Warnings that point at the line of whoever called us, however deep in here they arise."""

import contextlib
import sys
import warnings
from pathlib import Path

# Where code lies that is not the caller's: ours, and the blocks of `with` that we are in.
_OURS = (str(Path(__file__).parent), contextlib.__file__)

# Where JAX's own code lies, which calls us while it transforms what the caller wrote.
_JAX = str(Path("jax", "_src"))


def warn(message: str) -> None:
    """Warn of something, at the nearest line that is not ours."""
    depth = 2  # that of the frame below
    frame = sys._getframe(1)  # noqa: SLF001  # the only way to the lines of one's callers
    while frame.f_back is not None and _is_between(frame.f_code.co_filename):
        frame = frame.f_back
        depth += 1
    warnings.warn(message, stacklevel=depth)


def _is_between(file: str) -> bool:
    return file.startswith(_OURS) or _JAX in file

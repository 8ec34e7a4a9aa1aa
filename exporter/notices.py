"""Warnings that point at the line of whoever called us, however deep in here they arise."""

import contextlib
import sys
import warnings
from pathlib import Path

# Where code lies that is not the caller's: ours, and the blocks of `with` that we are in.
_OURS = (str(Path(__file__).parent), contextlib.__file__)


def warn(message: str) -> None:
    """Warn of something, at the nearest line that is not ours."""
    depth = 2  # that of the frame below
    frame = sys._getframe(1)  # noqa: SLF001  # the only way to the lines of one's callers
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
        depth += 1
    warnings.warn(message, stacklevel=depth)

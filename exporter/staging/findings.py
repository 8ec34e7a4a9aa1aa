"""What stands in the way of saving: raised at once, or gathered for a report."""

import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax

from exporter.errors import (
    InconclusiveSizesError,
    Kind,
    LoweringError,
    Problem,
    StateError,
    TrackingError,
)
from exporter.jax_internals import is_users
from signatures.errors import ExporterError, SignatureError

# The beginnings of notes that say nothing new: where we were, and what JAX says of tracebacks.
_KNOWN = ("This happened while tracing", "-----", "For simplicity, JAX")


class Findings:
    """The problems of one attempt to save something.

    Attributes:
      gather: whether errors are gathered, and warnings too, instead of raised.
      problems: what was gathered.
    """

    def __init__(self, *, gather: bool = False) -> None:
        """None yet."""
        self.gather = gather
        self.problems: list[Problem] = []

    @property
    def errors(self) -> int:
        """How many of the problems are errors."""
        return sum(problem.is_error for problem in self.problems)

    @contextmanager
    def of(
        self, function: str | None, explain: Callable[[Exception], Problem] | None = None
    ) -> Iterator[None]:
        """Errors and warnings of the block are problems of this function, if they are gathered.

        Args:
          function: its path, or `None` for the object as a whole.
          explain: makes a problem of an error that is not our own.
        """
        if not self.gather:
            yield
            return
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                yield
            except Exception as error:  # noqa: BLE001  # the user's code may raise anything
                self.problems += problems_of(error, function, explain)
        # Others are not about saving. They are for `save` to show.
        about_saving = (one for one in warned if one.category is UserWarning)
        for one in about_saving:
            self.problems.append(Problem("warning", function, str(one.message), is_error=False))


def problems_of(
    error: Exception,
    function: str | None,
    explain: Callable[[Exception], Problem] | None = None,
) -> tuple[Problem, ...]:
    """An error as the problems that it tells of."""
    if isinstance(error, LoweringError):
        return error.problems or (Problem("option", function, str(error)),)
    if explain is not None:
        return (explain(error),)
    return (problem_of(error, function),)


def problem_of(error: Exception, function: str | None) -> Problem:
    """An error that was raised for a function as one problem."""
    kind = _kind(error, function)
    line = getattr(error, "line", None) or line_of(error)
    notes = [note for note in getattr(error, "__notes__", ()) if not note.startswith(_KNOWN)]
    if isinstance(error, ExporterError):
        return Problem(kind, function, str(error), " ".join(notes), line=line)
    if isinstance(error, jax.errors.UnexpectedTracerError):
        notes.append(
            "An array of an earlier trace was kept and is used here: assign it nowhere while "
            "JAX traces, or make it anew."
        )
    what = str(error).strip().partition("\n\n")[0] or type(error).__name__
    where = f" at {line}" if line else ""
    message = f"{function or 'the object'} raises {type(error).__name__}{where}: {what}"
    return Problem(kind, function, message, " ".join(notes), line=line)


def _kind(error: Exception, function: str | None) -> Kind:
    if isinstance(error, InconclusiveSizesError | jax.errors.InconclusiveDimensionOperation):
        return "dimension"
    if isinstance(error, SignatureError):
        return "signature"
    if isinstance(error, StateError | TrackingError):
        return "state" if function else "object"
    return "code"


def line_of(error: Exception) -> str | None:
    """The innermost line of the user's own code that an error passed through."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    lines = [number for _, number in traceback.walk_tb(error.__traceback__)]
    places = [
        f"{frame.f_code.co_filename}:{number}"
        for frame, number in zip(frames, lines, strict=True)
        if is_users(frame.f_code.co_filename)
    ]
    return places[-1] if places else None

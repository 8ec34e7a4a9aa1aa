"""What a terminal shows beyond plain text: colours, and bars for long work.

Both need `rich`, of the extra `cli`. Without it, and wherever nobody looks, there is plain text and
no bar, and `rich` is not imported. `NO_COLOR`, `FORCE_COLOR` and `TERM=dumb` are respected; where
they disagree, the first of them counts.

Whatever text is given is made `printable` first, so what an artifact holds can be passed as it is.
Each is a part of one line; parts that are coloured are not put into other ones.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO, TypeVar

from exporter.markup import printable
from exporter.progress import Progress, steps

T = TypeVar("T")


def heading(text: str, stream: TextIO | None = None) -> str:
    """What stands above other lines. The stream is where it is printed, by default stdout."""
    return _styled(text, "bold", stream)


def good(text: str, stream: TextIO | None = None) -> str:
    """What is as it should be."""
    return _styled(text, "green", stream)


def bad(text: str, stream: TextIO | None = None) -> str:
    """What is not."""
    return _styled(text, "red", stream)


def dim(text: str, stream: TextIO | None = None) -> str:
    """What matters less than the rest."""
    return _styled(text, "dim", stream)


def titled(text: str, stream: TextIO | None = None) -> str:
    """Lines of text, of which those that are not indented are headings."""
    return "\n".join(
        heading(line, stream) if line and not line.startswith(" ") else printable(line)
        for line in text.splitlines()
    )


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, while a bar on stderr counts those that are done with."""
    with bar() as tell:
        yield from steps(items, what, tell)


@contextmanager
def bar() -> Iterator[Progress | None]:
    """A bar on stderr while the block runs, for functions that take `progress=`.

    It is gone when the block ends. Where there is no terminal there is no bar, and `None` is given.
    """
    if not _is_terminal(sys.stderr):
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
    except ImportError:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Lines of stdout are put above the bar where both are on a terminal. Elsewhere they must not
    # pass through it: they would end on stderr.
    above = _is_terminal(sys.stdout)
    console = Console(file=sys.stderr)
    with Bars(*columns, console=console, transient=True, redirect_stdout=above) as bars:
        tasks = {}

        def tell(stage: str, done: int, count: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(printable(stage), total=count)
            bars.update(tasks[stage], completed=done)

        yield tell


def _styled(text: str, style: str, stream: TextIO | None) -> str:
    text = printable(text)
    if not _has_colours(sys.stdout if stream is None else stream):
        return text
    try:
        from rich.color import ColorSystem
        from rich.style import Style
    except ImportError:
        return text
    # The eight colours that every terminal has, in the shades that its user has chosen.
    return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)


def _has_colours(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in {"", "0"}:
        return True
    return _is_terminal(stream)


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks at it, through something that can move its cursor."""
    if stream is None or stream.closed:  # a process may be started without it
        return False
    return stream.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}

"""How far a save has come, told to whoever asks."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

# Called with a stage (`tracing`, `lowering`, `sampling`, `writing`), how many of its steps are
# done, and how many there are: with 0 as a stage begins, then after each step.
Progress = Callable[[str, int, int], None]


def steps(items: Sequence[T], stage: str, progress: Progress | None) -> Iterator[T]:
    """The items, each followed by a word to `progress` when it is done with."""
    if progress and items:
        progress(stage, 0, len(items))
    for done, item in enumerate(items, 1):
        yield item
        if progress:
            progress(stage, done, len(items))

"""Who called just before, and is about to call again."""

import time
from collections.abc import Collection, Hashable, Iterable

# Who was answered within so many seconds is expected to call again. Most who call again and again
# do so at once.
_RECENT = 5e-3


class Company:
    """The clients that were answered lately. One that is alone is never kept waiting for others."""

    def __init__(self) -> None:
        """Nobody yet."""
        self._answered: dict[Hashable, float] = {}

    def answered(self, clients: Iterable[Hashable]) -> None:
        """These have their answers now."""
        now = time.monotonic()
        recent = {one: when for one, when in self._answered.items() if now - when < _RECENT}
        self._answered = recent | dict.fromkeys(clients, now)

    def lacks(self, clients: Collection[Hashable]) -> bool:
        """Whether somebody but these is expected."""
        now = time.monotonic()
        expected = self._answered.items()
        return any(now - when < _RECENT and one not in clients for one, when in expected)

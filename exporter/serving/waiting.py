"""The calls of one signature that wait to be computed: bounded, and fair to every client."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from exporter.serving.errors import OverloadedError
from exporter.serving.joining import Part


@dataclass(eq=False, slots=True)
class Task:
    """One call that waits, or a part of one.

    Attributes:
      part: its arrays.
      future: where its outputs go. It is cancelled if nobody waits for them any more.
      client: who sent it.
      since: when it came, by `time.monotonic`.
    """

    part: Part
    future: "asyncio.Future[Any]"
    client: Hashable
    since: float = field(default_factory=time.monotonic)


class Waiting:
    """What waits, by client. The caller sees to it that one thread at a time is here.

    Clients take turns, a call each, so that one who sends a thousand does not keep out another.

    Attributes:
      rows: how many rows wait.
    """

    def __init__(self, name: str, max_rows: int) -> None:
        """Nothing yet, and room for so many rows of the signature of that name."""
        self.name = name
        self.rows = 0
        self._max_rows = max_rows
        self._clients: OrderedDict[Hashable, deque[Task]] = OrderedDict()

    def put(self, tasks: Sequence[Task]) -> None:
        """Add the tasks of one call: all or none.

        Raises:
          OverloadedError: if there is no room. A call that alone is more than that is let in when
            nothing else waits.
        """
        rows = sum(map(_weight, tasks))
        if self.rows and self.rows + rows > self._max_rows:
            raise OverloadedError(
                f"{self.rows} rows wait for signature {self.name!r}, and no more than "
                f"{self._max_rows} may. Try again in a moment, or with fewer requests at once."
            )
        self.rows += rows
        for task in tasks:
            self._clients.setdefault(task.client, deque()).append(task)

    def oldest(self) -> float | None:
        """Since when the first one waits, or `None` if none does."""
        return min((tasks[0].since for tasks in self._clients.values()), default=None)

    def take(self, most: int) -> list[Task]:
        """The next that are computed at once: of one form, and of at most so many rows.

        There may be none, if nobody waits for them any more.
        """
        taken: list[Task] = []
        rows = 0
        turn = list(self._clients)
        while turn:
            following = []
            for client in turn:
                task = self._next_of(client)
                if task is None:
                    continue
                part = task.part
                if taken and (
                    part.form is None or part.form != taken[0].part.form or rows + part.rows > most
                ):
                    continue
                self._pop(client)
                if client in self._clients:
                    self._clients.move_to_end(client)
                taken.append(task)
                rows += part.rows
                following.append(client)
            is_full = rows >= most or (bool(taken) and taken[0].part.form is None)
            turn = [] if is_full else [client for client in following if client in self._clients]
        return taken

    def _next_of(self, client: Hashable) -> Task | None:
        """The first call of a client that is still wanted. Those before it are gone."""
        while client in self._clients:
            task = self._clients[client][0]
            if not task.future.done():
                return task
            self._pop(client)
        return None

    def _pop(self, client: Hashable) -> None:
        tasks = self._clients[client]
        self.rows -= _weight(tasks.popleft())
        if not tasks:
            del self._clients[client]

    def __bool__(self) -> bool:
        return bool(self._clients)


def _weight(task: Task) -> int:
    """The rows of a call, of which one without any counts as one."""
    return max(1, task.part.rows)

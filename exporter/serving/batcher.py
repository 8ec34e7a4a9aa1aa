"""What waits is computed, batch after batch, for the signatures of one model.

A batch is whatever has come when one can be computed, so that nobody waits for company unless a
delay was asked for. A thread computes, and results go back to the loop of whoever waits, one
message for a batch. A batch that takes no longer than the way to the thread and back is computed on
the loop itself, if the thread has nothing to do.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.serving.company import Company
from exporter.serving.errors import ClosedError, ServingError
from exporter.serving.joining import Joining, Part
from exporter.serving.waiting import Task, Waiting

# The outputs of a signature for its inputs, both in order.
Compute = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Batch:
    """What is told of a batch when it is done.

    Attributes:
      signature: the name of its signature.
      calls: how many calls were in it.
      rows: how many rows they had.
      size: the size of the batch axis that was computed.
      waited: how long each call had waited, in seconds.
      seconds: how long it took to compute.
    """

    signature: str
    calls: int
    rows: int
    size: int
    waited: Sequence[float]
    seconds: float


Observe = Callable[[Batch], None]

# As long as it takes to hand a batch to a thread and to get it back while both want to run, in
# seconds: the thread that computes asks for the interpreter several times.
_BRIEF = 2e-3

# How long a loop looks for more calls at most before it computes them, and how long without finding
# any, in seconds. To compute them one by one would take several times as long.
_READING = 5e-3
_QUIET = 5e-4


class Lane:
    """The calls of one signature: how they wait, are joined and computed."""

    def __init__(
        self,
        name: str,
        compute: Compute,
        joining: Joining | None,
        *,
        max_rows: int,
        delay: float = 0.0,
        is_pure: bool = False,
    ) -> None:
        """A lane.

        Args:
          name: the signature.
          compute: calls it.
          joining: how calls are joined, or `None` if each is computed by itself.
          max_rows: how many rows may wait, or calls where none are joined.
          delay: how long a batch that is not full waits for company, in seconds.
          is_pure: whether it is known to compute and to do nothing else, so that it may be computed
            on a loop.
        """
        self.name = name
        self.joining = joining
        self.waiting = Waiting(name, max_rows)
        self._compute = compute
        self._delay = delay if joining else 0.0
        self.most = joining.max_rows if joining else 1
        self.may_be_brief = is_pure and joining is not None and not self._delay
        self._seconds: dict[tuple[object, int], float] = {}  # lately, by form and size

    def due(self) -> float:
        """When its next batch is to be computed, by `time.monotonic`; infinity without any."""
        since = self.waiting.oldest()
        if since is None:
            return math.inf
        return since if self.waiting.rows >= self.most else since + self._delay

    def is_brief(self, tasks: Sequence[Task]) -> bool:
        """Whether these are one batch that takes no longer than to hand it to a thread."""
        if not self.may_be_brief or self.joining is None:
            return False
        form = tasks[0].part.form
        rows = sum(task.part.rows for task in tasks)
        if form is None or rows > self.most or any(task.part.form != form for task in tasks):
            return False
        return self._seconds.get((form, self.joining.size_for(rows)), math.inf) <= _BRIEF

    def took(self, tasks: Sequence[Task], size: int, seconds: float) -> None:
        """Remember how long a batch took."""
        if self.may_be_brief:
            key = (tasks[0].part.form, size)
            before = self._seconds.get(key)
            if before is None:  # it may have been compiled just now
                if len(self._seconds) > 1024:
                    self._seconds.clear()
                self._seconds[key] = math.inf
            elif before is math.inf:
                self._seconds[key] = seconds
            else:  # a single one that took long was held up by something else
                self._seconds[key] = 0.9 * before + 0.1 * min(seconds, 4 * before)

    def run(self, tasks: Sequence[Task]) -> tuple[list[Any], int]:
        """The outputs of each, or the error that it failed with; and the size of the batch."""
        parts = [task.part for task in tasks]
        try:
            return self._outputs(parts)
        except Exception as error:  # noqa: BLE001  # whatever a model fails with is for its caller
            if len(parts) == 1:
                return [error], parts[0].rows
        # One of them is to blame, and the others need not suffer.
        return [self._alone(part) for part in parts], sum(part.rows for part in parts)

    def _alone(self, part: Part) -> Any:
        try:
            return self._outputs([part])[0][0]
        except Exception as error:  # noqa: BLE001  # as above
            return error

    def _outputs(self, parts: Sequence[Part]) -> tuple[list[Any], int]:
        if self.joining is None or parts[0].form is None:
            return [self._compute(parts[0].arrays)], parts[0].rows
        outputs = self._compute(self.joining.joined(parts))
        return list(self.joining.apart(outputs, parts)), len(outputs[0])


class Batcher:
    """The thread, and what waits for it."""

    def __init__(self, name: str, lanes: Sequence[Lane], observe: Observe) -> None:
        """A thread for these lanes, which tells `observe` of each batch. It begins at once."""
        self.lanes = {lane.name: lane for lane in lanes}
        self._observe = observe
        self._changed = threading.Condition()
        self._is_closed = False
        self._company = Company()
        self._is_asleep = False
        self._handed: dict[asyncio.AbstractEventLoop, list[tuple[Lane, list[Task]]]] = {}
        self._thread = threading.Thread(target=self._work, name=f"batcher-{name}", daemon=True)
        self._thread.start()

    def submit(
        self, name: str, parts: Sequence[Part], client: Hashable
    ) -> list["asyncio.Future[Any]"]:
        """What the outputs of each part of one call will be. Cancel them to take them back.

        They may fail with an `OverloadedError`, or a `ClosedError` if this is closed.
        """
        loop = asyncio.get_running_loop()
        tasks = [Task(part, loop.create_future(), client) for part in parts]
        handed = self._handed.get(loop)
        if handed is None:  # all that comes at about the same time is handed in together
            handed = self._handed[loop] = []
            now = time.monotonic()
            loop.call_soon(self._hand_in, loop, 0, now, now)
        handed.append((self.lanes[name], tasks))
        return [task.future for task in tasks]

    def close(self) -> None:
        """Compute what waits, take no more, and end the thread. It returns at once."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended, and say whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _hand_in(
        self, loop: asyncio.AbstractEventLoop, seen: int, began: float, found: float
    ) -> None:
        """Have computed what came, unless more is about to come: then look again in a moment."""
        handed = self._handed[loop]
        now = time.monotonic()
        if len(handed) > seen:
            found = now
        if self._reads_on(handed, now - began, now - found):
            loop.call_soon(self._hand_in, loop, len(handed), began, found)
            return
        del self._handed[loop]
        with self._changed:
            lane, brief = self._brief(handed)
            if not brief:
                for one, tasks in handed:
                    self._put(one, tasks)
                self._changed.notify()
        if brief:
            self._run(lane, brief, loop)

    def _reads_on(
        self, handed: Sequence[tuple[Lane, list[Task]]], since: float, quiet: float
    ) -> bool:
        """Whether the loop should look for more calls before these are computed on it.

        It does as long as it finds some, and a moment longer if somebody who called just before
        has not called again.
        """
        lane = handed[0][0]
        if not lane.may_be_brief or not self._is_asleep or len(handed) >= lane.most:
            return False
        if since > _READING or quiet > _QUIET:
            return False
        return not quiet or self._company.lacks({task.client for _, of in handed for task in of})

    def _brief(self, handed: Sequence[tuple[Lane, list[Task]]]) -> tuple[Lane, list[Task]]:
        """All that is handed in, if it is best computed at once on the loop; else nothing."""
        lane = handed[0][0]
        is_free = self._is_asleep and not self._is_closed
        if not is_free or any(one.waiting for one in self.lanes.values()):
            return lane, []
        if any(one is not lane for one, _ in handed):
            return lane, []
        tasks = [task for _, some in handed for task in some if not task.future.done()]
        return lane, tasks if tasks and lane.is_brief(tasks) else []

    def _put(self, lane: Lane, tasks: Sequence[Task]) -> None:
        try:
            if self._is_closed:
                raise ClosedError(f"the model of signature {lane.name!r} is being unloaded.")
            lane.waiting.put(tasks)
        except ServingError as error:
            for task in tasks:
                if not task.future.done():
                    task.future.set_exception(error)

    def _work(self) -> None:
        while True:
            with self._changed:
                lane, tasks = self._next()
            if lane is None:
                return
            if tasks:
                self._run(lane, tasks, None)

    def _next(self) -> tuple[Lane | None, list[Task]]:
        """The lane whose turn it is, and what to compute of it. No lane is to end."""
        while True:
            lane = min(self.lanes.values(), key=Lane.due, default=None)
            due = lane.due() if lane else math.inf
            now = time.monotonic()
            if lane is not None and (due <= now or (self._is_closed and lane.waiting)):
                return lane, lane.waiting.take(lane.most)
            if self._is_closed:
                return None, []
            self._is_asleep = True
            self._changed.wait(None if due == math.inf else due - now)
            self._is_asleep = False

    def _run(self, lane: Lane, tasks: list[Task], here: asyncio.AbstractEventLoop | None) -> None:
        """Compute a batch, on the thread or on the loop that this is."""
        start = time.monotonic()
        results, size = lane.run(tasks)
        seconds = time.monotonic() - start
        lane.took(tasks, size, seconds)
        if here is not None:
            self._company.answered({task.client for task in tasks})
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        for task, result in zip(tasks, results, strict=True):
            by_loop.setdefault(task.future.get_loop(), []).append((task.future, result))
        for loop, mine in by_loop.items():
            if loop is here:
                _deliver(mine)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(_deliver, mine)
        rows = sum(task.part.rows for task in tasks)
        waited = [start - task.since for task in tasks]
        self._observe(Batch(lane.name, len(tasks), rows, size, waited, seconds))


def _deliver(results: Sequence[tuple["asyncio.Future[Any]", Any]]) -> None:
    for future, result in results:
        if future.done():  # whoever waited has gone
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

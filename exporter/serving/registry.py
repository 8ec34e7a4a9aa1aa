"""The versions that are served, and how they come and go while calls go on.

One thread looks at the folder from time to time. A version that is new is loaded, compiled and
tried there; then it stands in the table that calls are resolved by, and what it replaces finishes
what it took. So no call waits for that thread, and none finds nothing in between.
"""

import gc
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from exporter.progress import Progress
from exporter.serving.errors import NotReadyError, RequestError, UnknownModelError
from exporter.serving.repository import Found, Repository
from exporter.serving.servable import Servable
from exporter.serving.shapes import Shapes
from signatures.errors import ExporterError

_log = logging.getLogger("exporter.serving")

# A version that cannot be loaded is tried again after so many seconds, each time twice as many.
_FIRST_RETRY = 1.0
_LAST_RETRY = 60.0


class State(Enum):
    """What a version is doing, in the words of TensorFlow Serving."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


class Open(Protocol):
    """Makes a version ready, given the shapes that the version before it is called with."""

    def __call__(
        self,
        found: Found,
        in_use: Mapping[str, Sequence[Shapes]] | None,
        progress: Progress | None,
    ) -> Servable: ...


@dataclass
class Entry:
    """A version that is served, should be, or was.

    Attributes:
      found: where it is.
      state: what it is doing.
      problem: why it could not be loaded the last time, or nothing.
      servable: what is called, while it is available.
      seconds: how long it took to load.
    """

    found: Found
    state: State = State.START
    problem: str = ""
    servable: Servable | None = None
    seconds: float = 0.0
    tried: Found | None = None
    retry_at: float = 0.0
    delay: float = field(default=_FIRST_RETRY)


class Registry:
    """The versions of every model. Calls are resolved on any thread, loading is done on its own.

    Attributes:
      is_settled: set when the folder has been looked at and all that could be loaded was.
    """

    def __init__(self, repository: Repository, opens: Open, *, poll_seconds: float = 1.0) -> None:
        """Nothing yet: `start` begins.

        Args:
          repository: the folder.
          opens: loads a version.
          poll_seconds: how often the folder is looked at; 0 is only once, and when it is asked for.
        """
        self.is_settled = threading.Event()
        self._repository = repository
        self._opens = opens
        self._poll_seconds = poll_seconds
        self._table: dict[str, dict[int, Servable]] = {}
        self._entries: dict[tuple[str, int], Entry] = {}
        self._held: set[str] = set()  # unloaded by request, until they are loaded by one
        self._changed = threading.Condition()
        self._looks = 0
        self._asked = 0
        self._is_closed = False
        self._drains: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._work, name="registry", daemon=True)
        self._progress: Progress | None = None

    def start(self, progress: Progress | None = None) -> None:
        """Look at the folder, then again and again. The first look tells how far it is."""
        self._progress = progress
        self._thread.start()

    def close(self, timeout: float | None = None) -> None:
        """Take no more calls, and wait until those that were taken are answered."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        served = [one for versions in self._table.values() for one in versions.values()]
        self._table = {}
        for servable in served:
            servable.close()
        for servable in served:
            servable.join(timeout)

    def resolve(self, model: str, version: int | None = None, label: str | None = None) -> Servable:
        """What a call of a model goes to: a version, what a label stands for, or the highest.

        Raises:
          UnknownModelError: if there is none.
          NotReadyError: if it is not ready yet.
        """
        versions = self._table.get(model)
        if versions:
            if version is None and label is None:
                return versions[next(iter(versions))]  # the highest comes first
            if label is not None:
                version = self._labelled(model, label)
            if version in versions:
                return versions[version]
        raise self._missing(model, version)

    def knows(self, model: str) -> bool:
        """Whether there is, or was, a model of that name."""
        return model in self._table or any(name == model for name, _ in list(self._entries))

    def versions(self, model: str) -> list[int]:
        """The versions of a model that are ready, the lowest first.

        Raises:
          UnknownModelError: if there is no such model.
          NotReadyError: if none is ready.
        """
        versions = self._table.get(model)
        if not versions:
            raise self._missing(model, None)
        return sorted(versions)

    def entries(self, model: str | None = None) -> list[Entry]:
        """What is known of the versions of a model, or of all, by name and number.

        Raises:
          UnknownModelError: if there is no such model.
        """
        with self._changed:
            found = [self._entries[key] for key in sorted(self._entries)]
        if model is None:
            return found
        mine = [entry for entry in found if entry.found.model == model]
        if not mine:
            raise self._missing(model, None)
        return mine

    def served(self) -> list[Servable]:
        """All that is ready."""
        return [one for versions in list(self._table.values()) for one in versions.values()]

    def labels_of(self, model: str) -> Mapping[str, int]:
        """The labels of a model's versions that are ready."""
        ready = self._table.get(model, {})
        labels = self._repository.labels_of(model)
        return {label: number for label, number in labels.items() if number in ready}

    def look(self, repository: Repository | None = None) -> None:
        """Look at the folder now, or at another one from now on, and wait until that is done."""
        with self._changed:
            if repository is not None:
                self._repository = repository
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            while self._looks < mine and not self._is_closed:
                self._changed.wait()

    def load(self, model: str) -> None:
        """Load a model that was unloaded, or look for news of it.

        Raises:
          UnknownModelError: if there is none.
          RequestError: if it cannot be loaded, saying why.
        """
        with self._changed:
            self._held.discard(model)
            for entry in self._entries.values():
                if entry.found.model == model:
                    entry.retry_at = 0.0
        self.look()
        entries = self.entries(model)
        if not self._table.get(model):
            problems = "; ".join(f"{e.found.version}: {e.problem}" for e in entries if e.problem)
            raise RequestError(f"model {model!r} cannot be loaded: {problems}")

    def unload(self, model: str) -> None:
        """Serve a model no more, until it is loaded by request.

        Raises:
          UnknownModelError: if there is none.
        """
        self.entries(model)
        with self._changed:
            self._held.add(model)
        self.look()

    # The thread.

    def _work(self) -> None:
        while True:
            with self._changed:
                asked, repository = self._asked, self._repository
            try:
                self._update(repository)
            except Exception:  # noqa: BLE001  # this thread outlives whatever a look meets
                _log.exception("looking at the models failed")
            self._progress = None
            self.is_settled.set()
            with self._changed:
                self._looks = asked
                self._changed.notify_all()
                if self._asked == asked and not self._is_closed:
                    self._changed.wait(self._poll_seconds or None)
                if self._is_closed:
                    return

    def _update(self, repository: Repository) -> None:
        """Make what is served what should be."""
        try:
            there = repository.scan()
        except (OSError, ExporterError) as error:
            # It may be back in a moment. Nothing is unloaded because a disk is away.
            _log.warning("the models cannot be looked at, and stay as they are: %s", error)
            return
        for model in sorted({*there, *(model for model, _ in self._entries)}):
            found = [] if model in self._held else there.get(model, [])
            wanted = repository.wanted(model, found)
            for one in wanted:
                if not self._is_closed:
                    self._bring(one)
            self._remove(model, wanted, is_there=model in there)

    def _bring(self, found: Found) -> None:
        """Load a version, unless it is loaded, or has failed a moment ago."""
        key = (found.model, found.version)
        with self._changed:
            entry = self._entries.setdefault(key, Entry(found))
        if entry.servable is not None and entry.found == found:
            entry.problem = ""
            return
        if entry.tried == found and time.monotonic() < entry.retry_at:
            return
        if entry.tried != found:
            entry.delay = _FIRST_RETRY
        entry.tried = found
        if entry.servable is None:
            entry.found, entry.state = found, State.LOADING
        _log.info("loading %s/%d from %s", *key, found.folder)
        start = time.monotonic()
        try:
            servable = self._opens(found, self._in_use(found.model), self._progress)
        except Exception as error:  # noqa: BLE001  # whatever a folder holds, the server goes on
            entry.problem = f"{type(error).__name__}: {error}"
            entry.retry_at = time.monotonic() + entry.delay
            entry.delay = min(2 * entry.delay, _LAST_RETRY)
            if entry.servable is None:
                entry.state = State.END
            _log.error("%s/%d cannot be loaded: %s", *key, entry.problem)
            return
        entry.seconds = time.monotonic() - start
        gc.collect()  # what this left; see `settle_memory`
        before = entry.servable
        entry.found, entry.servable, entry.problem = found, servable, ""
        entry.state, entry.delay = State.AVAILABLE, _FIRST_RETRY
        self._put(found.model, {**self._table.get(found.model, {}), found.version: servable})
        _log.info("%s/%d is available after %.2f s", *key, entry.seconds)
        if before is not None:
            self._drain(before, None)

    def _remove(self, model: str, wanted: Sequence[Found], *, is_there: bool) -> None:
        """Let go of what is not wanted, once something that is wanted can be called."""
        ready = self._table.get(model, {})
        numbers = {one.version for one in wanted}
        if wanted and ready and not numbers & ready.keys():
            return  # what works is kept until its successor does
        gone = {number: one for number, one in ready.items() if number not in numbers}
        if gone:
            self._put(model, {n: one for n, one in ready.items() if n not in gone})
        for key in [key for key in self._entries if key[0] == model and key[1] not in numbers]:
            entry = self._entries[key]
            if entry.servable is not None:
                entry.state = State.UNLOADING
                self._drain(entry.servable, entry)
                entry.servable = None
                _log.info("%s/%d is unloaded", *key)
            elif entry.state is not State.UNLOADING:
                entry.state = State.END
                if not is_there:
                    with self._changed:
                        del self._entries[key]

    def _put(self, model: str, versions: Mapping[int, Servable]) -> None:
        ordered = {number: versions[number] for number in sorted(versions, reverse=True)}
        table = {**self._table, model: ordered}
        self._table = {name: one for name, one in table.items() if one}

    def _drain(self, servable: Servable, entry: Entry | None) -> None:
        """Let a version finish what it took, without waiting for it."""
        servable.close()

        def finish() -> None:
            servable.join()
            if entry is not None and entry.state is State.UNLOADING:
                entry.state = State.END

        threading.Thread(target=finish, name=f"drain-{servable.name}", daemon=True).start()

    def _in_use(self, model: str) -> Mapping[str, Sequence[Shapes]] | None:
        versions = self._table.get(model)
        return next(iter(versions.values())).shapes() if versions else None

    # What callers are told.

    def _labelled(self, model: str, label: str) -> int:
        labels = self._repository.labels_of(model)
        if label not in labels:
            known = ", ".join(map(repr, labels)) or "none"
            raise UnknownModelError(
                f"model {model!r} has no label {label!r}; its labels are {known}."
            )
        return labels[label]

    def _missing(self, model: str, version: int | None) -> ExporterError:
        """Why there is no such version."""
        entries = [one for (name, _), one in list(self._entries.items()) if name == model]
        ready = self._table.get(model, {})
        named = [one for one in entries if version is None or one.found.version == version]
        loading = [one for one in named if one.state in {State.START, State.LOADING}]
        which = f"model {model!r}" if version is None else f"version {version} of model {model!r}"
        if loading or not self.is_settled.is_set():
            return NotReadyError(f"{which} is being loaded. Try again in a moment.")
        failed = [one.problem for one in named if one.problem]
        if failed:
            return NotReadyError(f"{which} could not be loaded: {failed[-1]}")
        if ready:
            return UnknownModelError(
                f"model {model!r} has no version {version}; those that are served are "
                f"{', '.join(map(str, sorted(ready)))}."
            )
        if entries:
            return NotReadyError(f"{which} is not loaded.")
        return UnknownModelError(f"there is no model {model!r}; {_listed(sorted(self._table))}.")


def _listed(names: Iterable[str]) -> str:
    """The models for a message, not more than a few."""
    shown = list(names)
    more = f" and {len(shown) - 10} more" if len(shown) > 10 else ""
    return f"the models are {', '.join(map(repr, shown[:10]))}{more}" if shown else "there is none"

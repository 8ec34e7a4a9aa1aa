"""Compiled code, shared by all who would compile the same thing."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

import jax

from exporter.runtime.executables import ExecutableCache, key_of

# What this process has compiled or read and still uses, by the folder of the cache and the key: who
# chooses another folder wants it filled. Code without a user is let go.
_in_use: "WeakValueDictionary[tuple[Path | None, str], jax.stages.Compiled]" = WeakValueDictionary()

# The latest of it is kept, used or not: a model that is loaded anew has often been dropped before.
# To read its code from the disk takes longer than all the rest of loading it.
_latest: "deque[jax.stages.Compiled]" = deque(maxlen=16)

# What became of a program that was to be compiled: it was there already, or it was compiled, and is
# in the cache or not.
Outcome = Literal["found", "kept", "not kept"]


class Compiler:
    """Compiles what is not compiled yet, here or in the cache.

    Attributes:
      outcomes: what became of each program that it was asked for, in order.
    """

    def __init__(self, cache: ExecutableCache | None) -> None:
        """A compiler that looks into this cache, if any, and fills it."""
        self._cache = cache
        self.outcomes: list[Outcome] = []

    def compiled(
        self,
        description: Mapping[str, object],
        devices: Sequence[jax.Device],
        counts: tuple[int, int],
        lower: Callable[[], jax.stages.Lowered],
    ) -> jax.stages.Compiled:
        """The code for what is described.

        Args:
          description: all that the code depends on beside the machine and its software, as JSON.
          devices: where it runs.
          counts: how many arrays it takes and returns.
          lower: gives what to compile. It takes flat arrays and returns a list of them.
        """
        key = key_of(description, devices)
        place = (None if self._cache is None else self._cache.folder, key)
        found = _in_use.get(place)
        if found is None and self._cache is not None:
            found = self._cache.get(key, devices, *counts)
        outcome: Outcome = "found"
        if found is None:
            found = lower().compile()
            is_kept = self._cache is not None and self._cache.put(key, found)
            outcome = "kept" if is_kept else "not kept"
        self.outcomes.append(outcome)
        found = _in_use.setdefault(place, found)
        _latest.append(found)
        return found

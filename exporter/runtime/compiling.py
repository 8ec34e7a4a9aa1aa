"""Compiled code, shared by all who would compile the same thing."""

from collections.abc import Callable, Mapping, Sequence
from weakref import WeakValueDictionary

import jax

from exporter.runtime.executables import ExecutableCache, key_of

# What this process has compiled or read and still uses, by key. Code without a user is let go.
_in_use: "WeakValueDictionary[str, jax.stages.Compiled]" = WeakValueDictionary()


class Compiler:
    """Compiles what is not compiled yet, here or in the cache."""

    def __init__(self, cache: ExecutableCache | None) -> None:
        """A compiler that looks into this cache, if any, and fills it."""
        self._cache = cache

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
        found = _in_use.get(key)
        if found is None and self._cache is not None:
            found = self._cache.get(key, devices, *counts)
        if found is None:
            found = lower().compile()
            if self._cache is not None:
                self._cache.put(key, found)
        return _in_use.setdefault(key, found)

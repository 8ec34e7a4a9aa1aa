"""Variables as constants of compiled code, of which XLA computes nothing ahead.

XLA computes whatever depends on constants alone when it compiles: to sort one of 1 MiB took it half
a minute, where the sort itself takes milliseconds. So they stand behind a barrier.

Constants of one number each, zeros say, are cut out of one array of all of them. Of a thousand that
stood alone, XLA would try the sums of each with each, until there is no memory left. The others are
not cut out, since what is computed of a part by itself is code of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import jax
import numpy as np

from exporter.artifact.layout import digest_bytes
from exporter.artifact.manifest import digest_of

# An array that is cut out of a larger one may have to be copied at each call.
_MAX_SMALL_BYTES = 2**12


@dataclass(frozen=True, eq=False)
class Embedded:
    """The values of the variables that no program changes, as constants of compiled code.

    Attributes:
      values: flat plain arrays.
    """

    values: Sequence[jax.Array]

    @cached_property
    def digest(self) -> str:
        """The same for the same values, and no other."""
        arrays = [np.ascontiguousarray(value) for value in self.values]
        types = [[str(array.dtype), list(array.shape)] for array in arrays]
        contents = [digest_bytes(array.tobytes()) for array in arrays]
        return digest_of([types, contents])

    def constants(self) -> list[jax.Array]:
        """The values, in code that is being traced."""
        small: dict[np.dtype[np.generic], list[int]] = {}
        alone = []
        for position, value in enumerate(self.values):
            if value.nbytes <= _MAX_SMALL_BYTES and _is_of_one_number(value):
                small.setdefault(value.dtype, []).append(position)
            else:
                alone.append(position)
        joined = [
            np.concatenate([np.ravel(self.values[position]) for position in positions])
            for positions in small.values()
        ]
        held = jax.lax.optimization_barrier((*joined, *(self.values[p] for p in alone)))
        found = dict(zip(alone, held[len(joined) :], strict=True))
        for positions, array in zip(small.values(), held, strict=False):
            shapes = [self.values[position].shape for position in positions]
            ends = accumulate(self.values[position].size for position in positions)
            for position, shape, end in zip(positions, shapes, ends, strict=True):
                start = end - self.values[position].size
                found[position] = jax.lax.slice(array, (start,), (end,)).reshape(shape)
        return [found[position] for position in range(len(self.values))]


def _is_of_one_number(value: jax.Array) -> bool:
    numbers = np.ravel(value)
    return bool((numbers == numbers[:1]).all())

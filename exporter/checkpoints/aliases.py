"""The other names of arrays: a thing that an object holds twice is saved once.

A graph may lead to one array in very many ways, so not the ways are listed but the places where
one joins another: that `decoder/embed` leads where `encoder/embed` does. A longer name is followed
by replacing its beginning.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporter.artifact.checkpoint import Key

# A name of an honest checkpoint needs one replacement for each of its parts at most. A hostile one
# could send us in circles.
_MAX_REPLACEMENTS = 100


@dataclass(frozen=True)
class Branch:
    """One node of an object graph.

    Attributes:
      identity: equal for nodes that are the same thing.
      ways: the key and the position of each child that leads to an array.
    """

    identity: object
    ways: Sequence[tuple[str, int]]


def aliases_of(branches: Sequence[Branch]) -> dict[Key, Key]:
    """For each way to a thing that was met before, the first way. The root is the first branch."""
    first: dict[object, Key] = {}
    found: dict[Key, Key] = {}
    waiting: list[tuple[int, Key]] = [(0, ())]
    while waiting:
        index, name = waiting.pop()
        branch = branches[index]
        known = first.setdefault(branch.identity, name)
        if known != name:
            found[name] = known
        else:
            waiting += [(child, (*name, part)) for part, child in reversed(branch.ways)]
    return found


def other_names(key: Key, aliases: Mapping[Key, Key]) -> Iterator[Key]:
    """What a name leads to, one replacement after another."""
    for _ in range(_MAX_REPLACEMENTS):
        lengths = range(len(key), 0, -1)
        length = next((length for length in lengths if key[:length] in aliases), None)
        if length is None:
            return
        key = aliases[key[:length]] + key[length:]
        yield key

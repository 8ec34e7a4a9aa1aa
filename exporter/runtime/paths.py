"""The ways to things: in a manifest's object tree as Python would write them, in trees by keys."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from exporter.artifact.encoding import scalar_of
from exporter.artifact.records import NodeRecord
from signatures.tree import Scalar

_LEAVES = ("function", "variable", "asset")


def leaf_paths(nodes: Sequence[NodeRecord]) -> Iterator[tuple[NodeRecord, str]]:
    """Each function, variable and asset with each of its attribute paths, the shortest first.

    What holds them is entered once, at its shortest path, so circles end.
    """
    above: dict[int, tuple[int, str]] = {0: (0, "")}
    waiting = deque([0])
    while waiting:
        index = waiting.popleft()
        for step, child in steps(nodes[index]):
            node = nodes[child]
            if node.kind in _LEAVES:
                yield node, f"{_path_to(index, above)}{step}".removeprefix(".")
            elif child not in above:
                above[child] = (index, step)
                waiting.append(child)


def _path_to(index: int, above: Mapping[int, tuple[int, str]]) -> str:
    found = []
    while index:
        index, step = above[index]
        found.append(step)
    return "".join(reversed(found))


def steps(node: NodeRecord) -> Iterator[tuple[str, int]]:
    """Each child, with what Python would write after its holder to reach it."""
    keys: Sequence[Scalar] = [scalar_of(key) for key in node.keys] or range(len(node.children))
    has_attributes = node.kind in ("object", "namedtuple")
    for key, child in zip(keys, node.children, strict=True):
        is_attribute = has_attributes and isinstance(key, str) and key.isidentifier()
        yield f".{key!s}" if is_attribute else f"[{key!r}]", child


def values_by_key(
    tree: object, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Everything in nested dicts that is no dict, with the keys that lead to it."""
    if isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from values_by_key(item, (*path, str(key)))
    else:
        yield path, tree

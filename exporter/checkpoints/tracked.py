"""The arrays of the objects that are checkpointed, under the paths that `save` gives them."""

from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace

from exporter.artifact.checkpoint import Key
from exporter.artifact.records import VariableRecord
from exporter.artifact.variables import key_of, variable_record
from exporter.checkpoints.aliases import Branch, aliases_of
from exporter.errors import TrackingError
from exporter.staging.graph import TrackedGraph, TrackedVariable
from exporter.staging.state import dtype_of
from exporter.staging.tracking import track


@dataclass(frozen=True)
class Tracked:
    """What there is to save, or to restore into.

    Attributes:
      variables: each array by its path in a checkpoint.
      aliases: other names of mutable things that the object holds twice.
      equals: other names of immutable arrays that it holds twice. Each is saved, so that the tree
        on disk is the same when they have come to differ.
    """

    variables: dict[Key, TrackedVariable]
    aliases: dict[Key, Key]
    equals: dict[Key, Key]

    def records(self) -> dict[Key, VariableRecord]:
        """What is to be known of each array, besides its elements."""
        return {
            key: variable_record(
                variable.path,
                dtype_of(variable).name,
                variable.read().shape,
                trainable=variable.trainable,
                collection=variable.collection,
                name=variable.name,
            )
            for key, variable in self.variables.items()
        }


def follow(root: object | None, objects: SimpleNamespace) -> Tracked:
    """The arrays of `root` under their own paths, and those of `objects` below their names.

    Raises:
      TrackingError: if an object cannot be followed or two arrays would have one path.
    """
    graphs = [] if root is None else [track(root)]
    if vars(objects) or root is None:
        graphs.append(_of_objects(objects))
    if len(graphs) == 2:
        _refuse_shared_names(graphs[0], vars(objects))
    variables: dict[Key, TrackedVariable] = {}
    aliases: dict[Key, Key] = {}
    equals: dict[Key, Key] = {}
    places: dict[object, Key] = {}
    arrays: dict[int, tuple[object, Key]] = {}  # with the array, so that no other gets its id
    for graph in graphs:
        aliases |= aliases_of(_branches(graph))
        for variable in graph.variables:
            key = key_of(variable.path)
            known = places.setdefault(variable.place.key, key)
            if known != key:
                aliases[key] = known
                continue
            _add(variables, key, variable)
            array = variable.read()
            _, same = arrays.setdefault(id(array), (array, key))
            if same != key:
                equals[key] = same
    return Tracked(variables, aliases, equals)


def _of_objects(objects: SimpleNamespace) -> TrackedGraph:
    graph = track(objects)
    top = graph.layout[0]
    for name, child in zip(top.keys, top.children, strict=True):
        if graph.layout[child].kind in ("value", "function"):
            value = getattr(objects, str(name))
            raise TrackingError(
                f"Checkpoint was given {name!s}={value!r} ({type(value).__name__}), which holds no "
                "arrays. Expected a model, a Variable, an array, an optimiser's state, or a list "
                "or dict of them. Hold a number in an exporter.Variable."
            )
    return graph


def _refuse_shared_names(root: TrackedGraph, names: Iterable[str]) -> None:
    taken = [name for name in names if name in root.nodes[0].keys]
    if taken:
        raise TrackingError(
            f"the root object has an attribute {taken[0]!r} and so has the Checkpoint, and both "
            "would be saved under that name. Give it another name in the Checkpoint."
        )


def _add(variables: dict[Key, TrackedVariable], key: Key, variable: TrackedVariable) -> None:
    if variables.setdefault(key, variable) is not variable:
        raise TrackingError(
            f"two arrays have the path {'/'.join(key)} in a checkpoint: keys of a dict that differ "
            "only in their type, such as 1 and '1'. Rename one."
        )


def _branches(graph: TrackedGraph) -> list[Branch]:
    branches = []
    for position, node in enumerate(graph.nodes):
        pairs = zip(node.keys or range(len(node.children)), node.children, strict=True)
        ways = [
            (key_of((key,))[0], child)
            for key, child in pairs
            if graph.nodes[child].kind not in ("value", "function")
        ]
        branches.append(Branch(position, ways))
    return branches

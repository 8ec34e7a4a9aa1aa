"""One part of an artifact as a manifest of its own, for loading it without the rest.

Of the object tree stay the parts that were asked for, whole, and what leads to them: objects with
no other attributes. The functions in the parts need variables, which may lie elsewhere. Each
variable stays at the path that names it in the checkpoint, so what leads there stays too.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from exporter.artifact import encoding, records
from exporter.artifact.layout import VARIABLES
from exporter.artifact.records import Manifest, NodeRecord, ProgramRecord
from exporter.errors import UnknownPartError
from exporter.runtime.paths import steps
from signatures.tree import Scalar

T = TypeVar("T")


def part_of(manifest: Manifest, only: Sequence[str]) -> Manifest:
    """The manifest of the parts at some attribute paths, such as `encoder.layers[0]`.

    A signature stays if the parts have every variable that it uses.

    Raises:
      UnknownPartError: if a path leads to nothing, listing where it could lead.
    """
    tree = _Tree(manifest)
    for path in only:
        tree.add(path)
    functions = tree.positions("function")
    needed = _variables(manifest, _concrete_of(manifest, functions))
    for number in needed | tree.positions("variable"):
        tree.add_variable(number)
    variables = tree.positions("variable") | needed
    concrete = _concrete_of(manifest, functions)
    named = [*manifest.signatures.values()]
    named += [n for node in tree.kept_nodes() for n in (node.signatures or {}).values()]
    concrete |= {n for n in named if _variables(manifest, [n]) <= variables}
    return _Selection(manifest, tree, functions, concrete, variables).manifest()


def _concrete_of(manifest: Manifest, functions: Iterable[int]) -> set[int]:
    return {number for index in functions for number in manifest.functions[index].concrete}


def _variables(manifest: Manifest, concrete: Iterable[int]) -> set[int]:
    """The variables that concrete functions take or give."""
    positions = (p for n in concrete for p in manifest.concrete_functions[n].programs)
    programs = [manifest.programs[position] for position in positions]
    return {number for one in programs for number in (*one.variables, *one.updates)}


def _programs(manifest: Manifest, concrete: Iterable[int]) -> set[int]:
    """The programs of concrete functions, with their derivatives."""
    kept: set[int] = set()
    for number in concrete:
        for first in manifest.concrete_functions[number].programs:
            position: int | None = first
            while position is not None:
                kept.add(position)
                position = manifest.programs[position].vjp
    return kept


class _Tree:
    """The nodes of a manifest, of which some are kept: whole, or for what they lead to."""

    def __init__(self, manifest: Manifest) -> None:
        self.nodes = manifest.nodes
        self.variables = manifest.variables
        self.kept: dict[int, set[int]] = {0: set()}  # the children that stay, by node

    def add(self, path: str) -> None:
        """Keep what is at a path, whole. What leads to it stays in part, even inside of it."""
        way = self._way(path)
        self._keep_way(way)
        waiting = [way[-1]]
        seen = set(way[:-1])
        while waiting:
            index = waiting.pop()
            if index not in seen:
                seen.add(index)
                children = self.nodes[index].children
                self.kept.setdefault(index, set()).update(children)
                waiting += children
        for index in seen:
            self.kept.setdefault(index, set())

    def add_variable(self, number: int) -> None:
        """Keep what leads to a variable on its own path."""
        way = [0]
        for key in self.variables[number].path:
            node = self.nodes[way[-1]]
            children = dict(zip(_keys(node), node.children, strict=True))
            if encoding.scalar_of(key) not in children:
                return  # what has other keys when it is loaded than when it was saved
            way.append(children[encoding.scalar_of(key)])
        self._keep_way(way)

    def _keep_way(self, way: Sequence[int]) -> None:
        for index, child in pairwise(way):
            self.kept.setdefault(index, set()).add(child)
        self.kept.setdefault(way[-1], set())

    def _way(self, path: str) -> list[int]:
        """The nodes from the root to what is at a path."""
        way, rest = [0], path if path.startswith(("[", ".")) else f".{path}"
        while rest:
            choices = list(steps(self.nodes[way[-1]]))
            found = [
                (spelling, child)
                for text, child in choices
                for spelling in (text, _dotted(text))
                if _begins(rest, spelling)
            ]
            if not found:
                raise _unknown(path, rest, [text for text, _ in choices])
            text, child = max(found, key=lambda one: len(one[0]))
            way.append(child)
            rest = rest[len(text) :]
        return way

    def positions(self, kind: str) -> set[int]:
        """The positions of what is kept among the variables, or among the functions."""
        return {self.nodes[i].index for i in self.kept if self.nodes[i].kind == kind}

    def kept_nodes(self) -> Iterator[NodeRecord]:
        """The nodes that are kept, in order."""
        return (self.nodes[index] for index in sorted(self.kept))


def _dotted(step: str) -> str:
    """`.key` for `['key']`, as paths are written in messages of a save."""
    return f".{step[2:-2]}" if step[2:-2].isidentifier() else step


def _begins(rest: str, step: str) -> bool:
    return rest.startswith(step) and rest[len(step) : len(step) + 1] in ("", ".", "[")


def _unknown(path: str, rest: str, choices: Sequence[str]) -> UnknownPartError:
    start = path[: len(path) - len(rest)] if path.startswith(("[", ".")) else path[: -len(rest)]
    names = [choice.removeprefix(".") if not start else f"{start}{choice}" for choice in choices]
    return UnknownPartError(
        f"only= has {path!r}, and {f'{start} ' if start else 'the model '}has no "
        f"{rest.removeprefix('.')!r}. The parts there are {', '.join(names) or 'none'}.",
        names,
    )


@dataclass(frozen=True)
class _Selection:
    """What stays of a manifest, by its old positions."""

    whole: Manifest
    tree: _Tree
    functions: set[int]
    concrete: set[int]
    variables: set[int]

    def manifest(self) -> Manifest:
        """The manifest of what stays, with new positions."""
        whole = self.whole
        new_concrete = _renumbered(self.concrete)
        new_functions = _renumbered(self.functions)
        new_programs = _renumbered(_programs(whole, self.concrete))
        aliases = whole.function_aliases.items()
        kept = records.replace(
            whole,
            signatures=_mapped(whole.signatures, new_concrete),
            stages={
                name: stages
                for name, stages in whole.stages.items()
                if whole.signatures[name] in new_concrete
            },
            batching={
                name: one
                for name, one in whole.batching.items()
                if whole.signatures[name] in new_concrete
            },
            functions=[
                records.replace(one, concrete=[new_concrete[n] for n in one.concrete])
                for one in _chosen(whole.functions, new_functions)
            ],
            concrete_functions=[
                records.replace(one, programs=[new_programs[n] for n in one.programs])
                for one in _chosen(whole.concrete_functions, new_concrete)
            ],
            programs=[
                self._program(one, new_programs) for one in _chosen(whole.programs, new_programs)
            ],
            variables=_chosen(whole.variables, _renumbered(self.variables)),
            nodes=self._nodes(new_functions, new_concrete),
            function_aliases={a: new_functions[n] for a, n in aliases if n in new_functions},
            samples=[],  # they hold for the values of all variables
        )
        return records.replace(kept, files=[f for f in whole.files if _is_of(f.path, kept)])

    def _program(self, program: ProgramRecord, programs: Mapping[int, int]) -> ProgramRecord:
        numbers = _renumbered(self.variables)
        return records.replace(
            program,
            variables=[numbers[n] for n in program.variables],
            updates=[numbers[n] for n in program.updates],
            vjp=None if program.vjp is None else programs[program.vjp],
        )

    def _nodes(self, functions: Mapping[int, int], concrete: Mapping[int, int]) -> list[NodeRecord]:
        """The nodes that stay. What is missing from a list or tuple is `None`."""
        kept = self.tree.kept
        numbers = {"variable": _renumbered(self.variables), "function": functions}
        places = _renumbered(kept)
        nothing = len(places)
        nodes = []
        for index in places:
            node = self.whole.nodes[index]
            keeps_all = node.kind in ("list", "tuple", "namedtuple")
            pairs = [
                (key, places[child] if child in kept[index] else nothing)
                for key, child in zip(_keys(node), node.children, strict=True)
                if keeps_all or child in kept[index]
            ]
            named = node.signatures
            part = records.replace(
                node,
                keys=[encoding.scalar_record(key) for key, _ in pairs] if node.keys else [],
                children=[child for _, child in pairs],
                index=numbers[node.kind][node.index] if node.kind in numbers else node.index,
                signatures=None if named is None else _mapped(named, concrete),
            )
            nodes.append(part)
        none = encoding.scalar_record(None)
        return [*nodes, NodeRecord("value", value=none)]


def _keys(node: NodeRecord) -> Sequence[Scalar]:
    return [encoding.scalar_of(key) for key in node.keys] or range(len(node.children))


def _is_of(path: str, kept: Manifest) -> bool:
    """Whether a file holds something of what was kept. Variables share their files."""
    if path.startswith(f"{VARIABLES}/"):
        return any(variable.storage != "empty" for variable in kept.variables)
    files = {program.file for program in kept.programs}
    assets = [node.path for node in kept.nodes if node.path]
    assets += [one for stages in kept.stages.values() for stage in stages for one in stage.files]
    return path in files or any(path == one or path.startswith(f"{one}/") for one in assets)


def _renumbered(positions: Iterable[int]) -> dict[int, int]:
    return {old: new for new, old in enumerate(sorted(positions))}


def _chosen(items: Sequence[T], numbers: Iterable[int]) -> list[T]:
    return [items[number] for number in numbers]


def _mapped(names: Mapping[str, int], numbers: Mapping[int, int]) -> dict[str, int]:
    return {name: numbers[number] for name, number in names.items() if number in numbers}

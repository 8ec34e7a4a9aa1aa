"""Two manifests compared: what is different, and whether one can replace the other. Without JAX.

The second can replace the first for its callers if it loads wherever the first does, takes whatever
the first takes, and returns what the first returns, under the same names. Whether it computes the
same values is another question: `values.py` compares variables.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

from exporter.artifact.records import FunctionRecord, Manifest, StageRecord, replace
from exporter.operations import OWN_CALLS
from exporter.runtime.paths import leaf_paths
from exporter.runtime.substitutes import call_changes, digests, function_changes
from exporter.runtime.summary import Summary, VariableSummary, summarise
from exporter.stages.pipeline import host_stages
from exporter.stages.stage import Kind
from signatures.spec import TensorSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Difference:
    """One thing that differs between two artifacts.

    Attributes:
      part: what sort of thing it is: `"signature"`, `"function"`, `"variable"`, ...
      name: which of them, or the empty text.
      text: the end of a sentence that begins with part and name.
      breaks: whether callers of the first cannot do with the second because of it.
    """

    part: str
    name: str
    text: str
    breaks: bool = False

    def __str__(self) -> str:
        about = f"{self.part} {self.name}" if self.name else self.part
        return f"{about} {self.text}"


@dataclass(frozen=True)
class Comparison:
    """All that differs between two artifacts, but for the values of variables."""

    differences: tuple[Difference, ...]

    @property
    def can_replace(self) -> bool:
        """Whether the second can replace the first for its callers."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[Difference, ...]:
        """Why it cannot."""
        return tuple(one for one in self.differences if one.breaks)

    def as_json(self) -> dict[str, object]:
        """The same as plain data."""
        return {
            "can_replace": self.can_replace,
            "reasons": [str(one) for one in self.reasons],
            "differences": [asdict(one) for one in self.differences],
        }


def compare(old: Manifest, new: Manifest, *, promised: Collection[str] = ()) -> Comparison:
    """What differs in the second artifact.

    Args:
      old: the artifact that has callers.
      new: the one that is to replace it.
      promised: the native functions whose meaning JAX promises to keep, which nobody vouches for.
    """
    one, other = summarise(old), summarise(new)
    return Comparison(
        (
            *_signatures(old, new),
            *_stages(old, new),
            *_functions(old, new, one, other),
            *_requirements(old, new, promised),
            *_variables(one, other),
            *_assets(old, new, one, other),
            *_labels(one, other),
            *_versions(one, other),
            *_sizes(old, new),
        )
    )


def added_calls(old: Manifest, new: Manifest) -> tuple[str, ...]:
    """The native functions that only the second artifact calls."""
    known = {*OWN_CALLS, *(call for program in old.programs for call in program.custom_calls)}
    found = dict.fromkeys(call for program in new.programs for call in program.custom_calls)
    return tuple(call for call in found if call not in known)


def alike(old: Manifest, new: Manifest) -> list[tuple[str, int, int]]:
    """The variables whose values can be compared: a path, and the positions of each in both."""
    places = {tuple(record.key): number for number, record in enumerate(new.variables)}
    pairs = [(n, places.get(tuple(record.key))) for n, record in enumerate(old.variables)]
    paths = [variable["path"] for variable in summarise(old)["variables"]]
    return [
        (paths[a], a, b)
        for a, b in pairs
        if b is not None
        and (old.variables[a].dtype, old.variables[a].shape)
        == (new.variables[b].dtype, new.variables[b].shape)
    ]


def _signatures(old: Manifest, new: Manifest) -> Iterator[Difference]:
    for name, number in old.signatures.items():
        if name not in new.signatures:
            yield Difference("signature", name, "is gone", breaks=True)
            continue
        concrete = new.concrete_functions[new.signatures[name]]
        found = call_changes(old, old.concrete_functions[number], new, concrete)
        yield from (Difference("signature", name, str(one), one.breaks) for one in found)
    yield from _new("signature", old.signatures, new.signatures)


def _stages(old: Manifest, new: Manifest) -> Iterator[Difference]:
    """What callers of pipelines notice. Types of arrays are told of the signatures."""
    before, after = (host_stages(one, lambda _: b"") for one in (old, new))
    for name, was, now in _pairs(_with_content(old), _with_content(new)):
        if was is None or now is None:
            text = "are new" if was is None else "are gone: it takes arrays only"
            yield Difference("stages of", name, text, was is not None and name in new.signatures)
        elif name not in before or name not in after:
            yield Difference("stages of", name, "differ, and are not all known here", breaks=True)
        else:
            yield Difference("stages of", name, "have other kinds, options or files")
            yield from _kinds(name, "input", before[name].inputs, after[name].inputs)
            yield from _kinds(name, "output", before[name].outputs, after[name].outputs)


def _with_content(manifest: Manifest) -> dict[str, list[StageRecord]]:
    """The stages of each signature, with the digests of their files in the place of paths."""
    known = digests(manifest)
    return {
        name: [replace(one, files=[known[path] for path in one.files]) for one in stages]
        for name, stages in manifest.stages.items()
    }


def _kinds(
    name: str, what: str, old: Mapping[str, Kind | TensorSpec], new: Mapping[str, Kind | TensorSpec]
) -> Iterator[Difference]:
    """What a pipeline takes or gives that has another kind."""
    one, other = (
        {key: kind if isinstance(kind, str) else "array" for key, kind in kinds.items()}
        for kinds in (old, new)
    )
    for key, was, now in _pairs(one, other):
        if was is None and now == "array":
            continue
        text = f"have the {what} {key} as {now or 'nothing'}, which was {was or 'nothing'}"
        yield Difference("stages of", name, text, breaks=what == "input" or was is not None)


def _new(part: str, old: Collection[str], new: Collection[str]) -> Iterator[Difference]:
    yield from (Difference(part, name, "is new") for name in new if name not in old)


def _functions(old: Manifest, new: Manifest, one: Summary, other: Summary) -> Iterator[Difference]:
    before, after = _by_path(old), _by_path(new)
    seen: set[int] = set()
    for path, function in before.items():
        if path not in after:
            yield Difference("function", path, "is gone", breaks=True)
        elif id(function) not in seen:  # its other paths would say the same
            seen.add(id(function))
            for text, breaks in function_changes(old, function, new, after[path]):
                yield Difference("function", path, text, breaks)
    yield from _new("function", before, after)
    for alias, path in one["function_aliases"].items():
        if alias not in other["function_aliases"]:
            yield Difference("alias", alias, "is gone", breaks=True)
        elif other["function_aliases"][alias] != path:
            text = f"is of {other['function_aliases'][alias]}, was of {path}"
            yield Difference("alias", alias, text)
    yield from _new("alias", one["function_aliases"], other["function_aliases"])


def _by_path(manifest: Manifest) -> dict[str, FunctionRecord]:
    """Each attached function at each of its attribute paths."""
    return {
        path: manifest.functions[node.index]
        for node, path in leaf_paths(manifest.nodes)
        if node.kind == "function"
    }


def _requirements(old: Manifest, new: Manifest, promised: Collection[str]) -> Iterator[Difference]:
    """What the second needs of a machine and of the libraries there."""
    lost = [name for name in old.platforms if name not in new.platforms]
    gained = [name for name in new.platforms if name not in old.platforms]
    if lost:
        yield Difference("platforms", "", f"are without {', '.join(lost)}", breaks=True)
    if gained:
        yield Difference("platforms", "", f"are more: {', '.join(gained)}")
    for what, before, after in (
        ("format", (old.format_version,), (new.format_version,)),
        ("StableHLO", _numbers(old.stablehlo_version), _numbers(new.stablehlo_version)),
        ("calling convention", (_convention(old),), (_convention(new),)),
    ):
        if before != after:
            shown = [".".join(map(str, numbers)) for numbers in (after, before)]
            yield Difference(what, "", f"is {shown[0]}, was {shown[1]}", breaks=after > before)
    if old.x64 != new.x64:
        text = "are needed now (JAX_ENABLE_X64=1)" if new.x64 else "are not needed any more"
        yield Difference("64-bit arrays", "", text, breaks=new.x64)
    for call in added_calls(old, new):
        text = "is called, and must be named in load(custom_calls=)"
        if call in promised:
            text = "is called"
        yield Difference("native function", call, text, breaks=call not in promised)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _convention(manifest: Manifest) -> int:
    return max((program.calling_convention_version for program in manifest.programs), default=0)


def _variables(one: Summary, other: Summary) -> Iterator[Difference]:
    before = {tuple(variable["key"]): variable for variable in one["variables"]}
    after = {tuple(variable["key"]): variable for variable in other["variables"]}
    for key, variable in before.items():
        if key not in after:
            yield Difference("variable", variable["path"], "is gone")
            continue
        for what, was, now in _fields(variable, after[key]):
            yield Difference("variable", variable["path"], f"{what} is {now}, was {was}")
    for key, variable in after.items():
        if key not in before:
            yield Difference("variable", variable["path"], f"is new: {_typed(variable)}")


def _fields(one: VariableSummary, other: VariableSummary) -> Iterator[tuple[str, object, object]]:
    for what, was, now in (
        ("path", one["path"], other["path"]),
        ("type", _typed(one), _typed(other)),
        ("trainable", one["trainable"], other["trainable"]),
        ("collection", one["collection"], other["collection"]),
        ("partition", one.get("partition_spec"), other.get("partition_spec")),
    ):
        if was != now:
            yield what, was, now


def _typed(variable: VariableSummary) -> str:
    return f"{variable['dtype']}[{', '.join(map(str, variable['shape']))}]"


def _assets(old: Manifest, new: Manifest, one: Summary, other: Summary) -> Iterator[Difference]:
    before, after = _assets_by_path(one), _assets_by_path(other)
    for path, file in before.items():
        if path not in after:
            yield Difference("asset", path, "is gone", breaks=True)
        elif _content(old, file) != _content(new, after[path]):
            yield Difference("asset", path, "has other content")
    yield from _new("asset", before, after)


def _assets_by_path(summary: Summary) -> dict[str, str]:
    return {path: asset["file"] for asset in summary["assets"] for path in asset["paths"]}


def _content(manifest: Manifest, path: str) -> dict[str, str]:
    """The digests of a file, or of all files in a folder."""
    return {
        file.removeprefix(path): digest
        for file, digest in digests(manifest).items()
        if file == path or file.startswith(f"{path}/")
    }


def _labels(one: Summary, other: Summary) -> Iterator[Difference]:
    for tag in one["tags"]:
        if tag not in other["tags"]:
            yield Difference("tag", tag, "is gone, and load(tags=) may ask for it", breaks=True)
    yield from _new("tag", one["tags"], other["tags"])
    for key, was, now in _pairs(one["metadata"], other["metadata"]):
        yield Difference("metadata", key, _exchanged(was, now))
    for key, was, now in _pairs(one["samples"], other["samples"]):
        yield Difference("samples of", key, f"are {now or 0}, were {was or 0}")


def _pairs(old: Mapping[str, T], new: Mapping[str, T]) -> Iterator[tuple[str, T | None, T | None]]:
    """What differs between two dicts by key. `None` stands for what is not there."""
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key) or (key in old) != (key in new):
            yield key, old.get(key), new.get(key)


def _exchanged(was: object, now: object) -> str:
    return f"is {json.dumps(now, ensure_ascii=False)}, was {json.dumps(was, ensure_ascii=False)}"


def _versions(one: Summary, other: Summary) -> Iterator[Difference]:
    for name, was, now in _pairs(one["written_by"], other["written_by"]):
        yield Difference("written by", name, f"{now}, was {was}")
    for name, was, now in (
        ("class", one["class_name"], other["class_name"]),
        ("saved", one["created"], other["created"]),
    ):
        if was != now:
            yield Difference(name, "", f"is {now}, was {was}")
    for name, _, now in _pairs(one["content"], other["content"]):
        yield Difference("content id of", name, f"is {now}")


def _sizes(old: Manifest, new: Manifest) -> Iterator[Difference]:
    """How many bytes of files there are, by the folder at the top."""
    totals = []
    for manifest in (old, new):
        sizes: dict[str, int] = {}
        for file in manifest.files:
            top = file.path.partition("/")[0]
            sizes[top] = sizes.get(top, 0) + file.size
        totals.append(sizes)
    for top, was, now in _pairs(*totals):
        yield Difference("size of", top, f"is {now or 0:,} bytes, was {was or 0:,}")

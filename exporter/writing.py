"""The folder of an artifact, filled from what was prepared."""

import datetime as dt
import platform as python_platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

from exporter.artifact import assets, encoding, records
from exporter.artifact.assets import Source
from exporter.artifact.layout import (
    MANIFEST,
    PROGRAMS,
    SAMPLES,
    FileRecord,
    digest_bytes,
    record_files,
)
from exporter.artifact.manifest import digest_of, encode
from exporter.artifact.programs import packed
from exporter.artifact.samples import Sample
from exporter.artifact.variables import values_id, variable_record, write_variables
from exporter.drafting import Draft
from exporter.errors import TrackingError
from exporter.labels import Labels
from exporter.pipelines import AttachedStage
from exporter.processes import is_alone, is_first
from exporter.progress import Progress, steps
from exporter.staging.graph import Node
from exporter.staging.lowering import ALL_PLATFORMS
from exporter.staging.partitioning import partition_spec
from exporter.staging.slots import own
from exporter.staging.state import dtype_of
from signatures.dtypes import WIDE

# The manifest's entries, and the arrays.
Variables = tuple[list[records.VariableRecord], list[object]]


@dataclass(frozen=True)
class Contents:
    """All that is written to a folder, before anything is.

    Attributes:
      draft: functions and programs.
      signatures: the number of the concrete function of each.
      note: what to tell those who miss a signature.
      labels: aliases, tags and metadata.
      variables: the manifest's entries and the arrays.
      assets: the files to copy, in the order of the graph.
      samples: the samples.
      stages: the stages of signatures.
      batching: how the calls of signatures are joined.
    """

    draft: Draft
    signatures: Mapping[str, int]
    note: str | None
    labels: Labels
    variables: Variables
    assets: Sequence[Source]
    samples: Sequence[Sample] = ()
    stages: Mapping[str, Sequence[AttachedStage]] = field(default_factory=dict)
    batching: Mapping[str, records.BatchingRecord] = field(default_factory=dict)

    @property
    def sources(self) -> list[Source]:
        """The files to copy, those of stages last."""
        attached = [stage for stages in self.stages.values() for stage in stages]
        return [*self.assets, *(source for stage in attached for source in stage.files)]

    @cached_property
    def values_id(self) -> str:
        """The content id of the variables. All processes ask for it together."""
        return values_id(*self.variables)


@dataclass
class EarlyWriting:
    """Variables written by another thread, which mostly waits for the disk, while this one lowers.

    Of several processes none begins early: all have to agree first that they go on.

    Attributes:
      stack: ends after the save. It waits for the thread, then ends `staging`.
      staging: makes the folder.
      folder: the folder, once it is there.
      written: what the thread does, once it is begun.
    """

    stack: ExitStack
    staging: Callable[[], AbstractContextManager[Path]]
    folder: Path | None = None
    written: Future[None] | None = None

    def begin(self, variables: Variables) -> None:
        """Make the folder and write the variables there from now on."""
        if is_alone():
            self.folder = self.stack.enter_context(self.staging())
            pool = self.stack.enter_context(ThreadPoolExecutor(1, "exporter-variables"))
            self.written = pool.submit(write_variables, self.folder, *variables)


def variables_of(draft: Draft) -> Variables:
    """The manifest's entry for each variable, and its array."""
    variables = [draft.graph.variables[index] for index in draft.kept]
    values = [own(variable.place) for variable in variables]
    entries = [
        variable_record(
            variable.path,
            dtype_of(variable).name,
            value.shape,
            trainable=variable.trainable,
            collection=variable.collection,
            name=variable.name,
            partition_spec=partition_spec(value),
        )
        for variable, value in zip(variables, values, strict=True)
    ]
    _refuse_equal_keys(entries)
    return entries, list(values)


def write(
    folder: Path, contents: Contents, progress: Progress | None, written: Future[None] | None
) -> None:
    """Fill the folder, the manifest last. The variables may be being `written` to it already.

    Of several processes each writes its part of the arrays, and the first all the rest.
    """
    paths = assets.named(contents.sources)
    digest = contents.values_id
    rest = partial(write_variables, folder, *contents.variables)
    parts: list[Callable[[], None]] = [written.result if written else rest]
    if is_first():
        samples = [(sample.record.file, sample.data) for sample in contents.samples]
        parts += [
            lambda: _write_files(folder, PROGRAMS, _program_files(contents.draft)),
            lambda: assets.write_assets(folder, contents.sources, paths),
            lambda: _write_files(folder, SAMPLES, samples),
            lambda: _write_manifest(folder, contents, digest, paths),
        ]
    for step in steps(parts, "writing", progress):
        step()


def _program_files(draft: Draft) -> list[tuple[str, bytes]]:
    records_and_code = zip(draft.programs, draft.bytecode, strict=True)
    return [(record.file, packed(record.file, code)) for record, code in records_and_code]


def _write_files(folder: Path, name: str, files: Sequence[tuple[str, bytes]]) -> None:
    if files:
        (folder / name).mkdir()
    for path, data in files:
        (folder / path).write_bytes(data)


def _write_manifest(
    folder: Path, contents: Contents, values: str, assets_at: Sequence[str]
) -> None:
    draft, labels, entries = contents.draft, contents.labels, contents.variables[0]
    signatures = dict(contents.signatures)
    nodes = [_node_record(node, draft, assets_at) for node in draft.graph.nodes]
    digests = [digest_bytes(bytecode) for bytecode in draft.bytecode]
    files = list(record_files(folder))
    stages = _stage_records(contents.stages, assets_at[len(contents.assets) :])
    parts = [signatures, draft.functions, draft.concrete, draft.programs, nodes, digests]
    parts += [[stages, _digests_of(stages, files)]] if stages else []
    manifest = records.Manifest(
        format=records.FORMAT,
        format_version=records.FORMAT_VERSION,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        producer=_producer(),
        content=records.Content(
            digest_of([digest_of(part) for part in parts]),
            values,
        ),
        platforms=list(_common_platforms(draft)),
        stablehlo_version=max(
            (program.stablehlo_version for program in draft.programs), key=_numbers, default="0.9.0"
        ),
        x64=_needs_x64(draft.programs, entries),
        signatures=signatures,
        signature_note=contents.note,
        functions=draft.functions,
        concrete_functions=draft.concrete,
        programs=draft.programs,
        variables=entries,
        nodes=nodes,
        files=files,
        function_aliases=dict(labels.function_aliases),
        tags=list(labels.tags),
        metadata=labels.metadata,
        samples=[sample.record for sample in contents.samples],
        stages=stages,
        batching=dict(contents.batching),
    )
    (folder / MANIFEST).write_bytes(encode(manifest))


def _stage_records(
    stages: Mapping[str, Sequence[AttachedStage]], paths: Iterable[str]
) -> dict[str, list[records.StageRecord]]:
    """The records of stages, with the paths that their files have, in order."""
    left = iter(paths)
    return {
        name: [
            records.replace(stage.record, files=[next(left) for _ in stage.files])
            for stage in attached
        ]
        for name, attached in stages.items()
    }


def _digests_of(
    stages: Mapping[str, Sequence[records.StageRecord]], files: Iterable[FileRecord]
) -> dict[str, str]:
    """The digest of each file of a stage."""
    known = {file.path: file.blake3 for file in files}
    return {
        path: known[path] for attached in stages.values() for one in attached for path in one.files
    }


def _common_platforms(draft: Draft) -> tuple[str, ...]:
    """The platforms on which every program runs."""
    found = [set(program.platforms) for program in draft.programs]
    return tuple(p for p in ALL_PLATFORMS if all(p in one for one in found))


def _refuse_equal_keys(entries: Sequence[records.VariableRecord]) -> None:
    seen: dict[tuple[str, ...], records.VariableRecord] = {}
    for entry in entries:
        other = seen.setdefault(tuple(entry.key), entry)
        if other is not entry:
            raise TrackingError(
                f"two variables have the path {'/'.join(entry.key)} in a checkpoint: keys of a "
                "dict that differ only in their type, such as 1 and '1'. Rename one."
            )


def _producer() -> records.Producer:
    return records.Producer(
        jax_exporter=version("jax-exporter"),
        jax=version("jax"),
        jaxlib=version("jaxlib"),
        orbax_checkpoint=version("orbax-checkpoint"),
        python=python_platform.python_version(),
    )


def _needs_x64(
    programs: Sequence[records.ProgramRecord], entries: Sequence[records.VariableRecord]
) -> bool:
    tensors = [t.dtype for p in programs for t in (*p.inputs, *p.outputs)]
    return not WIDE.isdisjoint([*tensors, *(entry.dtype for entry in entries)])


def _numbers(version_text: str) -> tuple[int, ...]:
    return tuple(map(int, version_text.split(".")))


def _node_record(node: Node, draft: Draft, assets_at: Sequence[str]) -> records.NodeRecord:
    index = node.index
    if node.kind == "variable":
        index = draft.numbers[draft.graph.variables[index].place.key]
    path = assets_at[index] if node.kind == "asset" else None
    return records.NodeRecord(
        kind=node.kind,  # type: ignore[arg-type]  # one of the kinds
        name=node.name,
        keys=[encoding.scalar_record(key) for key in node.keys],
        children=list(node.children),
        index=-1 if path else index,
        path=path,
        value=encoding.scalar_record(node.value) if node.kind == "value" else None,
        signatures=None if node.signatures is None else draft.named_sources(node.signatures),
    )

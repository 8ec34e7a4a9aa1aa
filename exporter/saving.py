"""From an object to an artifact: the whole upper line of the map, on one page."""

import datetime as dt
import os
import platform as python_platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp

from exporter import choices
from exporter.artifact import assets, encoding, records
from exporter.artifact.layout import (
    MANIFEST,
    PROGRAMS,
    SAMPLES,
    check_target,
    digest_bytes,
    naming,
    record_files,
    staged,
)
from exporter.artifact.manifest import digest_of, encode
from exporter.artifact.samples import Sample
from exporter.artifact.stored import StoredConcrete
from exporter.artifact.variables import values_id, variable_record, write_variables
from exporter.drafting import DEFAULT_OPTIONS, Draft, SaveOptions
from exporter.errors import TracingError, TrackingError
from exporter.labels import Labels, gather, stored_model
from exporter.progress import Progress, steps
from exporter.samples import Samples, calls_of, kept, take
from exporter.staging.frameworks import forward_pass_of
from exporter.staging.functions import Function
from exporter.staging.graph import Node, TrackedGraph, dotted
from exporter.staging.inputs import InputSignature
from exporter.staging.lowering import ALL_PLATFORMS, normalised_platforms
from exporter.staging.lowering import check_target as check_stablehlo
from exporter.staging.state import check_value, dtype_of
from exporter.staging.tracing import LOCK, ConcreteFunction
from exporter.staging.tracking import CARRIED, as_function, is_function, track
from signatures.errors import ResolveError
from signatures.resolver import DEFAULT, Candidate, check_names, resolve_export

# Names that a loaded model has for itself, beside the attributes of the saved object.
RESERVED = (
    "signatures",
    "variables",
    "trainable_variables",
    "manifest",
    "function_aliases",
    "metadata",
)

# A function that can be named in `signatures=`, or the whole mapping.
Signatures = object | Mapping[str, object]


def save(
    obj: object,
    path: str | os.PathLike[str],
    signatures: Signatures | None = None,
    *,
    input_signature: InputSignature | None = None,
    platforms: Sequence[str] | None = None,
    overwrite: bool = False,
    options: SaveOptions = DEFAULT_OPTIONS,
    samples: Samples | None = None,
    progress: Progress | None = None,
) -> None:
    """Write `obj` to the folder `path`, with its variables, functions and signatures.

    Everything is traced and lowered before anything is written, and the folder appears whole or
    not at all.

    Args:
      obj: an object with attributes: an instance of your class, a Flax module, a loaded model. Or a
        pair of a function and its parameters: `(apply, params)`, a Linen module and its variables,
        what Haiku's `transform` gives and its parameters.
      path: the folder to make. Its parents are made too.
      signatures: one function, which becomes `serving_default`, or functions by name. Each has an
        input signature, or is a concrete function or a loaded signature. `None` looks for the
        one decorated method of `obj` that can be the default; `{}` writes none.
      input_signature: the inputs of `obj.__call__` or of the forward pass, for an object without
        decorated methods: a list in order, or a dict by name that may have flags to bake in.
      platforms: where the programs run: of `cpu`, `cuda`, `rocm` and `tpu`, by default all. A
        loaded function keeps those it has.
      overwrite: whether an artifact that is at `path` is replaced.
      options: see `SaveOptions`.
      samples: inputs to record, with what the functions return for them, for `exporter.verify`: a
        list of dicts of inputs by name for the default signature, or a dict with such a list for
        each name of a signature or path of a function. They are run in this order, on copies of
        the variables. `None` keeps those of a loaded model whose variables are as they were.
      progress: called with a stage (`tracing`, `lowering`, `sampling`, `writing`), how many of its
        steps are done, and how many there are.

    Raises:
      OptionError: if `options`, `samples` or `progress` are not as they should be.
      ArtifactExistsError: if something is at `path` and may not be replaced.
      TrackingError: if the state of `obj` cannot be followed, or a function uses other state.
      TracingError: if a function cannot be traced.
      LoweringError: if a trace cannot be expressed as a portable program.
      ResolveError: if the signatures asked for cannot be.
      Exception: whatever a function raises while it is traced, with a note that names it.
    """
    target = check_target(path, overwrite=overwrite)
    _refuse_trace()
    chosen = None if platforms is None else normalised_platforms(platforms)
    check_stablehlo(options.stablehlo_version)
    choices.check_progress(progress)
    with LOCK:  # nobody else may exchange the arrays of live objects meanwhile
        graph = _tracked(obj, input_signature, has_signatures=signatures is not None)
        for variable in graph.variables:
            check_value(variable)
        files = assets.sources((dotted(one.path), one.asset.path) for one in graph.assets)
        draft = Draft(graph, chosen, options)
        for tracked in steps(graph.functions, "tracing", progress):
            draft.add_function(tracked.function, dotted(tracked.path))
        for node in graph.nodes:
            draft.named_sources(node.signatures or ())
        resolved, note = _resolve(obj, graph, signatures, draft)
        stored = stored_model(obj)
        labels = gather(draft, options, stored)
        calls = [] if samples is None else calls_of(samples, draft, resolved)
        draft.lower_all(progress)
        variables = _variables(draft)
        values = values_id(*variables)
        if samples is None and stored:
            taken = list(kept(stored, draft, values))
        else:
            taken = list(take(calls, draft, progress))
        contents = _Contents(draft, resolved, note, labels, variables, values, files, taken)
        with staged(target, overwrite=overwrite) as folder, naming(target):
            _write(folder, contents, progress)


@dataclass(frozen=True)
class _Contents:
    """All that is written to a folder, before anything is.

    Attributes:
      draft: functions and programs.
      signatures: the number of the concrete function of each.
      note: what to tell those who miss a signature.
      labels: aliases, tags and metadata.
      variables: the manifest's entries and the arrays.
      values_id: the content id of the variables.
      assets: the files to copy, in the order of the graph.
      samples: the samples.
    """

    draft: Draft
    signatures: Mapping[str, int]
    note: str | None
    labels: Labels
    variables: tuple[list[records.VariableRecord], list[object]]
    values_id: str
    assets: Sequence[assets.Source]
    samples: Sequence[Sample]


def _refuse_trace() -> None:
    if isinstance(jnp.zeros(()) + 0, jax.core.Tracer):
        raise TracingError(
            "save was called while JAX traces a function, where arrays have no values. Call it "
            "outside of jax.jit and of decorated functions."
        )


def _tracked(
    obj: object, input_signature: InputSignature | None, *, has_signatures: bool
) -> TrackedGraph:
    """The graph of the object, with its forward pass as `__call__` if that is to be saved."""
    forward = forward_pass_of(obj)
    graph = track(forward.holder if forward else obj)
    _refuse_reserved(obj, graph)
    decorated = [name for name, _ in graph.root_functions()]
    if input_signature is None and forward and not decorated:
        input_signature = forward.input_signature
        if input_signature is None and not has_signatures and forward.problem:
            raise ResolveError(forward.problem)
    if input_signature is None:
        return graph
    if decorated:
        raise ResolveError(
            "input_signature= is for objects without decorated methods, but this one has "
            f"{', '.join(decorated)}. Give the decorator an input_signature instead."
        )
    if forward is None:
        raise ResolveError(
            f"input_signature= describes the inputs of __call__, which {type(obj).__name__} "
            "does not have."
        )
    function = Function(
        forward.function,
        input_signature,
        owner=forward.holder,
        output_names=forward.output_names,
    )
    return graph.with_root_function("__call__", function)


def _refuse_reserved(obj: object, graph: TrackedGraph) -> None:
    taken = [name for name in RESERVED if name in graph.nodes[0].keys]
    if not hasattr(type(obj), CARRIED) and hasattr(obj, "signatures"):
        taken = ["signatures"]
    if taken:
        raise TrackingError(
            f"the object has an attribute {taken[0]!r}, which a loaded model has for itself. "
            "Rename it before saving."
        )


def _resolve(
    obj: object, graph: TrackedGraph, signatures: Signatures | None, draft: Draft
) -> tuple[dict[str, int], str | None]:
    """The concrete function of each signature, and what to tell those who miss one."""
    if signatures is None and hasattr(type(obj), CARRIED):
        carried, note = getattr(obj, CARRIED)
        return draft.named_sources(carried.items()), note
    if signatures is not None:
        named = signatures if isinstance(signatures, Mapping) else {DEFAULT: signatures}
        check_names(list(named))
        return {n: _requested(n, as_function(f), draft) for n, f in named.items()}, None
    candidates = []
    seen = []
    for name, index in graph.root_functions():
        function = graph.functions[index].function
        if function not in seen:
            seen.append(function)
            is_default = isinstance(function, Function) and function.is_default
            problem = _problem(function, draft) or _nothing(function, draft)
            candidates.append(Candidate(name, is_default, problem))
    resolution = resolve_export(candidates)
    if resolution.chosen is None:
        warnings.warn(f"saved without a signature: {resolution.note}", stacklevel=3)
        return {}, resolution.note
    index = dict(graph.root_functions())[resolution.chosen]
    return {DEFAULT: draft.add_sources(graph.functions[index].function)[0]}, None


def _problem(function: object, draft: Draft) -> str | None:
    """Why a function cannot be a signature, or `None`."""
    if isinstance(function, Function) and function.input_signature is None:
        return "it has no input_signature."
    sources = draft.add_sources(function)
    if len(sources) != 1:
        return f"it was saved for {len(sources)} types of arguments."
    source = draft.sources[sources[0]]
    if isinstance(source, ConcreteFunction):
        return source.signature_problem
    return source.record.signature_problem


_ADVICE = (
    " Decorate it with @exporter.function(input_signature=[...]), or pass what its "
    "get_concrete_function(...) returns."
)


def _nothing(function: object, draft: Draft) -> str | None:
    """Why a function that may be a signature is not one by default, or `None`."""
    source = draft.sources[draft.add_sources(function)[0]]
    if isinstance(source, StoredConcrete):
        return None if source.record.outputs else "it returns nothing."
    return None if source.signature.outputs else "it returns nothing."


def _requested(name: str, function: object, draft: Draft) -> int:
    if not is_function(function):
        raise ResolveError(
            f"signatures= has {function!r} ({type(function).__name__}) for {name!r}. Expected a "
            "method or function decorated with @exporter.function(input_signature=[...]), what "
            "its get_concrete_function(...) returns, or a loaded signature."
        )
    if isinstance(function, Function) and function.lacks_self:
        raise ResolveError(
            f"signatures= has the method {function.name} for {name!r}, taken from its class and "
            f"not from an object. Pass model.{function.name}."
        )
    problem = _problem(function, draft)
    if problem is not None:
        raise ResolveError(
            f"{getattr(function, '__name__', function)} cannot be the signature {name!r}: {problem}"
            f"{_ADVICE if problem.startswith(('it has no input', 'it was saved')) else ''}"
        )
    return draft.add_sources(function)[0]


def _variables(draft: Draft) -> tuple[list[records.VariableRecord], list[object]]:
    """The manifest's entry for each variable, and its array."""
    variables = [draft.graph.variables[index] for index in draft.kept]
    values = [variable.read() for variable in variables]
    entries = [
        variable_record(
            variable.path,
            dtype_of(variable).name,
            value.shape,
            trainable=variable.trainable,
            collection=variable.collection,
            name=variable.name,
        )
        for variable, value in zip(variables, values, strict=True)
    ]
    _refuse_equal_keys(entries)
    return entries, list(values)


def _write(folder: Path, contents: _Contents, progress: Progress | None) -> None:
    draft = contents.draft
    paths = assets.named(contents.assets)
    parts: list[Callable[[], None]] = [
        lambda: write_variables(folder, *contents.variables),
        lambda: _write_files(folder, PROGRAMS, _program_files(draft)),
        lambda: assets.write_assets(folder, contents.assets, paths),
        lambda: _write_files(folder, SAMPLES, [(s.record.file, s.data) for s in contents.samples]),
        lambda: _write_manifest(folder, contents, paths),
    ]
    for write in steps(parts, "writing", progress):
        write()


def _program_files(draft: Draft) -> list[tuple[str, bytes]]:
    records_and_code = zip(draft.programs, draft.bytecode, strict=True)
    return [(record.file, bytecode) for record, bytecode in records_and_code]


def _write_files(folder: Path, name: str, files: Sequence[tuple[str, bytes]]) -> None:
    if files:
        (folder / name).mkdir()
    for path, data in files:
        (folder / path).write_bytes(data)


def _write_manifest(folder: Path, contents: _Contents, assets_at: Sequence[str]) -> None:
    draft, labels, entries = contents.draft, contents.labels, contents.variables[0]
    signatures = dict(contents.signatures)
    nodes = [_node_record(node, draft, assets_at) for node in draft.graph.nodes]
    digests = [digest_bytes(bytecode) for bytecode in draft.bytecode]
    parts = (signatures, draft.functions, draft.concrete, draft.programs, nodes, digests)
    manifest = records.Manifest(
        format=records.FORMAT,
        format_version=records.FORMAT_VERSION,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        producer=_producer(),
        content=records.Content(
            digest_of([digest_of(part) for part in parts]),
            contents.values_id,
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
        files=list(record_files(folder)),
        function_aliases=dict(labels.function_aliases),
        tags=list(labels.tags),
        metadata=labels.metadata,
        samples=[sample.record for sample in contents.samples],
    )
    (folder / MANIFEST).write_bytes(encode(manifest))


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
        jax=jax.__version__,
        jaxlib=version("jaxlib"),
        orbax_checkpoint=version("orbax-checkpoint"),
        python=python_platform.python_version(),
    )


def _needs_x64(
    programs: Sequence[records.ProgramRecord], entries: Sequence[records.VariableRecord]
) -> bool:
    wide = {"int64", "uint64", "float64", "complex128"}
    tensors = [t.dtype for p in programs for t in (*p.inputs, *p.outputs)]
    return not wide.isdisjoint([*tensors, *(entry.dtype for entry in entries)])


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

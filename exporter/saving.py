"""From an object to an artifact: the whole upper line of the map, on one page."""

import datetime as dt
import os
import platform as python_platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from exporter.artifact import encoding, records
from exporter.artifact.layout import (
    MANIFEST,
    PROGRAMS,
    check_target,
    digest_bytes,
    naming,
    record_files,
    staged,
)
from exporter.artifact.manifest import digest_of, encode
from exporter.artifact.stored import StoredConcrete
from exporter.artifact.variables import values_id, variable_record, write_variables
from exporter.drafting import DEFAULT_OPTIONS, Draft, SaveOptions
from exporter.errors import TracingError, TrackingError
from exporter.staging.findings import Findings
from exporter.staging.frameworks import forward_pass_of
from exporter.staging.functions import Function
from exporter.staging.graph import Node, TrackedGraph, dotted
from exporter.staging.inputs import InputSignature
from exporter.staging.lowering import ALL_PLATFORMS, normalised_platforms
from exporter.staging.lowering import check_target as check_stablehlo
from exporter.staging.state import check_values, dtype_of
from exporter.staging.tracing import LOCK, ConcreteFunction
from exporter.staging.tracking import CARRIED, as_function, is_function, track
from signatures.errors import ResolveError
from signatures.resolver import DEFAULT, Candidate, check_names, resolve_export

# Names that a loaded model has for itself, beside the attributes of the saved object.
RESERVED = ("signatures", "variables", "trainable_variables", "manifest")

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
) -> None:
    """Write `obj` to the folder `path`, with its variables, functions and signatures.

    Everything is traced and lowered before anything is written, and the folder appears whole or
    not at all.

    Args:
      obj: an object with attributes: an instance of your class, a Flax module, a loaded model.
      path: the folder to make. Its parents are made too.
      signatures: one function, which becomes `serving_default`, or functions by name. Each has an
        input signature, or is a concrete function or a loaded signature. `None` looks for the
        one decorated method of `obj` that can be the default; `{}` writes none.
      input_signature: the inputs of `obj.__call__`, for an object without decorated methods.
      platforms: where the programs run: of `cpu`, `cuda`, `rocm` and `tpu`, by default all. A
        loaded function keeps those it has.
      overwrite: whether an artifact that is at `path` is replaced.
      options: see `SaveOptions`.

    Raises:
      ArtifactExistsError: if something is at `path` and may not be replaced.
      TrackingError: if the state of `obj` cannot be followed, or a function uses other state.
      TracingError: if a function cannot be traced.
      LoweringError: if a trace cannot be expressed as a portable program.
      ResolveError: if the signatures asked for cannot be.
      Exception: whatever a function raises while it is traced, with a note that names it.
    """
    target = check_target(path, overwrite=overwrite)
    with LOCK:  # nobody else may exchange the arrays of live objects meanwhile
        prepared = prepare(
            obj,
            signatures,
            input_signature=input_signature,
            platforms=platforms,
            options=options,
            findings=Findings(),
        )
        assert prepared is not None, "what stands in the way was raised"
        with staged(target, overwrite=overwrite) as folder, naming(target):
            _write(folder, prepared)


@dataclass(frozen=True)
class Prepared:
    """All that is written of an object.

    Attributes:
      draft: its functions.
      signatures: the concrete function of each signature.
      note: what to tell those who miss a signature.
      entries: its variables as the manifest lists them.
      values: their values.
    """

    draft: Draft
    signatures: dict[str, int]
    note: str | None
    entries: list[records.VariableRecord]
    values: Sequence[jax.Array | np.ndarray]


def prepare(
    obj: object,
    signatures: Signatures | None,
    *,
    input_signature: InputSignature | None,
    platforms: Sequence[str] | None,
    options: SaveOptions,
    findings: Findings,
) -> Prepared | None:
    """Everything that saving does before it writes.

    Args:
      obj: see `save`, as the following ones.
      signatures: likewise.
      input_signature: likewise.
      platforms: likewise.
      options: likewise.
      findings: what stands in the way, raised or gathered. If it is gathered, each step is taken
        whose own conditions are met.

    Returns:
      What is to be written, or `None` if something stands in the way.
    """
    chosen: tuple[str, ...] | None = None
    found: list[TrackedGraph] = []
    with findings.of(None):
        _refuse_trace()
        chosen = None if platforms is None else normalised_platforms(platforms)
    with findings.of(None):
        check_stablehlo(options.stablehlo_version)
    if findings.errors:
        options = replace(options, stablehlo_version="oldest")
    with findings.of(None):
        found.append(_tracked(obj, input_signature))
    if not found:
        return None
    (graph,) = found
    with findings.of(None):
        check_values(graph.variables)
    draft = Draft(graph, chosen, options, findings)
    for tracked in graph.functions:
        path = dotted(tracked.path)
        with findings.of(path):
            draft.add_function(tracked.function, path)
    resolved: dict[str, int] = {}
    note = None
    with findings.of(None):
        for node in graph.nodes:
            draft.named_sources(node.signatures or ())
        resolved, note = _resolve(obj, graph, signatures, draft)
    with findings.of(None):
        draft.lower_all()
    with findings.of(None):
        entries, values = _entries(draft)
    return None if findings.errors else Prepared(draft, resolved, note, entries, values)


def _entries(
    draft: Draft,
) -> tuple[list[records.VariableRecord], list[jax.Array | np.ndarray]]:
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
    return entries, values


def _refuse_trace() -> None:
    if isinstance(jnp.zeros(()) + 0, jax.core.Tracer):
        raise TracingError(
            "save was called while JAX traces a function, where arrays have no values. Call it "
            "outside of jax.jit and of decorated functions."
        )


def _tracked(obj: object, input_signature: InputSignature | None) -> TrackedGraph:
    """The graph of the object, with its forward pass as `__call__` if that is to be saved."""
    forward = forward_pass_of(obj)
    graph = track(forward.holder if forward else obj)
    _refuse_reserved(obj, graph)
    decorated = [name for name, _ in graph.root_functions()]
    if input_signature is None:
        if forward is None or forward.input_signature is None or decorated:
            return graph
        input_signature = forward.input_signature
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
    function = Function(forward.function, input_signature, owner=forward.holder)
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
        warnings.warn(f"saved without a signature: {resolution.note}", stacklevel=4)
        return {}, resolution.note
    index = dict(graph.root_functions())[resolution.chosen]
    return {DEFAULT: draft.first_source(graph.functions[index].function)}, None


def _problem(function: object, draft: Draft) -> str | None:
    """Why a function cannot be a signature, or `None`."""
    if isinstance(function, Function) and function.input_signature is None:
        return "it has no input_signature."
    sources = draft.add_sources(function)
    if function in draft.broken:
        return None  # that is told already
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
    index = draft.first_source(function)
    if index < 0:
        return None
    source = draft.sources[index]
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
    return draft.first_source(function)


def _write(folder: Path, prepared: Prepared) -> None:
    draft, signatures = prepared.draft, prepared.signatures
    entries, values = prepared.entries, prepared.values
    write_variables(folder, entries, values)
    if draft.programs:
        (folder / PROGRAMS).mkdir()
    for record, bytecode in zip(draft.programs, draft.bytecode, strict=True):
        (folder / record.file).write_bytes(bytecode)
    nodes = [_node_record(node, draft) for node in draft.graph.nodes]
    digests = [digest_bytes(bytecode) for bytecode in draft.bytecode]
    parts = (signatures, draft.functions, draft.concrete, draft.programs, nodes, digests)
    manifest = records.Manifest(
        format=records.FORMAT,
        format_version=records.FORMAT_VERSION,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        producer=_producer(),
        content=records.Content(
            digest_of([digest_of(part) for part in parts]),
            values_id(entries, values),
        ),
        platforms=list(_common_platforms(draft)),
        stablehlo_version=max(
            (program.stablehlo_version for program in draft.programs), key=_numbers, default="0.9.0"
        ),
        x64=_needs_x64(draft.programs, entries),
        signatures=signatures,
        signature_note=prepared.note,
        functions=draft.functions,
        concrete_functions=draft.concrete,
        programs=draft.programs,
        variables=entries,
        nodes=nodes,
        files=list(record_files(folder)),
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


def _node_record(node: Node, draft: Draft) -> records.NodeRecord:
    index = node.index
    if node.kind == "variable":
        index = draft.numbers[draft.graph.variables[index].place.key]
    return records.NodeRecord(
        kind=node.kind,  # type: ignore[arg-type]  # one of the kinds
        name=node.name,
        keys=[encoding.scalar_record(key) for key in node.keys],
        children=list(node.children),
        index=index,
        value=encoding.scalar_record(node.value) if node.kind == "value" else None,
        signatures=None if node.signatures is None else draft.named_sources(node.signatures),
    )

"""From an object to an artifact: the whole upper line of the map, on one page."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from exporter import choices
from exporter.artifact import assets
from exporter.artifact.layout import check_target, naming, staged
from exporter.batching import Batching
from exporter.drafting import DEFAULT_OPTIONS, Draft, SaveOptions
from exporter.errors import TrackingError
from exporter.joined import batching_of_signatures
from exporter.labels import gather, stored_model
from exporter.pipelines import Stages, attach
from exporter.processes import is_first, together, told_by_first
from exporter.progress import Progress, steps
from exporter.resolution import Signatures, resolve
from exporter.samples import Samples, calls_of, kept, take
from exporter.staging.findings import Findings
from exporter.staging.frameworks import forward_pass_of
from exporter.staging.functions import Function
from exporter.staging.graph import TrackedGraph, dotted
from exporter.staging.inputs import InputSignature
from exporter.staging.lowering import check_target as check_stablehlo
from exporter.staging.lowering import normalised_platforms
from exporter.staging.slots import undisturbed
from exporter.staging.state import check_values
from exporter.staging.tracing import LOCK, refuse_trace
from exporter.staging.tracking import CARRIED, track
from exporter.writing import Contents, EarlyWriting, Variables, variables_of, write
from signatures.errors import ResolveError

# Names that a loaded model has for itself, beside the attributes of the saved object.
RESERVED = (
    "signatures",
    "variables",
    "trainable_variables",
    "with_variables",
    "pipelines",
    "manifest",
    "function_aliases",
    "metadata",
)


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
    stages: Stages | None = None,
    batching: Mapping[str, Batching] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write `obj` to the folder `path`, with its variables, functions and signatures.

    Everything is traced before anything is written, and the folder appears whole or not at all. All
    processes of a `jax.distributed` run call it together with the same `path`, on a file system
    that they share, and each writes its part of arrays that are split over them.

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
      stages: what the host does before and after a signature, by its name: a list of `Tokenizer`,
        `Vocabulary`, `Image` and `Labels` of `exporter.stages`. Their files are copied, and in the
        loaded model `pipelines` takes texts and pictures and gives labels. `None` keeps those of a
        loaded model.
      batching: how a server joins calls of a signature, by its name, see `Batching`. It says too
        that the signature may be joined where that is not seen from its program. `None` keeps
        that of a loaded model.
      progress: called with a stage (`tracing`, `lowering`, `sampling`, `writing`), how many of its
        steps are done, and how many there are.

    Raises:
      OptionError: if `overwrite`, `options`, `samples`, `stages`, `batching` or `progress` are
        not as they should be.
      StageError: if a stage does not fit its signature, or its file cannot be used.
      ArtifactExistsError: if something is at `path` and may not be replaced.
      TrackingError: if the state of `obj` cannot be followed, or a function uses other state.
      TracingError: if a function cannot be traced.
      LoweringError: if a trace cannot be expressed as a portable program.
      ResolveError: if the signatures asked for cannot be.
      Exception: whatever a function raises while it is traced, with a note that names it.
    """
    with LOCK, ExitStack() as stack:  # nobody else may exchange arrays of live objects meanwhile
        with together("tracing its functions"):
            choices.check_flag("overwrite", overwrite)
            target = check_target(path, overwrite=overwrite)
            early = EarlyWriting(stack, partial(_staged_together, target, overwrite=overwrite))
            choices.check_progress(progress)
            contents = prepare(
                obj,
                signatures,
                input_signature=input_signature,
                platforms=platforms,
                options=options,
                samples=samples,
                stages=stages,
                batching=batching,
                progress=progress,
                findings=Findings(),
                when_traced=early.begin,
            )
            assert contents is not None, "what stands in the way was raised"
        folder = early.folder or stack.enter_context(early.staging())
        with naming(target):
            write(folder, contents, progress, early.written)


def prepare(
    obj: object,
    signatures: Signatures | None,
    *,
    input_signature: InputSignature | None,
    platforms: Sequence[str] | None,
    options: SaveOptions,
    samples: Samples | None = None,
    stages: Stages | None = None,
    batching: Mapping[str, Batching] | None = None,
    progress: Progress | None = None,
    findings: Findings,
    when_traced: Callable[[Variables], None] | None = None,
) -> Contents | None:
    """Everything that saving does before it writes, but for variables.

    Args:
      obj: see `save`, as the following ones.
      signatures: likewise.
      input_signature: likewise.
      platforms: likewise.
      options: likewise.
      samples: likewise.
      stages: likewise.
      batching: likewise.
      progress: likewise.
      findings: what stands in the way, raised or gathered. If it is gathered, each step is taken
        whose own conditions are met.
      when_traced: called with the variables once every function is traced, before any is lowered.

    Returns:
      What is to be written, or `None` if something stands in the way.
    """
    chosen: tuple[str, ...] | None = None
    found: list[TrackedGraph] = []
    with findings.of(None):
        refuse_trace("save")
        chosen = None if platforms is None else normalised_platforms(platforms)
    choices.check_kind("options", options, SaveOptions)
    with findings.of(None):
        check_stablehlo(options.stablehlo_version)
    if findings.errors:
        options = replace(options, stablehlo_version="oldest")
    with findings.of(None):
        found.append(_tracked(obj, input_signature, has_signatures=signatures is not None))
    if not found:
        return None
    (graph,) = found
    with undisturbed(variable.place for variable in graph.variables):
        return _prepared(
            obj,
            graph,
            signatures,
            platforms=chosen,
            options=options,
            samples=samples,
            stages=stages,
            batching=batching,
            progress=progress,
            findings=findings,
            when_traced=when_traced,
        )


def _prepared(
    obj: object,
    graph: TrackedGraph,
    signatures: Signatures | None,
    *,
    platforms: tuple[str, ...] | None,
    options: SaveOptions,
    samples: Samples | None,
    stages: Stages | None,
    batching: Mapping[str, Batching] | None,
    progress: Progress | None,
    findings: Findings,
    when_traced: Callable[[Variables], None] | None,
) -> Contents | None:
    """The same of an object that was followed, while nobody changes its variables."""
    with findings.of(None):
        check_values(graph.variables)
    with findings.of(None):
        files = assets.sources((dotted(one.path), one.asset.path) for one in graph.assets)
    draft = _drafted(graph, platforms, options, findings, progress)
    with findings.of(None):
        for node in graph.nodes:
            draft.named_sources(node.signatures or ())
        resolved, note = resolve(obj, graph, signatures, draft)
        stored = stored_model(obj)
        labels = gather(draft, options, stored)
        calls = [] if samples is None else calls_of(samples, draft, resolved)
        attached = attach(stages, draft, resolved, stored)
        joined = batching_of_signatures(batching, draft, resolved, stored)
    draft.number_variables()
    with findings.of(None):
        variables = variables_of(draft)
        if when_traced:
            when_traced(variables)
    with findings.of(None):
        draft.lower_all(progress)
    if findings.errors:
        return None
    contents = Contents(
        draft, resolved, note, labels, variables, files, stages=attached, batching=joined
    )
    if samples is None and stored:
        taken = kept(stored, draft, lambda: contents.values_id)
    else:
        taken = take(calls, draft, progress)
    return replace(contents, samples=tuple(taken))


def _drafted(
    graph: TrackedGraph,
    platforms: tuple[str, ...] | None,
    options: SaveOptions,
    findings: Findings,
    progress: Progress | None,
) -> Draft:
    """Every function of the graph, traced."""
    draft = Draft(graph, platforms, options, findings)
    for tracked in steps(graph.functions, "tracing", progress):
        path = dotted(tracked.path)
        with findings.of(path):
            draft.add_function(tracked.function, path)
    return draft


@contextmanager
def _staged_together(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """The folder that the first process stages, in all processes of a distributed run."""
    with together("moving the artifact into place"), ExitStack() as stack:
        folder = target
        with together("making a folder"):
            if is_first():
                folder = stack.enter_context(staged(target, overwrite=overwrite))
        folder = Path(told_by_first(str(folder)))
        with together("writing the artifact"):
            yield folder


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

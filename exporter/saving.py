"""From an object to an artifact: the whole upper line of the map, on one page."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from exporter import choices
from exporter.artifact import assets
from exporter.artifact.layout import check_target, naming, staged
from exporter.artifact.stored import StoredConcrete
from exporter.artifact.variables import values_id
from exporter.drafting import DEFAULT_OPTIONS, Draft, SaveOptions
from exporter.errors import TrackingError
from exporter.labels import gather, stored_model
from exporter.processes import is_first, together, told_by_first
from exporter.progress import Progress, steps
from exporter.samples import Samples, calls_of, kept, take
from exporter.staging.frameworks import forward_pass_of
from exporter.staging.functions import Function
from exporter.staging.graph import TrackedGraph, dotted
from exporter.staging.inputs import InputSignature
from exporter.staging.lowering import check_target as check_stablehlo
from exporter.staging.lowering import normalised_platforms
from exporter.staging.state import check_value
from exporter.staging.tracing import LOCK, ConcreteFunction, refuse_trace
from exporter.staging.tracking import CARRIED, as_function, is_function, track
from exporter.writing import Contents, variables_of, write
from signatures.errors import ResolveError
from signatures.resolver import DEFAULT, Candidate, check_names, resolve_export

# Names that a loaded model has for itself, beside the attributes of the saved object.
RESERVED = (
    "signatures",
    "variables",
    "trainable_variables",
    "with_variables",
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
    not at all. All processes of a `jax.distributed` run call it together with the same `path`, on
    a file system that they share, and each writes its part of arrays that are split over them.

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
    refuse_trace("save")
    with LOCK:  # nobody else may exchange the arrays of live objects meanwhile
        with together("tracing its functions"):
            target = check_target(path, overwrite=overwrite)
            chosen = None if platforms is None else normalised_platforms(platforms)
            check_stablehlo(options.stablehlo_version)
            choices.check_progress(progress)
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
            variables = variables_of(draft)
            values = values_id(*variables)
            if samples is None and stored:
                taken = list(kept(stored, draft, values))
            else:
                taken = list(take(calls, draft, progress))
            contents = Contents(draft, resolved, note, labels, variables, values, files, taken)
        with _staged_together(target, overwrite=overwrite) as folder, naming(target):
            write(folder, contents, progress)


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

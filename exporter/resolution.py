"""Which functions of a draft become signatures, of those that the object has or that were named."""

from collections.abc import Mapping

from exporter import notices
from exporter.artifact.stored import StoredConcrete
from exporter.drafting import Draft
from exporter.staging.functions import Function
from exporter.staging.graph import TrackedGraph
from exporter.staging.tracing import ConcreteFunction
from exporter.staging.tracking import CARRIED, as_function, is_function
from signatures.errors import ResolveError
from signatures.resolver import DEFAULT, Candidate, check_names, resolve_export

# A function that can be named in `signatures=`, or the whole mapping.
Signatures = object | Mapping[str, object]


def resolve(
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
        notices.warn(f"saved without a signature: {resolution.note}")
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

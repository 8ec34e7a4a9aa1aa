"""Which functions are written as signatures, and which one a caller means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from signatures.errors import NameTypeError, ResolveError, UnknownSignatureError

T = TypeVar("T")

# The signature that a server calls when the caller names none. The name is TensorFlow's.
DEFAULT = "serving_default"


@dataclass(frozen=True)
class Candidate:
    """A decorated method of the saved object, as the search for a default sees it.

    Attributes:
      name: the attribute it was found under.
      is_default: whether it was marked with `default=True`.
      problem: why it cannot be a signature, or `None` if it can.
    """

    name: str
    is_default: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class Resolution:
    """The candidate that is written as the default signature, or why there is none.

    Attributes:
      chosen: the candidate's name, or `None`.
      note: with nothing chosen, what to do about it, for a warning and for later errors.
    """

    chosen: str | None
    note: str | None = None


def resolve_export(candidates: Sequence[Candidate]) -> Resolution:
    """The one candidate that is the default signature.

    Raises:
      ResolveError: if two are marked as the default, or the marked one cannot be a signature.
    """
    marked = [candidate for candidate in candidates if candidate.is_default]
    if len(marked) > 1:
        names = " and ".join(candidate.name for candidate in marked)
        raise ResolveError(
            f"{names} are all marked default=True; mark one, or pass signatures= to save."
        )
    if marked:
        if marked[0].problem:
            raise ResolveError(
                f"{marked[0].name} is marked default=True but cannot be a signature: "
                f"{marked[0].problem}"
            )
        return Resolution(marked[0].name)
    possible = [candidate for candidate in candidates if candidate.problem is None]
    if len(possible) == 1:
        return Resolution(possible[0].name)
    if possible:
        names = ", ".join(candidate.name for candidate in possible)
        first = possible[0].name
        return Resolution(
            None,
            f"several methods could be the default signature: {names}. Mark one with "
            f"@exporter.function(default=True), or pass signatures={{{first!r}: model.{first}}} "
            "to save.",
        )
    reasons = "".join(f"\n  {candidate.name}: {candidate.problem}" for candidate in candidates)
    return Resolution(
        None,
        "no method could be the default signature. Decorate one with "
        "@exporter.function(input_signature=[...]), or pass signatures= to save."
        + (f" Looked at:{reasons}" if reasons else ""),
    )


def check_names(names: Sequence[object]) -> None:
    """Refuse what cannot be the name of a signature.

    Raises:
      ResolveError: naming the key and the reason.
    """
    for name in names:
        if not isinstance(name, str):
            raise NameTypeError(
                f"signatures= has the key {name!r} of type {type(name).__name__}; the names of "
                "signatures are text."
            )
        if not name or name.startswith("__"):
            raise ResolveError(
                f"{name!r} cannot name a signature: the empty name and names that start with "
                "'__' are reserved."
            )


def resolve_call(signatures: Mapping[str, T], name: str, note: str | None = None) -> T:
    """The signature of that name.

    Raises:
      UnknownSignatureError: listing the names that exist, or why there are none.
    """
    if name in signatures:
        return signatures[name]
    if signatures:
        known = ", ".join(map(repr, signatures))
        raise UnknownSignatureError(
            f"no signature {name!r}; the signatures are {known}.", name, signatures
        )
    why = f": when it was saved, {note}" if note else "."
    raise UnknownSignatureError(
        f"no signature {name!r}, the artifact has none{why}", name, signatures
    )

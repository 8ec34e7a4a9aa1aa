"""The stages of the signatures that are saved: those that were given, or a loaded model has."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from exporter.artifact.assets import Source
from exporter.artifact.encoding import signature_of_record
from exporter.artifact.records import StageRecord
from exporter.artifact.stages import options_of, record_of
from exporter.artifact.stored import StoredConcrete, StoredModel, StoredStages
from exporter.drafting import Draft
from exporter.errors import OptionError, StageError
from exporter.stages.pipeline import check, opened
from exporter.stages.stage import Prepared, Stage
from signatures.signature import Signature

Stages = Mapping[str, Sequence[Stage]]


@dataclass(frozen=True)
class AttachedStage:
    """A stage as it is written.

    Attributes:
      record: as in the manifest, without the paths of its files.
      files: its files.
    """

    record: StageRecord
    files: tuple[Source, ...]


def attach(
    stages: Stages | None,
    draft: Draft,
    signatures: Mapping[str, int],
    stored: StoredModel | None,
) -> dict[str, list[AttachedStage]]:
    """The stages of each signature that has any.

    Args:
      stages: as they were given. `None` takes those of a loaded model, for the signatures that call
        what they called there, under whatever name.
      draft: the functions.
      signatures: the number of the concrete function of each signature.
      stored: what was loaded, if it is saved again.

    Raises:
      OptionError: if `stages` is not as it should be.
      StageError: if they do not fit.
    """
    if stages is None:
        before = stored.stages if stored else ()
        found = {name: _kept(name, draft, n, before) for name, n in signatures.items()}
        return {name: list(attached) for name, attached in found.items() if attached}
    given = _checked(stages, signatures)
    return {
        name: _prepared(listed, _signature(draft, signatures[name], name))
        for name, listed in given.items()
        if listed
    }


def _checked(stages: object, signatures: Iterable[str]) -> dict[str, list[Stage]]:
    if not isinstance(stages, Mapping):
        raise OptionError(
            "stages is a dict with a list of stages for the name of each signature, such as "
            f"{{'serving_default': [exporter.stages.Labels(['cat', 'dog'])]}}; got {stages!r}."
        )
    for name, listed in stages.items():
        if name not in signatures:
            known = ", ".join(map(repr, signatures)) or "none"
            raise OptionError(f"stages has {name!r}, and the signatures are {known}.")
        is_list = isinstance(listed, Sequence) and all(map(_is_stage, listed))
        if not is_list:
            raise OptionError(
                f"stages has {listed!r} for {name!r}: expected a list of stages of "
                "exporter.stages: Tokenizer, Vocabulary, Image, Labels."
            )
    return {name: list(listed) for name, listed in stages.items()}


def _is_stage(value: object) -> bool:
    return hasattr(value, "prepared") and not isinstance(value, type)


def _told(error: Exception) -> str:
    """What an error says, in an author's words if it is of an option of the wrong type."""
    found = re.fullmatch(r"(.+) - at `\$\.([^`]+)`", str(error))
    return f"{found[2]}: {found[1][0].lower()}{found[1][1:]}" if found else str(error)


def _prepared(stages: Sequence[Stage], signature: Signature) -> list[AttachedStage]:
    """Stages around that signature: their options looked at, their files opened once."""
    found: list[Prepared] = []
    problems = []
    for stage in stages:
        try:
            one = stage.prepared(signature)
            options_of(record_of(one.options))  # as a reader will see them
            found.append(one)
        except (TypeError, ValueError) as error:
            problems.append(f"{type(stage).__name__}: {_told(error)}")
    if not problems:
        check([one.options for one in found], signature)
        for stage, one in zip(stages, found, strict=True):
            try:
                opened(one.options, [data for _, data in one.files], signature)
            except StageError as error:
                problems.append(f"{type(stage).__name__}: {error}")
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise StageError(
            f"stages of signature {signature.name!r} cannot be saved:{lines}\n"
            f"The signature is {signature}.",
            problems,
        )
    return [
        AttachedStage(record_of(one.options), tuple(_source(*file) for file in one.files))
        for one in found
    ]


def _kept(
    name: str, draft: Draft, number: int, stored: Sequence[StoredStages]
) -> list[AttachedStage]:
    """The stages that a loaded signature had, of unknown kinds too: nothing of them is changed."""
    source = draft.sources[number] if number >= 0 else None
    same = [s for s in stored if isinstance(source, StoredConcrete) and s.origin is source.origin]
    chosen = next((one for one in same if one.name == name), next(iter(same), None))
    if chosen is None:
        return []
    return [
        AttachedStage(one, tuple(_source(Path(path).name, chosen.read(path)) for path in one.files))
        for one in chosen.records
    ]


def _source(name: str, data: bytes) -> Source:
    return Source(Path(name), {(): data})


def _signature(draft: Draft, number: int, name: str) -> Signature:
    source = draft.sources[number]
    if isinstance(source, StoredConcrete):
        return signature_of_record(source.record, name)
    return replace(source.signature, name=name)

"""What was saved before, with what is needed to save it again: functions are not traced anew."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from exporter.artifact.records import (
    BatchingRecord,
    ConcreteRecord,
    ProgramRecord,
    SampleRecord,
    StageRecord,
)
from signatures.arguments import Parameter


@dataclass(frozen=True)
class StoredProgram:
    """A program with the variables it works on.

    Attributes:
      record: as in the manifest it came from, its numbers of variables without meaning here.
      bytecode: its code.
      variables: the boxes of what it takes before the inputs, known by identity.
      updates: what it returns anew before the outputs.
      call: the program on flat plain arrays, the variables first. It donates none of them.
      derivative: the program of its derivative, if it was saved with one.
    """

    record: ProgramRecord
    bytecode: bytes
    variables: Sequence[object]
    updates: Sequence[object]
    call: Callable[..., Sequence[Any]]
    derivative: "StoredProgram | None" = None


@dataclass(frozen=True)
class StoredConcrete:
    """A concrete function with its programs, in the order of its record's numbers.

    Attributes:
      record: as in the manifest it came from.
      programs: its programs.
      origin: what was loaded. A function and a signature may share it, and it is saved once.
    """

    record: ConcreteRecord
    programs: Sequence[StoredProgram]
    origin: object


@dataclass(frozen=True)
class StoredFunction:
    """A loaded function as it can be saved again.

    Attributes:
      name: the name of the Python function.
      doc: its docstring.
      parameters: its parameters.
      concrete: what it was saved for.
      by_input: whether it is called by the names of its inputs, as a concrete function is.
    """

    name: str
    doc: str | None
    parameters: Sequence[Parameter]
    concrete: Sequence[StoredConcrete]
    by_input: bool = False


@dataclass(frozen=True)
class StoredSample:
    """A sample of a loaded model.

    Attributes:
      record: as in the manifest it came from.
      origin: the loaded concrete function that was sampled.
      read: gives the content of its file.
    """

    record: SampleRecord
    origin: object
    read: Callable[[], bytes]


@dataclass(frozen=True)
class StoredStages:
    """The stages of a signature of a loaded model.

    Attributes:
      name: the signature.
      records: as in the manifest they came from.
      origin: the loaded concrete function that the signature calls.
      read: gives the content of a file of the artifact.
    """

    name: str
    records: Sequence[StageRecord]
    origin: object
    read: Callable[[str], bytes]


@dataclass(frozen=True)
class StoredBatching:
    """How the calls of a signature of a loaded model are joined.

    Attributes:
      name: of the signature.
      record: as in the manifest.
      origin: what the signature calls.
    """

    name: str
    record: BatchingRecord
    origin: object


@dataclass(frozen=True)
class StoredModel:
    """What a loaded model has beside its object tree and signatures.

    Attributes:
      function_aliases: its functions by alias.
      tags: its tags.
      metadata: its metadata as JSON.
      samples: its samples, in the order in which they were taken.
      values_id: the content id of the variables with which they were taken.
      stages: the stages of its signatures.
      batching: how the calls of its signatures are joined.
    """

    function_aliases: Mapping[str, object] = field(default_factory=dict)
    tags: Sequence[str] = ()
    metadata: str = "{}"
    samples: Sequence[StoredSample] = ()
    values_id: str = ""
    stages: Sequence[StoredStages] = ()
    batching: Sequence[StoredBatching] = ()


class Storable(Protocol):
    """What a loaded function offers to those who save it again."""

    @property
    def __exporter_stored__(self) -> StoredFunction: ...

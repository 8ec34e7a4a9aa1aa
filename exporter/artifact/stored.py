"""A function that was saved before, with what is needed to save it again without tracing it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from exporter.artifact.records import ConcreteRecord, ProgramRecord
from signatures.arguments import Parameter


@dataclass(frozen=True)
class StoredProgram:
    """A program with the variables it works on.

    Attributes:
      record: as in the manifest it came from, its numbers of variables without meaning here.
      bytecode: the content of its file.
      variables: the boxes of what it takes before the inputs, known by identity.
      updates: what it returns anew before the outputs.
      derivative: the program of its derivative, if it was saved with one.
    """

    record: ProgramRecord
    bytecode: bytes
    variables: Sequence[object]
    updates: Sequence[object]
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
    """A loaded function as it can be saved again."""

    name: str
    doc: str | None
    parameters: Sequence[Parameter]
    concrete: Sequence[StoredConcrete]


class Storable(Protocol):
    """What a loaded function offers to those who save it again."""

    @property
    def __exporter_stored__(self) -> StoredFunction: ...

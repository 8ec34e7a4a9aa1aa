"""Programs of an artifact looked into without running them: what they hold, and what they cost.

MLIR's reader of bytecode is not hardened: some damaged programs end the process that reads them, or
are never read to their end. So programs are read in a process of its own, which is ended with them.
It is no cage for code: it protects the reader from accidents.
"""

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from exporter.artifact.programs import read_program
from exporter.artifact.records import (
    Manifest,
    PlainTensorRecord,
    ProgramRecord,
    VariableRecord,
)
from exporter.errors import ArtifactError, OptionError
from exporter.operations import Operations
from exporter.runtime.costs import Cost, UnknownSizeError, cost_of
from exporter.runtime.paths import leaf_paths
from signatures.dtypes import KeyType, as_dtype
from signatures.expression import parse

# Reading the program of a 48-layer transformer takes less than a second.
_TIMEOUT_S = 120.0

# The program of that transformer has 126 kB: what is larger than this has weights written into it.
# A small file can be a large program, which would be held three times while it is read.
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Users:
    """Who uses a program.

    Attributes:
      signatures: by name.
      functions: the attribute paths of functions, or their names where they have no path.
      derivative_of: the file of the program that this one is the derivative of, if it is one.
    """

    signatures: tuple[str, ...]
    functions: tuple[str, ...]
    derivative_of: str | None


@dataclass(frozen=True)
class Inspected:
    """What is in a program.

    Attributes:
      record: what the manifest says of it.
      users: who uses it.
      file_bytes: the size of its file.
      bytecode_bytes: its size before it was compressed.
      operations: all of them, as they stand in the file.
      sizes: the sizes of named axes that the cost is for.
      cost: what it takes to run it on the first of its platforms, if that is known.
      without_cost: why it is not known.
    """

    record: ProgramRecord
    users: Users
    file_bytes: int
    bytecode_bytes: int
    operations: Operations
    sizes: Mapping[str, int]
    cost: Cost | None
    without_cost: str | None = None


class Reader:
    """Reads programs in another process, which is started when it is first needed.

    Close it when you are done.
    """

    def __init__(self, timeout_s: float = _TIMEOUT_S) -> None:
        """A reader that gives up on a program after that time."""
        self._timeout_s = timeout_s
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def read(
        self,
        bytecode: bytes,
        shapes: Sequence[tuple[int, ...]] | None = None,
        platform: int | None = None,
    ) -> tuple[Operations, Operations | str | None]:
        """What `exporter.jax_programs.read_operations` gives for the same arguments.

        Raises:
          ValueError: if the program cannot be read.
        """
        if self._process is None or self._connection is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        try:
            self._connection.send((bytecode, shapes, platform))
            if not self._connection.poll(self._timeout_s):
                self.close()
                raise ValueError(f"it is not read to its end in {self._timeout_s:g} seconds.")
            found = self._connection.recv()
        except (EOFError, OSError) as error:
            self.close()
            raise ValueError("reading it ends the process that reads it.") from error
        answer: tuple[Operations, Operations | str | None] | str = found
        if isinstance(answer, str):  # what the other process has against the program
            raise ValueError(answer)  # noqa: TRY004
        return answer

    def close(self) -> None:
        """End the other process."""
        if self._process is not None and self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.join()
        self._process = self._connection = None


def _serve(connection: Connection) -> None:
    """What the other process does: read what it is sent, until nobody sends any more."""
    with Path(os.devnull).open("w") as nowhere:  # MLIR tells there what it thinks of a program
        os.dup2(nowhere.fileno(), 2)
    from exporter.jax_programs import read_operations

    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            connection.send(read_operations(*job))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            connection.send(str(error) or type(error).__name__)
        except (MemoryError, RecursionError) as error:
            connection.send(f"it is too large to be read: {type(error).__name__}.")


def inspect(
    folder: Path,
    manifest: Manifest,
    reader: Reader,
    sizes: Mapping[str, int] | None = None,
    signature: str | None = None,
) -> list[Inspected]:
    """What is in each program of an artifact. Nothing is run or compiled.

    Args:
      folder: the artifact.
      manifest: its manifest.
      reader: reads its programs.
      sizes: the sizes of named axes for which costs are computed.
      signature: the name of a signature, to look into no other programs than those it calls, and
        their derivatives.

    Raises:
      OptionError: if there is no such axis, or one cannot have that size.
      ArtifactError: if a file is missing or cannot be read, naming it.
    """
    known = {dim.name for program in manifest.programs for dim in program.dims}
    if unknown := sorted(set(sizes or ()) - known):
        axes = ", ".join(sorted(known)) or "there are none"
        raise OptionError(f"no axis is named {', '.join(map(repr, unknown))}; known: {axes}.")
    for name, size in (sizes or {}).items():
        if not 1 <= size <= 2**31 - 1:
            raise OptionError(f"{name}={size}: expected a size from 1 to {2**31 - 1}.")
    sizes = sizes or {}
    file_bytes = {file.path: file.size for file in manifest.files}
    found = []
    for record, users in zip(manifest.programs, users_of(manifest), strict=True):
        if signature is not None and signature not in users.signatures:
            continue
        bytecode = read_program(folder, record.file, file_bytes, limit=MAX_BYTES)
        own = {dim.name: sizes[dim.name] for dim in record.dims if dim.name in sizes}
        try:
            operations, cost, problem = _read(reader, manifest, record, bytecode, own)
        except ValueError as error:
            raise ArtifactError(
                f"{folder / record.file} is not a program that can be read: {error}"
            ) from error
        size = file_bytes[record.file]
        found.append(Inspected(record, users, size, len(bytecode), operations, own, cost, problem))
    return found


def _read(
    reader: Reader,
    manifest: Manifest,
    record: ProgramRecord,
    bytecode: bytes,
    sizes: Mapping[str, int],
) -> tuple[Operations, Cost | None, str | None]:
    """The operations of a program, and what it costs or why that is not known."""
    missing = [dim.name for dim in record.dims if dim.name not in sizes]
    shapes = None if missing else _shapes(manifest, record, sizes)
    operations, sized = reader.read(bytecode, shapes, 0 if len(record.platforms) > 1 else None)
    _ = operations.histogram  # whose functions may call each other in a circle
    cost, problem = _cost(operations, sized)
    if missing:
        problem = problem and f"it depends on the size of {', '.join(missing)}"
    return operations, cost, problem


def _cost(operations: Operations, sized: Operations | str | None) -> tuple[Cost | None, str | None]:
    """What a program costs, or why that is not known."""
    if isinstance(sized, str):
        return None, sized
    try:
        return cost_of(sized or operations), None
    except UnknownSizeError as error:
        return None, str(error)
    except (ValueError, LookupError, ArithmeticError) as error:
        return None, f"its operations are not as StableHLO has them: {error}"


def _shapes(
    manifest: Manifest, record: ProgramRecord, sizes: Mapping[str, int]
) -> list[tuple[int, ...]]:
    """The shape of each array that a program takes, for given sizes.

    Raises:
      SpecError: if an axis divides by zero.
    """
    return [
        tuple(
            size if size is not None else parse(str(axis)).evaluate(sizes)
            for size, axis in zip_longest(shape_of(array), array.shape)
        )
        for array in taken(manifest, record)
    ]


def taken(manifest: Manifest, record: ProgramRecord) -> list[VariableRecord | PlainTensorRecord]:
    """What a program takes by what the manifest says: variables, then inputs, if it kept them."""
    arrays: list[VariableRecord | PlainTensorRecord] = [
        *(manifest.variables[number] for number in record.variables),
        *record.inputs,
    ]
    return [arrays[position] for position in record.kept_inputs]


def shape_of(array: VariableRecord | PlainTensorRecord) -> tuple[int | None, ...]:
    """The shape of an array in a program. Keys have an axis more, for their words."""
    dtype = as_dtype(array.dtype)
    axes = (one if isinstance(one, int) else None for one in array.shape)
    return (*axes, *((dtype.words,) if isinstance(dtype, KeyType) else ()))


def users_of(manifest: Manifest) -> list[Users]:
    """Who uses each program of an artifact, in the order of the manifest."""
    paths: dict[int, str] = {}
    for node, path in leaf_paths(manifest.nodes):
        if node.kind == "function":
            paths.setdefault(node.index, path)
    signatures: list[list[str]] = [[] for _ in manifest.programs]
    functions: list[list[str]] = [[] for _ in manifest.programs]
    for name, number in manifest.signatures.items():
        for program in manifest.concrete_functions[number].programs:
            signatures[program].append(name)
    for position, function in enumerate(manifest.functions):
        for number in function.concrete:
            for program in manifest.concrete_functions[number].programs:
                functions[program].append(paths.get(position, function.name))
    originals = {one.vjp: i for i, one in enumerate(manifest.programs) if one.vjp is not None}
    for number in range(len(manifest.programs)):  # a derivative comes after its program
        if number in originals:
            signatures[number] += signatures[originals[number]]
            functions[number] += functions[originals[number]]
    return [
        Users(
            tuple(dict.fromkeys(signatures[number])),
            tuple(dict.fromkeys(functions[number])),
            manifest.programs[originals[number]].file if number in originals else None,
        )
        for number in range(len(manifest.programs))
    ]

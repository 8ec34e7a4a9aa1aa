"""What a careful person asks of an artifact from a stranger before loading it (`exporter scan`).

Programs are read in another process and not compiled, no variable is read, and nothing is run.
"""

import re
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from exporter.artifact.layout import MANIFEST, PROGRAMS, FileRecord, inside, walked
from exporter.artifact.layout import verify as verify_files
from exporter.artifact.programs import read_program
from exporter.artifact.records import (
    Manifest,
    PlainTensorRecord,
    ProgramRecord,
    VariableRecord,
)
from exporter.errors import ArtifactError
from exporter.operations import FUNCTION, MAIN, Operation, Operations
from exporter.runtime.describe import counted, size_text
from exporter.runtime.inspection import MAX_BYTES, Reader, shape_of, taken
from exporter.runtime.payloads import payload_of

Kind = Literal[
    "custom call",  # it calls native code that is not on the list
    "foreign operation",  # it is not of StableHLO
    "host effect",  # it reaches out of the program while it runs
    "constant",  # it has large values written into it
    "unreadable",  # nobody can say what it does
    "claim",  # the manifest says something else of it
    "digest",  # it is missing, or another than was saved
    "path",  # it leaves the folder
    "link",  # it may be something else tomorrow
    "stray file",  # the manifest does not know it
    "payload",  # it is code or a pickle
]

# What an honest program has written into it is small: arrays of the model are variables.
LARGE_BYTES = 2**20

_EFFECTS = {
    "stablehlo.infeed": "reads what the host feeds it while it runs",
    "stablehlo.outfeed": "gives arrays to the host while it runs",
    "stablehlo.send": "sends arrays to another program or to the host",
    "stablehlo.recv": "waits for arrays of another program or of the host",
}

# So the native functions are called that call Python back.
_CALLBACK = "callback"


@dataclass(frozen=True)
class Suspicion:
    """One thing that a careful person would ask about.

    Attributes:
      kind: what sort of thing it is.
      place: the file, and where in it.
      what: what was found there.
      why: why it matters.
    """

    kind: Kind
    place: str
    what: str
    why: str


def suspicions(
    folder: Path,
    manifest: Manifest,
    reader: Reader,
    *,
    allowed: Collection[str] = (),
    large_bytes: int = LARGE_BYTES,
) -> list[Suspicion]:
    """Everything in an artifact that a careful person would ask about.

    Args:
      folder: the artifact.
      manifest: its manifest.
      reader: reads its programs.
      allowed: native functions that programs may call by name, beside those that JAX keeps.
      large_bytes: from what size on constants in a program are told.
    """
    # With JAX, which takes a second to import.
    from exporter.jax_internals import DIALECTS, STABLE_CUSTOM_CALLS

    stable = STABLE_CUSTOM_CALLS.union(allowed)
    found = [*_files(folder, manifest.files), *_digests(folder, manifest.files)]
    sizes = {file.path: file.size for file in manifest.files}
    for record in manifest.programs:
        try:
            operations, _ = reader.read(read_program(folder, record.file, sizes, limit=MAX_BYTES))
        except ValueError as error:
            found.append(_unreadable(record.file, error))
        else:
            found += _program(record, operations, stable, large_bytes)
            found += _foreign(record, operations, DIALECTS)
            found += _claims(manifest, record, operations)
    return found


def _unreadable(file: str, error: Exception) -> Suspicion:
    return Suspicion(
        "unreadable",
        file,
        f"the program cannot be read: {error}",
        "nobody can tell what it does, and reading it may end or hold up a process",
    )


def _program(
    record: ProgramRecord, operations: Operations, stable: Collection[str], large_bytes: int
) -> Iterator[Suspicion]:
    told = set()
    for position, operation in enumerate(operations):
        for one in _operation(operation, stable, large_bytes):
            function = operations.function_of(position)
            place = f"{record.file}, function {function}" if function else record.file
            if (one, place) not in told:
                told.add((one, place))
                yield Suspicion(one.kind, place, one.what, one.why)
    try:
        _ = operations.order
    except ValueError as error:
        yield _unreadable(record.file, error)


def _foreign(
    record: ProgramRecord, operations: Operations, dialects: Collection[str]
) -> Iterator[Suspicion]:
    names = {one.name for one in operations if one.name.partition(".")[0] not in dialects}
    if names:
        yield Suspicion(
            "foreign operation",
            record.file,
            f"it has operations that are not StableHLO: {_listed(names)}",
            "nobody promises what they do, and loading refuses them",
        )


def _claims(
    manifest: Manifest, record: ProgramRecord, operations: Operations
) -> Iterator[Suspicion]:
    """What the manifest says of a program that is not so."""
    differences = []
    calls = set(operations.custom_calls)
    if calls != set(record.custom_calls):
        differences.append(("it calls", _listed(calls), _listed(record.custom_calls)))
    main = operations.functions.get(MAIN)
    function = operations.all[main[0]] if main else Operation(FUNCTION)
    told = 1 if len(record.platforms) > 1 else 0
    given: list[VariableRecord | PlainTensorRecord] = [
        *(manifest.variables[number] for number in record.updates),
        *record.outputs,
    ]
    for does, arrays, said in (
        ("its main function takes", function.operands[told:], taken(manifest, record)),
        ("its main function gives", function.results, given),
    ):
        shapes = tuple(shape_of(one) for one in said)
        if tuple(one.shape for one in arrays) != shapes:
            found = ", ".join(map(str, arrays)) or "nothing"
            differences.append((does, found, ", ".join(map(str, shapes)) or "nothing"))
    is_sharded = any(one.name == "sdy.manual_computation" for one in operations)
    if is_sharded != bool(record.mesh):
        words = ("arrays as a whole", "the shards of a mesh")
        differences.append(("it computes on", words[is_sharded], words[not is_sharded]))
    for does, found, claimed in differences:
        yield Suspicion(
            "claim",
            record.file,
            f"{does} {found}, and the manifest says {claimed}",
            "whoever wrote the manifest did not write what is true",
        )


def _operation(
    operation: Operation, stable: Collection[str], large_bytes: int
) -> Iterator[Suspicion]:
    """What one operation is suspected of. The place is for the caller to fill in."""
    name, target = operation.name, operation.target
    effect = _EFFECTS.get(name)
    if name == "stablehlo.custom_call" and target not in stable:
        if _CALLBACK in target.lower():
            effect = f"calls Python of the process that runs it ({target!r})"
        else:
            yield Suspicion(
                "custom call",
                "",
                f"it calls the native function {target!r}",
                "whatever is registered under this name in the process runs, with all its rights",
            )
    if effect is None:
        tokens = [one for one in (*operation.operands, *operation.results) if one.dtype == "token"]
        effect = f"orders effects by a token in {name}" if tokens else None
    if effect:
        yield Suspicion(
            "host effect",
            "",
            f"it {effect}",
            "a program should compute its results and nothing else",
        )
    if operation.constant_bytes >= large_bytes:
        what = f"{name} has {size_text(operation.constant_bytes)} of values written into it"
        yield Suspicion(
            "constant",
            "",
            what,
            "weights belong to variables; data in a program is not seen by those who look at them",
        )


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "nothing"


def _digests(folder: Path, records: Sequence[FileRecord]) -> Iterator[Suspicion]:
    """The files that are not those that were saved."""
    sound = {}
    for record in records:
        try:
            inside(folder, record.path)
        except ArtifactError as error:
            why = "it would have other files read as its own"
            yield Suspicion("path", repr(record.path), str(error), why)
        else:
            sound[record.path] = record
    try:
        verify_files(folder, sound.values())
    except ArtifactError as error:
        for problem in error.problems:
            ends = (found.start() for found in re.finditer(": ", problem))
            name = next(problem[:end] for end in ends if problem[:end] in sound)
            kind = "program" if name.startswith(f"{PROGRAMS}/") else "file"
            why = f"this is not the {kind} that was saved"
            yield Suspicion("digest", name, problem.removeprefix(f"{name}: "), why)


def _files(folder: Path, records: Sequence[FileRecord]) -> Iterator[Suspicion]:
    """What lies in the folder, whether the manifest knows it or not. No link is followed."""
    known = {record.path for record in records} | {MANIFEST}
    for path in _below(folder):
        name = path.relative_to(folder).as_posix()
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            yield Suspicion(
                "link",
                name,
                f"it is a symbolic link to {str(path.readlink())!r}",
                "what it leads to can change, and may lie outside of the folder",
            )
            continue
        if stat.S_ISDIR(mode):
            continue
        if name not in known or not stat.S_ISREG(mode):
            size = counted(path.lstat().st_size, "byte")
            what = f"the manifest does not list it; it has {size}"
            yield Suspicion(
                "stray file",
                name,
                what if stat.S_ISREG(mode) else "it is neither a file nor a folder",
                "no save wrote it, and no digest covers it",
            )
        if stat.S_ISREG(mode) and name != MANIFEST:
            yield from _payload(path, name)


def _payload(path: Path, name: str) -> Iterator[Suspicion]:
    try:
        what = payload_of(path)
    except OSError as error:
        what = f"a file that cannot be read: {error.strerror}"
    if what:
        yield Suspicion(
            "payload",
            name,
            f"it is {what}",
            "loading runs none of it, and nothing that loads a model needs it",
        )


def _below(folder: Path) -> Iterator[Path]:
    """Everything below a folder, without going through links."""
    for parent, folders, files in walked(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted([*folders, *files]))


def describe_suspicions(found: Sequence[Suspicion]) -> Iterator[str]:
    """What was found, as lines of text, each kind under its name."""
    for kind in dict.fromkeys(one.kind for one in found):
        yield kind.capitalize()
        for one in (one for one in found if one.kind == kind):
            yield f"  {one.place}"
            yield f"    {one.what}"
            yield f"    {one.why}"

"""From an artifact to a model that can be called: the whole lower line of the map, on one page."""

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from exporter import choices
from exporter.artifact import encoding, records
from exporter.artifact.layout import VARIABLES, inside
from exporter.artifact.layout import verify as verify_files
from exporter.artifact.manifest import read as read_manifest
from exporter.artifact.variables import read_variables
from exporter.errors import ArtifactError, ArtifactNotFoundError
from exporter.runtime.compat import check_program, check_runtime, check_tags
from exporter.runtime.functions import LoadedConcrete, LoadedFunction, LoadedSignature
from exporter.runtime.model import LoadedModel, Signatures
from exporter.runtime.origin import Origin
from exporter.runtime.parts import part_of
from exporter.runtime.programs import LoadedProgram
from exporter.runtime.tree import build
from exporter.variable import Variable, mark_donated, without_value
from signatures.dtypes import as_dtype
from signatures.spec import TensorSpec


def load(
    path: str | os.PathLike[str],
    *,
    device: jax.Device | str | None = None,
    verify: bool = True,
    only: str | Sequence[str] | None = None,
    skip_variables: bool = False,
    tags: str | Sequence[str] | None = None,
) -> LoadedModel:
    """The model in the folder `path`. None of the code that made it is needed.

    Programs are compiled when they are first called. Nothing that was in the folder runs before.

    Args:
      path: an artifact.
      device: where the variables are put: a device, or the name of a platform for its first one.
        `None` takes JAX's default device.
      verify: whether the digest of every file that is needed is checked first.
      only: the attribute path of a part, as `exporter show` prints it, or several. The model then
        has these parts with the variables that their functions use, and nothing else: other
        programs and arrays are not read. Signatures stay that need nothing else.
      skip_variables: whether variables stay without values. Using one is then an error until it is
        given a value, as in `model.variables = tree`.
      tags: names that the artifact must have been saved with, among others.

    Raises:
      OptionError: if `only` or `tags` are not text.
      UnknownPartError: if `only` leads to nothing, listing where it could lead.
      ArtifactNotFoundError: if there is no artifact at `path`.
      FormatVersionError: if it is of a format that this version does not read.
      ArtifactError: if a file is missing or damaged, naming it.
      UnsafeProgramError: if a program calls native code nobody has vouched for.
      IncompatibleRuntimeError: if this JAX or this machine cannot run it.
    """
    with jax.ensure_compile_time_eval():  # arrays have values, even where somebody traces
        found = jax.devices(device)[0] if isinstance(device, str) else device
        folder = Path(path)
        whole = manifest = read_manifest(folder)
        check_tags(manifest, () if tags is None else choices.as_tags(tags), folder)
        if only is not None:
            manifest = part_of(whole, choices.as_paths("only", only))
        model = _load(folder, manifest, found, verify=verify, skip_variables=skip_variables)
        model.__dict__["__signatures__"] = model.signatures.without(whole.signatures)
    return model


def _load(
    folder: Path,
    manifest: records.Manifest,
    device: jax.Device | None,
    *,
    verify: bool,
    skip_variables: bool,
) -> LoadedModel:
    if verify:
        skipped = f"{VARIABLES}/" if skip_variables else None
        verify_files(folder, [one for one in manifest.files if not _is_below(one.path, skipped)])
    check_runtime(manifest, folder)
    bytecode = [_read_program(folder, record, manifest) for record in manifest.programs]
    if skip_variables:
        variables = [_without_value(record) for record in manifest.variables]
    else:
        sharding = jax.sharding.SingleDeviceSharding(device or jax.devices()[0])
        values = read_variables(folder, manifest.variables, sharding)
        variables = [
            Variable(
                value,
                record.trainable,
                record.name,
                collection=record.collection,
                label="/".join(record.key),
            )
            for record, value in zip(manifest.variables, values, strict=True)
        ]
    return _assemble(folder, manifest, bytecode, variables)


def _is_below(path: str, folder: str | None) -> bool:
    return folder is not None and path.startswith(folder)


def _without_value(record: records.VariableRecord) -> Variable:
    return without_value(
        record.shape,
        as_dtype(record.dtype),
        record.trainable,
        record.name,
        collection=record.collection,
        label="/".join(record.key),
    )


def _read_program(folder: Path, record: records.ProgramRecord, manifest: records.Manifest) -> bytes:
    file = inside(folder, record.file)
    size = next(one.size for one in manifest.files if one.path == record.file)
    if not file.is_file():
        raise ArtifactNotFoundError(f"{file} is missing, or is not a file.")
    with file.open("rb") as stream:
        bytecode = stream.read(size + 1)
    if len(bytecode) != size:
        raise ArtifactError(f"{file} has another size than the {size:,} bytes it was saved with.")
    check_program(bytecode, file, record, manifest.variables)
    return bytecode


def _assemble(
    folder: Path,
    manifest: records.Manifest,
    bytecode: Sequence[bytes],
    variables: Sequence[Variable],
) -> LoadedModel:
    lock = threading.RLock()
    for program in manifest.programs:
        for number in set(program.variables) & set(program.updates):
            mark_donated(variables[number])
    specs = [TensorSpec(record.shape, record.dtype) for record in manifest.variables]
    concrete = []
    for index, record in enumerate(manifest.concrete_functions):
        programs = [
            LoadedProgram(
                record.name,
                program := manifest.programs[number],
                bytecode[number],
                [specs[variable] for variable in program.variables],
                [specs[variable] for variable in program.updates],
            )
            for number in record.programs
        ]
        signature = encoding.signature_of(manifest, index)
        concrete.append(LoadedConcrete(record, signature, programs, variables, lock))
    functions = [
        LoadedFunction(
            record.name,
            record.doc,
            encoding.parameters_of(record.parameters),
            [concrete[number] for number in record.concrete],
        )
        for record in manifest.functions
    ]

    def signatures(numbers: Mapping[str, int], note: str | None = None) -> Signatures:
        found = {
            name: LoadedSignature(
                name, concrete[number], _owner(number, manifest, functions, concrete)
            )
            for name, number in numbers.items()
        }
        return Signatures(found, note)

    model = build(manifest, variables, functions, signatures, folder)
    model.__dict__["__variables__"] = [
        (tuple(record.key), variable)
        for record, variable in zip(manifest.variables, variables, strict=True)
    ]
    model.__dict__["__signatures__"] = signatures(manifest.signatures, manifest.signature_note)
    model.__dict__["__manifest__"] = manifest
    model.__dict__["__origin__"] = Origin(folder.resolve(), manifest, functions, concrete)
    return model


def _owner(
    number: int,
    manifest: records.Manifest,
    functions: Sequence[LoadedFunction],
    concrete: Sequence[LoadedConcrete],
) -> LoadedFunction:
    """The function that a signature's concrete function belongs to, attached or not."""
    for record, function in zip(manifest.functions, functions, strict=True):
        if number in record.concrete:
            return function
    return LoadedFunction(concrete[number].record.name, None, [], [concrete[number]])

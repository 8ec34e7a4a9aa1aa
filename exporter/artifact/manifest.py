"""The manifest: everything about an artifact that is not a program, an array or a file.

`FORMAT.md` beside this file says what each field means to a reader in another language. The
classes here are the schema: JSON is parsed into them or refused, and `manifest.schema.json` is
made from them. No other code touches the raw JSON.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import blake3
import ml_dtypes  # noqa: F401  # NumPy learns the names of the small floats and integers
import msgspec
import numpy as np
from msgspec import Struct

from exporter.artifact.layout import MANIFEST, FileRecord
from exporter.errors import ArtifactError, ArtifactNotFoundError, FormatVersionError
from signatures.arguments import REQUIRED, Opaque, Parameter
from signatures.dtypes import as_dtype
from signatures.errors import SpecError
from signatures.signature import Signature
from signatures.spec import Axis, Dim, TensorSpec
from signatures.tree import (
    Keyed,
    Leaf,
    Scalar,
    Sequential,
    Static,
    Structure,
    leaf_paths,
    unflatten,
)

FORMAT = "jax-exporter"

# The ledger of format versions.
#   1  the first. Read by every release.
FORMAT_VERSION = 1
OLDEST_FORMAT_VERSION = 1

# A manifest of 1,000 signatures with three inputs each takes 1.5 MiB. This leaves room for forty
# times that, and a hostile file still cannot fill memory before it is parsed.
MAX_MANIFEST_BYTES = 64 * 2**20


class Record(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The base of every part: immutable, and closed to fields that it does not know."""


class ScalarRecord(Record, frozen=True):
    """A Python value, as text that says its type: JSON has no infinity, bytes or complex."""

    type: Literal["none", "bool", "int", "float", "complex", "str", "bytes", "opaque"]
    text: str


class ArrayRecord(Record, frozen=True):
    """A small array inside the manifest: little-endian bytes in C order, as base64."""

    dtype: str
    shape: list[int]
    data: str


class ArrayPart(Record, frozen=True, tag_field="kind", tag="array"):
    """Where an array stands in a structure."""

    index: int


class StaticPart(Record, frozen=True, tag_field="kind", tag="static"):
    """A Python value that was there when the function was traced."""

    value: ScalarRecord


class SequencePart(Record, frozen=True, tag_field="kind", tag="sequence"):
    """A list, a tuple, or with fields a namedtuple of that type name."""

    type: str
    items: "list[Part]"
    fields: list[str] = []


class DictPart(Record, frozen=True, tag_field="kind", tag="dict"):
    """A dict, in the order of its keys."""

    keys: list[ScalarRecord]
    items: "list[Part]"


Part = ArrayPart | StaticPart | SequencePart | DictPart


class DimRecord(Record, frozen=True):
    """A named dimension with its bounds."""

    name: str
    min: int | None = None
    max: int | None = None
    multiple_of: int | None = None


class TensorRecord(Record, frozen=True):
    """One array. An axis is a size, text for a name or expression, or null for any size."""

    name: str
    dtype: str
    shape: list[int | str | None] | None
    max_rank: int = 4
    dims: list[DimRecord] = []
    default: ArrayRecord | None = None


class PlainTensorRecord(Record, frozen=True):
    """One array of a program: every axis a size or an expression of the program's dimensions."""

    dtype: str
    shape: list[int | str]


class ParameterRecord(Record, frozen=True):
    """A parameter of a Python function."""

    name: str
    kind: str
    default: "Part | None" = None
    default_arrays: list[ArrayRecord] = []


class UntracedRecord(Record, frozen=True):
    """Numbers of axes for which there is no program, and why."""

    ranks: list[int]
    reason: str


class ConcreteRecord(Record, frozen=True):
    """A function for one type of arguments."""

    name: str
    inputs: list[TensorRecord]
    outputs: list[TensorRecord]
    arguments: dict[str, Part]
    result: Part
    programs: list[int]
    signature_problem: str | None = None
    untraced: list[UntracedRecord] = []
    notes: list[str] = []


class FunctionRecord(Record, frozen=True):
    """A decorated function, with each type of arguments it was saved for."""

    name: str
    parameters: list[ParameterRecord]
    concrete: list[int]
    doc: str | None = None


class ProgramRecord(Record, frozen=True):
    """One file of StableHLO and how it is called."""

    file: str
    stablehlo_version: str
    platforms: list[str]
    calling_convention_version: int
    kept_inputs: list[int]
    uses_global_constants: bool
    custom_calls: list[str]
    variables: list[int]
    updates: list[int]
    inputs: list[PlainTensorRecord]
    outputs: list[PlainTensorRecord]
    dims: list[DimRecord] = []
    ranks: list[int] = []


class VariableRecord(Record, frozen=True):
    """One array of the model. `key` is its path in the checkpoint."""

    path: list[ScalarRecord]
    key: list[str]
    dtype: str
    shape: list[int]
    trainable: bool
    collection: str
    storage: Literal["array", "bytes", "empty"]
    partition_spec: list[str | list[str] | None] | None = None


class NodeRecord(Record, frozen=True):
    """One thing in the tree of the saved object. The first is the root."""

    kind: Literal["object", "list", "tuple", "namedtuple", "dict", "variable", "function", "value"]
    name: str = ""
    keys: list[ScalarRecord] = []
    children: list[int] = []
    index: int = -1
    value: ScalarRecord | None = None


class Producer(Record, frozen=True):
    """The releases of what wrote the artifact."""

    jax_exporter: str
    jax: str
    jaxlib: str
    orbax_checkpoint: str
    python: str


class Content(Record, frozen=True):
    """Two ids that are the same whenever the same thing is saved.

    `programs` covers signatures, functions, programs and the object tree, `variables` the values.
    """

    programs: str
    variables: str


class Manifest(Record, frozen=True):
    """An artifact without its programs and arrays. See `FORMAT.md`."""

    format: str
    format_version: int
    created: str
    producer: Producer
    content: Content
    platforms: list[str]
    stablehlo_version: str
    x64: bool
    signatures: dict[str, int]
    signature_note: str | None
    functions: list[FunctionRecord]
    concrete_functions: list[ConcreteRecord]
    programs: list[ProgramRecord]
    variables: list[VariableRecord]
    nodes: list[NodeRecord]
    files: list[FileRecord]

    def signature(self, index: int, name: str | None = None) -> Signature:
        """The named inputs and outputs of a concrete function."""
        record = self.concrete_functions[index]
        return Signature(
            name or record.name,
            {tensor.name: spec_of(tensor) for tensor in record.inputs},
            {tensor.name: spec_of(tensor) for tensor in record.outputs},
            {t.name: array_of(t.default) for t in record.inputs if t.default is not None},
        )


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON for the folder, with a digest of itself as its first field."""
    document = msgspec.to_builtins(manifest)
    return json.dumps({"digest": _digest(document), **document}, indent=1).encode() + b"\n"


def read(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
      ArtifactNotFoundError: if there is none.
      FormatVersionError: if it is of a format that we do not read.
      ArtifactError: if it is damaged or says what cannot be.
    """
    path = folder / MANIFEST
    try:
        size = path.stat().st_size
        if size > MAX_MANIFEST_BYTES:
            raise ArtifactError(f"{path}: {size:,} bytes, more than a manifest can have.")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactNotFoundError(_nothing_at(folder)) from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from error
    return decode(data, path)


def decode(data: bytes, path: Path) -> Manifest:
    """The manifest in a file's bytes. `path` is for messages. Raises as `read` does."""
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged, it is not JSON: {error}.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ArtifactError(f'{path} is not the manifest of an artifact: no "format": {FORMAT!r}.')
    version = document.get("format_version")
    if type(version) is not int or not OLDEST_FORMAT_VERSION <= version <= FORMAT_VERSION:
        raise FormatVersionError(
            f"{path} is written in format {version!r}; this version of jax-exporter reads "
            f"{OLDEST_FORMAT_VERSION} to {FORMAT_VERSION}. It was written by jax-exporter "
            f"{_writer(document)}: install that or a newer one."
        )
    stored = document.pop("digest", None)
    if stored != _digest(document):
        raise ArtifactError(
            f"{path} was altered after it was written: its digest does not agree with its content."
        )
    try:
        manifest = msgspec.convert(document, Manifest)
        _check_references(manifest)
    except (msgspec.ValidationError, SpecError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error
    return manifest


def schema() -> dict[str, Any]:
    """The JSON Schema of the manifest file."""
    (_, components) = msgspec.json.schema_components([Manifest], "#/$defs/{name}")
    top = dict(components.pop("Manifest"))
    digest = {"type": "string", "description": "BLAKE3 of the rest. See FORMAT.md."}
    top["properties"] = {"digest": digest, **top["properties"]}
    top["required"] = ["digest", *top["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Manifest of a jax-exporter artifact, format {FORMAT_VERSION}",
        **top,
        "$defs": components,
    }


def digest_of(part: object) -> str:
    """The BLAKE3 of records or plain values, the same on every machine."""
    return _digest(msgspec.to_builtins(part))


def scalar_record(value: Scalar, *, opaque: bool = False) -> ScalarRecord:
    """A Python value for the manifest."""
    match value:
        case _ if opaque:
            return ScalarRecord("opaque", str(value))
        case None:
            return ScalarRecord("none", "")
        case bytes():
            return ScalarRecord("bytes", base64.b64encode(value).decode())
        case str():
            return ScalarRecord("str", value)
        case _:
            return ScalarRecord(type(value).__name__, repr(value))  # type: ignore[arg-type]


def scalar_of(record: ScalarRecord) -> Scalar:
    """The Python value of a record. An opaque one is its text."""
    match record.type:
        case "none":
            return None
        case "bool":
            return record.text == "True"
        case "int":
            return int(record.text)
        case "float":
            return float(record.text)
        case "complex":
            return complex(record.text)
        case "bytes":
            return base64.b64decode(record.text, validate=True)
    return record.text


def array_record(array: np.ndarray) -> ArrayRecord:
    """A small array for the manifest."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(little.tobytes()).decode()
    return ArrayRecord(array.dtype.name, list(array.shape), data)


def array_of(record: ArrayRecord) -> np.ndarray:
    """The array of a record."""
    dtype = as_dtype(record.dtype)
    if not isinstance(dtype, np.dtype):
        raise ValueError(f"an array of {record.dtype} cannot stand in a manifest")
    data = base64.b64decode(record.data, validate=True)
    if any(size < 0 for size in record.shape) or math.prod(record.shape) * dtype.itemsize != len(
        data
    ):
        raise ValueError(f"an array of shape {record.shape} with {len(data)} bytes")
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(record.shape)


def part_of(structure: Structure) -> Part:
    """A structure for the manifest."""
    match structure:
        case Leaf(index):
            return ArrayPart(index)
        case Static(value, opaque):
            return StaticPart(scalar_record(value, opaque=opaque))
        case Sequential(kind, items, fields):
            return SequencePart(kind, [part_of(item) for item in items], list(fields))
        case Keyed(keys, items):
            names = [scalar_record(key) for key in keys]
            return DictPart(names, [part_of(item) for item in items])


def structure_of(part: Part) -> Structure:
    """The structure of a record."""
    match part:
        case ArrayPart(index=index):
            return Leaf(index)
        case StaticPart(value=value):
            opaque = value.type == "opaque"
            return Static(scalar_of(value), opaque, Opaque(value.text) if opaque else None)
        case SequencePart(type=kind, items=items, fields=fields):
            return Sequential(kind, tuple(map(structure_of, items)), tuple(fields))
        case DictPart(keys=keys, items=items):
            return Keyed(tuple(map(scalar_of, keys)), tuple(map(structure_of, items)))


def tensor_record(spec: TensorSpec, default: np.ndarray | None = None) -> TensorRecord:
    """A named spec for the manifest."""
    return TensorRecord(
        str(spec.name),
        spec.dtype.name,
        None if spec.shape is None else list(spec.shape),
        spec.max_rank,
        [dim_record(dim) for dim in spec.dims],
        None if default is None else array_record(default),
    )


def spec_of(record: TensorRecord | PlainTensorRecord) -> TensorSpec:
    """The spec of a record."""
    if isinstance(record, PlainTensorRecord):
        return TensorSpec(record.shape, record.dtype)
    shape: Sequence[Axis | Dim] | None = record.shape
    dims = {dim.name: dim_of(dim) for dim in record.dims}
    spec = TensorSpec(shape, record.dtype, record.name, max_rank=record.max_rank)
    return spec.with_bounds(tuple(dims.values()))


def dim_record(dim: Dim) -> DimRecord:
    """A dimension for the manifest."""
    return DimRecord(dim.name, dim.min, dim.max, dim.multiple_of)


def dim_of(record: DimRecord) -> Dim:
    """The dimension of a record."""
    return Dim(record.name, record.min, record.max, record.multiple_of)


def parameter_record(
    parameter: Parameter, default: Structure | None, arrays: Sequence[np.ndarray]
) -> ParameterRecord:
    """A parameter for the manifest. `default` is `None` where there is none."""
    return ParameterRecord(
        parameter.name,
        parameter.kind,
        None if default is None else part_of(default),
        [array_record(array) for array in arrays],
    )


def parameters_of(records: Sequence[ParameterRecord]) -> tuple[Parameter, ...]:
    """The parameters of a function, with their default values."""
    return tuple(
        Parameter(
            record.name,
            record.kind,
            REQUIRED
            if record.default is None
            else unflatten(
                structure_of(record.default), list(map(array_of, record.default_arrays))
            ),
        )
        for record in records
    )


def _digest(document: object) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return blake3.blake3(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def _writer(document: Mapping[str, object]) -> str:
    producer = document.get("producer")
    return str(producer.get("jax_exporter", "?")) if isinstance(producer, dict) else "?"


def _nothing_at(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} does not exist."
    if not folder.is_dir():
        return f"{folder} is a file; an artifact is a folder with a {MANIFEST}."
    inside = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    hint = f" It has artifacts in it: {', '.join(inside[:10])}." if inside else ""
    return f"{folder} is not an artifact: it has no {MANIFEST}.{hint}"


def _check_references(manifest: Manifest) -> None:
    """Every number that points at something points at something that is there."""

    def check(where: str, indices: Sequence[int], count: int) -> None:
        wrong = [index for index in indices if not 0 <= index < count]
        if wrong:
            raise ValueError(f"{where} refers to {wrong[0]}, but there are {count}.")

    variables, programs = len(manifest.variables), len(manifest.programs)
    files = {record.path for record in manifest.files}
    check("signatures", list(manifest.signatures.values()), len(manifest.concrete_functions))
    for position, function in enumerate(manifest.functions):
        check(f"functions[{position}]", function.concrete, len(manifest.concrete_functions))
        parameters_of(function.parameters)
    for position, concrete in enumerate(manifest.concrete_functions):
        where = f"concrete_functions[{position}]"
        check(where, concrete.programs, programs)
        for index in concrete.programs:
            _check_concrete(where, concrete, manifest.programs[index])
        manifest.signature(position)
    for position, program in enumerate(manifest.programs):
        where = f"programs[{position}]"
        check(where, [*program.variables, *program.updates], variables)
        check(where, program.kept_inputs, len(program.variables) + len(program.inputs))
        for tensor in (*program.inputs, *program.outputs):
            spec_of(tensor)
        for dim in program.dims:
            dim_of(dim)
        if program.file not in files:
            raise ValueError(f"{where}.file is {program.file!r}, which is not listed in files.")
    for position, node in enumerate(manifest.nodes):
        where = f"nodes[{position}]"
        check(where, node.children, len(manifest.nodes))
        if node.kind in ("variable", "function"):
            count = variables if node.kind == "variable" else len(manifest.functions)
            check(where, [node.index], count)
        if node.keys and len(node.keys) != len(node.children):
            raise ValueError(
                f"{where} has {len(node.keys)} keys for {len(node.children)} children."
            )
    if not manifest.nodes or manifest.nodes[0].kind != "object":
        raise ValueError("nodes does not begin with an object.")
    for variable in manifest.variables:
        as_dtype(variable.dtype)


def _check_concrete(where: str, concrete: ConcreteRecord, program: ProgramRecord) -> None:
    counts = (len(program.inputs), len(program.outputs))
    if counts != (len(concrete.inputs), len(concrete.outputs)):
        raise ValueError(f"{where} and its program {program.file!r} differ in inputs or outputs.")
    for structure, count in (
        *((structure_of(part), counts[0]) for part in concrete.arguments.values()),
        (structure_of(concrete.result), counts[1]),
    ):
        if any(not 0 <= index < count for _, index in leaf_paths(structure)):
            raise ValueError(f"{where} refers to an array that is not there.")

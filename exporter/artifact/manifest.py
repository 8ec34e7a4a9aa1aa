"""The manifest: everything about an artifact that is not a program, an array or a file.

`FORMAT.md` beside this file says what each field means to a reader in another language. The
classes here are the schema: JSON is parsed into them or refused, and `manifest.schema.json` is
made from them. No other code touches the raw JSON.
"""

import base64
import dataclasses
import json
import math
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import blake3
import ml_dtypes  # noqa: F401  # NumPy learns the names of the small floats and integers
import msgspec
import numpy as np
from msgspec import Meta, Struct

from exporter.artifact.layout import MANIFEST, FileRecord
from exporter.errors import ArtifactError, ArtifactNotFoundError, FormatVersionError
from signatures.arguments import REQUIRED, Opaque, Parameter
from signatures.dtypes import as_dtype
from signatures.signature import Signature
from signatures.spec import Axis, Dim, TensorSpec
from signatures.tree import (
    Constant,
    Keyed,
    Leaf,
    Scalar,
    Sequential,
    Static,
    Structure,
    unflatten,
)

FORMAT = "jax-exporter"

# The ledger of format versions.
#   1  the first. Read by every release.
FORMAT_VERSION = 1
OLDEST_FORMAT_VERSION = 1

# A manifest of 1,000 signatures with three inputs each takes 1.5 MiB. This leaves room for ten
# times that, or for 30,000 variables. Reading a hostile file takes 30 times its size in memory.
MAX_MANIFEST_BYTES = 16 * 2**20

# The dtypes that TensorStore does not know: a variable of one is stored as bytes, an element each.
AS_BYTES = frozenset(
    ("uint4", "uint2", "uint1", "int1", "float6_e2m3fn", "float6_e3m2fn", "float8_e4m3")
)

# A position in a list, a number of axes, a size.
Number = Annotated[int, Meta(ge=0)]
Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Version = Annotated[str, Meta(pattern=r"^[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}$")]

# As much of a value from a file as is worth showing in a message.
_MAX_SHOWN = 400


class Record(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The base of every part: immutable, and closed to fields that it does not know."""


R = TypeVar("R", bound=Record)


class ScalarRecord(Record, frozen=True):
    """A Python value, as text that says its type: JSON has no infinity, bytes or complex."""

    type: Literal["none", "bool", "int", "float", "complex", "str", "bytes", "opaque"]
    text: str


class ArrayRecord(Record, frozen=True):
    """A small array inside the manifest: little-endian bytes in C order, as base64."""

    dtype: str
    shape: list[Size]
    data: str


class ArrayPart(Record, frozen=True, tag_field="kind", tag="array"):
    """Where an array stands in a structure."""

    index: Number


class StaticPart(Record, frozen=True, tag_field="kind", tag="static"):
    """A Python value that was there when the function was traced."""

    value: ScalarRecord


class ConstantPart(Record, frozen=True, tag_field="kind", tag="constant"):
    """An array that was there when the function was traced and is no input of it."""

    array: ArrayRecord


class SequencePart(Record, frozen=True, tag_field="kind", tag="sequence"):
    """A list, a tuple, or with fields a namedtuple of that type name."""

    type: str
    items: "list[Part]"
    fields: list[str] = []


class DictPart(Record, frozen=True, tag_field="kind", tag="dict"):
    """A dict, in the order of its keys."""

    keys: list[ScalarRecord]
    items: "list[Part]"


Part = ArrayPart | StaticPart | ConstantPart | SequencePart | DictPart


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
    shape: list[Size | str | None] | None
    max_rank: Number = 4
    dims: list[DimRecord] = []
    default: ArrayRecord | None = None


class PlainTensorRecord(Record, frozen=True):
    """One array of a program: every axis a size or an expression of the program's dimensions."""

    dtype: str
    shape: list[Size | str]


class ParameterRecord(Record, frozen=True):
    """A parameter of a Python function."""

    name: str
    kind: Literal[
        "positional_only", "positional_or_keyword", "var_positional", "keyword_only", "var_keyword"
    ]
    default: "Part | None" = None
    default_arrays: list[ArrayRecord] = []


class UntracedRecord(Record, frozen=True):
    """Numbers of axes for which there is no program, and why."""

    ranks: list[Number]
    reason: str


class ConcreteRecord(Record, frozen=True):
    """A function for one type of arguments."""

    name: str
    inputs: list[TensorRecord]
    outputs: list[TensorRecord]
    arguments: dict[str, Part]
    result: Part
    programs: list[Number]
    signature_problem: str | None = None
    untraced: list[UntracedRecord] = []
    notes: list[str] = []


class FunctionRecord(Record, frozen=True):
    """A decorated function, with each type of arguments it was saved for."""

    name: str
    parameters: list[ParameterRecord]
    concrete: list[Number]
    doc: str | None = None


class ProgramRecord(Record, frozen=True):
    """One file of StableHLO and how it is called."""

    file: str
    stablehlo_version: Version
    platforms: list[str]
    calling_convention_version: int
    kept_inputs: list[Number]
    uses_global_constants: bool
    custom_calls: list[str]
    variables: list[Number]
    updates: list[Number]
    inputs: list[PlainTensorRecord]
    outputs: list[PlainTensorRecord]
    dims: list[DimRecord] = []
    ranks: list[Number] = []


class VariableRecord(Record, frozen=True):
    """One array of the model. `key` is its path in the checkpoint."""

    path: list[ScalarRecord]
    key: list[str]
    dtype: str
    shape: list[Size]
    trainable: bool
    collection: str
    storage: Literal["array", "bytes", "empty"]
    name: str | None = None
    partition_spec: list[str | list[str] | None] | None = None


class NodeRecord(Record, frozen=True):
    """One thing in the tree of the saved object. The first is the root."""

    kind: Literal["object", "list", "tuple", "namedtuple", "dict", "variable", "function", "value"]
    name: str = ""
    keys: list[ScalarRecord] = []
    children: list[Number] = []
    index: int = -1
    value: ScalarRecord | None = None
    signatures: dict[str, Number] | None = None


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

    programs: Digest
    variables: Digest


class Manifest(Record, frozen=True):
    """An artifact without its programs and arrays. See `FORMAT.md`."""

    format: str
    format_version: int
    created: str
    producer: Producer
    content: Content
    platforms: list[str]
    stablehlo_version: Version
    x64: bool
    signatures: dict[str, Number]
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


class _Stored(Manifest, frozen=True):
    """A manifest as it is in its file."""

    digest: Digest


class _Writer(Struct, frozen=True):
    jax_exporter: str = "?"


class _Head(Struct, frozen=True):
    """What every version of the format has, so that a reader can name the one it cannot read."""

    format: str = ""
    format_version: int = 0
    producer: _Writer = _Writer()


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON for the folder, with a digest of itself as its first field.

    Raises:
      ArtifactError: if no reader would take it.
    """
    document = msgspec.to_builtins(manifest)
    data = json.dumps({"digest": _digest(document), **document}, indent=1).encode() + b"\n"
    if len(data) > MAX_MANIFEST_BYTES:
        raise ArtifactError(
            f"the manifest would have {len(data):,} bytes, and readers take {MAX_MANIFEST_BYTES:,} "
            "at most. Stack arrays that are used alike, or save parts of the object by themselves."
        )
    return data


def read(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
      ArtifactNotFoundError: if there is none.
      FormatVersionError: if it is of a format that we do not read.
      ArtifactError: if it is damaged or says what cannot be.
    """
    path = folder / MANIFEST
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would never end
            raise ArtifactError(f"{path} is not a file.")
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactNotFoundError(_nothing_at(folder)) from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from error
    return decode(data, path)


def decode(data: bytes, path: Path) -> Manifest:
    """The manifest in a file's bytes. `path` is for messages. Raises as `read` does."""
    from exporter.artifact.soundness import check  # it needs the classes of this file

    if len(data) > MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{path} has more than {MAX_MANIFEST_BYTES:,} bytes, so it is damaged.")
    try:
        # Fields that are not asked for are passed over, so this takes no memory.
        head = msgspec.json.decode(data, type=_Head)
    except msgspec.ValidationError as error:
        raise ArtifactError(
            f"{path} is not the manifest of an artifact: {shown(error)}."
        ) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged, it is not JSON: {shown(error)}.") from error
    if head.format != FORMAT:
        raise ArtifactError(f'{path} is not the manifest of an artifact: no "format": "{FORMAT}".')
    if not OLDEST_FORMAT_VERSION <= head.format_version <= FORMAT_VERSION:
        raise FormatVersionError(
            f"{path} is written in format {shown(head.format_version)}; this version of "
            f"jax-exporter reads {OLDEST_FORMAT_VERSION} to {FORMAT_VERSION}. It was written by "
            f"jax-exporter {shown(head.producer.jax_exporter)}: install that or a newer one."
        )
    try:
        stored = msgspec.json.decode(data, type=_Stored)
        _check_digest(stored.digest, data)
        fields = msgspec.structs.asdict(stored)
        del fields["digest"]
        manifest = Manifest(**fields)
        check(manifest)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {shown(error)}") from error
    return manifest


def _check_digest(digest: str, data: bytes) -> None:
    document = msgspec.json.decode(data)
    del document["digest"]
    if digest != _digest(document):
        raise ValueError("it was altered after it was written, its digest is that of other content")
    # Classes of the standard library, as the records of files are, let unknown fields pass.
    if any(len(file) != len(dataclasses.fields(FileRecord)) for file in document["files"]):
        raise ValueError("files has an entry with an unknown field")


def shown(value: object) -> str:
    """Something from a file as text for a message: not too long, and harmless to a terminal."""
    text = str(value)
    text = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def replace(record: R, **changes: object) -> R:
    """The record with other values in some fields."""
    return msgspec.structs.replace(record, **changes)


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
            return ScalarRecord("str", str.__str__(value))
        case bool() | int() | float() | complex():
            # An enumeration's member, or a number of NumPy, is kept as the plain number it is.
            kind = next(kind for kind in (bool, int, float, complex) if isinstance(value, kind))
            return ScalarRecord(kind.__name__, kind.__repr__(value))  # type: ignore[arg-type]


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
        raise ValueError(f"an array of {record.dtype} cannot stand in a manifest")  # noqa: TRY004  # the type is the file's
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
        case Constant(array):
            return ConstantPart(array_record(array))
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
        case ConstantPart(array=array):
            return Constant(array_of(array))
        case SequencePart(type=kind, items=items, fields=fields):
            return Sequential(kind, tuple(map(structure_of, items)), tuple(fields))
        case DictPart(keys=keys, items=items):
            return Keyed(tuple(map(scalar_of, keys)), tuple(map(structure_of, items)))


def tensor_record(name: str, spec: TensorSpec, default: np.ndarray | None = None) -> TensorRecord:
    """A named spec for the manifest."""
    return TensorRecord(
        name,
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
        parameter.kind,  # type: ignore[arg-type]  # one of the five
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
    try:
        return blake3.blake3(canonical.encode()).hexdigest()
    except UnicodeEncodeError as error:
        text = canonical[: error.end].rpartition('"')[2][-60:]
        raise ArtifactError(
            f"a manifest cannot hold the text {text!a}, which has half of a surrogate pair. It is "
            "the name, the key or the default value of something that is saved, or its docstring."
        ) from error


def _nothing_at(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} does not exist."
    if not folder.is_dir():
        return f"{folder} is a file; an artifact is a folder with a {MANIFEST}."
    inside = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    hint = f" It has artifacts in it: {', '.join(inside[:10])}." if inside else ""
    return f"{folder} is not an artifact: it has no {MANIFEST}.{hint}"

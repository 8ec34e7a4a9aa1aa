"""Values as parts of a manifest, and back: scalars, arrays, specs, structures, parameters."""

import base64
import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn

import ml_dtypes  # noqa: F401  # NumPy learns the names of the small floats and integers
import numpy as np

from exporter.artifact.records import (
    ArrayPart,
    ArrayRecord,
    ConcreteRecord,
    ConstantPart,
    DictPart,
    DimRecord,
    Manifest,
    ParameterRecord,
    Part,
    PlainTensorRecord,
    ScalarRecord,
    SequencePart,
    StaticPart,
    TensorRecord,
)
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
            stored = kind if fields or kind == "list" else "tuple"  # nobody has a nameless class
            return SequencePart(stored, [part_of(item) for item in items], list(fields))
        case Keyed(keys=keys, items=items):
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


def signature_of(manifest: Manifest, index: int, name: str | None = None) -> Signature:
    """The named inputs and outputs of a concrete function, by its number."""
    return signature_of_record(manifest.concrete_functions[index], name)


def signature_of_record(record: ConcreteRecord, name: str | None = None) -> Signature:
    """The named inputs and outputs of a concrete function."""
    return Signature(
        name or record.name,
        {tensor.name: spec_of(tensor) for tensor in record.inputs},
        {tensor.name: spec_of(tensor) for tensor in record.outputs},
        {t.name: array_of(t.default) for t in record.inputs if t.default is not None},
    )


def metadata_of(text: str) -> dict[str, Any]:
    """The dict that a manifest has as JSON."""
    found = json.loads(text, parse_constant=_refuse_constant)
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004  # the value is the file's
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")

"""Requests and answers as messages of gRPC: bytes in, bytes out, and no network."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from exporter.runtime.datatypes import (
    bytes_of,
    datatype_of,
    dtype_of,
    has_stray_bits,
    objects_of,
    texts_of,
)
from exporter.serving import inference
from exporter.serving.descriptors import Message, parsed
from exporter.serving.errors import NotOfferedError, RequestError
from exporter.serving.messages import NOT_OFFERED, Answer, Request
from exporter.stages.stage import Kind
from signatures.dtypes import KeyType
from signatures.spec import MAX_AXES, TensorSpec

# Where the elements of each datatype stand in the message. The other floats have no place there.
_FIELDS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def read_request(body: bytes) -> tuple[str, str, Request]:
    """The model, its version and the request of a `ModelInferRequest`.

    The arrays are views of bytes, which cannot be written. Those of `BYTES` have `bytes` objects.

    Returns:
      The name of the model; its version as text, which is empty where any will do; the request. It
      is `binary` if its inputs came as bytes, or if there are none.

    Raises:
      RequestError: if it is not such a message, or its parts do not fit together.
      NotOfferedError: if it wants an extension of the protocol that there is not.
    """
    message = parsed(inference.ModelInferRequest, body)
    tensors = message.inputs
    raw = message.raw_input_contents
    if raw and len(raw) != len(tensors):
        raise RequestError(
            f"there are {len(tensors)} inputs and {len(raw)} raw_input_contents; there must be as "
            "many of these as of those, or none."
        )
    inputs: dict[str, np.ndarray] = {}
    for position, tensor in enumerate(tensors):
        name = tensor.name
        if name in inputs:
            raise RequestError(f"input {name!r} is given twice.")
        inputs[name] = _array(tensor, raw[position] if raw else None)
    signature, timeout = _options(message.parameters) if message.parameters else (None, None)
    request = Request(
        inputs,
        outputs=_wanted(message.outputs) if message.outputs else None,
        signature=signature,
        id=message.id,
        timeout=timeout,
        binary=bool(raw) or not tensors,
    )
    return message.model_name, message.model_version, request


def write_answer(answer: Answer, request: Request) -> bytes:
    """An answer as a `ModelInferResponse`.

    Its elements are bytes if those of the request were, or if the protocol has no other form for
    one of the outputs: clients expect the same form of all.

    Raises:
      NotOfferedError: if the protocol has no datatype for an output.
    """
    message = inference.ModelInferResponse(
        model_name=answer.model, model_version=str(answer.version), id=request.id
    )
    datatypes = [_datatype(name, array) for name, array in answer.outputs.items()]
    is_raw = request.binary is True or not _FIELDS.keys() >= set(datatypes)
    for (name, array), datatype in zip(answer.outputs.items(), datatypes, strict=True):
        tensor = message.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if is_raw:
            message.raw_output_contents.append(
                bytes_of(_elements(array)) if datatype == "BYTES" else array.tobytes()
            )
        else:
            values = _elements(array) if datatype == "BYTES" else array.ravel().tolist()
            getattr(tensor.contents, _FIELDS[datatype]).extend(values)
    body: bytes = message.SerializeToString()
    return body


def write_metadata(
    model: str,
    versions: Sequence[int],
    platform: str,
    inputs: Mapping[str, Kind | TensorSpec],
    outputs: Mapping[str, Kind | TensorSpec],
) -> bytes:
    """What a signature takes and gives, as a `ModelMetadataResponse`. Open axes are -1."""
    message = inference.ModelMetadataResponse(
        name=model,
        versions=map(str, versions),
        platform=platform,
        inputs=map(_described, inputs.keys(), inputs.values()),
        outputs=map(_described, outputs.keys(), outputs.values()),
    )
    body: bytes = message.SerializeToString()
    return body


def _described(name: str, one: Kind | TensorSpec) -> Message:
    described = inference.ModelMetadataResponse.TensorMetadata
    if not isinstance(one, TensorSpec):
        return described(name=name, datatype="BYTES", shape=[-1])
    axes: Iterable[object] = (None,) if one.shape is None else one.shape
    dtype = one.dtype
    datatype = None if isinstance(dtype, KeyType) else datatype_of(dtype)
    return described(
        name=name,
        datatype=datatype or dtype.name,
        shape=[axis if isinstance(axis, int) else -1 for axis in axes],
    )


def _array(tensor: Message, raw: bytes | None) -> np.ndarray:
    """The array of an input."""
    name, datatype = tensor.name, tensor.datatype
    dtype = None if datatype == "BYTES" else _dtype(name, datatype)
    if tensor.parameters:
        _check_offered(tensor.parameters, f"input {name!r}")
    shape = tuple(tensor.shape)
    if len(shape) > MAX_AXES or any(axis < 0 for axis in shape):
        raise RequestError(
            f"input {name!r} has shape {_shown(shape)}; sizes are not negative, and there are at "
            f"most {MAX_AXES}."
        )
    size = math.prod(shape)
    if raw is None:
        values = _contents(name, datatype, dtype, tensor.contents, size)
    elif tensor.HasField("contents"):
        raise RequestError(f"input {name!r} has contents, and raw_input_contents as well.")
    elif dtype is None:
        values = objects_of(_texts(name, raw, size), (size,))
    elif len(raw) != size * dtype.itemsize:
        raise RequestError(
            f"input {name!r} is {datatype} of shape {_shown(shape)}, which takes "
            f"{size * dtype.itemsize} bytes, and has {len(raw)}."
        )
    else:
        values = np.frombuffer(raw, dtype)
        if has_stray_bits(values):
            raise RequestError(
                f"input {name!r} is {datatype}, and has bytes that are no such elements."
            )
    try:
        return values.reshape(shape)
    except ValueError as error:  # without elements, but with an axis that no array can have
        raise RequestError(f"input {name!r} has shape {_shown(shape)}: {error}.") from error


def _dtype(name: str, datatype: str) -> np.dtype[Any]:
    found = dtype_of(datatype)
    if found is None:
        raise RequestError(
            f"input {name!r} has datatype {datatype!r}, which the protocol does not have."
        )
    return found


def _contents(
    name: str, datatype: str, dtype: np.dtype[Any] | None, contents: Message, size: int
) -> np.ndarray:
    """The elements of a tensor in the field of their datatype."""
    field = _FIELDS.get(datatype)
    given = [one.name for one, _ in contents.ListFields()]
    if field is None:
        raise RequestError(f"input {name!r} is {datatype}, which only raw_input_contents can hold.")
    if any(one != field for one in given):
        raise RequestError(
            f"input {name!r} is {datatype}, whose elements stand in {field}, not in "
            f"{', '.join(one for one in given if one != field)}."
        )
    values = getattr(contents, field)
    if len(values) != size:
        raise RequestError(f"input {name!r} has {len(values)} elements, and {size} by its shape.")
    if dtype is None:
        return objects_of(list(values), (size,))
    if field not in {"int_contents", "uint_contents"} or dtype.itemsize == 4:
        return np.array(values, dtype)
    wide = np.array(values, np.int64)
    narrow = wide.astype(dtype)
    if (narrow != wide).any():
        raise RequestError(f"input {name!r} is {datatype}, and has elements beyond that.")
    return narrow


def _texts(name: str, raw: bytes, size: int) -> list[bytes]:
    try:
        return texts_of(raw, size)
    except ValueError as error:
        raise RequestError(f"input {name!r} {error}.") from None


def _elements(array: np.ndarray) -> list[bytes]:
    return [
        one if isinstance(one, bytes) else str(one).encode(errors="replace")
        for one in array.ravel().tolist()
    ]


def _datatype(name: str, array: np.ndarray) -> str:
    if array.dtype.kind in "OSUT":
        return "BYTES"
    found = datatype_of(array.dtype)
    if found is None:
        raise NotOfferedError(
            f"output {name!r} is {array.dtype.name}, which the protocol has no datatype for."
        )
    return found


def _options(parameters: Mapping[str, Message]) -> tuple[str | None, float | None]:
    """The signature and the timeout in seconds that the parameters of a request name."""
    _check_offered(parameters, "the request")
    signature = timeout = None
    if "signature_name" in parameters:
        value = parameters["signature_name"]
        if value.WhichOneof("parameter_choice") != "string_param":
            raise RequestError("parameter 'signature_name' must be a string_param.")
        signature = value.string_param or None
    if "timeout" in parameters:
        value = parameters["timeout"]
        kind = value.WhichOneof("parameter_choice")
        micros = getattr(value, kind) if kind in {"int64_param", "uint64_param"} else -1
        if micros < 0:
            raise RequestError(
                "parameter 'timeout' must be an int64_param: microseconds, or 0 for no timeout."
            )
        timeout = micros / 1e6 or None
    return signature, timeout


def _wanted(outputs: Sequence[Message]) -> list[str]:
    names = [one.name for one in outputs]
    if len(set(names)) < len(names):
        twice = [name for name, times in Counter(names).items() if times > 1]
        raise RequestError(f"outputs are asked for twice: {', '.join(map(repr, twice))}.")
    for one in outputs:
        if one.parameters:
            _check_offered(one.parameters, f"output {one.name!r}")
    return names


def _check_offered(parameters: Mapping[str, Message], where: str) -> None:
    for key, what in NOT_OFFERED.items():
        if key in parameters:
            raise NotOfferedError(f"{where} has parameter {key!r}: this server offers no {what}.")


def _shown(shape: Sequence[int]) -> str:
    more = ", ..." if len(shape) > MAX_AXES else ""
    return f"[{', '.join(map(str, shape[:MAX_AXES]))}{more}]"

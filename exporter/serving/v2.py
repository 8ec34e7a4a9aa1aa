"""The Open Inference Protocol V2 over HTTP: bytes in, bytes out, and no network.

A body is JSON. With its binary extension, some tensors stand after the JSON as bytes, in order;
then a header says how long the JSON is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from exporter.runtime.datatypes import (
    BYTES,
    bytes_of,
    datatype_of,
    dtype_of,
    has_stray_bits,
    objects_of,
    texts_of,
)
from exporter.serving.errors import NotOfferedError, RequestError
from exporter.serving.jsons import (
    decoded,
    encoded,
    field,
    flattened,
    listed,
    named,
    numbers,
    read_json,
    text_of,
    write_json,
)
from exporter.serving.messages import NOT_OFFERED, PLATFORM, Answer, Request
from exporter.stages.stage import Kind
from signatures.dtypes import KeyType
from signatures.spec import MAX_AXES, TensorSpec
from signatures.values import shown

# The kinds of types whose elements are texts.
_TEXTS = "OSUT"

# The kinds of types for which any bytes are elements.
_PLAIN_KINDS = "iufc"


def decode(body: bytes, header_length: int | None = None) -> Request:
    """The request in the body of an `infer`.

    Arrays of tensors that came as bytes are views of the body, and cannot be written. Those of
    `BYTES` hold `str` objects if they came as JSON, and `bytes` objects if they came as bytes or
    with the parameter `content_type` of `base64`. Unknown parameters are ignored.

    Args:
      body: all of it.
      header_length: how many bytes of it are JSON, `None` for all.

    Raises:
      RequestError: if it is no such request, or its parts do not fit together.
      NotOfferedError: if it wants an extension of the protocol that there is not.
    """
    if header_length is None:
        return _read(body, body, len(body))
    if not 0 <= header_length <= len(body):
        raise RequestError(
            f"the JSON should have {header_length} bytes, and the body has {len(body)}."
        )
    head = body[:header_length]
    layout = _layouts.get(head)
    if layout is not None and layout.size == len(body):
        return layout.request(body)
    request = _read(body, head, header_length)
    if header_length <= _LONGEST_HEAD and (layout := _layout(request, body, header_length)):
        if len(_layouts) >= _MOST_LAYOUTS:  # as of clients that name each request
            _layouts.clear()
        _layouts[head] = layout
    return request


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the tensors of a body are, as its JSON says: many requests have the same.

    Attributes:
      size: how many bytes such a body has.
      arrays: for each input its name, shape, type and first byte.
      like: a request that such a body has stood for, for all but its inputs.
    """

    size: int
    arrays: Sequence[tuple[str, tuple[int, ...], np.dtype[Any], int]]
    like: Request

    def request(self, body: bytes) -> Request:
        inputs = {
            name: np.ndarray(shape, dtype, body, start) for name, shape, dtype, start in self.arrays
        }
        like = self.like
        return Request(inputs, like.outputs, like.signature, like.id, like.timeout, like.binary)


_layouts: dict[bytes, _Layout] = {}
_MOST_LAYOUTS = 256
_LONGEST_HEAD = 4096


def _layout(request: Request, body: bytes, start: int) -> _Layout | None:
    """The layout of a body, if it is one of bytes alone, all of which are elements."""
    arrays = []
    for name, array in request.inputs.items():
        if array.dtype.kind not in _PLAIN_KINDS or array.flags.owndata:
            return None
        arrays.append((name, array.shape, array.dtype, start))
        start += array.nbytes
    return _Layout(len(body), arrays, replace(request, inputs={})) if start == len(body) else None


def _read(body: bytes, head: bytes, start: int) -> Request:
    """The request in a body whose JSON is given, and whose tensors begin at a byte."""
    document = read_json(head)
    if type(document) is not dict:
        raise RequestError(f"the body is {shown(document)}; an object was expected.")
    tensors = field(document, "inputs", list, "the request")
    if tensors is None:
        raise RequestError("the request has no 'inputs'.")
    inputs: dict[str, np.ndarray] = {}
    for position, tensor in enumerate(tensors):
        name = _name(tensor, "inputs", position)
        if name in inputs:
            raise RequestError(f"input {named(name)} is given twice.")
        inputs[name], start = _array(name, tensor, body, start)
    if start != len(body):
        raise RequestError(f"the body has {len(body) - start} bytes after the last tensor.")
    request = Request(inputs, id=field(document, "id", str, "the request") or "")
    parameters = _parameters(document, "the request")
    if parameters:
        _set_options(request, parameters)
    if document.get("outputs") is not None:
        _set_outputs(request, field(document, "outputs", list, "the request"))
    return request


def encode(answer: Answer, request: Request) -> tuple[bytes, int | None]:
    """The body of an answer, and how many bytes of it are JSON if tensors follow as bytes.

    Raises:
      RequestError: if JSON has nothing for an output that is wanted as JSON.
      NotOfferedError: if the protocol has no datatype for it.
    """
    if request.binary is True and (quick := _quickly(answer, request.id)):
        return quick
    binary = request.binary
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, array in answer.outputs.items():
        datatype = BYTES if array.dtype.kind in _TEXTS else datatype_of(array.dtype)
        if datatype is None:
            raise NotOfferedError(
                f"output {name!r} is {array.dtype.name}, which the protocol has no datatype for."
            )
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
        if binary if isinstance(binary, bool) else name in binary:
            parts.append(_bytes(array))
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
        elif datatype == BYTES:
            tensor |= _texts(array)
        else:
            tensor["data"] = _data(name, array)
        outputs.append(tensor)
    header = _head(answer.model, answer.version, answer.signature, request.id, outputs)
    has_bytes = any("data" not in tensor for tensor in outputs)
    return (b"".join((header, *parts)), len(header)) if has_bytes else (header, None)


def _head(
    model: str, version: int, signature: str, name: str, outputs: Sequence[Mapping[str, Any]]
) -> bytes:
    return write_json(
        {
            "model_name": model,
            "model_version": str(version),
            **({"id": name} if name else {}),
            "parameters": {"signature_name": signature},
            "outputs": outputs,
        }
    )


def _quickly(answer: Answer, name: str) -> tuple[bytes, int] | None:
    """An answer all as bytes, whose JSON has been written before, or nothing."""
    arrays = list(answer.outputs.items())
    kinds = tuple([(key, array.dtype, array.shape) for key, array in arrays])
    head = _written(answer.model, answer.version, answer.signature, name, kinds)
    if head is None:
        return None
    return b"".join([head, *[array.tobytes() for _, array in arrays]]), len(head)


@lru_cache(256)
def _written(
    model: str,
    version: int,
    signature: str,
    name: str,
    kinds: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]],
) -> bytes | None:
    outputs = []
    for key, dtype, shape in kinds:
        datatype = datatype_of(dtype)
        if datatype is None or dtype.kind in _TEXTS:
            return None
        size = math.prod(shape) * dtype.itemsize
        parameters = {"binary_data_size": size}
        outputs.append(
            {"name": key, "datatype": datatype, "shape": shape, "parameters": parameters}
        )
    return _head(model, version, signature, name, outputs) if outputs else None


def model_metadata(
    name: str,
    versions: Sequence[int],
    inputs: Mapping[str, Kind | TensorSpec],
    outputs: Mapping[str, Kind | TensorSpec],
    *,
    signature: str,
    signatures: Mapping[str, str],
) -> dict[str, Any]:
    """What a model takes and gives, for programs. Axes without a size are -1.

    Args:
      name: of the model.
      versions: the numbers of those that are ready.
      inputs: of its default signature.
      outputs: likewise.
      signature: its name.
      signatures: all of them as they are written, by name. As parameters are plain values, each is
        one of its own, `signatures/NAME`.
    """
    texts = {f"signatures/{key}": text for key, text in signatures.items()}
    return {
        "name": name,
        "versions": [str(version) for version in versions],
        "platform": PLATFORM,
        "inputs": [_described(*one) for one in inputs.items()],
        "outputs": [_described(*one) for one in outputs.items()],
        "parameters": {"signature_name": signature, **texts},
    }


def _name(tensor: object, key: str, position: int) -> str:
    """The name of an object in the list of inputs or of outputs."""
    if type(tensor) is not dict:
        raise RequestError(f"{key}[{position}] is {shown(tensor)}; an object was expected.")
    name = field(tensor, "name", str, f"{key}[{position}]")
    if name is None:
        raise RequestError(f"{key}[{position}] has no 'name'.")
    return str(name)


def _array(name: str, tensor: dict[str, Any], body: bytes, start: int) -> tuple[np.ndarray, int]:
    """The array of an input, and where in the body the bytes of the next one begin."""
    where = f"input {named(name)}"
    shape = _shape(where, tensor.get("shape"))
    datatype = tensor.get("datatype")
    dtype = dtype_of(datatype) if type(datatype) is str else None
    if dtype is None and datatype != BYTES:
        raise RequestError(f"{where} has {shown(datatype)} as 'datatype', which is none.")
    parameters = _parameters(tensor, where)
    size = field(parameters, "binary_data_size", int, where) if parameters else None
    data = tensor.get("data")
    if (size is None) == (data is None):
        both = "neither 'data' nor" if data is None else "'data' and"
        raise RequestError(f"{where} has {both} the parameter 'binary_data_size'.")
    try:
        if size is None:
            return _from_json(where, data, shape, dtype, parameters), start
        if not 0 <= size <= len(body) - start:
            raise RequestError(
                f"{where} should have {size} bytes, and the body has {len(body) - start} left "
                "after the JSON, whose length stands in Inference-Header-Content-Length, and the "
                "inputs before it."
            )
        end = start + size
        if dtype is None:
            return _texts_from_bytes(where, memoryview(body)[start:end], shape), end
        return _from_bytes(where, memoryview(body)[start:end], shape, dtype), end
    except ValueError as error:  # without elements, but with an axis that no array can have
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{where} has shape {list(shape)}: {error}.") from None


def _shape(where: str, given: object) -> tuple[int, ...]:
    if type(given) is not list:
        raise RequestError(f"{where} has {shown(given)} as 'shape'; a list was expected.")
    if len(given) > MAX_AXES:
        raise RequestError(f"{where} has {len(given)} axes; there are at most {MAX_AXES}.")
    for size in given:
        if type(size) is not int or not 0 <= size < 2**63:
            raise RequestError(f"{where} has {shown(size)} in its shape; sizes were expected.")
    return tuple(given)


def _from_bytes(
    where: str, raw: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    if len(raw) != size:
        raise RequestError(
            f"{where} is {datatype_of(dtype)} of shape {list(shape)}, which takes {size} bytes, "
            f"and has {len(raw)}."
        )
    array: np.ndarray = np.frombuffer(raw, dtype)
    if has_stray_bits(array):
        raise RequestError(f"{where} has bytes that are no elements of {datatype_of(dtype)}.")
    return array.reshape(shape)


def _texts_from_bytes(where: str, raw: memoryview, shape: tuple[int, ...]) -> np.ndarray:
    try:
        texts = texts_of(raw, math.prod(shape))
    except ValueError as error:
        raise RequestError(f"{where} {error}.") from None
    return objects_of(texts, shape)


def _from_json(
    where: str,
    data: object,
    shape: tuple[int, ...],
    dtype: np.dtype[Any] | None,
    parameters: Mapping[str, Any],
) -> np.ndarray:
    items, found = flattened(where, data)
    if found != shape and found != (math.prod(shape),):
        raise RequestError(
            f"{where} has shape {list(shape)}, and its 'data' {list(found)}; nested lists of that "
            f"shape or a flat list of {math.prod(shape)} was expected."
        )
    if dtype is not None:
        return numbers(where, items, found, dtype).reshape(shape)
    if parameters.get("content_type") == "base64":
        return objects_of([decoded(where, item) for item in items], shape)
    strange = [item for item in items if type(item) is not str]
    if strange:
        raise RequestError(f"{where} has {shown(strange[0])}; texts were expected for {BYTES}.")
    return objects_of(items, shape)


def _parameters(document: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The parameters of a request, an input or an output, none of which is not offered."""
    found: dict[str, Any] = field(document, "parameters", dict, where) or {}
    for key, what in NOT_OFFERED.items() if found else ():
        if found.get(key):
            raise NotOfferedError(f"{where} has parameter {key!r}: this server offers no {what}.")
    return found


def _set_options(request: Request, parameters: Mapping[str, Any]) -> None:
    where = "the parameters of the request"
    names = [field(parameters, key, str, where) for key in ("signature_name", "signature")]
    if all(names) and names[0] != names[1]:
        raise RequestError(f"{where} name two signatures, {' and '.join(map(named, names))}.")
    request.signature = names[0] or names[1] or None
    micros = field(parameters, "timeout", int, where)
    if micros is not None and not 0 <= micros < 2**63:
        raise RequestError(f"{where}: 'timeout' is {shown(micros)}; microseconds were expected.")
    request.timeout = micros / 1e6 if micros else None
    request.binary = field(parameters, "binary_data_output", bool, where) or False


def _set_outputs(request: Request, given: Sequence[object]) -> None:
    flags: dict[str, bool] = {}
    for position, one in enumerate(given):
        name = _name(one, "outputs", position)
        where = f"output {named(name)}"
        if name in flags:
            raise RequestError(f"{where} is asked for twice.")
        parameters = _parameters(one, where)  # type: ignore[arg-type]  # it has a name
        is_binary = field(parameters, "binary_data", bool, where)
        flags[name] = bool(request.binary) if is_binary is None else is_binary
    if flags:
        request.outputs = list(flags)
        request.binary = frozenset(name for name, is_binary in flags.items() if is_binary)


def _bytes(array: np.ndarray) -> bytes:
    """The elements, row by row."""
    if array.dtype.kind not in _TEXTS:
        return array.tobytes()
    items = array.ravel().tolist()
    return bytes_of(one if isinstance(one, bytes) else text_of(one).encode() for one in items)


def _texts(array: np.ndarray) -> dict[str, Any]:
    """The elements as texts. If any is bytes, all are in base64, as in requests."""
    items = array.ravel().tolist()
    if not any(isinstance(one, bytes) for one in items):
        return {"data": [text_of(one) for one in items]}
    plain = (one if isinstance(one, bytes) else text_of(one).encode() for one in items)
    return {"parameters": {"content_type": "base64"}, "data": [encoded(one) for one in plain]}


def _data(name: str, array: np.ndarray) -> Any:
    """The elements as numbers, in one list."""
    if array.dtype.kind == "c":
        raise RequestError(
            f"output {name!r} is {array.dtype.name}, which JSON has no numbers for; ask for it "
            "with the parameter 'binary_data'."
        )
    return listed(array.reshape(-1))


def _described(name: str, one: Kind | TensorSpec) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "datatype": BYTES, "shape": [-1]}
    if not isinstance(one, TensorSpec):
        return {**found, "parameters": {"kind": one}}
    spec = one.plain
    dtype = spec.dtype
    found["datatype"] = dtype.name if isinstance(dtype, KeyType) else datatype_of(dtype)
    if spec.shape is None:
        return {**found, "parameters": {"spec": str(one), "max_rank": spec.max_rank}}
    axes = [axis if isinstance(axis, int) else -1 for axis in spec.shape]
    return {**found, "shape": axes, "parameters": {"spec": str(one)}}

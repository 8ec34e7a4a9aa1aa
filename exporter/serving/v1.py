"""TensorFlow Serving's REST: calls by rows or columns, states, metadata; without a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.runtime.datatypes import objects_of
from exporter.serving.errors import RequestError
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
from exporter.serving.messages import Answer, Request
from exporter.stages.stage import Kind
from signatures.dtypes import DType
from signatures.spec import MAX_AXES, TensorSpec
from signatures.values import shown

Specs = Mapping[str, Kind | TensorSpec]

# What TensorFlow calls its types, where it is not our name in capitals.
_TYPES = {"float16": "HALF", "float32": "FLOAT", "float64": "DOUBLE"}


@dataclass(frozen=True, slots=True)
class Parsed:
    """A call before it is known what the signature takes.

    Attributes:
      signature: its name, or `None` for the default one.
      is_row: whether values are given by rows, and are answered so.
      given: the value of `instances`, which is a list with an element for each row, or of `inputs`.
    """

    signature: str | None
    is_row: bool
    given: Any

    @property
    def rows(self) -> int | None:
        """How many rows there are, if values are given by rows."""
        return len(self.given) if self.is_row else None

    def request(self, inputs: Specs) -> Request:
        """The request for a signature that takes these inputs.

        What is none of them is passed on as it is: it may be what a stage makes.

        Raises:
          RequestError: if values have no names where there are several inputs, rows differ, or a
            value is not what its input takes.
        """
        values = self._by_name(inputs)
        if values is None:
            if len(inputs) != 1:
                form = 'a row is {"NAME": value, ...}' if self.is_row else '{"NAME": value, ...}'
                raise RequestError(
                    f"values have no names, and the inputs are {', '.join(inputs) or 'none'}; "
                    f"{form} was expected in {self._key!r}."
                )
            values = {next(iter(inputs)): self.given}
        found = {name: _value(name, value, inputs.get(name)) for name, value in values.items()}
        return Request(found, signature=self.signature)

    @property
    def _key(self) -> str:
        return "instances" if self.is_row else "inputs"

    def _by_name(self, inputs: Specs) -> dict[str, Any] | None:
        """The values by name, or `None` if they are given without names."""
        if not self.is_row:
            return self.given if _has_names(self.given, inputs) else None
        rows: list[Any] = self.given
        first = rows[0]
        if not _has_names(first, inputs):
            strange = next((i for i, row in enumerate(rows) if _has_names(row, inputs)), None)
            if strange is None:
                return None
            raise RequestError(f"instances[{strange}] has names, and instances[0] has not.")
        for position, row in enumerate(rows):
            if not _has_names(row, inputs):
                raise RequestError(f"instances[0] has names, and instances[{position}] has not.")
            if row.keys() != first.keys():
                raise RequestError(
                    f"instances[0] has {_listed(first)}, and instances[{position}] has "
                    f"{_listed(row)}; all rows must have the same."
                )
        return {name: [row[name] for row in rows] for name in first}


def parse(body: bytes) -> Parsed:
    """The call in the body of a `predict`. Other members of it are ignored.

    Raises:
      RequestError: if it is none.
    """
    document = read_json(body)
    if type(document) is not dict:
        raise RequestError(f"the body is {shown(document)}; an object was expected.")
    signature = field(document, "signature_name", str, "the request") or None
    if ("instances" in document) == ("inputs" in document):
        both = "both of them" if "inputs" in document else "neither"
        raise RequestError(
            "the request has either 'instances', a list of rows, or 'inputs', whole arrays by "
            f"name; it has {both}."
        )
    if "inputs" in document:
        return Parsed(signature, is_row=False, given=document["inputs"])
    rows = document["instances"]
    if type(rows) is not list or not rows:
        raise RequestError(f"'instances' is {shown(rows)}; a list of rows was expected.")
    return Parsed(signature, is_row=True, given=rows)


def encode(answer: Answer, *, is_row: bool, rows: int | None) -> bytes:
    """The body of an answer.

    Args:
      answer: its outputs. The only one of a signature stands there without its name.
      is_row: whether rows are written, each with all outputs, or else outputs with all rows.
      rows: how many rows there were in the request.

    Raises:
      RequestError: if JSON has nothing for an output, or an output has not as many rows.
    """
    outputs = answer.outputs
    if not is_row:
        found = {name: _whole(name, array) for name, array in outputs.items()}
        return write_json({"outputs": next(iter(found.values())) if len(found) == 1 else found})
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            raise RequestError(
                f"output {name!r} has shape {list(array.shape)}, which is no row for each of the "
                f"{rows} instances; give 'inputs' in place of 'instances' to get whole outputs."
            )
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return write_json({"predictions": _whole(name, array)})
    split = zip(*(_rows(name, array) for name, array in outputs.items()), strict=True)
    return write_json({"predictions": [dict(zip(outputs, row, strict=True)) for row in split]})


def status(versions: Sequence[tuple[int, str, str]]) -> dict[str, Any]:
    """What the versions of a model are doing: of each its number, its state, and what is wrong."""
    return {
        "model_version_status": [
            {
                "version": str(version),
                "state": state,
                "status": {
                    "error_code": "UNKNOWN" if problem else "OK",
                    "error_message": problem,
                },
            }
            for version, state, problem in versions
        ]
    }


def metadata(name: str, version: int, signatures: Mapping[str, tuple[Specs, Specs]]) -> Any:
    """What a version takes and gives, for programs that know TensorFlow's own models.

    Args:
      name: of the model.
      version: its number.
      signatures: the inputs and outputs of each, by its name.
    """
    definitions = {
        key: {
            "inputs": {one: _described(one, spec) for one, spec in inputs.items()},
            "outputs": {one: _described(one, spec) for one, spec in outputs.items()},
            "method_name": "tensorflow/serving/predict",
        }
        for key, (inputs, outputs) in signatures.items()
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }


def _has_names(value: object, inputs: Specs) -> bool:
    """Whether it is an object of values by name, and not one that stands for bytes."""
    return isinstance(value, dict) and (value.keys() != {"b64"} or "b64" in inputs)


def _listed(row: Mapping[str, Any]) -> str:
    return shown(list(row)).removesuffix(" (list)")


def _value(name: str, value: Any, one: Kind | TensorSpec | None) -> Any:
    """The value of an input: an array of numbers, or texts and bytes as stages take them."""
    where = f"input {named(name)}"
    if one is None:
        return value
    if not isinstance(one, TensorSpec):
        return _with_bytes(where, value, 0)
    dtype = one.plain.dtype
    if not isinstance(dtype, np.dtype):  # keys of any rank, which no message can hold
        return value
    items, shape = flattened(where, value)
    return numbers(where, items, shape, dtype).reshape(shape)


def _with_bytes(where: str, value: Any, depth: int) -> Any:
    """The value with bytes for each `{"b64": text}` in it."""
    if depth > MAX_AXES:
        raise RequestError(f"{where} is nested more than {MAX_AXES} deep.")
    if type(value) is list:
        return [_with_bytes(where, item, depth + 1) for item in value]
    if type(value) is dict and value.keys() == {"b64"}:
        return decoded(where, value["b64"])
    return value


def _whole(name: str, array: np.ndarray) -> Any:
    """What JSON has for an array."""
    kind = array.dtype.kind
    if kind == "c":
        raise RequestError(f"output {name!r} is {array.dtype.name}, which JSON has no numbers for.")
    if kind not in "OSUT":
        return listed(array)
    elements = [_element(one) for one in array.ravel().tolist()]
    return objects_of(elements, array.shape).tolist()


def _rows(name: str, array: np.ndarray) -> Sequence[Any]:
    """What JSON has for each row of an array."""
    whole = _whole(name, array)
    if isinstance(whole, list | np.ndarray):
        return list(whole)
    return [listed(np.asarray(row)) for row in array]  # some are not finite


def _element(one: object) -> object:
    return {"b64": encoded(one)} if isinstance(one, bytes) else text_of(one)


def _described(name: str, one: Kind | TensorSpec) -> dict[str, Any]:
    if not isinstance(one, TensorSpec):
        dims = [{"size": "-1", "name": ""}]
        shape = {"dim": dims, "unknown_rank": False}
        return {"dtype": "DT_STRING", "tensor_shape": shape, "name": name}
    spec = one.plain
    dims = [
        {
            "size": str(axis if isinstance(axis, int) else -1),
            "name": axis if isinstance(axis, str) else "",
        }
        for axis in spec.shape or ()
    ]
    shape = {"dim": dims, "unknown_rank": spec.shape is None}
    return {"dtype": _type(spec.dtype), "tensor_shape": shape, "name": name}


def _type(dtype: DType) -> str:
    return f"DT_{_TYPES.get(dtype.name, dtype.name.upper())}"

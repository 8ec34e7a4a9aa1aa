"""The inputs of a call from words like `image=x.npy`, `image=data.npz[test]` and `ids=[[1, 2]]`."""

from collections.abc import Mapping, Sequence

import numpy as np

from exporter.cli.arrays.documents import literal, parsed, read_document
from exporter.cli.arrays.images import read_image
from exporter.cli.arrays.numpy_files import read_array
from exporter.cli.arrays.sources import Pipe, Source, Sources, sources
from exporter.cli.arrays.tables import read_table
from exporter.errors import MissingExtraError
from signatures.errors import BindError
from signatures.spec import TensorSpec


def read_values(
    given: Sequence[str], specs: Mapping[str, TensorSpec], pipe: Pipe | None = None
) -> dict[str, object]:
    """The values in words: files, several files as a batch, standard input as `-`, or JSON.

    The word `-` alone is one JSON object of inputs by name, in standard input. The values are not
    matched with the specs, but read as these need it: raw bytes, tables and pictures. `pipe` is
    standard input, if someone has looked at it before.

    Raises:
      BindError: naming every input that cannot be read.
      MissingExtraError: if a library that reads such files is not installed.
    """
    values: dict[str, object] = {}
    problems = []
    pipe = pipe or Pipe()
    for word in given:
        try:
            for name, value in _values(word, specs, pipe).items():
                if name in values:
                    raise BindError(f"{name}: given twice")
                values[name] = value
        except BindError as error:
            problems.append(str(error))
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise BindError(f"inputs cannot be read:{lines}", problems)
    return values


def _values(word: str, specs: Mapping[str, TensorSpec], pipe: Pipe) -> dict[str, object]:
    if word == "-":
        return _all_of(pipe)
    name, equals, text = word.partition("=")
    if not name or not equals:
        raise BindError(f"expected NAME=VALUE, got {word!r}")
    try:
        return {name: _value(text, specs.get(name), pipe)}
    except BindError as error:
        raise BindError(f"{name}: {error}") from error
    except MissingExtraError as error:
        raise MissingExtraError(f"{name}: {error}") from error


def _all_of(pipe: Pipe) -> dict[str, object]:
    source = Source("standard input", "json", None, pipe.read())
    try:
        value = parsed(source.text())
    except ValueError as error:
        raise BindError(f"standard input is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BindError("standard input is not a JSON object; write the inputs by name")
    return value


def _value(text: str, spec: TensorSpec | None, pipe: Pipe) -> object:
    found = sources(text, pipe)
    if found is None:
        return literal(text)
    try:
        values = [_read(source, spec) for source in found.parts]
        return _batch(found, values, spec) if found.is_batch else _batched(values[0], spec, found)
    except MemoryError as error:
        raise BindError(f"{text} does not fit into memory") from error


def _read(source: Source, spec: TensorSpec | None) -> object:
    match source.kind:
        case "numpy":
            return read_array(source, None if spec is None else spec.dtype)
        case "json":
            return read_document(source)
        case "csv":
            return _column_of(read_table(source), spec)
        case "image":
            return read_image(source, spec)
    return _read_text(source, spec)


def _read_text(source: Source, spec: TensorSpec | None) -> object:
    """Text that may be JSON or a table."""
    try:
        parsed(source.text())
    except ValueError as error:
        try:
            return _column_of(read_table(source), spec)
        except BindError as other:
            raise BindError(
                f"{source.name} is neither a NumPy file, nor a picture, nor JSON ({error}), nor a "
                f"table ({other})"
            ) from other
    return read_document(source)


def _column_of(table: list[list[complex]] | list[complex], spec: TensorSpec | None) -> object:
    """A table, or its only column where an input has one axis."""
    rows = [row for row in table if isinstance(row, list)]
    if spec is None or spec.shape is None or len(spec.shape) != 1 or not rows:
        return table
    return [row[0] for row in rows] if all(len(row) == 1 for row in rows) else table


def _batch(found: Sources, values: Sequence[object], spec: TensorSpec | None) -> object:
    """One value of several: each is an element, or with all axes of the input a part, of it."""
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    if len(arrays) < len(values):
        return list(values)  # lists: they are joined when they are converted
    names = [source.name for source in found.parts]
    axes = 0 if spec is None or spec.shape is None else len(spec.shape)
    is_part = arrays[0].ndim == axes > 0 and found.parts[0].kind != "image"
    start = 1 if is_part else 0
    for name, array in zip(names, arrays, strict=True):
        if (array.dtype, array.shape[start:]) != (arrays[0].dtype, arrays[0].shape[start:]) or (
            array.ndim != arrays[0].ndim
        ):
            raise BindError(
                f"{names[0]} is {_shown(arrays[0])} and {name} is {_shown(array)}; a batch is of "
                "arrays that are alike"
            )
    return np.concatenate(arrays) if is_part else np.stack(arrays)


def _batched(value: object, spec: TensorSpec | None, found: Sources) -> object:
    """The value with an axis of size 1 in front, if an array lacks that axis and no other."""
    if not isinstance(value, np.ndarray) or spec is None or spec.shape is None:
        return value
    shape = spec.shape
    if value.ndim != len(shape) - 1:
        return value
    missing = [
        place
        for place, axis in enumerate(shape)
        if (axis == 1 or not isinstance(axis, int))
        and all(
            not isinstance(axis, int) or axis == size
            for axis, size in zip((*shape[:place], *shape[place + 1 :]), value.shape, strict=True)
        )
    ]
    is_picture = found.parts[0].kind == "image"
    return value[None] if missing == [0] or (is_picture and 0 in missing) else value


def _shown(array: np.ndarray) -> str:
    return f"{array.dtype.name}[{', '.join(map(str, array.shape))}]"

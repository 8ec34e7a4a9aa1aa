"""Values in JSON: on the command line, in files, and in standard input."""

import json
import math

from exporter.cli.arrays.sources import FORMS, Source
from signatures.errors import BindError


def literal(text: str) -> object:
    """What a word on the command line is as JSON.

    Raises:
      BindError: if it is none.
    """
    try:
        return parsed(text)
    except ValueError as error:
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise BindError(f"{shown!r} is neither {FORMS}, nor JSON: {error}") from error


def read_document(source: Source) -> object:
    """What is in a file of JSON, or in one of its fields if it names one in brackets.

    Raises:
      BindError: if it cannot be read, or has no such field.
    """
    try:
        value = parsed(source.text())
    except ValueError as error:
        raise BindError(f"{source.name} is not JSON: {error}; write it with json.dump") from error
    name, key = source.name, source.suffix
    fields = list(value) if isinstance(value, dict) else None
    if fields is None and key is None:
        return value
    if fields is None:
        raise BindError(f"{name} has no fields, write {name} without [{key}]")
    known = ", ".join(map(repr, fields[:10])) or "none"
    if key is None:
        raise BindError(f"{name} is an object, write {name}[FIELD] with one of its fields: {known}")
    if not isinstance(value, dict) or key not in value:
        raise BindError(f"{name} has no field {key!r}, its fields are: {known}")
    return value[key]


def parsed(text: str) -> object:
    """JSON as Python values. NaN and Infinity are numbers too.

    Raises:
      ValueError: if it is no JSON, or nested too deep.
    """
    try:
        return json.loads(text, parse_float=_finite, object_pairs_hook=_fields)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large for a number")
    return value


def _fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} is there twice")
    return fields

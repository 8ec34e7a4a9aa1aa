"""JSON as the protocols have it: read and written quickly, with numbers that are not finite."""

import array
import base64
import json
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import orjson

from exporter.serving.errors import RequestError
from signatures.numbers import Loss, converted, kind_of
from signatures.spec import MAX_AXES
from signatures.values import shown

# The words for the types of values, for messages.
_WORDS: Mapping[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    list: "a list",
    dict: "an object",
}

# A name in a message is cut to so many characters.
_MAX_NAME = 80


def named(name: str) -> str:
    """A name from outside in quotes for a message, cut short."""
    return repr(name) if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]!r}..."


def read_json(body: bytes | memoryview) -> Any:
    """What a body says. `NaN`, `Infinity` and `-Infinity` are numbers too.

    Raises:
      RequestError: if it is not JSON, naming the place.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        data = bytes(body)
        if b"NaN" not in data and b"Infinity" not in data:
            _refuse(str(error))
    return _read_slowly(data)


def write_json(value: object) -> bytes:
    """A value as JSON. Arrays of numbers stand in it as `listed` gives them."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def listed(values: np.ndarray) -> Any:
    """What `write_json` takes for an array of numbers, nested as its shape.

    Those that are not finite are written as `NaN` and `Infinity`. Types that the writer does not
    know become wider ones, which hold their numbers exactly.
    """
    plain = _plain(values)
    if plain.dtype.kind == "f" and not np.isfinite(plain).all():
        return orjson.Fragment(_with_tokens(plain))
    return plain if plain.ndim else plain[()]


def text_of(one: object) -> str:
    """One element of an array of texts. Halves of surrogate pairs, which are none, become `?`."""
    if isinstance(one, bytes):
        return one.decode(errors="replace")
    text = str(one)
    return text if text.isascii() else text.encode(errors="replace").decode()


def flattened(where: str, value: object) -> tuple[Sequence[Any], tuple[int, ...]]:
    """The items of a nested list in order, and its shape. What is no list is one item.

    Args:
      where: begins the message.
      value: of JSON.

    Raises:
      RequestError: if it is ragged, or nested too deep.
    """
    items: Sequence[Any] = (value,)
    shape: tuple[int, ...] = ()
    while items and type(items[0]) is list:
        if set(map(type, items)) != {list} or len(set(map(len, items))) > 1:
            raise RequestError(f"{where} is ragged: {_raggedness(items, shape)}.")
        if len(shape) == MAX_AXES:
            raise RequestError(f"{where} is nested more than {MAX_AXES} deep.")
        shape = (*shape, len(items[0]))
        items = items[0] if len(items) == 1 else list(chain.from_iterable(items))
    return items, shape


def numbers(
    where: str, items: Sequence[Any], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> np.ndarray:
    """Numbers of JSON as an array with one axis.

    JSON has one kind of number, and many writers leave out a fraction of zero. So whole numbers
    are rounded to floats like all others; but where whole numbers are expected, no others do.

    Args:
      where: begins the message.
      items: the numbers.
      shape: how they were nested, for the message.
      dtype: what they become.

    Raises:
      RequestError: for the first that the dtype cannot hold.
    """
    kind = kind_of(dtype)
    made = _quickly(items, dtype, kind) if kind in {1, 2} else None
    if made is not None:
        return made
    found = converted(_as_floats(items) if kind == 2 else items, dtype)
    if not isinstance(found, Loss):
        return found
    reason = found.reason or f"; {dtype.name} was expected"
    place = f"item {_place(found.index, shape)}" if shape else "the value"
    raise RequestError(f"{where}: {place} is {shown(items[found.index])}{reason}.")


def decoded(where: str, text: object) -> bytes:
    """The bytes of a text in base64.

    Args:
      where: begins the message.
      text: of JSON.

    Raises:
      RequestError: if it is none.
    """
    if type(text) is not str:
        raise RequestError(f"{where} has {shown(text)}; text in base64 was expected.")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise RequestError(f"{where} has {shown(text)}, which is no base64: {error}.") from None


def encoded(data: bytes) -> str:
    """Bytes as text in base64."""
    return base64.b64encode(data).decode()


def field(document: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    """`document[key]`, which is of that kind; `None` if it is not there, or null.

    Raises:
      RequestError: if it is of another kind.
    """
    value = document.get(key)
    if value is not None and type(value) is not kind:  # a bool is an int to isinstance
        raise RequestError(f"{where}: {key!r} is {shown(value)}; {_WORDS[kind]} was expected.")
    return value


def _read_slowly(data: bytes) -> Any:
    """JSON with numbers that are not finite, which the quick reader does not take."""
    try:
        found = json.loads(data.decode(), parse_float=_finite)
        if b"\\ud" in data.lower():  # half of a surrogate pair is no text, and would fail later
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        _refuse("it is nested too deep")
    except UnicodeError as error:
        _refuse(f"its text is no Unicode: {error}")
    except ValueError as error:  # json's own class, and what Python says of very long numbers
        _refuse(str(error))
    return found


def _refuse(reason: str) -> NoReturn:
    raise RequestError(f"the body is not JSON: {reason}.") from None


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is too large for a number of 64 bits")
    return value


def _plain(values: np.ndarray) -> np.ndarray:
    """The same numbers, one after the other, in a type that the writer knows."""
    dtype = values.dtype
    if dtype.isbuiltin != 1 or dtype.kind not in "biuf":
        native = dtype.newbyteorder("=")
        wide = np.dtype(np.int16 if "int" in dtype.name else np.float32)
        values = values.astype(native if native.isbuiltin == 1 else wide)
    return values if values.flags.c_contiguous else values.copy()


def _with_tokens(values: np.ndarray) -> bytes:
    """The JSON of floats. The writer has `null` for those that are not finite."""
    odd = values[~np.isfinite(values)].tolist()
    tokens = [b"NaN" if one != one else b"Infinity" if one > 0 else b"-Infinity" for one in odd]  # noqa: PLR0124
    if not values.ndim:
        return tokens[0]
    first, *rest = write_json(values).split(b"null")
    return first + b"".join(chain.from_iterable(zip(tokens, rest, strict=True)))


def _quickly(items: Sequence[Any], dtype: np.dtype[Any], kind: int) -> np.ndarray | None:
    """The numbers, unless one of them may be lost: a closer look says which."""
    code = "d" if kind == 2 else "Q" if dtype.name.startswith("u") else "q"
    try:
        wide: np.ndarray = np.frombuffer(array.array(code, items), code)  # texts are refused
    except (TypeError, ValueError, OverflowError):
        return None
    if wide.dtype == dtype:
        return wide
    with np.errstate(all="ignore"):  # what overflows is found below
        made = wide.astype(dtype)
    if kind == 1:
        return made if np.array_equal(made.astype(wide.dtype), wide) else None
    return made if dtype.itemsize >= 2 and np.isfinite(made).all() else None


def _as_floats(items: Sequence[Any]) -> Sequence[Any]:
    try:
        return [float(one) if type(one) is int else one for one in items]
    except OverflowError:
        return items


def _raggedness(items: Sequence[Any], shape: tuple[int, ...]) -> str:
    """Which two items differ."""

    def sized(item: object) -> str:
        return f"a list of {len(item)}" if isinstance(item, list) else shown(item)

    first = sized(items[0])
    index = next(i for i, one in enumerate(items) if sized(one) != first)
    places = _place(0, shape), _place(index, shape)
    return f"item {places[0]} is {first}, and item {places[1]} is {sized(items[index])}"


def _place(index: int, shape: tuple[int, ...]) -> str:
    """Where in the nesting an item was: `[1][0]`."""
    return "".join(f"[{position}]" for position in np.unravel_index(index, shape))

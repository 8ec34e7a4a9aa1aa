"""One value of a call as an array of a dtype: arrays as they are, numbers and lists converted.

Whatever carries a dtype of its own (an array of NumPy, JAX or another library) must have the right
one: changing it is the caller's decision. Python numbers, NumPy scalars and nested lists of them
have no dtype that anyone chose, so they are converted where nothing is lost.
"""

import array
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np

from signatures.dtypes import DType, KeyType, as_dtype
from signatures.errors import SpecError
from signatures.numbers import Loss, converted, kind_of_type


@dataclass(frozen=True)
class Misfit:
    """Why a value is not an array of a dtype.

    Attributes:
      text: the end of a sentence, such as `"got 257 (int), which bfloat16 cannot hold exactly"`.
    """

    text: str


def is_array(value: object) -> bool:
    """Whether JAX takes the value as an array as it is: of NumPy, of JAX, or traced."""
    # JAX is not imported here. Its arrays, its typed keys and what stands for them in a trace have
    # an `aval`, and nothing else has: not specs, not scalars, not the boxes of frameworks.
    kind = type(value)
    return kind is np.ndarray or (hasattr(kind, "aval") and hasattr(kind, "__array__"))


def as_array(value: object, dtype: DType, max_axes: int) -> object:
    """`value` as an array of that dtype, or a `Misfit`.

    Args:
      value: anything a caller may pass.
      dtype: what it must have, or be converted to.
      max_axes: how deep a list may be nested.
    """
    if not is_array(value):
        unwrap = getattr(value, "__jax_array__", None)
        if callable(unwrap):  # the mutable boxes of frameworks, and our own
            value = unwrap()
    kind: type = type(value)
    if kind_of_type(kind) is not None:
        return _from_numbers(_Items((value,)), dtype)
    if _is_sequence(kind):
        return _from_nested(value, dtype, max_axes)  # type: ignore[arg-type]  # a sequence
    if _holds_array(kind):
        return _from_array(value, dtype)
    return Misfit(f"got {shown(value)}")


def described(value: object) -> str:
    """An array as its spec would be written: `float32[5, 4]`."""
    shape, dtype = value.shape, value.dtype  # type: ignore[attr-defined]  # an array
    return f"{getattr(dtype, 'name', dtype)}[{', '.join(map(str, shape))}]"


def shown(value: object) -> str:
    """Any value, cut short, with its type; arrays as their specs. No array is read for it.

    >>> shown({"mask": np.zeros((2, 3), bool), "scale": 0.5})
    "{'mask': bool[2, 3], 'scale': 0.5} (dict)"
    """
    if is_shown_as_spec(value):
        return described(value)
    return f"{_SHORT.repr(value)} ({type(value).__name__})"


def is_shown_as_spec(value: object) -> bool:
    """Whether `shown` gives the spec of a value, as it does for arrays and boxes of arrays."""
    kind = type(value)
    return (
        (_holds_array(kind) or hasattr(kind, "__jax_array__"))
        and hasattr(value, "shape")
        and hasattr(value, "dtype")
    )


class _Short(reprlib.Repr):
    """Python's own way to cut a `repr`, with arrays as their specs."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 60

    def repr1(self, x: object, level: int) -> str:
        if is_shown_as_spec(x):
            return described(x)
        if isinstance(x, int) and x.bit_length() > 10_000:  # Python refuses to print those
            return f"a number of {x.bit_length()} bits"
        return super().repr1(x, level)


_SHORT = _Short()


def _holds_array(kind: type) -> bool:
    """Whether NumPy can read an array out of such an object, if not JAX."""
    if issubclass(kind, np.generic):
        return False
    return hasattr(kind, "__array__") or issubclass(kind, memoryview | array.array)


@lru_cache(maxsize=256)
def _is_sequence(kind: type) -> bool:
    """Whether it is a list or like one."""
    if issubclass(kind, str | bytes | bytearray) or _holds_array(kind):
        return False
    return issubclass(kind, Sequence)


def _from_array(value: object, dtype: DType) -> object:
    if isinstance(value, np.ma.MaskedArray):
        return Misfit("got a masked array; fill it with .filled() first")
    if not is_array(value):  # of another library, or a subclass of NumPy's
        try:
            value = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:  # it lies on another device, say
            reason = str(error).partition("\n")[0]
            return Misfit(f"got a {type(value).__name__} that NumPy cannot read: {reason}")
    found = value.dtype  # type: ignore[attr-defined]  # an array
    try:
        if as_dtype(found) == dtype:
            # Bytes in the other order are the same numbers, but JAX does not take them.
            swapped = isinstance(found, np.dtype) and not found.isnative
            return value.astype(dtype) if swapped else value  # type: ignore[attr-defined]  # as above
    except SpecError:  # objects, text, or a dtype that only another library has
        pass
    numbers = isinstance(found, np.dtype) and isinstance(dtype, np.dtype)
    advice = f"; convert it with .astype({dtype.name!r}) if that is meant" if numbers else ""
    return Misfit(f"got {described(value)}{advice}")


@dataclass(frozen=True)
class _Items:
    """What a nested list holds, flat; or one number.

    Attributes:
      flat: the items in order.
      shape: how they were nested.
      noun: what they were nested in, `"list"`, or `None` for a number alone.
    """

    flat: Sequence[object]
    shape: tuple[int, ...] = ()
    noun: str | None = None

    def misfit(self, index: int, text: str) -> Misfit:
        """Why one item does not fit."""
        if self.noun is None:
            return Misfit(f"got {text}")
        return Misfit(f"got a {self.noun} whose item {self.place(index)} is {text}")

    def ragged(self, index: int, first: str, other: str) -> Misfit:
        """Why two items do not fit together."""
        return Misfit(
            f"got a ragged {self.noun}: item {self.place(0)} is {first} and item "
            f"{self.place(index)} is {other}"
        )

    def place(self, index: int) -> str:
        """Where in the nesting an item was: `[1][0]`."""
        return "".join(f"[{position}]" for position in np.unravel_index(index, self.shape))


def _from_nested(value: Sequence[object], dtype: DType, max_axes: int) -> object:
    """Nesting is taken apart level by level, each in a few passes that Python makes in C."""
    items = _Items((value,), (), type(value).__name__)
    while True:
        kinds: set[type] = set(map(type, items.flat))
        if not any(map(_is_sequence, kinds)):
            break
        if not all(map(_is_sequence, kinds)) or len(set(map(len, items.flat))) > 1:  # type: ignore[arg-type]
            return _raggedness(items)
        if len(items.shape) == max_axes:
            depth = f", nested more than {max_axes} deep" if max_axes else ""
            return Misfit(f"got {shown(value)}{depth}")
        shape = (*items.shape, len(items.flat[0]))  # type: ignore[arg-type]  # a sequence
        items = _Items(list(chain.from_iterable(items.flat)), shape, items.noun)  # type: ignore[arg-type]
    if any(_holds_array(kind) or hasattr(kind, "__jax_array__") for kind in kinds):
        return _from_arrays(items, dtype)
    return _from_numbers(items, dtype)


def _raggedness(items: _Items) -> Misfit:
    """That the items are not all sequences of one length, naming two that differ."""

    def sized(item: object) -> str:
        return f"a {type(item).__name__} of {size}" if (size := length(item)) >= 0 else shown(item)

    def length(item: object) -> int:
        kind: type = type(item)
        return len(item) if _is_sequence(kind) else -1  # type: ignore[arg-type]  # a sequence

    index = next(i for i, one in enumerate(items.flat) if length(one) != length(items.flat[0]))
    return items.ragged(index, sized(items.flat[0]), sized(items.flat[index]))


def _from_arrays(items: _Items, dtype: DType) -> object:
    """Arrays in a list, perhaps with numbers among them, as one array."""
    parts: list[np.ndarray] = []
    for index, item in enumerate(items.flat):
        part = as_array(item, dtype, 0)
        if isinstance(part, Misfit):
            return items.misfit(index, part.text.removeprefix("got "))
        try:
            parts.append(np.asarray(part))
        except TypeError:  # a traced array or a key: joining them is a computation
            text = f"{described(part)}, an array that only JAX can join; use jnp.stack"
            return items.misfit(index, text)
        if parts[index].shape != parts[0].shape:
            return items.ragged(index, described(parts[0]), described(parts[index]))
    return np.stack(parts).reshape((*items.shape, *parts[0].shape))


def _from_numbers(items: _Items, dtype: DType) -> object:
    if isinstance(dtype, KeyType):
        what = shown(items.flat[0]) if items.noun is None else f"a {items.noun}"
        return Misfit(f"got {what}; make a key with jax.random.key")
    made = converted(items.flat, dtype)
    if isinstance(made, Loss):
        return items.misfit(made.index, f"{shown(items.flat[made.index])}{made.reason}")
    return made.reshape(items.shape)

"""One array as a callable promises it: a dtype, and axes that are sizes, names or free."""

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

from signatures.dtypes import DType, KeyType, as_dtype, dtype_name
from signatures.errors import SpecError
from signatures.expression import MAX_NUMBER, Expression, parse

# An axis in a spec: a size, an expression over named dimensions, or free.
Axis = int | str | None

_SPEC = re.compile(r"\s*(?P<dtype>[A-Za-z0-9_<>]+)\[(?P<axes>.*)\]\s*", re.DOTALL)

# How many axes an array of any rank may have, unless its spec says otherwise. Each rank is a
# program of its own, so the bound is small.
DEFAULT_MAX_RANK = 4

# NumPy has no arrays with more axes, and without NumPy no argument reaches JAX.
MAX_AXES = 64


@dataclass(frozen=True, repr=False)
class Dim:
    """A named axis with bounds, the same size wherever its name stands in a signature.

    Examples:
      >>> Dim("batch", max=256, multiple_of=8)
      Dim('batch', max=256, multiple_of=8)

    Attributes:
      name: a letter, then letters, digits and underscores.
      min: the smallest size allowed. `None` allows 0 where the function can be called with it.
      max: the largest size allowed, inclusive.
      multiple_of: the size is a multiple of this.

    Raises:
      SpecError: if the name cannot be one, or no size is within the bounds.
    """

    name: str
    min: int | None = None
    max: int | None = None
    multiple_of: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", _dimension_name(self.name))
        for field, least in (("min", 0), ("max", 1), ("multiple_of", 1)):
            bound: object = getattr(self, field)
            if bound is not None:
                size = _whole(bound)
                if size is None or not least <= size <= MAX_NUMBER:
                    raise SpecError(
                        f"Dim({self.name!r}, {field}={bound!r}): a whole number of at least "
                        f"{least} was expected."
                    )
                object.__setattr__(self, field, size)
        step = self.multiple_of or 1
        largest = None if self.max is None else self.max // step * step
        if largest is not None and largest < max(self.min or 0, 1):
            raise SpecError(f"{self} allows no size but 0, or none at all.")

    @property
    def is_bounded(self) -> bool:
        """Whether any bound is set."""
        return (self.min, self.max, self.multiple_of) != (None, None, None)

    def problem(self, size: int) -> str | None:
        """Why `size` is not allowed, or `None` if it is.

        Examples:
          >>> Dim("batch", max=256, multiple_of=8).problem(300)
          'batch is at most 256 and a multiple of 8'
        """
        broken = " and ".join(
            text
            for is_broken, text in (
                (self.min is not None and size < self.min, f"at least {self.min}"),
                (self.max is not None and size > self.max, f"at most {self.max}"),
                (size % (self.multiple_of or 1) != 0, f"a multiple of {self.multiple_of}"),
            )
            if is_broken
        )
        return f"{self.name} is {broken}" if broken else None

    def __str__(self) -> str:
        bounds = (("min", self.min), ("max", self.max), ("multiple_of", self.multiple_of))
        shown = "".join(f", {key}={value}" for key, value in bounds if value is not None)
        return f"Dim({self.name!r}{shown})"

    __repr__ = __str__


@dataclass(frozen=True, init=False, repr=False)
class TensorSpec:
    """What one array must be.

    Examples:
      >>> spec = TensorSpec(("batch", 64), "float32", name="image")
      >>> print(spec)
      float32[batch, 64]
      >>> spec == TensorSpec.parse("float32[batch, 64]", name="image")
      True

    Attributes:
      shape: for each axis a size, a name or an expression of names as text, or `None` for an
        axis of any size. `None` instead of a tuple is an array of any rank.
      dtype: a NumPy dtype (those of ml_dtypes included) or a `KeyType`.
      name: what a caller names the array, or `None` to take the argument's name.
      dims: the bounds of the axes that were given as `Dim`.
      max_rank: with `shape=None`, the most axes an array may have.
    """

    shape: tuple[Axis, ...] | None
    dtype: DType
    name: str | None
    dims: tuple[Dim, ...]
    max_rank: int

    def __init__(
        self,
        shape: Iterable[Axis | Dim] | None,
        dtype: object = "float32",
        name: str | None = None,
        *,
        max_rank: int = DEFAULT_MAX_RANK,
    ) -> None:
        """The spec of an array, from what its attributes say.

        Raises:
          SpecError: if an axis, the dtype, the name or the rank cannot be.
        """
        if name is not None and not isinstance(name, str):
            raise SpecError(f"the name of a TensorSpec is text, not {name!r}.")
        rank = _whole(max_rank)
        if rank is None or not 0 <= rank <= MAX_AXES:
            raise SpecError(f"max_rank is a whole number from 0 to {MAX_AXES}, not {max_rank!r}.")
        found = as_dtype(dtype)
        given = None if shape is None else _as_tuple(shape)
        axes = None if given is None else _axes(given, found)
        for field, value in (
            ("shape", axes),
            ("dtype", found),
            ("name", name or None),
            ("dims", _bounds(axis for axis in given or () if isinstance(axis, Dim))),
            ("max_rank", rank if axes is None else DEFAULT_MAX_RANK),
        ):
            object.__setattr__(self, field, value)

    @classmethod
    def parse(cls, text: str, name: str | None = None) -> "TensorSpec":
        """The spec that prints as `text`, for example `"float32[batch, 64]"` or `"int32[...]"`.

        Raises:
          SpecError: if the text is not a spec.
        """
        match = _SPEC.fullmatch(text)
        if not match:
            raise SpecError(f"{text!r} is not a spec. Write a dtype and axes: 'float32[batch, 3]'.")
        axes = match["axes"].strip()
        if axes == "...":
            return cls(None, match["dtype"], name)
        parts = _split(axes) if axes else []
        return cls([None if part == "None" else part for part in parts], match["dtype"], name)

    @classmethod
    def of(cls, array: object, name: str | None = None) -> "TensorSpec":
        """The spec that exactly describes an array, or anything with a shape and a dtype.

        Examples:
          >>> import numpy as np
          >>> print(TensorSpec.of(np.zeros((2, 3), np.int8)))
          int8[2, 3]

        Symbolic axes of JAX become expressions; the constraints of their scope are left behind.

        Raises:
          SpecError: if it has no shape and dtype, or a dtype that no program can have.
        """
        if isinstance(array, cls):
            return array.renamed(name or array.name)
        shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
        if shape is None or dtype is None:
            raise SpecError(f"a {type(array).__name__} has no shape and dtype to describe.")
        return cls([axis if isinstance(axis, int) else str(axis) for axis in shape], dtype, name)

    @cached_property
    def expressions(self) -> tuple[int | Expression | None, ...]:
        """The axes, with names and arithmetic parsed. Empty for an array of any rank."""
        return tuple(parse(axis) if isinstance(axis, str) else axis for axis in self.shape or ())

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The dimensions that stand in the axes, each once."""
        found = (axis.names for axis in self.expressions if isinstance(axis, Expression))
        return tuple(dict.fromkeys(name for names in found for name in names))

    def admits(self, other: object) -> bool:
        """Whether every array of the `other` spec, or that array, is one of this spec."""
        shape, dtype = getattr(other, "shape", None), getattr(other, "dtype", None)
        try:
            if dtype is None or as_dtype(dtype) != self.dtype:
                return False
        except SpecError:  # a dtype of another library
            return False
        if self.shape is None or shape is None:
            return self.shape is None and (shape is None or len(shape) <= self.max_rank)
        return len(shape) == len(self.shape) and all(
            not isinstance(axis, int) or axis == size
            for axis, size in zip(self.shape, shape, strict=True)
        )

    def renamed(self, name: str | None) -> "TensorSpec":
        """The same array under another name."""
        return self._with(shape=self.shape, name=name, dims=self.dims)

    def with_shape(self, shape: tuple[Axis, ...]) -> "TensorSpec":
        """The same array with other axes, its bounds kept."""
        return self._with(shape=shape, name=self.name, dims=self.dims)

    def with_bounds(self, dims: tuple[Dim, ...]) -> "TensorSpec":
        """The same array with these bounds on its named axes.

        It can bound what stands only in an expression, which a `Dim` among the axes cannot:
        `TensorSpec(("2*n",)).with_bounds((Dim("n", max=8),))`.

        Raises:
          SpecError: if two of them bound one name differently.
        """
        return self._with(shape=self.shape, name=self.name, dims=_bounds(dims))

    @property
    def plain(self) -> "TensorSpec":
        """The same array, random keys as the words they are made of."""
        if not isinstance(self.dtype, KeyType) or self.shape is None:
            return self
        words = TensorSpec((*self.shape, self.dtype.words), "uint32", self.name)
        return words.with_bounds(self.dims)

    def evaluate(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape for given sizes of the named dimensions, without free axes.

        Examples:
          >>> TensorSpec(("n", "2*n + 1")).evaluate({"n": 3})
          (3, 7)

        An axis that no array can have for these sizes may come out negative.

        Raises:
          SpecError: if an axis would divide by zero.
        """
        return tuple(
            axis.evaluate(sizes) if isinstance(axis, Expression) else axis or 0
            for axis in self.expressions
        )

    def _with(
        self, *, shape: tuple[Axis, ...] | None, name: str | None, dims: tuple[Dim, ...]
    ) -> "TensorSpec":
        spec = TensorSpec(shape, self.dtype, name, max_rank=self.max_rank)
        object.__setattr__(spec, "dims", dims)
        return spec

    def __str__(self) -> str:
        axes = "..." if self.shape is None else ", ".join(map(str, self.shape))
        return f"{dtype_name(self.dtype)}[{axes}]"

    def __repr__(self) -> str:
        bounds = {dim.name: dim for dim in self.dims}
        axes: object = self.shape and tuple(
            bounds.pop(axis, axis) if isinstance(axis, str) else axis for axis in self.shape
        )
        name = "" if self.name is None else f", name={self.name!r}"
        rank = "" if self.max_rank == DEFAULT_MAX_RANK else f", max_rank={self.max_rank}"
        dtype = dtype_name(self.dtype)
        hidden = f".with_bounds({self.dims!r})" if bounds else ""
        return f"TensorSpec(shape={axes!r}, dtype={dtype!r}{name}{rank}){hidden}"


def storage_shape(spec_shape: tuple[int, ...], dtype: DType) -> tuple[int, ...]:
    """The shape of the plain array that holds such elements: keys are rows of uint32 words."""
    return (*spec_shape, dtype.words) if isinstance(dtype, KeyType) else spec_shape


def _as_tuple(shape: object) -> tuple[object, ...]:
    if isinstance(shape, str | bytes):
        raise SpecError(f"a shape is a tuple of axes, such as ({shape!r}, 64), not {shape!r}.")
    if not isinstance(shape, Iterable) or isinstance(shape, Mapping | AbstractSet | type):
        raise SpecError(f"a shape is a tuple of axes, such as ('batch', 64), not {shape!r}.")
    axes = tuple(shape)
    if len(axes) > MAX_AXES:
        raise SpecError(f"a shape has {len(axes)} axes; arrays have at most {MAX_AXES}.")
    return axes


def _axes(given: Sequence[object], dtype: DType) -> tuple[Axis, ...]:
    axes: list[Axis] = []
    for position, axis in enumerate(given):
        try:
            found = _axis(axis)
        except SpecError as error:
            raise SpecError(f"{_where(position, given, dtype)}: {error}") from error
        if isinstance(found, int) and not 0 <= found <= MAX_NUMBER:
            raise SpecError(
                f"{_where(position, given, dtype)} has size {found}. Sizes are from 0 to "
                "2**63 - 1; for any size, write None."
            )
        axes.append(found)
    return tuple(axes)


def _where(position: int, given: Sequence[object], dtype: DType) -> str:
    """An axis for a message."""
    shown = ", ".join(str(one.name if isinstance(one, Dim) else one) for one in given)
    return f"axis {position} of {dtype_name(dtype)}[{shown if len(shown) <= 60 else '...'}]"


def _axis(axis: object) -> Axis:
    if isinstance(axis, Dim):
        return axis.name
    if isinstance(axis, str):
        expression = parse(axis)
        return expression.text if expression.names else expression.evaluate({})
    size = None if axis is None else _whole(axis)
    if axis is not None and size is None:
        raise SpecError(
            f"{axis!r} is not an axis. An axis is a size (64), None, a name ('batch'), an "
            "expression ('2*n') or a Dim."
        )
    return size


def _whole(value: object) -> int | None:
    """Any kind of integer as an int, or `None`. A bool is a mistake here, not a number."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]  # the question is whether it has one
    except TypeError:
        return None


def _dimension_name(name: object) -> str:
    try:
        found = parse(name) if isinstance(name, str) else None
    except SpecError:
        found = None
    if found is None or not found.is_name:
        raise SpecError(
            f"{name!r} is not a name for an axis: a letter comes first, then letters, digits and "
            "underscores, and it is not a word of Python's own."
        )
    return found.text


def _bounds(dims: Iterable[Dim]) -> tuple[Dim, ...]:
    """The bounded ones among `dims`, each name once. One without bounds is the bare name."""
    bounds: dict[str, Dim] = {}
    for dim in dims:
        if dim.is_bounded and bounds.setdefault(dim.name, dim) != dim:
            raise SpecError(f"two bounds for one dimension: {bounds[dim.name]} and {dim}.")
    return tuple(bounds.values())


def _split(axes: str) -> list[str]:
    """The axes of a printed spec: commas inside parentheses belong to an expression."""
    parts, depth = [""], 0
    for character in axes:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]

"""One array as a callable promises it: a dtype, and axes that are sizes, names or free."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from signatures.dtypes import DType, KeyType, as_dtype, dtype_name
from signatures.errors import SpecError
from signatures.expression import Expression, parse

# An axis in a spec: a size, an expression over named dimensions, or free.
Axis = int | str | None

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPEC = re.compile(r"\s*(?P<dtype>[A-Za-z0-9_<>]+)\[(?P<axes>.*)\]\s*")

# How many axes an array of any rank may have, unless its spec says otherwise. Each rank is a
# program of its own, so the bound is small.
DEFAULT_MAX_RANK = 4


@dataclass(frozen=True)
class Dim:
    """A named axis with bounds, the same size wherever its name stands in a signature.

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
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise SpecError(
                f"{self.name!r} is not a name for an axis: a letter comes first, then letters, "
                "digits and underscores."
            )
        for field, least in (("min", 0), ("max", 1), ("multiple_of", 1)):
            bound = getattr(self, field)
            if bound is not None and (type(bound) is not int or bound < least):
                raise SpecError(
                    f"Dim({self.name!r}, {field}={bound!r}): a whole number of at least {least} "
                    "was expected."
                )
        step = self.multiple_of or 1
        largest = None if self.max is None else self.max // step * step
        if largest is not None and (largest < 1 or largest < (self.min or 0)):
            raise SpecError(f"no size is allowed by {self}.")

    @property
    def is_bounded(self) -> bool:
        """Whether any bound is set."""
        return (self.min, self.max, self.multiple_of) != (None, None, None)

    def problem(self, size: int) -> str | None:
        """Why `size` is not allowed, or `None` if it is."""
        if self.min is not None and size < self.min:
            return f"{self.name} is at least {self.min}"
        if self.max is not None and size > self.max:
            return f"{self.name} is at most {self.max}"
        if self.multiple_of is not None and size % self.multiple_of:
            return f"{self.name} is a multiple of {self.multiple_of}"
        return None

    def __str__(self) -> str:
        bounds = (("min", self.min), ("max", self.max), ("multiple_of", self.multiple_of))
        shown = "".join(f", {key}={value}" for key, value in bounds if value is not None)
        return f"Dim({self.name!r}{shown})"


@dataclass(frozen=True, init=False, repr=False)
class TensorSpec:
    """What one array must be.

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
        """See the class.

        Raises:
          SpecError: if an axis, the dtype, the name or the rank cannot be.
        """
        if name is not None and not isinstance(name, str):
            raise SpecError(f"the name of a TensorSpec is text, not {name!r}.")
        if type(max_rank) is not int or max_rank < 0:
            raise SpecError(f"max_rank is a whole number of at least 0, not {max_rank!r}.")
        if isinstance(shape, str | bytes):
            raise SpecError(f"a shape is a tuple of axes, such as ({shape!r}, 64), not {shape!r}.")
        given = None if shape is None else tuple(shape)
        axes = None if given is None else tuple(map(_axis, given))
        dims = {axis.name: axis for axis in given or () if isinstance(axis, Dim)}
        for field, value in (
            ("shape", axes),
            ("dtype", as_dtype(dtype)),
            ("name", name or None),
            ("dims", tuple(dim for dim in dims.values() if dim.is_bounded)),
            ("max_rank", max_rank),
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
        return cls([_parse_axis(part) for part in parts], match["dtype"], name)

    @classmethod
    def of(cls, array: object, name: str | None = None) -> "TensorSpec":
        """The spec that exactly describes an array, or anything with a shape and a dtype."""
        shape = getattr(array, "shape", None)
        if shape is None:
            raise SpecError(f"a {type(array).__name__} has no shape and dtype to describe.")
        return cls(tuple(shape), array.dtype, name)  # type: ignore[attr-defined]  # has a dtype

    @property
    def expressions(self) -> tuple[int | Expression | None, ...]:
        """The axes, with names and arithmetic parsed. Empty for an array of any rank."""
        return tuple(parse(axis) if isinstance(axis, str) else axis for axis in self.shape or ())

    @property
    def names(self) -> tuple[str, ...]:
        """The dimensions that stand in the axes, each once."""
        found = (axis.names for axis in self.expressions if isinstance(axis, Expression))
        return tuple(dict.fromkeys(name for names in found for name in names))

    def admits(self, other: object) -> bool:
        """Whether every array of the `other` spec, or that array, is one of this spec."""
        shape, dtype = getattr(other, "shape", None), getattr(other, "dtype", None)
        if dtype is None or as_dtype(dtype) != self.dtype:
            return False
        if self.shape is None or shape is None:
            return self.shape is None and (shape is None or len(shape) <= self.max_rank)
        return len(shape) == len(self.shape) and all(
            not isinstance(axis, int) or axis == size
            for axis, size in zip(self.shape, shape, strict=True)
        )

    def renamed(self, name: str | None) -> "TensorSpec":
        """The same array under another name."""
        return self._with(shape=self.shape, name=name)

    def with_shape(self, shape: tuple[Axis, ...]) -> "TensorSpec":
        """The same array with other axes, its bounds kept."""
        return self._with(shape=shape, name=self.name)

    def with_bounds(self, dims: tuple[Dim, ...]) -> "TensorSpec":
        """The same array with these bounds on its named axes."""
        spec = self.renamed(self.name)
        object.__setattr__(spec, "dims", dims)
        return spec

    def evaluate(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape for given sizes of the named dimensions, without free axes."""
        return tuple(
            axis.evaluate(sizes) if isinstance(axis, Expression) else axis or 0
            for axis in self.expressions
        )

    def _with(self, *, shape: tuple[Axis, ...] | None, name: str | None) -> "TensorSpec":
        spec = TensorSpec(shape, self.dtype, name, max_rank=self.max_rank)
        object.__setattr__(spec, "dims", self.dims)
        return spec

    def __str__(self) -> str:
        axes = "..." if self.shape is None else ", ".join(map(str, self.shape))
        return f"{dtype_name(self.dtype)}[{axes}]"

    def __repr__(self) -> str:
        name = "" if self.name is None else f", name={self.name!r}"
        return f"TensorSpec(shape={self.shape!r}, dtype={dtype_name(self.dtype)}{name})"


def storage_shape(spec_shape: tuple[int, ...], dtype: DType) -> tuple[int, ...]:
    """The shape of the plain array that holds such elements: keys are rows of uint32 words."""
    return (*spec_shape, dtype.words) if isinstance(dtype, KeyType) else spec_shape


def _axis(axis: object) -> Axis:
    if isinstance(axis, Dim):
        return axis.name
    if isinstance(axis, str):
        expression = parse(axis)
        if not expression.names:
            return expression.evaluate({})
        return expression.text.strip()
    if axis is None:
        return None
    try:
        size = axis.__index__()  # type: ignore[attr-defined]  # any kind of integer
    except (AttributeError, TypeError):
        raise SpecError(
            f"{axis!r} is not an axis. An axis is a size (64), None, a name ('batch'), an "
            "expression ('2*n') or a Dim."
        ) from None
    if size < 0:
        raise SpecError(f"an axis has size {size}; sizes are at least 0. For any size, write None.")
    return int(size)


def _parse_axis(text: str) -> Axis:
    if text == "None":
        return None
    return int(text) if text.lstrip("-").isdigit() else text


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

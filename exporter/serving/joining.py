"""Several calls of a signature as one along its batch axis, and their results apart again.

Whether that may be done is known from the artifact: its programs were analysed when it was saved
(`row_wise`), or its author or whoever serves it says how it is batched. Nothing here runs anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from exporter.batching import Batching
from exporter.errors import OptionError
from signatures.binding import bind_values
from signatures.expression import Expression
from signatures.signature import Signature
from signatures.spec import TensorSpec

# An input without the batch axis is compared byte by byte; one with more bytes is not joined.
_MAX_COMPARED = 4096


@dataclass(eq=False, slots=True)
class Part:
    """The arrays of one call, ready to be joined.

    Attributes:
      form: calls of one form can be joined; `None` is like no other.
      rows: the size of the batch axis.
      arrays: in the order of the inputs, filled up to the buckets.
      cut: the size of each axis that was filled up, as it was.
    """

    form: object
    rows: int
    arrays: Sequence[np.ndarray]
    cut: Mapping[str, int]


def batch_axis(signature: Signature) -> str | None:
    """The name that every output and some input has as its first axis, and that is nowhere else."""
    inputs, outputs = signature.inputs.values(), signature.outputs.values()
    if not outputs or any(spec.shape is None for spec in (*inputs, *outputs)):
        return None
    leading = {_first(spec) for spec in outputs}
    name = next(iter(leading))
    if len(leading) > 1 or name is None or all(_first(spec) != name for spec in inputs):
        return None
    specs = (*inputs, *outputs)
    is_elsewhere = any(_stands_elsewhere(name, spec) for spec in specs)
    return None if is_elsewhere else name


class Joining:
    """How the calls of one signature are joined.

    Attributes:
      axis: the name of the batch axis.
      sizes: the sizes of it that the program is called with, ascending.
      buckets: the sizes of other axes that arrays are filled up to.
      splits: whether a call of more rows than a batch has is computed in parts.
    """

    def __init__(self, signature: Signature, axis: str, batching: Batching) -> None:
        """The joining of a signature, whose random keys are words, along one of its axes.

        Raises:
          OptionError: if the sizes do not fit the signature.
        """
        self.signature = signature
        self.axis = axis
        self._dim = dim = signature.dims[axis]
        self._is_bounded = dim.is_bounded
        self.sizes = tuple(size for size in batching.sizes if dim.problem(size) is None)
        if not self.sizes:
            raise OptionError(
                f"none of the batch sizes {list(batching.sizes)} fits signature "
                f"{signature.name!r}: {dim.problem(batching.sizes[-1])}."
            )
        self.buckets = dict(batching.buckets)
        self.splits = batching.enable_large_batch_splitting
        self._pad_values = batching.pad_values
        self._is_joined = [_first(spec) == axis for spec in signature.inputs.values()]
        self._output_specs = list(signature.outputs.values())
        self._known: set[object] = set()  # forms that fitted before
        _check_buckets(self)

    @property
    def max_rows(self) -> int:
        """The most rows of one batch."""
        return self.sizes[-1]

    def part(self, values: Sequence[object]) -> Part:
        """A call with these values, one for each input, as it is joined with others.

        Raises:
          BindError: naming every input that does not fit.
        """
        form = self._quick_form(values)
        if form is not None and form in self._known:
            rows: int = values[0].shape[0]  # type: ignore[attr-defined]  # an array, see above
            if not self._is_bounded or self._dim.problem(rows) is None:
                return Part(form, rows, values, {})  # type: ignore[arg-type]  # likewise
        bound = bind_values(self.signature, values)
        arrays: list[Any] = [np.asarray(value) for value in bound.values]
        cut = {name: bound.sizes[name] for name in self.buckets if name in bound.sizes}
        for name, sizes in self.buckets.items():
            wanted = next((size for size in sizes if size >= cut.get(name, 0)), None)
            if name in cut and wanted is not None and wanted != cut[name]:
                arrays = self._filled(arrays, name, wanted)
            else:
                cut.pop(name, None)
        rows = bound.sizes[self.axis]
        if form is not None and not cut and rows:
            if len(self._known) > 1024:  # whoever sends ever new shapes must not fill the memory
                self._known.clear()
            self._known.add(form)
        return Part(self._form(arrays) if rows else None, rows, arrays, cut)

    def joined(self, parts: Sequence[Part]) -> list[np.ndarray]:
        """The inputs of one call for parts of one form, filled up with copies of the first row."""
        rows = sum(part.rows for part in parts)
        size = self.size_for(rows)
        if len(parts) == 1 and size == rows:
            return list(parts[0].arrays)
        joined = []
        for position, is_joined in enumerate(self._is_joined):
            arrays = [part.arrays[position] for part in parts]
            joined.append(_stacked(arrays, size) if is_joined else arrays[0])
        return joined

    def apart(self, outputs: Sequence[np.ndarray], parts: Sequence[Part]) -> list[list[np.ndarray]]:
        """The outputs of each part."""
        found, start = [], 0
        for part in parts:
            end = start + part.rows
            rows = [output[start:end] for output in outputs]
            found.append(self._cut(rows, part.cut) if part.cut else rows)
            start = end
        return found

    def size_for(self, rows: int) -> int:
        """The size of the batch that so many rows are computed in."""
        return next((size for size in self.sizes if size >= rows), rows)

    def slices(self, part: Part) -> list[Part]:
        """A part of more rows than a batch has, as several."""
        step = self.max_rows
        return [
            Part(
                part.form,
                min(step, part.rows - start),
                [
                    array[start : start + step] if is_joined else array
                    for array, is_joined in zip(part.arrays, self._is_joined, strict=True)
                ],
                part.cut,
            )
            for start in range(0, part.rows, step)
        ]

    @cached_property
    def _may_be_quick(self) -> bool:
        return all(self._is_joined) and not self.buckets and not self.signature.has_arithmetic

    def _quick_form(self, values: Sequence[object]) -> object:
        """The form of plain arrays, told by their types alone, or `None` to look closely."""
        if not self._may_be_quick:
            return None
        first = values[0]
        if type(first) is not np.ndarray or not first.ndim:
            return None
        rows = first.shape[0]
        form: list[object] = []
        for value in values:
            if type(value) is not np.ndarray or not value.ndim or value.shape[0] != rows:
                return None
            form += (value.dtype, value.shape[1:])
        return tuple(form) if rows else None

    def _form(self, arrays: Sequence[np.ndarray]) -> object:
        form: list[object] = []
        for array, is_joined in zip(arrays, self._is_joined, strict=True):
            if is_joined:
                form += (array.dtype, array.shape[1:])
            elif array.nbytes <= _MAX_COMPARED:
                form += (array.dtype, array.shape, array.tobytes())
            else:
                return None
        return tuple(form)

    def _filled(self, arrays: Sequence[np.ndarray], name: str, size: int) -> list[np.ndarray]:
        """The arrays with every axis of that name at a size."""
        filled = []
        for (key, spec), array in zip(self.signature.inputs.items(), arrays, strict=True):
            widths = [
                (0, size - have if axis == name else 0)
                for axis, have in zip(spec.shape or (), array.shape, strict=True)
            ]
            value = np.asarray(self._pad_values.get(key, 0)).astype(array.dtype)
            filled.append(np.pad(array, widths, constant_values=value) if any(widths) else array)
        return filled

    def _cut(self, outputs: Sequence[np.ndarray], sizes: Mapping[str, int]) -> list[np.ndarray]:
        return [
            output[tuple(slice(sizes.get(str(axis))) for axis in spec.shape or ())]
            for output, spec in zip(outputs, self._output_specs, strict=True)
        ]


def whole(outputs: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """The outputs of a call from those of its slices."""
    return [np.concatenate(arrays) for arrays in zip(*outputs, strict=True)]


def _stacked(arrays: Sequence[np.ndarray], size: int) -> np.ndarray:
    """The rows of all, and copies of the first one up to a size."""
    first = arrays[0]
    whole = np.empty((size, *first.shape[1:]), first.dtype)
    end = 0
    for array in arrays:
        start, end = end, end + len(array)
        whole[start:end] = array
    if end < size:
        whole[end:] = first[0]
    return whole


def _first(spec: TensorSpec) -> str | None:
    """The name of the first axis, if it has one."""
    axes = spec.expressions if spec.shape else ()
    first = axes[0] if axes else None
    return first.text if isinstance(first, Expression) and first.is_name else None


def _stands_elsewhere(name: str, spec: TensorSpec) -> bool:
    rest = spec.expressions[1:] if _first(spec) == name else spec.expressions
    return any(isinstance(axis, Expression) and name in axis.names for axis in rest)


def _check_buckets(joining: Joining) -> None:
    """Refuse buckets of axes that cannot be filled up and cut back."""
    signature = joining.signature
    problems = []
    for name, sizes in joining.buckets.items():
        if name == joining.axis or name not in signature.dims:
            named = ", ".join(one for one in signature.dims if one != joining.axis) or "none"
            problems.append(f"buckets[{name!r}] is for a named axis other than the first: {named}")
            continue
        problems += [
            f"buckets[{name!r}]: {problem}, got {size}"
            for size in sizes
            if (problem := signature.dims[name].problem(size))
        ]
        specs = {**signature.inputs, **signature.outputs}
        problems += [
            f"buckets[{name!r}]: {one} has the axis {axis.text}, which cannot be filled up"
            for one, spec in specs.items()
            for axis in spec.expressions
            if isinstance(axis, Expression) and name in axis.names and not axis.is_name
        ]
    if problems:
        raise OptionError(f"batching of {signature.name!r}: {'; '.join(problems)}.")

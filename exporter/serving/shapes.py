"""The shapes that a signature will be called with, as far as they are known before."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from exporter.serving.joining import Joining
from signatures.binding import solve
from signatures.errors import SpecError
from signatures.signature import Signature

# The shape of each input, in order.
Shapes = tuple[tuple[int, ...], ...]


def shapes_of(
    signature: Signature, joining: Joining | None, in_use: Sequence[Shapes] = ()
) -> list[Shapes]:
    """What to compile ahead: every size of a batch, and what callers use now.

    Args:
      signature: the signature.
      joining: how its calls are joined.
      in_use: the shapes that it was called with under another version.
    """
    found = list(_known(signature, joining))
    found += [shapes for shapes in in_use if _fits(signature, joining, shapes)]
    return list(dict.fromkeys(found))


def _known(signature: Signature, joining: Joining | None) -> Iterator[Shapes]:
    sizes: Mapping[str, Sequence[int]] = {}
    if joining is not None:
        sizes = {joining.axis: joining.sizes, **joining.buckets}
    if any(name not in sizes for name in signature.dims):
        return
    if any(spec.shape is None or None in spec.shape for spec in signature.inputs.values()):
        return
    for chosen in itertools.product(*(sizes[name] for name in signature.dims)):
        named = dict(zip(signature.dims, chosen, strict=True))
        try:
            shapes = tuple(spec.evaluate(named) for spec in signature.inputs.values())
        except SpecError:  # an axis is divided by zero
            continue
        if all(size > 0 for shape in shapes for size in shape):
            yield shapes


def _fits(signature: Signature, joining: Joining | None, shapes: Shapes) -> bool:
    specs = list(signature.inputs.values())
    if len(specs) != len(shapes) or any(0 in shape for shape in shapes):
        return False
    pairs = list(zip(specs, shapes, strict=True))
    if any(spec.shape is None or len(spec.shape) != len(shape) for spec, shape in pairs):
        return False  # of any rank: those are compiled when they come
    sizes, problems = solve(pairs)
    if any(problems) or any(
        dim.problem(sizes[dim.name]) for dim in signature.bounded_dims if dim.name in sizes
    ):
        return False
    return joining is None or sizes.get(joining.axis) in joining.sizes

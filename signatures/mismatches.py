"""Everything that is wrong with the values of a call, in the caller's words.

This is only reached when something is wrong, so it takes the time to say it well: one line for
each input, with the sizes that the other inputs tell.
"""

from collections.abc import Collection, Mapping

from signatures.expression import Expression
from signatures.signature import Signature
from signatures.sizes import Sizes, fits, solved
from signatures.spec import Dim, TensorSpec
from signatures.values import Misfit, described


def misfit(found: object, spec: TensorSpec) -> str | None:
    """How a value differs from its spec in dtype or number of axes, or `None`.

    Args:
      found: an array, or a `Misfit`.
      spec: what was expected.
    """
    if isinstance(found, Misfit):
        return found.text
    axes = len(found.shape)  # type: ignore[attr-defined]  # an array
    fitting = axes <= spec.max_rank if spec.shape is None else axes == len(spec.shape)
    return None if fitting else f"got {described(found)}"


def mismatches(signature: Signature, found: Mapping[str, object]) -> tuple[Sizes, dict[str, str]]:
    """The sizes that the values of a call tell, and a line for each value that does not fit.

    Args:
      signature: what is promised.
      found: for each input that was given, an array or a `Misfit`.
    """
    specs = {name: signature.inputs[name] for name in found}
    misfits = {name: misfit(value, specs[name]) for name, value in found.items()}
    shapes: dict[str, tuple[int, ...]] = {
        name: value.shape  # type: ignore[attr-defined]  # an array, as it is no misfit
        for name, value in found.items()
        if misfits[name] is None and specs[name].shape is not None
    }
    sizes = _sizes(specs, shapes)
    lines = {}
    for name, spec in specs.items():
        if misfits[name]:
            lines[name] = f"{name}: {expected(spec, sizes)}, {misfits[name]}"
        elif name in shapes:
            got = f"got {described(found[name])}"
            broken = _broken_bounds(spec, sizes, signature.dims)
            bounds = " and ".join(broken.values())
            line = _wrong_size(name, spec, shapes[name], sizes, got)
            if line:
                lines[name] = f"{name}: {line}{f'; {bounds}' if bounds else ''}"
            elif broken:
                known = ", ".join(f"{one}={sizes.known[one]}" for one in broken)
                lines[name] = f"{name}: expected {spec} where {bounds}, {got} with {known}"
    return sizes, lines


def expected(spec: TensorSpec, sizes: Sizes, elsewhere: Collection[str] = ()) -> str:
    """A spec with the sizes of its names, so far as they are known.

    Args:
      spec: what was expected.
      sizes: what is known.
      elsewhere: the names of which to say which other input told their size.
    """
    limit = f" with at most {spec.max_rank} axes" if spec.shape is None else ""
    known = ", ".join(
        f"{name}={sizes.known[name]}"
        + (f" from {sizes.origins[name]}" if name in elsewhere else "")
        for name in spec.names
        if name in sizes.known
    )
    return f"expected {spec}{limit}{f' with {known}' if known else ''}"


def _sizes(specs: Mapping[str, TensorSpec], shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    def is_doubtful(name: str) -> bool:
        pairs = zip(specs[name].expressions, shapes[name], strict=True)
        return any(isinstance(axis, int) and axis != size for axis, size in pairs)

    # An array with a wrong size in one axis may tell those of others, but is heard last.
    return solved(
        [
            (axis, size, name)
            for name in sorted(shapes, key=is_doubtful)
            for axis, size in zip(specs[name].expressions, shapes[name], strict=True)
            if isinstance(axis, Expression)
        ]
    )


def _wrong_size(
    name: str, spec: TensorSpec, shape: tuple[int, ...], sizes: Sizes, got: str
) -> str | None:
    pairs = zip(spec.expressions, shape, strict=True)
    wrong = [(axis, size) for axis, size in pairs if not fits(axis, size, sizes.known)]
    if not wrong:
        return None
    computed = [(axis, size) for axis, size in wrong if isinstance(axis, Expression)]
    names = {one for axis, _ in computed for one in axis.names}
    elsewhere = {one for one in names if sizes.origins.get(one, name) != name}
    unsolved = "".join(
        f"; no {' and '.join(unknown)} {'was' if len(unknown) == 1 else 'were'} found for which "
        f"{axis} is {size}"
        for axis, size in computed
        if (unknown := [one for one in axis.names if one not in sizes.known])
    )
    return f"{expected(spec, sizes, elsewhere)}, {got}{unsolved}"


def _broken_bounds(spec: TensorSpec, sizes: Sizes, dims: Mapping[str, Dim]) -> dict[str, str]:
    """The bounds that are broken, by the names of the dimensions."""
    return {
        name: problem
        for name in spec.names
        if name in sizes.known and (problem := bound_problem(dims[name], sizes.known[name]))
    }


def bound_problem(dim: Dim, size: object) -> str | None:
    """Which bounds a size breaks. A symbolic one, inside a trace of JAX, is left for JAX."""
    return dim.problem(size) if isinstance(size, int) else None

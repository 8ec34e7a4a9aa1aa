"""What to compile ahead of the first call: which functions, for which shapes. It needs no JAX.

Sizes are given by the names of axes. An axis without a name, and an array of any rank, have no name
to be given a size by: such functions are compiled for the shapes of their samples, if there are
any, and are left out otherwise.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporter.artifact.encoding import signature_of
from exporter.artifact.records import Manifest
from exporter.errors import OptionError
from signatures.errors import SpecError
from signatures.resolver import resolve_call
from signatures.signature import Signature
from signatures.spec import Dim

# A program computes with the sizes of its axes in 32 bits.
_MAX_SIZE = 2**31 - 1


@dataclass(frozen=True)
class Case:
    """One function and the shapes of its inputs.

    Attributes:
      name: the signature, or the path of a function that has a sample and is no signature.
      concrete: the number of its concrete function in the manifest.
      shapes: the shape of each input, in order.
      inputs: the same for people.
    """

    name: str
    concrete: int
    shapes: tuple[tuple[int, ...], ...]
    inputs: str


@dataclass(frozen=True)
class Plan:
    """All that is to be compiled, each thing once.

    Attributes:
      cases: in the order of the signatures.
      left_out: the signatures that are not compiled, with the reason of each.
    """

    cases: tuple[Case, ...]
    left_out: Mapping[str, str]


def planned(
    manifest: Manifest,
    sizes: Mapping[str, Sequence[int]] | None,
    names: Sequence[str] | None = None,
) -> Plan:
    """What to compile for some sizes. Each signature has each combination of those of its axes.

    Args:
      manifest: of an artifact.
      sizes: the sizes of each named axis. `None` is for what needs none: signatures whose shapes
        are fixed, and the shapes of samples.
      names: the signatures to compile, or `None` for all.

    Raises:
      UnknownSignatureError: if there is no such signature, listing those there are.
      OptionError: if sizes are missing, of no axis, or not allowed, naming each of them.
    """
    known = manifest.signatures
    for name in names or ():
        resolve_call(known, name, manifest.signature_note)
    chosen = {
        name: signature_of(manifest, known[name], name)
        for name in (known if names is None else names)
    }
    if sizes is not None:
        _check(chosen, sizes)
    cases: list[Case] = []
    left_out: dict[str, str] = {}
    for name, signature in chosen.items():
        number = known[name]
        sampled = list(_sampled(manifest, number, name, signature))
        reason = _reason(signature, sizes)
        if reason is None:
            cases += [
                _case(name, number, signature, one) for one in _combined(signature, sizes or {})
            ]
        elif not sampled:
            left_out[name] = reason
        if sizes is None or reason is not None:
            cases += sampled
    if sizes is None and names is None:
        cases += _others(manifest)
    unique = {(case.concrete, case.shapes): case for case in reversed(cases)}
    return Plan(tuple(reversed(unique.values())), left_out)


def _case(name: str, number: int, signature: Signature, shapes: Sequence[tuple[int, ...]]) -> Case:
    inputs = ", ".join(
        f"{one}: {spec.dtype.name}[{', '.join(map(str, shape))}]"
        for (one, spec), shape in zip(signature.inputs.items(), shapes, strict=True)
    )
    return Case(name, number, tuple(shapes), inputs)


def _sampled(manifest: Manifest, number: int, name: str, signature: Signature) -> Iterator[Case]:
    """The samples of a concrete function, but for those that run no program."""
    for sample in manifest.samples:
        shapes = [tuple(array.shape) for array in sample.inputs]
        if sample.concrete == number and _have_elements(signature, shapes):
            yield _case(name, number, signature, shapes)


def _others(manifest: Manifest) -> Iterator[Case]:
    """What has samples and is no signature."""
    names = {one.concrete: one.name for one in manifest.samples}
    for number, name in names.items():
        if number not in manifest.signatures.values():
            yield from _sampled(manifest, number, name, signature_of(manifest, number))


def _have_elements(signature: Signature, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether no axis has size 0 or less that is not 0 always: that is what programs are for."""
    return all(
        size > 0 or (spec.shape is not None and spec.shape[position] == 0)
        for spec, shape in zip(signature.inputs.values(), shapes, strict=True)
        for position, size in enumerate(shape)
    )


def _combined(
    signature: Signature, sizes: Mapping[str, Sequence[int]]
) -> Iterator[tuple[tuple[int, ...], ...]]:
    """The shapes of the inputs for each combination of the sizes of their axes."""
    for chosen in itertools.product(*(sizes[name] for name in signature.dims)):
        found = dict(zip(signature.dims, chosen, strict=True))
        yield tuple(spec.evaluate(found) for spec in signature.inputs.values())


def _reason(signature: Signature, sizes: Mapping[str, Sequence[int]] | None) -> str | None:
    """Why sizes by name do not tell all shapes, or `None` if they do."""
    for name, spec in signature.inputs.items():
        if spec.shape is None:
            return f"{name} has any number of axes"
        if None in spec.shape:
            return f"axis {spec.shape.index(None)} of {name} has no name"
    if sizes is None and signature.dims:
        return f"no size is given for {', '.join(signature.dims)}"
    return None


def _check(signatures: Mapping[str, Signature], sizes: Mapping[str, Sequence[int]]) -> None:
    """Refuse sizes that do not fit the signatures.

    Raises:
      OptionError: naming everything that is wrong, and the axes that there are.
    """
    named = {name for signature in signatures.values() for name in signature.dims}
    problems = [f"{name}: no axis has this name" for name in sizes if name not in named]
    for title, signature in signatures.items():
        wrong = [
            f"{name}: {problem}, for {title!r}"
            for name, dim in signature.dims.items()
            for problem in _problems(
                dim, sizes.get(name, ()), is_needed=not _reason(signature, sizes)
            )
        ]
        problems += wrong or _impossible(signature, sizes)
    if not problems:
        return
    lines = "".join(f"\n  {problem}" for problem in dict.fromkeys(problems))
    axes = "".join(
        f"\n  {title}: {', '.join(map(_shown, signature.dims.values())) or 'none'}"
        for title, signature in signatures.items()
    )
    raise OptionError(
        f"the sizes to compile for do not fit:{lines}\nThe named axes of each signature are:"
        f"{axes or ' none, since there are no signatures'}"
    )


def _problems(dim: Dim, sizes: Sequence[int], *, is_needed: bool) -> Iterator[str]:
    if is_needed and not sizes:
        yield "it has no size"
    for size in sizes:
        broken = dim.problem(size)
        if not 1 <= size <= _MAX_SIZE:
            broken = "at least 1" if size < 1 else f"at most {_MAX_SIZE}"
        if broken:
            yield f"{broken.removeprefix(f'{dim.name} is ')} was expected, got {size}"


def _impossible(signature: Signature, sizes: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Combinations of allowed sizes that leave an array without elements, or without a shape."""
    if _reason(signature, sizes) is not None:
        return
    for chosen in itertools.product(*(sizes[name] for name in signature.dims)):
        found = dict(zip(signature.dims, chosen, strict=True))
        try:
            shapes = [spec.evaluate(found) for spec in signature.inputs.values()]
            is_possible = _have_elements(signature, shapes)
        except SpecError:  # an axis is divided by zero
            is_possible = False
        if not is_possible:
            shown = ", ".join(f"{one}={size}" for one, size in found.items())
            yield f"{shown}: an input of {signature} has no elements then"


def _shown(dim: Dim) -> str:
    bounds = (("min", dim.min), ("max", dim.max), ("multiple_of", dim.multiple_of))
    text = ", ".join(f"{key}={value}" for key, value in bounds if value is not None)
    return f"{dim.name} ({text})" if text else dim.name

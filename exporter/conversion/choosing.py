"""What is to be converted: a signature, a platform and a size for every open axis. Without JAX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.artifact.encoding import dim_of
from exporter.artifact.records import ConcreteRecord, Manifest, ProgramRecord
from exporter.errors import ConversionError, OptionError
from exporter.made import least
from signatures.resolver import DEFAULT, resolve_call
from signatures.spec import Dim

# A program computes with the sizes of its axes in 32 bits.
_MAX_SIZE = 2**31 - 1


@dataclass(frozen=True)
class Choice:
    """What is to be converted.

    Attributes:
      folder: the artifact.
      manifest: what it says.
      signature: the name of a signature.
      sizes: the size of each open axis of its program.
      platform: one of those that it was saved for.
      custom_calls: the native functions that the caller vouches for.
    """

    folder: Path
    manifest: Manifest
    signature: str
    sizes: Mapping[str, int]
    platform: str
    custom_calls: tuple[str, ...] = ()

    @property
    def concrete(self) -> ConcreteRecord:
        """What the signature calls."""
        return self.manifest.concrete_functions[self.manifest.signatures[self.signature]]

    @property
    def record(self) -> ProgramRecord:
        """Its one program."""
        return self.manifest.programs[self.concrete.programs[0]]


def chosen(
    folder: Path,
    manifest: Manifest,
    *,
    signature: str | None,
    sizes: Mapping[str, int],
    platform: str,
    custom_calls: tuple[str, ...] = (),
) -> Choice:
    """The choice of one signature at fixed sizes.

    Args:
      folder: the artifact.
      manifest: what it says.
      signature: `None` for the default one, or the only one.
      sizes: by the names of axes. An axis without a name is called `input[axis]`, as in `x[0]`.
      platform: one of those that it was saved for.
      custom_calls: the native functions that the caller vouches for.

    Raises:
      UnknownSignatureError: if there is no such signature, listing those there are.
      OptionError: if a size is missing, not allowed or of no axis, or the platform is another.
      ConversionError: if no format has a place for such a signature.
    """
    name = _named(manifest, signature)
    axes = _axes_of(manifest, name, platform)
    return Choice(folder, manifest, name, _sizes(name, axes, sizes), platform, custom_calls)


def every(
    folder: Path,
    manifest: Manifest,
    *,
    signatures: Sequence[str],
    sizes: Mapping[str, int],
    platform: str,
    custom_calls: tuple[str, ...] = (),
) -> list[Choice]:
    """A choice of each signature, where sizes stay open and are needed to try it only.

    Args:
      folder: the artifact.
      manifest: what it says.
      signatures: those that are wanted, or none for all.
      sizes: as for `chosen`, of the axes of any of them. Others have a small size.
      platform: one of those that it was saved for.
      custom_calls: the native functions that the caller vouches for.

    Raises:
      UnknownSignatureError: if there is no such signature, listing those there are.
      OptionError: if there is no signature, a size is not allowed or of no axis, or the platform is
        another.
      ConversionError: if no format has a place for one of them.
    """
    names = [_named(manifest, one) for one in signatures] or list(manifest.signatures)
    if not names:
        raise OptionError(f"{folder} has no signatures. {manifest.signature_note or ''}".rstrip())
    axes = {name: _axes_of(manifest, name, platform) for name in names}
    known = {label for some in axes.values() for label in some}
    unknown = [label for label in sizes if label not in known]
    if unknown:
        raise OptionError(
            f"no axis is called {', '.join(unknown)}; they are {', '.join(sorted(known)) or 'none'}"
        )
    return [
        Choice(
            folder,
            manifest,
            name,
            _sizes(name, some, {one: sizes.get(one, _small(dim)) for one, dim in some.items()}),
            platform,
            custom_calls,
        )
        for name, some in axes.items()
    ]


def _axes_of(manifest: Manifest, name: str, platform: str) -> dict[str, Dim]:
    """The open axes of a signature that a format may have a place for."""
    concrete = manifest.concrete_functions[manifest.signatures[name]]
    open_ = [tensor.name for tensor in concrete.inputs if tensor.shape is None]
    if open_ or len(concrete.programs) != 1:
        raise ConversionError(
            f"signature {name!r} takes {', '.join(open_)} with any number of axes, by one program "
            "for each number, and every format here has one program. Save a signature for one "
            "number of axes, such as TensorSpec((None, None), ...)."
        )
    record = manifest.programs[concrete.programs[0]]
    if record.mesh:
        axes = ", ".join(f"{axis.name}={axis.size}" for axis in record.mesh)
        raise ConversionError(
            f"signature {name!r} uses jax.shard_map on a mesh ({axes}), and every format here runs "
            "on one device."
        )
    if platform not in record.platforms:
        raise OptionError(
            f"signature {name!r} was not saved for {platform!r}; its platforms are "
            f"{', '.join(record.platforms)}. Choose one of these, or save it with "
            f"platforms=({platform!r}, ...)."
        )
    return _axes(concrete, record)


def _named(manifest: Manifest, signature: str | None) -> str:
    known = list(manifest.signatures)
    if signature is None and DEFAULT not in known:
        if len(known) != 1:
            names = ", ".join(map(repr, known)) or "none"
            raise OptionError(
                f"which signature? There is no {DEFAULT!r}; the signatures are {names}. Give one "
                "with signature=, or --signature in a shell."
            )
        return known[0]
    name = DEFAULT if signature is None else signature
    resolve_call(manifest.signatures, name, manifest.signature_note)
    return name


def _axes(concrete: ConcreteRecord, record: ProgramRecord) -> dict[str, Dim]:
    """Every open axis by what callers call it, as the program calls it."""
    dims = {dim.name: dim_of(dim) for dim in record.dims}
    labels = {name: name for name in dims}
    for tensor, plain in zip(concrete.inputs, record.inputs, strict=True):
        for position, axis in enumerate(tensor.shape or ()):
            if axis is None:
                labels[str(plain.shape[position])] = f"{tensor.name}[{position}]"
    return {labels[name]: dim for name, dim in dims.items()}


def _sizes(signature: str, axes: Mapping[str, Dim], sizes: Mapping[str, int]) -> dict[str, int]:
    missing = [label for label in axes if label not in sizes]
    if missing:
        example = {label: least(axes[label]) for label in missing}
        words = " ".join(f"{label}={size}" for label, size in example.items())
        raise OptionError(
            f"signature {signature!r} has axes of any size, and a file of another format has one: "
            f"give a size for {', '.join(missing)}, for example sizes={example}, or in a shell "
            f"--size {words}"
        )
    known = ", ".join(axes) or "none"
    problems = [
        f"{label}: no axis has this name; they are {known}" for label in sizes if label not in axes
    ]
    for label, dim in axes.items():
        size = sizes[label]
        if isinstance(size, bool) or not isinstance(size, int):
            problems.append(f"{label}: expected a whole number, got {size!r}")
        elif not 1 <= size <= _MAX_SIZE:
            problems.append(f"{label}: expected 1 to {_MAX_SIZE}, got {size}")
        elif (broken := dim.problem(size)) is not None:
            problems.append(f"{label}: {broken} was expected, got {size}")
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise OptionError(f"the sizes for signature {signature!r} do not fit:{lines}")
    return {dim.name: sizes[label] for label, dim in axes.items()}


def _small(dim: Dim) -> int:
    """A small size that is allowed, and not 1 if it need not be: ones hide mistakes of axes."""
    step = dim.multiple_of or 1
    found = -(-max(dim.min or 1, 3) // step) * step
    return found if dim.problem(found) is None else least(dim)

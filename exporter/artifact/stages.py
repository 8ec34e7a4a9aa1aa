"""What a manifest says of stages: the kinds there are, and what of a signature each needs.

A kind that is not in the ledger is refused when the stage is used, not when the artifact is loaded.
Programs and variables are whole without it, and a signature still takes arrays, so an older release
goes on loading what a newer one wrote, and a new kind of stage is no new format.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
import numpy as np

from exporter.artifact.encoding import signature_of
from exporter.artifact.layout import ASSETS
from exporter.artifact.records import (
    ImageOptions,
    LabelsOptions,
    Manifest,
    StageRecord,
    TokenizerOptions,
    VocabularyOptions,
)
from exporter.errors import FormatVersionError
from signatures.dtypes import is_inexact
from signatures.signature import Signature
from signatures.spec import Axis, Dim, TensorSpec

Options = TokenizerOptions | VocabularyOptions | ImageOptions | LabelsOptions

# The ledger of stages: the options of each kind and version, and the first release that knew them.
KINDS: Mapping[tuple[str, int], tuple[type[Options], str]] = {
    ("tokenizer", 1): (TokenizerOptions, "0.2.0"),
    ("vocabulary", 1): (VocabularyOptions, "0.2.0"),
    ("image", 1): (ImageOptions, "0.2.0"),
    ("labels", 1): (LabelsOptions, "0.2.0"),
}

# How many files a stage of each kind has.
_FILES = {TokenizerOptions: 1, VocabularyOptions: 1, ImageOptions: 0, LabelsOptions: 1}

# What a file of a stage may have, and one of words or labels: any more takes all memory, and means
# something else, or nothing good.
MAX_FILE_BYTES = 2**28
MAX_LINES = 2**24

# A picture of more pixels is neither read nor made: a small file can claim to be any size.
MAX_PIXELS = 2**26


def record_of(options: Options, version: int = 1) -> StageRecord:
    """The record of a stage, without files yet."""
    for (kind, known), (own, since) in KINDS.items():
        if own is type(options) and known == version:
            return StageRecord(kind, version, since, msgspec.to_builtins(options))
    raise AssertionError("every class of options is in the ledger")


def options_of(record: StageRecord) -> Options | None:
    """The options of a stage, or `None` if we do not know such stages.

    Raises:
      ValueError: if they are not as those of its kind and version are.
    """
    known = KINDS.get((record.kind, record.version))
    return None if known is None else msgspec.convert(record.options, known[0])


def known_options(record: StageRecord, signature: str) -> Options:
    """The options of a stage of that signature, which is to be used.

    Raises:
      FormatVersionError: if we do not know such stages, naming the release that does.
    """
    found = options_of(record)
    if found is None:
        raise FormatVersionError(
            f"signature {signature!r} has a stage of kind {record.kind!r} in version "
            f"{record.version}, which this release of jax-exporter does not know. Install "
            f"{record.since} or a newer one, or give arrays to the signature itself: "
            f"model.signatures[{signature!r}]."
        )
    return found


def check_stages(manifest: Manifest) -> None:
    """Refuse stages that cannot be.

    Raises:
      ValueError: saying where and why.
    """
    files = {file.path for file in manifest.files}
    for name, stages in manifest.stages.items():
        if name not in manifest.signatures:
            raise ValueError(f"stages has {name!r}, which is no signature.")
        if not stages:
            raise ValueError(f"stages has none for {name!r}.")
        for position, record in enumerate(stages):
            where = f"stages[{name!r}][{position}]"
            for path in record.files:
                if path not in files or not path.startswith(f"{ASSETS}/"):
                    raise ValueError(
                        f"{where} has the file {path!r}, which files does not list in {ASSETS}/."
                    )
            try:
                options = options_of(record)
            except ValueError as error:
                raise ValueError(f"{where}.options: {error}") from error
            if options is not None and len(record.files) != _FILES[type(options)]:
                raise ValueError(f"{where} has {len(record.files)} files.")
        found = [options for options in map(options_of, stages) if options is not None]
        if len(found) == len(stages):  # what others do that we do not know, nobody can tell
            signature = signature_of(manifest, manifest.signatures[name], name)
            for problem in problems_of(found, signature):
                raise ValueError(f"stages[{name!r}]: {problem}.")


def problems_of(stages: Sequence[Options], signature: Signature) -> list[str]:
    """Why stages cannot stand around a signature: names that clash, arrays that do not fit."""
    problems = [problem for one in stages for problem in _misfits(one, signature)]
    fed = [name for one in stages for name in fed_by(one)]
    problems += [f"two stages give the input {name!r}" for name in _twice(fed)]
    free = [name for name in signature.inputs if name not in fed]
    taken = [one.input for one in stages if not isinstance(one, LabelsOptions)]
    problems += [f"two inputs are called {name!r}" for name in _twice([*taken, *free])]
    read = [one.output for one in stages if isinstance(one, LabelsOptions)]
    problems += [f"two stages read the output {name!r}" for name in _twice(read)]
    given = [name for one in stages if isinstance(one, LabelsOptions) for name in given_by(one)]
    left = [name for name in signature.outputs if name not in read]
    problems += [f"two outputs are called {name!r}" for name in _twice([*given, *left])]
    return problems


def fed_by(options: Options) -> list[str]:
    """The inputs of the signature that a stage gives."""
    match options:
        case TokenizerOptions():
            return list(options.outputs.values())
        case LabelsOptions():
            return []
    return [options.output]


def given_by(options: LabelsOptions) -> list[str]:
    """What a stage makes of an output, by name."""
    return [options.name, *([f"{options.name}_score"] if options.with_scores else [])]


def layout_of(spec: TensorSpec, mode: str) -> str | None:
    """Where the axes of a picture stand in an array of pictures, or `None` if it cannot be one."""
    channels = 1 if mode == "L" else 3
    match spec.shape:
        case (_, _, _) if mode == "L":
            return "HW"
        case (_, _, _, last) if last == channels:
            return "HWC"
        case (_, first, _, _) if first == channels:
            return "CHW"
    return None


def largest(axis: Axis, dims: Iterable[Dim]) -> int | None:
    """The largest size that an axis may have, or `None` if there is no bound."""
    if isinstance(axis, int):
        return axis
    bound = next((dim for dim in dims if dim.name == axis), None)
    if bound is None or bound.max is None:
        return None
    return bound.max // (bound.multiple_of or 1) * (bound.multiple_of or 1)


def fitting(size: int, axis: Axis, dims: Iterable[Dim]) -> int:
    """The smallest size of an axis, at least `size` and 1, that its bounds allow."""
    if isinstance(axis, int):
        return axis
    bound = next((dim for dim in dims if dim.name == axis), Dim("any"))
    step = bound.multiple_of or 1
    return -(-max(size, bound.min or 0, 1) // step) * step


def _twice(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _misfits(options: Options, signature: Signature) -> Iterator[str]:
    inputs, outputs = signature.inputs, signature.outputs
    match options:
        case TokenizerOptions():
            yield from _tokenizer_misfits(options, inputs)
        case VocabularyOptions():
            if spec := inputs.get(options.output):
                if not _is_integer(spec) or spec.shape is None:
                    yield _expected(options.output, "integers of a known number of axes", spec)
            else:
                yield _unknown(options.output, "input", inputs)
        case ImageOptions():
            yield from _image_misfits(options, inputs)
        case LabelsOptions():
            yield from _label_misfits(options, outputs)


def _tokenizer_misfits(
    options: TokenizerOptions, inputs: Mapping[str, TensorSpec]
) -> Iterator[str]:
    if not options.outputs:
        yield "outputs is empty: it says which input takes the ids"
    shapes = set()
    for part, name in options.outputs.items():
        spec = inputs.get(name)
        if spec is None:
            yield _unknown(name, "input", inputs)
            continue
        plain = _is_mask(spec) if part == "attention_mask" else _is_integer(spec)
        axes = spec.shape or ()
        if not plain or len(axes) != 2 or not all(map(_is_simple, axes)):
            yield _expected(name, "integers of the shape [batch, tokens]", spec)
            continue
        shapes.add(axes)
        bound = largest(axes[1], spec.dims)
        if bound is not None and options.max_length is not None and options.max_length > bound:
            yield f"max_length is {options.max_length}, and {name!r} has {bound} tokens at most"
    if len(shapes) > 1:
        yield f"the inputs {', '.join(options.outputs.values())} differ in their axes"


def _image_misfits(options: ImageOptions, inputs: Mapping[str, TensorSpec]) -> Iterator[str]:
    spec = inputs.get(options.output)
    if spec is None:
        yield _unknown(options.output, "input", inputs)
        return
    channels = 1 if options.mode == "L" else 3
    wanted: dict[str, tuple[int, ...]] = {
        "HW": tuple(options.size),
        "HWC": (*options.size, channels),
        "CHW": (channels, *options.size),
    }
    axes = wanted[options.layout]
    shape = spec.shape or ()
    is_fitting = len(shape) == len(axes) + 1 and all(
        not isinstance(axis, int) or axis == size
        for axis, size in zip(shape[1:], axes, strict=True)
    )
    if not is_fitting or (options.layout == "HW" and options.mode != "L"):
        shown = ", ".join(map(str, ("batch", *axes)))
        yield f"{options.output!r} would get [{shown}] of {options.mode}, and takes {spec}"
    if math.prod(options.size) > MAX_PIXELS:
        yield f"size is {options.size}, more than {MAX_PIXELS:,} pixels"
    numbers = [options.scale, *options.mean, *options.std]
    if not all(map(math.isfinite, map(float, numbers))) or not all(map(float, options.std)):
        yield "scale, mean and std are finite numbers, and std is not 0"
    if any(len(one) not in (0, channels) for one in (options.mean, options.std)):
        yield f"mean and std have a number for each of {channels} channels"
    plain = float(options.scale) == 1 and not options.mean and not options.std
    if not _is_float(spec) and not (_is_integer(spec) and plain and holds(spec, 255)):
        kind = "integers that hold 255, or floats" if plain else "floats, since values are scaled"
        yield _expected(options.output, kind, spec)


def _label_misfits(options: LabelsOptions, outputs: Mapping[str, TensorSpec]) -> Iterator[str]:
    spec = outputs.get(options.output)
    if spec is None:
        yield _unknown(options.output, "output", outputs)
    elif not spec.shape or not (_is_float(spec) or _is_integer(spec)):
        yield _expected(options.output, "scores, a number for each label in the last axis", spec)
    elif isinstance(spec.shape[-1], int) and spec.shape[-1] < options.top_k:
        yield f"top_k is {options.top_k}, and {options.output!r} is {spec}"


def holds(spec: TensorSpec, number: int) -> bool:
    """Whether an array of integers can hold a number of at least 0."""
    assert isinstance(spec.dtype, np.dtype), "integers are no keys"
    bits = int(spec.dtype.name.lstrip("uint"))
    return number < 1 << (bits - (not spec.dtype.name.startswith("u")))


def _is_integer(spec: TensorSpec) -> bool:
    return isinstance(spec.dtype, np.dtype) and spec.dtype.name.lstrip("u").startswith("int")


def _is_float(spec: TensorSpec) -> bool:
    dtype = spec.dtype
    return isinstance(dtype, np.dtype) and is_inexact(dtype) and dtype.kind != "c"


def _is_mask(spec: TensorSpec) -> bool:
    return _is_float(spec) or _is_integer(spec) or spec.dtype.name == "bool"


def _is_simple(axis: Axis) -> bool:
    """Whether an axis is a size, a name or free: whoever pads need not solve an expression."""
    return not isinstance(axis, str) or axis.isidentifier()


def _expected(name: str, kind: str, spec: TensorSpec) -> str:
    return f"{name!r} has to be {kind}, and is {spec}"


def _unknown(name: str, kind: str, known: Mapping[str, TensorSpec]) -> str:
    return f"there is no {kind} {name!r}, the {kind}s are {', '.join(map(repr, known)) or 'none'}"

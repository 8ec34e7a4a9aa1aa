"""Arrays from pictures, which Pillow reads: `FILE.png`, `FILE.jpg[scale=1/255,size=8x8,mode=L]`."""

import re
import warnings
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from exporter.cli.arrays.sources import Source
from exporter.errors import MissingExtraError
from signatures.dtypes import is_inexact
from signatures.errors import BindError
from signatures.spec import TensorSpec

# A picture of more is not unpacked: a small file can claim to be any size.
MAX_PIXELS = 2**26
_MAX_SIDE = 2**14

_SCALE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?:/([0-9]+(?:\.[0-9]+)?))?")
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
_MODES = ("L", "RGB", "RGBA")
_LAYOUTS = ("HWC", "CHW")
_OPTIONS = "scale=1/255, size=WIDTHxHEIGHT, mode=L|RGB|RGBA, layout=HWC|CHW"


@dataclass(frozen=True)
class Options:
    """What stands in brackets after the name of a picture.

    Attributes:
      scale: what each value is multiplied by, or `None` to leave them as they are.
      size: width and height to make it, or `None` for its own.
      mode: how its colours are told, as Pillow calls it, or `None` for its own.
      layout: where the axis of the colours stands, if there is one.
    """

    scale: Fraction | None = None
    size: tuple[int, int] | None = None
    mode: str | None = None
    layout: str = "HWC"


def read_image(source: Source, spec: TensorSpec | None) -> np.ndarray:
    """The picture as an array of the dtype of `spec`, and without its first axis if it has one.

    Values are those in the file, 0 to 255 for all but a few, unless a scale is given. A picture
    becomes a plain row of values where the spec wants exactly as many.

    Raises:
      BindError: if it cannot be read, or does not fit.
      MissingExtraError: without Pillow.
    """
    options = _options(source)
    array = _pixels(source, options)
    if options.layout == "CHW" and array.ndim == 3:
        array = array.transpose(2, 0, 1)
    if spec is None:
        return array
    fitted = _fitted(array, spec)
    if fitted is None:
        raise BindError(
            f"{source.name} is a picture of {array.dtype.name}{list(array.shape)}, expected "
            f"{spec}; convert it with {source.name}[OPTION,...]: {_OPTIONS}"
        )
    return _converted(fitted, spec, options, source.name)


def _options(source: Source) -> Options:
    found: dict[str, object] = {}
    for word in source.suffix.split(",") if source.suffix else ():
        name, _, text = word.strip().partition("=")
        value = _option(name, text)
        if value is None or name in found:
            raise BindError(f"{source.name}[{source.suffix}]: {word!r} is none of {_OPTIONS}")
        found[name] = value
    return Options(**found)  # type: ignore[arg-type]  # each is of its type


def _option(name: str, text: str) -> object:
    """The value of an option, or `None` if there is no such thing."""
    match name:
        case "scale":
            parts = _SCALE.fullmatch(text)
            numbers = [Fraction(part or "1") for part in parts.groups()] if parts else [Fraction(0)]
            return numbers[0] / numbers[1] if all(numbers) else None
        case "size":
            sides = _SIZE.fullmatch(text)
            size = tuple(map(int, sides.groups())) if sides else (0, 0)
            return size if all(0 < side <= _MAX_SIDE for side in size) else None
        case "mode":
            return text if text in _MODES else None
        case "layout":
            return text if text in _LAYOUTS else None
    return None


def _pixels(source: Source, options: Options) -> np.ndarray:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtraError(
            f"{source.name} is a picture, which Pillow reads. Install it: "
            "pip install 'jax-exporter[stages]'"
        ) from error
    with source.opened() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large pictures are refused below, whatever Pillow says
        try:
            opened = Image.open(file, formats=("PNG", "JPEG", "WEBP"))
        except UnidentifiedImageError as error:
            raise BindError(f"{source.name} is no PNG, JPEG or WebP; save it as one") from error
        except Image.DecompressionBombError as error:  # far beyond our own limit
            raise _too_large(source) from error
        with opened as image:
            if image.size[0] * image.size[1] > MAX_PIXELS:
                raise _too_large(source)
            mode = options.mode or _own_mode(image.mode, has_mask="transparency" in image.info)
            converted = image if image.mode == mode else image.convert(mode)
            if options.size:
                converted = converted.resize(options.size, Image.Resampling.BILINEAR)
            return np.array(converted)


def _too_large(source: Source) -> BindError:
    return BindError(
        f"{source.name} claims to have more than {MAX_PIXELS:,} pixels, which are not read; "
        "make it smaller"
    )


def _own_mode(mode: str, *, has_mask: bool) -> str:
    """The mode that a picture is read in: its own, unless it has a palette or inks."""
    if mode.startswith(("L", "RGB", "I")) and mode != "LAB":
        return mode
    if mode == "1":
        return "L"
    return "RGBA" if has_mask else "RGB"


def _fitted(array: np.ndarray, spec: TensorSpec) -> np.ndarray | None:
    """The picture with the axes of a spec, of which the first may be missing."""
    shape = spec.shape
    if shape is None:
        return array
    if array.ndim == 2 and len(shape) >= 3 and shape[-1] == 1:
        array = array[..., None]
    for made in (array, array.reshape(-1)):
        wanted = shape[len(shape) - made.ndim :] if made.ndim else shape
        is_near = len(shape) - made.ndim in (0, 1)
        if is_near and all(
            not isinstance(axis, int) or axis == size
            for axis, size in zip(wanted, made.shape, strict=True)
        ):
            is_row = made.ndim == 1
            return made if not is_row or isinstance(wanted[-1], int) else None
    return None


def _converted(array: np.ndarray, spec: TensorSpec, options: Options, name: str) -> np.ndarray:
    """The values in the dtype of a spec, scaled if that was asked for."""
    dtype = spec.dtype
    if not isinstance(dtype, np.dtype):
        raise BindError(f"{name} is a picture, and {spec} was expected")
    if options.scale is None:
        made: np.ndarray = array.astype(dtype)
        if not np.array_equal(made.astype(np.float64), array):
            raise BindError(f"{name} has values that {dtype.name} cannot hold; give it a scale=")
        return made
    if not is_inexact(dtype):
        raise BindError(f"{name}: scale= makes fractions, and {spec} was expected; leave it out")
    wide = array.astype(np.float64) * options.scale.numerator / options.scale.denominator
    return wide.astype(dtype)

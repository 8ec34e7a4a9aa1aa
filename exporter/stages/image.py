"""Pictures become arrays of pixels, as Pillow reads and resizes them."""

import base64
import binascii
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from exporter.artifact.records import ImageOptions
from exporter.artifact.stages import MAX_PIXELS, layout_of
from exporter.errors import StageError
from exporter.stages.stage import Prepared, chosen, missing
from signatures.errors import BindError
from signatures.signature import Signature

# The formats that are read. The fewer there are, the less of Pillow meets files from strangers.
_FORMATS = ("PNG", "JPEG", "WEBP")
_TOLD = "PNG, JPEG or WebP"

_WAYS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class Image:
    """Pictures in, pixels out: `(pixel * scale - mean) / std`, where a pixel is from 0 to 255.

    A picture is the path of a file (`pathlib.Path`), the content of one (bytes, or
    `{"b64": text}`), an image of Pillow, or an array of bytes with the axes `[height, width]` or
    `[height, width, channels]`. A list is a batch; anything else is a batch of one. Text is no
    picture: a server that passes on what strangers send must not open the files that they name.

    Files are PNG, JPEG or WebP. They are turned upright as their EXIF says, transparency is left
    out, of 16 bits the upper 8 count, and of a moving picture the first one. A picture of another
    size is made to fit, each side by itself.

    Attributes:
      input: what callers name the pictures.
      output: the input of the signature that takes them; not needed if there is only one. Whether
        its channels are its last axis or come before height and width is read off its shape.
      size: height and width to make them. `None` takes those of the signature.
      mode: `L` for grey, `RGB` for colours. `None` is grey for an input without three channels.
      scale: what pixels are multiplied with, such as `1 / 255`.
      mean: what is then subtracted, one number or one for each channel.
      std: what that is divided by, likewise.
      resample: how sizes are changed: `nearest`, `bilinear`, `bicubic` or `lanczos`.
    """

    input: str = "image"
    output: str | None = None
    size: tuple[int, int] | None = None
    mode: Literal["L", "RGB"] | None = None
    scale: float = 1.0
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"

    def prepared(self, signature: Signature) -> Prepared:
        """See `Stage`."""
        output = chosen(self.output, signature.inputs, "output")
        spec = signature.inputs.get(output)
        if spec is None:
            known = ", ".join(map(repr, signature.inputs))
            raise StageError(f"there is no input {output!r}, the inputs are {known}")
        mode = self.mode or ("RGB" if layout_of(spec, "RGB") else "L")
        layout = layout_of(spec, mode)
        if layout is None:
            raise StageError(
                f"{output!r} is {spec}, and pictures of mode {mode} are [batch, height, width] if "
                "grey, or have an axis of 1 (L) or 3 (RGB) channels after these or before"
            )
        start = 2 if layout == "CHW" else 1
        if self.resample not in _WAYS:
            raise StageError(f"resample is one of {', '.join(_WAYS)}; got {self.resample!r}")
        size = self.size or tuple((spec.shape or ())[start : start + 2])
        if len(size) != 2 or not all(isinstance(side, int) for side in size):
            raise StageError(f"size= is (height, width), since {output!r} is {spec}")
        channels = 1 if mode == "L" else 3
        options = ImageOptions(
            input=self.input,
            output=output,
            size=[int(side) for side in size if side is not None],
            mode=mode,
            layout=layout,  # type: ignore[arg-type]  # one of the layouts
            resample=self.resample,
            scale=_decimal(self.scale),
            mean=_decimals(self.mean, channels),
            std=_decimals(self.std, channels),
        )
        return Prepared(options)


class Picturing:
    """The stage at work."""

    def __init__(self, options: ImageOptions, signature: Signature) -> None:
        """The stage before that signature."""
        self._options = options
        self._dtype = cast(np.dtype[Any], signature.inputs[options.output].dtype)

    def arrays(self, value: object) -> dict[str, Any]:
        """See `InputStage`."""
        name, options = self._options.input, self._options
        pictures, problems = [], []
        for position, one in enumerate(_listed(value)):
            try:
                pictures.append(self._pixels(one))
            except ValueError as error:
                file = f" ({os.fspath(one)})" if isinstance(one, os.PathLike) else ""
                problems.append(f"{name}[{position}]{file}: {error}")
        if problems:
            raise BindError("\n".join(problems), problems)
        channels = {"HW": (), "HWC": (len(options.mode),), "CHW": (len(options.mode),)}
        height, width = options.size
        shape = (len(pictures), height, width, *channels[options.layout])
        pixels = np.array(pictures, np.uint8).reshape(shape)
        array = self._scaled(pixels)
        return {options.output: array.transpose(0, 3, 1, 2) if options.layout == "CHW" else array}

    def _pixels(self, picture: object) -> np.ndarray:
        try:
            from PIL import Image as pillow  # noqa: N813  # our own Image is another
        except ImportError as error:
            raise missing("Pillow", "a picture") from error
        height, width = self._options.size
        way = pillow.Resampling[self._options.resample.upper()]
        with _opened(picture, pillow) as opened:
            _check_size(*opened.size)
            if opened.mode in {"I", "F"}:
                raise ValueError(f"has pixels of mode {opened.mode}, expected 8 or 16 bits of each")
            try:
                plain = _eight_bits(_upright(opened), pillow).convert(self._options.mode)
                return np.asarray(plain.resize((width, height), way))
            except Exception as error:  # Pillow raises almost anything for damaged files
                raise ValueError(f"is damaged: {error}") from error

    def _scaled(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels in the dtype of the input, computed with 32 bits, or 64 where it has as many."""
        options, dtype = self._options, self._dtype
        if float(options.scale) == 1 and not options.mean and not options.std:
            return pixels.astype(dtype)
        wide = np.dtype(np.float64 if dtype == np.float64 else np.float32)
        array: np.ndarray = pixels.astype(wide) * wide.type(options.scale)
        if options.mean:
            array = array - np.array(list(map(float, options.mean)), wide)
        if options.std:
            array = array / np.array(list(map(float, options.std)), wide)
        return array.astype(dtype)


def _listed(value: object) -> Sequence[object]:
    """The pictures of a value."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, np.ndarray) and value.ndim == 4:
        return list(value)
    return [value]


def _opened(picture: object, pillow: Any) -> Any:
    """A picture that Pillow has looked into, but not unpacked.

    Raises:
      ValueError: if it is none.
    """
    if isinstance(picture, pillow.Image):
        return nullcontext(picture)  # it is its owner who closes it
    if isinstance(picture, np.ndarray) or hasattr(picture, "__array__"):
        return pillow.fromarray(_checked(np.asarray(picture)))
    source = _source(picture)
    try:
        return pillow.open(source, formats=_FORMATS)
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise ValueError(_TOO_LARGE) from error
    except pillow.UnidentifiedImageError as error:
        raise ValueError(f"is no {_TOLD}; save it as one") from error
    except Exception as error:  # Pillow raises almost anything for damaged files
        raise ValueError(f"cannot be read: {error}") from error


def _upright(image: Any) -> Any:
    """A picture as people see it: cameras say in it how they were held."""
    from PIL import ImageOps

    image.load()  # damaged pixels are another matter than what is said beside them
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001  # viewers leave damaged tags aside too
        return image


def _eight_bits(image: Any, pillow: Any) -> Any:
    """A picture with 8 bits for each channel, the upper ones, and colours without a palette."""
    if image.mode.startswith("I;16"):
        return pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    has_mask = image.mode == "P" and "transparency" in image.info
    return image.convert("RGBA") if has_mask else image


def _source(picture: object) -> Path | io.BytesIO:
    """The file of a picture, or its content as one.

    Raises:
      ValueError: if it is neither a path nor the content of a file.
    """
    match picture:
        case os.PathLike():
            source = Path(picture)
            if not source.is_file():
                raise ValueError("is not a file")
            return source
        case bytes() | bytearray() | memoryview():
            return io.BytesIO(picture)
        case {"b64": str(text)} if isinstance(picture, Mapping) and len(picture) == 1:
            try:
                return io.BytesIO(base64.b64decode(text, validate=True))
            except (binascii.Error, ValueError) as error:
                raise ValueError(f"is not base64: {error}") from error
        case str():
            raise ValueError(
                "expected a picture, got text. Pass pathlib.Path(...) for a file, or its content "
                'as bytes or {"b64": ...}'
            )
    raise ValueError(
        "expected a path, bytes, an image of Pillow or an array of uint8, got "
        f"{type(picture).__name__}"
    )


_TOO_LARGE = f"claims to have more than {MAX_PIXELS:,} pixels, which are not unpacked"


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(_TOO_LARGE)
    if not width or not height:
        raise ValueError("has no pixels")


def _checked(array: np.ndarray) -> np.ndarray:
    """An array that is a picture, without an axis of one channel."""
    plain = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    is_picture = plain.ndim == 2 or (plain.ndim == 3 and plain.shape[-1] in (3, 4))
    if array.dtype != np.uint8 or not is_picture:
        raise ValueError(
            f"expected uint8[height, width] or uint8[height, width, 3], got {array.dtype}"
            f"{list(array.shape)}. Arrays as the model takes them go to its signature"
        )
    _check_size(plain.shape[1], plain.shape[0])
    return np.ascontiguousarray(plain)


def _decimal(number: object) -> str:
    try:
        return repr(float(number))  # type: ignore[arg-type]  # the question is whether it can be
    except (TypeError, ValueError) as error:
        raise StageError(f"scale, mean and std are numbers; got {number!r}") from error


def _decimals(numbers: object, channels: int) -> list[str]:
    if numbers is None:
        return []
    if isinstance(numbers, Sequence | np.ndarray) and not isinstance(numbers, str):
        return [_decimal(number) for number in numbers]
    return [_decimal(numbers)] * channels

"""Examples of what the stages of a signature take: texts, words and pictures, to be copied."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporter.artifact.records import (
    ImageOptions,
    LabelsOptions,
    Manifest,
    TokenizerOptions,
    VocabularyOptions,
)
from exporter.artifact.stages import Options, fed_by, options_of

Shapes = Mapping[str, tuple[int, ...]]

# A PNG of one grey pixel.
_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgAB5Sfe/AAAAABJRU5ErkJggg=="
)


@dataclass(frozen=True)
class Staged:
    """An example of what a stage takes.

    Attributes:
      item: one text, word or picture as an expression in Python.
      datum: the same in a request of the Open Inference Protocol, as an element of `BYTES`.
      shape: how many of them.
      content_type: what servers of the protocol call such elements if they are not text.
    """

    item: str
    datum: str
    shape: tuple[int, ...]
    content_type: str | None = None

    @property
    def python(self) -> str:
        """All of them in nested lists, or the only one."""
        if math.prod(self.shape) == 1 and len(self.shape) == 1 and self.content_type:
            return self.item
        text = self.item
        for size in reversed(self.shape):
            text = f"[{text}]" if size == 1 else f"[{text}] * {size}"
        return text

    def tensor(self, name: str, most: int) -> dict[str, object]:
        """The input of that name in a request, with as many elements at most."""
        about = {"parameters": {"content_type": self.content_type}} if self.content_type else {}
        return {
            "name": name,
            "shape": list(self.shape),
            "datatype": "BYTES",
            **about,
            "data": [self.datum] * min(math.prod(self.shape), most),
        }


def staged_of(manifest: Manifest, name: str, shapes: Shapes) -> dict[str, Staged] | None:
    """What the stages of a signature take, by name, so that they make arrays of these shapes.

    An input that is in `shapes` and comes from no stage is given as an array. `None` stands for no
    stages, or for some that we do not know.
    """
    options = _options(manifest, name)
    if not options:
        return None
    return dict(_examples(options, shapes))


def arrays_of(manifest: Manifest, name: str, shapes: Shapes) -> Shapes:
    """The shapes of the inputs that come from no stage."""
    fed = {one for options in _options(manifest, name) for one in fed_by(options)}
    return {one: shape for one, shape in shapes.items() if one not in fed}


def _options(manifest: Manifest, name: str) -> Sequence[Options]:
    found = [options_of(record) for record in manifest.stages.get(name, ())]
    known = [options for options in found if options is not None]
    return known if len(known) == len(found) else ()


def _examples(stages: Sequence[Options], shapes: Shapes) -> Iterator[tuple[str, Staged]]:
    for options in stages:
        fed = [shapes[one] for one in fed_by(options) if one in shapes]
        if not fed or isinstance(options, LabelsOptions):  # or it has defaults
            continue
        shape = fed[0]
        match options:
            case TokenizerOptions():
                yield options.input, Staged('"hello"', "hello", shape[:1])
            case VocabularyOptions():
                word = options.unknown or "word"
                yield options.input, Staged(_literal(word), word, shape)
            case ImageOptions():
                picture = 'pathlib.Path("picture.png")'
                yield options.input, Staged(picture, _PIXEL, shape[:1], "base64")


def _literal(text: str) -> str:
    return repr(text) if text.isprintable() else ascii(text)

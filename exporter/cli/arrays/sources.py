"""Where the bytes of an input come from: files by name or pattern, and standard input."""

import glob
import io
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from signatures.errors import BindError

# The kind of a file by how its name ends.
KINDS = {
    "npy": "numpy",
    "npz": "numpy",
    "json": "json",
    "csv": "csv",
    "png": "image",
    "jpg": "image",
    "jpeg": "image",
    "webp": "image",
}
FORMS = "FILE.npy, FILE.npz[KEY], FILE.json, FILE.csv, FILE.png"

# How files of a kind begin. What begins otherwise is text.
_MAGIC = {
    b"\x93NUMPY": "numpy",
    b"PK\x03\x04": "numpy",
    b"PK\x05\x06": "numpy",
    b"\x89PNG\r\n\x1a\n": "image",
    b"\xff\xd8\xff": "image",
    b"RIFF": "image",  # WebP
}

# More text than this is no input by hand, and takes ten times its size in memory when it is parsed.
MAX_TEXT_BYTES = 256 * 2**20

# What standard input may hold, be it text or not: it is kept in memory.
MAX_PIPED_BYTES = 4 * 2**30

# The first ending after which there is nothing more, or something in brackets: so names and
# suffixes may have brackets of their own.
_FILE = re.compile(
    rf"(?P<file>.+?\.(?P<kind>{'|'.join(KINDS)}))(?:\[(?P<suffix>.*)\])?", re.DOTALL | re.IGNORECASE
)
_PIPED = re.compile(r"-(?:\[(?P<suffix>.*)\])?", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """One file, or what came in by standard input.

    Attributes:
      name: what it is called in messages, and the path of a file.
      kind: what it holds: `"numpy"`, `"json"`, `"csv"`, `"image"` or, of unknown text, `"text"`.
      suffix: what stands in brackets after its name, or `None`.
      data: what came in. `None` stands for what is in the file.
    """

    name: str
    kind: str
    suffix: str | None = None
    data: bytes | None = None

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Its bytes, from the first.

        Raises:
          BindError: if there is no such file. All that goes wrong inside, whatever library raises
            it, becomes a `BindError` that names the file.
        """
        try:
            if self.data is not None:
                yield io.BytesIO(self.data)
                return
            path = Path(self.name)
            if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
                raise BindError(f"{self.name} is not a plain file; write its content to one")
            with path.open("rb") as file:
                yield file
        except BindError:
            raise
        except FileNotFoundError as error:
            raise BindError(f"{self.name} does not exist") from error
        except MemoryError as error:
            raise BindError(f"{self.name} cannot be read: it does not fit into memory") from error
        except Exception as error:  # libraries raise almost anything for damaged files
            refusal: str | None = getattr(error, "strerror", None)
            reason = " ".join((refusal or str(error) or repr(error)).splitlines()[0].split())
            remedy = "" if refusal else "; write it again"
            raise BindError(f"{self.name} cannot be read: {reason}{remedy}") from error

    def text(self) -> str:
        """What it holds as text in UTF-8.

        Raises:
          BindError: if it is no text, or too much of it.
        """
        with self.opened() as file:
            data = file.read(MAX_TEXT_BYTES + 1)
            if len(data) > MAX_TEXT_BYTES:
                raise BindError(
                    f"{self.name} has more than {MAX_TEXT_BYTES:,} bytes of text; save it with "
                    "np.save"
                )
            try:
                return data.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise BindError(
                    f"{self.name} is not text in UTF-8 (byte {error.start}); save it as such"
                ) from error


@dataclass(frozen=True)
class Sources:
    """The files that make one input: one, or with `is_batch` several, one after the other."""

    parts: tuple[Source, ...]
    is_batch: bool = False


class Pipe:
    """Standard input, which can be read once."""

    def __init__(self) -> None:
        self._is_read = False
        self._data: bytes | None = None

    def read(self) -> bytes:
        """All of it, once.

        Raises:
          BindError: if it was read before, or holds too much.
        """
        if self._is_read:
            raise BindError("standard input can be one input only")
        data = self.peek()
        self._is_read = True
        return data

    def kind(self) -> str:
        """What it holds, as `Source.kind` says it, told by how it begins."""
        data = self.peek()
        return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "text")

    def peek(self) -> bytes:
        """All of it, and it can still be read.

        Raises:
          BindError: if it holds too much.
        """
        if self._data is not None:
            return self._data
        stream = getattr(sys.stdin, "buffer", None)
        if stream is None:
            raise BindError("there is no standard input")
        data: bytes = stream.read(MAX_PIPED_BYTES + 1)
        if len(data) > MAX_PIPED_BYTES:
            raise BindError(
                f"standard input has more than {MAX_PIPED_BYTES:,} bytes; give them in a file"
            )
        self._data = data
        return data


def sources(text: str, pipe: Pipe) -> Sources | None:
    """The files that a word names, or `None` if it names none.

    Raises:
      BindError: if a pattern fits no file, or standard input cannot be read.
    """
    if found := _PIPED.fullmatch(text):
        data = pipe.read()
        return Sources((Source("standard input", pipe.kind(), found["suffix"], data),))
    whole = _source(text)
    if whole is not None and _exists(text):  # its name may have commas, stars and brackets
        return Sources((replace(whole, name=text, suffix=None),))
    words = _split(text)
    named = [source for word in words if (source := _source(word)) is not None]
    if len(named) < len(words):
        return None
    last = named[-1]
    parts = [
        one
        for source in named
        for one in _matched(
            source
            if source.suffix is not None or source.kind != last.kind
            else replace(source, suffix=last.suffix)
        )
    ]
    return Sources(tuple(parts), len(words) > 1 or any(map(_is_pattern, named)))


def _source(word: str) -> Source | None:
    found = _FILE.fullmatch(word)
    if found is None:
        return None
    return Source(found["file"], KINDS[found["kind"].lower()], found["suffix"])


def _matched(source: Source) -> Iterator[Source]:
    """The source itself, or the files that fit the pattern that it is."""
    if not _is_pattern(source):
        yield source
        return
    names = sorted(glob.glob(source.name.replace("[", "[[]")))  # noqa: PTH207  # absolute ones too
    if not names:
        raise BindError(f"{source.name} fits no file")
    for name in names:
        yield replace(source, name=name)


def _is_pattern(source: Source) -> bool:
    return not {"*", "?"}.isdisjoint(source.name) and not _exists(source.name)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # no file can have such a name
        return False


def _split(text: str) -> list[str]:
    """The words between commas that are in no brackets."""
    words, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            words.append(text[start:place])
            start = place + 1
    return [*words, text[start:]]

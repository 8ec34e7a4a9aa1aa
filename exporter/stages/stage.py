"""What every kind of stage has: as its author says it, as it is prepared, as it is at work."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from exporter.artifact.stages import MAX_FILE_BYTES, MAX_LINES, Options
from exporter.errors import MissingExtraError, StageError
from signatures.signature import Signature

# What a stage takes or gives that is no array.
Kind = Literal["text", "words", "image", "label"]


@dataclass(frozen=True)
class Prepared:
    """A stage as it is saved.

    Attributes:
      options: what the manifest says of it.
      files: the name and content of each file of it.
    """

    options: Options
    files: tuple[tuple[str, bytes], ...] = ()


class Stage(Protocol):
    """A stage as its author says it."""

    def prepared(self, signature: Signature) -> Prepared:
        """The stage as it is saved with that signature.

        Raises:
          StageError: if a file or an option cannot be.
        """


class InputStage(Protocol):
    """A stage at work before a signature: one value of a caller becomes arrays."""

    def arrays(self, value: object) -> dict[str, Any]:
        """The inputs of the signature that the stage gives.

        Raises:
          BindError: if the value is none that it takes.
        """


class OutputStage(Protocol):
    """A stage at work after a signature: one output becomes what a caller gets instead."""

    def results(self, output: Any) -> dict[str, Any]:
        """What stands in the place of the output, by name."""


def content_of(path: str | os.PathLike[str]) -> tuple[str, bytes]:
    """The name and content of a file of a stage.

    Raises:
      StageError: if it cannot be read.
    """
    file = Path(path)
    try:
        if not file.is_file():  # a pipe would never end
            raise StageError(f"{file} is not a file" if file.exists() else f"{file} is not there")
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, StageError):
            raise
        raise StageError(f"{str(file)!r} cannot be read: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise StageError(f"{file} has more than {MAX_FILE_BYTES:,} bytes")
    return file.name, data


def lines_of(data: bytes, name: str) -> list[str]:
    """The lines of a text file in UTF-8, without their ends.

    Only a line feed ends a line, perhaps after a carriage return: vocabularies have all other
    characters in their words.

    Raises:
      StageError: if it is no such file, or is empty.
    """
    if data.count(b"\n") > MAX_LINES:
        raise StageError(f"{name} has more than {MAX_LINES:,} lines, which are not read")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StageError(f"{name} is not text in UTF-8: {error}") from error
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if lines == [""]:
        raise StageError(f"{name} is empty; it has one word or label in each line")
    return lines


def as_lines(
    given: str | os.PathLike[str] | Sequence[str], name: str, what: str
) -> tuple[str, bytes]:
    """The name and content of the text file that was given, or of one made of a list.

    Raises:
      StageError: if it cannot be read, or a word of the list cannot stand in a line.
    """
    if isinstance(given, str | os.PathLike):
        try:
            return content_of(given)
        except StageError as error:
            raise StageError(f"{what}: {error}; {what} themselves are given as a list") from error
    listed: object = given
    words: list[object] = list(listed) if isinstance(listed, Sequence | np.ndarray) else []
    if not words:
        raise StageError(f"{what} is the path of a text file or a list of texts; got {given!r}")
    for position, word in enumerate(words):
        if not isinstance(word, str) or "\n" in word or word.endswith("\r"):
            raise StageError(f"{what}[{position}] is {word!r}, and not text of one line")
    try:
        return name, "".join(f"{word}\n" for word in words).encode()
    except UnicodeEncodeError as error:
        raise StageError(f"{what} has text with half of a surrogate pair: {error}") from error


def missing(library: str, what: str) -> MissingExtraError:
    """The error that `what` needs a library that is not installed."""
    return MissingExtraError(
        f"{what} needs {library}, which is not installed. Install it with "
        "pip install 'jax-exporter[stages]'"
    )


def chosen(name: str | None, known: Mapping[str, object], what: str) -> str:
    """The name that was given, or the only one that there is.

    Raises:
      StageError: if there are several.
    """
    if name is not None:
        return name
    if len(known) != 1:
        raise StageError(f"{what}= is not given, and there are {', '.join(map(repr, known))}")
    return next(iter(known))

"""What a command is to the program: its words in the help, its arguments, and what it does."""

import argparse
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Self

from exporter.artifact.reading import watched
from exporter.errors import ArtifactReplacedError
from signatures.errors import ExporterError


class Exit(IntEnum):
    """What a script learns from the exit code of a command.

    The last two are what a shell reports for a program that SIGINT or SIGPIPE has stopped.
    """

    DONE = 0, "done; of a question, the answer is yes"
    UNUSABLE = 1, "something given cannot be used: one line on stderr says what"
    USAGE = 2, "the words are not those of a command"
    NO = 3, "the command worked and the answer is no"
    INTERRUPTED = 130, "interrupted"
    READER_GONE = 141, "nobody reads the output any more"

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        """A code with its meaning, in a line."""
        made = int.__new__(cls, code)
        made._value_ = code
        made.meaning = meaning
        return made

    @classmethod
    def answer(cls, *, is_yes: bool) -> "Exit":
        """What `execute` returns for a question that was answered."""
        return cls.DONE if is_yes else cls.NO


def given_path(text: str) -> Path:
    """The path of a file or folder in words, for argparse. No text at all is none."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)


@dataclass(frozen=True)
class Command:
    """One command of `exporter`.

    Attributes:
      name: the word after `exporter`.
      usage: how its arguments are written, after its name.
      summary: one line for the list of commands.
      description: what it does, for its own help.
      examples: lines to copy, each a command.
      add_arguments: adds its arguments to a parser. Those of type `Path` complete to folders in a
        shell, or to files if their metavar says `FILE`.
      execute: does it, with the parsed arguments. It prints results, and raises an error of the
        package or an `OSError` for what it cannot use. What asks a question returns
        `Exit.answer(is_yes=...)`; `None` is `Exit.DONE`.
      only_reads: whether it tells what it finds by reading file after file, which would be of two
        artifacts if one was replaced by the other meanwhile.
    """

    name: str
    usage: str
    summary: str
    description: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace], int | None]
    only_reads: bool = False

    def run(self, arguments: argparse.Namespace) -> int | None:
        """Execute it with these arguments, and return what `execute` does.

        Raises:
          ArtifactReplacedError: if an artifact among them was replaced meanwhile, and the command
            failed or only reads.
        """
        given = (getattr(arguments, name, None) for name in ("folder", "old", "new"))
        with contextlib.ExitStack() as held:
            looks = {
                path: held.enter_context(watched(path)) for path in given if isinstance(path, Path)
            }
            try:
                code = self.execute(arguments)
            except BrokenPipeError:
                raise
            except (ExporterError, OSError) as error:
                _refuse_replaced(looks, error)
                raise
            if self.only_reads:
                _refuse_replaced(looks)
        return code


def _refuse_replaced(
    looks: Mapping[Path, Callable[[], bool]], cause: Exception | None = None
) -> None:
    for path, was_replaced in looks.items():
        if was_replaced():
            raise ArtifactReplacedError(
                f"'{path}' was replaced while it was read. Run the command again."
            ) from cause

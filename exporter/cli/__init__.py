"""The command `exporter`: parse, call one function, print.

A command prints its result to stdout and nothing else there. What it cannot use it names in one
line on stderr.
"""

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from exporter.cli.check import CHECK
from exporter.cli.command import Exit
from exporter.cli.compile import COMPILE
from exporter.cli.convert import CONVERT
from exporter.cli.diff import DIFF
from exporter.cli.run import RUN
from exporter.cli.scan import SCAN
from exporter.cli.serve import SERVE
from exporter.cli.show import SHOW
from exporter.cli.sign import SIGN
from exporter.cli.terminal import bad
from exporter.cli.verify import VERIFY
from exporter.cli.words import parser_of
from exporter.errors import OptionError
from exporter.markup import printable
from signatures.errors import ExporterError

# What is being written, before it has its name.
_UNFINISHED = re.compile(r"\..+\.(writing|saving-[0-9a-f]+|[a-z0-9_]{8})")

COMMANDS = (SHOW, RUN, SERVE, VERIFY, COMPILE, CONVERT, DIFF, CHECK, SCAN, SIGN)

_EXAMPLES = """\
  exporter show digits/1
  exporter run digits/1 --inputs image=image.npy
  exporter serve digits/1
  exporter verify digits/1
  exporter compile digits/1 --size batch=1,8
  exporter convert digits/1 --to litert --size batch=1 --out digits.tflite
  exporter diff digits/1 digits/2
  exporter check models:Classifier
  exporter scan digits/1
  exporter sign digits/1 --key private.pem"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
      argv: the words after `exporter`. `None` takes those of this process.

    Returns:
      The exit code, see `Exit`.

    Raises:
      SystemExit: with code 2 if the words are not those of a command, and with 0 after `--help`
        and `--version`, as argparse does.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names may be in letters the terminal lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    parser: argparse.ArgumentParser = parser_of(COMMANDS, _EXAMPLES)
    try:
        if sys.stdout is None:
            raise OptionError("standard output is closed, so the result would be lost.")
        try:
            arguments = parser.parse_args(argv)
            parser = arguments.parser
            code = arguments.execute(arguments)
        finally:
            _flush()
    except BrokenPipeError:
        return Exit.READER_GONE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except (ExporterError, OSError) as error:
        prefix = bad(f"{parser.prog}: error:", sys.stderr)
        print(f"{prefix} {printable(one_line(error))}", file=sys.stderr)
        return Exit.UNUSABLE
    return Exit.DONE if code is None else code


def _flush() -> None:
    """Write what is left to stdout. If that fails, Python must not try again when it exits."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise


def _place(filename: object) -> str:
    """A path for people: of what is written under a hidden name first, its folder."""
    path = Path(os.fsdecode(filename)) if isinstance(filename, str | bytes) else Path(str(filename))
    return str(path.parent) if _UNFINISHED.fullmatch(path.name) else str(path)


def one_line(error: Exception) -> str:
    """A message of several lines as one: its list of problems is joined by semicolons."""
    if isinstance(error, OSError) and not isinstance(error, ExporterError):
        reason = error.strerror or str(error)
        return f"{_place(error.filename)}: {reason}" if error.filename else reason
    text = ""
    was_listed = False
    for line in filter(str.strip, str(error).splitlines()):
        is_listed = line.startswith(" ")
        if text.endswith((":", ".")):
            text += " "
        elif text:
            text += "; " if is_listed and was_listed else ". "
        text += line.strip()
        was_listed = is_listed
    return text

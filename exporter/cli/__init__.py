"""The command `exporter`: parse, call one function, print.

A command prints its result to stdout and nothing else there. What it cannot use it names in one
line on stderr.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from exporter.cli.compile import COMPILE
from exporter.cli.diff import DIFF
from exporter.cli.run import RUN
from exporter.cli.show import SHOW
from exporter.cli.verify import VERIFY
from exporter.runtime.describe import printable
from signatures.errors import ExporterError

COMMANDS = (SHOW, RUN, VERIFY, COMPILE, DIFF)

_EXAMPLES = """\
  exporter show digits/1
  exporter run digits/1 --inputs image=image.npy
  exporter verify digits/1
  exporter compile digits/1 --size batch=1,8
  exporter diff digits/1 digits/2"""

# What a shell reports for a program that was stopped by SIGINT and by SIGPIPE.
INTERRUPTED = 130
READER_GONE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
      argv: the words after `exporter`. `None` takes those of this process.

    Returns:
      0 when it is done, 3 if the answer to what was asked is no, 1 if something given cannot be
      used, 130 if it was interrupted, and 141 if nobody reads the output any more.

    Raises:
      SystemExit: with code 2 if the words are not those of a command, and with 0 after `--help`
        and `--version`, as argparse does.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names may be in letters the terminal lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser()
    try:
        try:
            arguments = parser.parse_args(argv)
            parser = arguments.parser
            status: int | None = arguments.execute(arguments)
        finally:
            _flush()
    except BrokenPipeError:
        return READER_GONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ExporterError, OSError) as error:
        print(f"{parser.prog}: error: {printable(one_line(error))}", file=sys.stderr)
        return 1
    return status or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="exporter",
        description="Look into saved JAX models, run, verify and compile them without their code.",
        epilog=f"examples:\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    installed = f"jax-exporter {version('jax-exporter')}"
    parser.add_argument(
        "--version", action="version", version=installed, help="print the version and exit"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        own = commands.add_parser(
            command.name,
            usage=f"exporter {command.name} {command.usage}",
            help=command.summary,
            description=command.description,
            epilog=f"examples:\n{command.examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(own)
        own.set_defaults(execute=command.execute, parser=own)
    return parser


def _flush() -> None:
    """Write what is left to stdout. If that fails, Python must not try again when it exits."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise


def one_line(error: Exception) -> str:
    """A message of several lines as one: its list of problems is joined by semicolons."""
    if isinstance(error, OSError) and not isinstance(error, ExporterError):
        reason = error.strerror or str(error)
        return f"{error.filename}: {reason}" if error.filename else reason
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

"""The words of the command line: a parser with all commands, and what it says of other words."""

import argparse
import difflib
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from exporter.cli.command import Command, Exit
from exporter.cli.completion import SHELLS, PrintCompletion
from exporter.markup import printable

# What argparse says of a word that is not among its choices, in and after Python 3.12.
_INVALID_CHOICE = re.compile(
    r"invalid choice: '(?P<word>.*)' \(choose from (?P<known>.*)\)", re.DOTALL
)


class Parser(argparse.ArgumentParser):
    """A parser that suggests what a misspelt word may have been."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, and end the process with code 2."""
        found = _INVALID_CHOICE.search(message)
        if found:
            known = found["known"].replace("'", "").split(", ")
            close = difflib.get_close_matches(found["word"], known, n=1)
            message += f"; did you mean {close[0]!r}?" if close else ""
        super().error(printable(message))


def parser_of(commands: Sequence[Command], examples: str) -> Parser:
    """The parser of the program."""
    codes = "\n".join(f"  {code.value:<4} {code.meaning}" for code in Exit)
    parser = Parser(
        prog="exporter",
        description="Look into saved JAX models, run, verify and compile them without their code.",
        epilog=f"exit codes:\n{codes}\n\nexamples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    installed = f"jax-exporter {version('jax-exporter')}"
    parser.add_argument(
        "--version", action="version", version=installed, help="print the version and exit"
    )
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        choices=SHELLS,
        action=PrintCompletion,
        help=f"print what completes words in a shell, one of {', '.join(SHELLS)}, and exit",
    )
    added = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in commands:
        own = added.add_parser(
            command.name,
            usage=f"exporter {command.name} {command.usage}",
            help=command.summary,
            description=command.description,
            epilog=f"examples:\n{command.examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(own)
        own.set_defaults(execute=command.run, parser=own)
    return parser

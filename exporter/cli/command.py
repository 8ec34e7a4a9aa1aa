"""What a command is to the program: its words in the help, its arguments, and what it does."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

# What a process returns when it did what was asked, and the answer is no.
NO = 3


@dataclass(frozen=True)
class Command:
    """One command of `exporter`.

    Attributes:
      name: the word after `exporter`.
      usage: how its arguments are written, after its name.
      summary: one line for the list of commands.
      description: what it does, for its own help.
      examples: lines to copy, each a command.
      add_arguments: adds its arguments to a parser.
      execute: does it, with the parsed arguments. It prints results, and raises an error of the
        package or an `OSError` for what it cannot use. It gives the exit status, `None` for 0.
    """

    name: str
    usage: str
    summary: str
    description: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace], int | None]

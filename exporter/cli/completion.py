"""Words that a shell completes: `exporter --print-completion SHELL`, made by `shtab`."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from exporter.cli.command import given_path
from exporter.errors import MissingExtraError

SHELLS = ("bash", "zsh", "tcsh")


class PrintCompletion(argparse.Action):
    """Prints the completions of the parser for one shell, and ends the process."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Called by the parser, with the name of the shell."""
        del namespace, option_string
        print(script(parser, str(values)))
        parser.exit()


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What a shell reads to complete the words of a command.

    Raises:
      MissingExtraError: if `shtab` is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise MissingExtraError(
            "completions are made by shtab, which is not installed. Install it with: "
            "pip install 'jax-exporter[cli]'"
        ) from error
    for action in _arguments(parser):
        if action.type in (Path, given_path):
            is_file = "FILE" in str(action.metavar)
            action.complete = shtab.FILE if is_file else shtab.DIRECTORY  # type: ignore[attr-defined]  # what shtab looks for
    return str(shtab.complete(parser, shell=shell))


def _arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser and of its commands, which are from now on described in a line."""
    # argparse has no public way to what it was given.
    for action in parser._actions:  # noqa: SLF001
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for listed in action._choices_actions:  # noqa: SLF001
                command = action.choices[listed.dest]
                command.description = listed.help  # as zsh shows it, beside the name
                yield from _arguments(command)

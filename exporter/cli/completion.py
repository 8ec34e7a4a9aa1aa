"""Words that a shell completes: `exporter --print-completion SHELL`, made by `shtab`."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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
    for action in _actions(parser):
        if action.type is Path:
            is_file = "FILE" in str(action.metavar)
            action.complete = shtab.FILE if is_file else shtab.DIRECTORY  # type: ignore[attr-defined]  # what shtab looks for
    return str(shtab.complete(parser, shell=shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser and of its commands."""
    for action in parser._actions:  # noqa: SLF001  # argparse has no public list of them
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  # nor a public class
            for command in action.choices.values():
                yield from _actions(command)

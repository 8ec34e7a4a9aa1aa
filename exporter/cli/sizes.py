"""The option `--size AXIS=SIZE`: one size for each of some named axes."""

import argparse
from collections.abc import Sequence

from exporter.errors import OptionError


def add_sizes(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add the option to the arguments of a command. Its words are in `arguments.sizes`."""
    parser.add_argument(
        "--size",
        metavar="AXIS=SIZE",
        dest="sizes",
        nargs="+",
        action="extend",
        default=[],
        help=f"the sizes of named axes {purpose}",
    )


def sizes_of(words: Sequence[str]) -> dict[str, int]:
    """The sizes in words like `batch=8`.

    Raises:
      OptionError: naming every word that is no such thing.
    """
    found: dict[str, int] = {}
    problems = []
    for word in words:
        name, _, text = word.partition("=")
        if name in found or not text.isascii() or not text.isdecimal() or len(text) > 18:
            problems.append(repr(word))
        else:
            found[name] = int(text)
    if problems:
        raise OptionError(f"expected --size AXIS=SIZE, each axis once, got {', '.join(problems)}.")
    return found

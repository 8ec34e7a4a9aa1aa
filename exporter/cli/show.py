"""`exporter show`: what an artifact holds. Nothing of it is run, and JAX is not imported."""

import argparse
import json
from pathlib import Path

from exporter.artifact.manifest import read as read_manifest
from exporter.cli.command import Command
from exporter.cli.pages import write_page
from exporter.runtime.describe import describe
from exporter.runtime.summary import summarise


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="an artifact")
    parser.add_argument(
        "--variables",
        action="store_true",
        help="list each variable with its type, whether it is trainable, and its collection",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON for programs; it always lists the variables",
    )
    parser.add_argument(
        "--html",
        metavar="FILE",
        type=Path,
        help="write a page to look at in a browser, and print nothing else",
    )
    parser.add_argument(
        "--no-values",
        action="store_true",
        help="leave the variables unread: the page shows no histograms",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the page if it is there already"
    )


def _execute(arguments: argparse.Namespace) -> None:
    if arguments.html is None and (arguments.no_values or arguments.overwrite):
        arguments.parser.error("--no-values and --overwrite are for the page that --html writes")
    manifest = read_manifest(arguments.folder)
    if arguments.html is not None:
        write_page(
            arguments.folder,
            manifest,
            arguments.html,
            with_values=not arguments.no_values,
            overwrite=arguments.overwrite,
        )
    elif arguments.json:
        print(json.dumps(summarise(manifest), indent=2))
    else:
        print(describe(manifest, variables=arguments.variables))


SHOW = Command(
    name="show",
    usage="DIR [--variables] [--json] [--html FILE [--no-values] [--overwrite]]",
    summary="print the signatures, functions, variables and versions of an artifact",
    description="""\
Print what an artifact holds: its signatures with the names, types and bounds of
their inputs and outputs, its functions at their attribute paths, its variables,
and what it needs to run. Nothing is run, and no variable is read.

With --html the same and more is written to one file for a browser, which asks
for no other: calls to copy, the object tree, and how the values of variables are
distributed. For this alone variables are read, the large ones in part.""",
    examples="""\
  exporter show digits/1
  exporter show digits/1 --variables
  exporter show digits/1 --json | jq .signatures.serving_default.inputs
  exporter show digits/1 --html digits.html""",
    add_arguments=_add_arguments,
    execute=_execute,
)

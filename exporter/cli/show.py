"""`exporter show`: what an artifact holds. Nothing of it is run, and JAX is not imported."""

import argparse
import json
from pathlib import Path

from exporter.artifact.manifest import read as read_manifest
from exporter.cli.command import Command
from exporter.cli.terminal import titled
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


def _execute(arguments: argparse.Namespace) -> None:
    manifest = read_manifest(arguments.folder)
    if arguments.json:
        print(json.dumps(summarise(manifest), indent=2))
    else:
        print(titled(describe(manifest, variables=arguments.variables)))


SHOW = Command(
    name="show",
    usage="DIR [--variables] [--json]",
    summary="print the signatures, functions, variables and versions of an artifact",
    description="""\
Print what an artifact holds: its signatures with the names, types and bounds of
their inputs and outputs, its functions at their attribute paths, its variables,
and what it needs to run. Nothing is run, and no variable is read.""",
    examples="""\
  exporter show digits/1
  exporter show digits/1 --variables
  exporter show digits/1 --json | jq .signatures.serving_default.inputs""",
    add_arguments=_add_arguments,
    execute=_execute,
)

"""`exporter show`: what an artifact holds. Nothing of it is run.

JAX is imported for `--programs` only, and in another process: see `exporter/runtime/inspection.py`.
"""

import argparse
import json
from collections.abc import Sequence
from contextlib import closing

from exporter.artifact.layout import check_outside
from exporter.artifact.manifest import read as read_manifest
from exporter.artifact.records import Manifest
from exporter.cli.command import Command, given_path
from exporter.cli.pages import write_page
from exporter.cli.sizes import add_sizes, sizes_of
from exporter.cli.terminal import titled
from exporter.runtime.describe import describe
from exporter.runtime.inspection import Reader, inspect
from exporter.runtime.outline import Branch, draw, outline, places
from exporter.runtime.reports import ProgramReport, describe_programs, report
from exporter.runtime.summary import only, summarise
from signatures.resolver import resolve_call


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=given_path, help="an artifact")
    parser.add_argument(
        "--signature", metavar="NAME", help="show this signature only, with what it calls"
    )
    parser.add_argument(
        "--variables",
        action="store_true",
        help="list each variable with its type, whether it is trainable, and its collection",
    )
    parser.add_argument(
        "--tree",
        action="store_true",
        help="draw the saved object as a tree: what it holds under which names",
    )
    parser.add_argument(
        "--programs",
        action="store_true",
        help="look into each program: who uses it, its operations, and what it costs to run",
    )
    add_sizes(parser, "for which --programs tells the cost")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON for programs; it always lists the variables",
    )
    parser.add_argument(
        "--html",
        metavar="FILE",
        type=given_path,
        help="write a page to look at in a browser, and print nothing else",
    )
    parser.add_argument(
        "--no-values",
        action="store_true",
        help="leave the variables unread: the page shows no histograms",
    )
    parser.add_argument(
        "--no-programs",
        action="store_true",
        help="leave the programs unread: the page shows no operations",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the page if it is there already"
    )


def _execute(arguments: argparse.Namespace) -> None:
    _check(arguments)
    manifest = read_manifest(arguments.folder)
    if arguments.html is not None:
        check_outside(arguments.html)
        _page(arguments, manifest)
        return
    name: str | None = arguments.signature
    if name is not None:
        resolve_call(manifest.signatures, name, manifest.signature_note)
    reports = _reports(arguments, manifest) if arguments.programs else None
    branches = outline(manifest) if arguments.tree else None
    if arguments.json:
        print(json.dumps(_document(manifest, name, branches, reports), indent=2))
        return
    print(titled(describe(manifest, variables=arguments.variables, signature=name)))
    if branches is not None:
        print(f"\nTree\n{draw(branches)}")
    if reports is not None:
        print(f"\n{describe_programs(reports)}")


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that say nothing together."""
    error = arguments.parser.error
    if arguments.html is None:
        if arguments.sizes and not arguments.programs:
            error("--size is for the costs that --programs or a page tells")
        if arguments.no_values or arguments.no_programs or arguments.overwrite:
            error("--no-values, --no-programs and --overwrite are for the page of --html")
        return
    others = ("signature", "variables", "tree", "programs", "json")
    if given := [f"--{name}" for name in others if getattr(arguments, name)]:
        error(f"--html writes the whole page and prints nothing, without {' and '.join(given)}")


def _page(arguments: argparse.Namespace, manifest: Manifest) -> None:
    write_page(
        arguments.folder,
        manifest,
        arguments.html,
        sizes=None if arguments.no_programs else sizes_of(arguments.sizes),
        with_values=not arguments.no_values,
        overwrite=arguments.overwrite,
    )


def _document(
    manifest: Manifest,
    name: str | None,
    branches: Sequence[Branch] | None,
    reports: Sequence[ProgramReport] | None,
) -> dict[str, object]:
    """The summary, with what was asked for beside it."""
    summary = summarise(manifest)
    document: dict[str, object] = {**summary}
    if name is not None:
        part = only(summary, manifest, name)
        document = {"signatures": part["signatures"], "variables": part["variables"]}
    if branches is not None:
        document["tree"] = places(branches)
    if reports is not None:
        document["programs"] = {**summary["programs"], "each": reports}
    return document


def _reports(arguments: argparse.Namespace, manifest: Manifest) -> list[ProgramReport]:
    with closing(Reader()) as reader:
        inspected = inspect(
            arguments.folder, manifest, reader, sizes_of(arguments.sizes), arguments.signature
        )
    return [report(one) for one in inspected]


SHOW = Command(
    name="show",
    usage=(
        "DIR [--signature NAME] [--variables] [--tree]\n"
        "                     [--programs [--size AXIS=SIZE ...]] [--json]\n"
        "       exporter show DIR --html FILE [--overwrite] [--no-values] [--no-programs]\n"
        "                     [--size AXIS=SIZE ...]"
    ),
    summary="print the signatures, functions, variables and versions of an artifact",
    description="""\
Print what an artifact holds: its signatures with the names, types and bounds of
their inputs and outputs, its functions at their attribute paths, its variables,
and what it needs to run. Nothing is run, and no variable is read.

--programs reads the programs, and needs JAX for that. It counts the operations
of each, those of a function wherever it is called, and tells what a call costs:
FLOP   two for each pair of elements that matrix multiplications and
       convolutions multiply, one for each element of what works by elements;
       exponentials, roots and the like are counted apart, as transcendentals
moved  the bytes that all operations take and give: a compiler that fuses them
       moves fewer
A loop counts as often as it runs, or "per iteration" where its text does not say
how often. Of several branches the dearest counts, of several platforms the first,
and native functions do not count. Where arrays have named axes, give --size.

With --html the same and more is written to one file for a browser, which asks
for no other: calls to copy, the object tree, and how the values of variables are
distributed. For this alone variables are read, the large ones in part.""",
    examples="""\
  exporter show digits/1
  exporter show digits/1 --variables
  exporter show digits/1 --tree
  exporter show digits/1 --signature serving_default --programs --size batch=8
  exporter show digits/1 --json | jq .signatures.serving_default.inputs
  exporter show digits/1 --html digits.html""",
    add_arguments=_add_arguments,
    execute=_execute,
    only_reads=True,
)

"""`exporter check`: what stands in the way of saving a model. The only command to run user code."""

import argparse
import contextlib
import sys

from exporter.cli.command import Command, Exit
from exporter.cli.imports import find
from exporter.cli.terminal import bad, good, titled

# Those that a model can be saved for, known here without importing JAX.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "object", metavar="MODULE:OBJECT", help="a model, or what makes one when it is called"
    )
    parser.add_argument(
        "--platform",
        metavar="NAME",
        dest="platforms",
        choices=PLATFORMS,
        nargs="+",
        action="extend",
        help=f"where it is to run: {', '.join(PLATFORMS)} (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _execute(arguments: argparse.Namespace) -> Exit:
    with contextlib.redirect_stdout(sys.stderr):  # what the user's code prints is no result of ours
        model = find(arguments.object)
        from exporter.diagnosis import check
        from exporter.runtime.compat import check_backend

        check_backend()
        report = check(model, platforms=arguments.platforms)
    if arguments.json:
        print(report.to_json())
    else:
        first, *rest = str(report).splitlines()
        print(good(first) if report.ok else bad(first))
        if rest:
            print(titled("\n".join(rest)))
    return Exit.answer(is_yes=report.ok)


CHECK = Command(
    name="check",
    usage="MODULE:OBJECT [--platform NAME ...] [--json]",
    summary="tell what stands in the way of saving a model: this runs its code",
    description="""\
Import a module from the current folder, or from wherever Python finds it, and
tell everything that stands in the way of saving the model that it holds, for each
function, platform and shape at once, each with its remedy. OBJECT is the model, or
a class or function that makes it and needs no arguments. Nothing is written.

This is the only command that runs your code, as importing it does. What the code
prints is shown on stderr. The exit code is 3 if something stands in the way.""",
    examples="""\
  exporter check models:Classifier
  exporter check training.models:build --platform cpu cuda
  exporter check models:classifier --json | jq '.problems[].message'""",
    add_arguments=_add_arguments,
    execute=_execute,
)

"""`exporter verify`: run the samples of an artifact and compare the results with the original's."""

import argparse
import os
from pathlib import Path

from exporter.artifact.manifest import read as read_manifest
from exporter.cli.command import Command
from exporter.errors import VerificationError
from exporter.runtime.describe import printable


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="an artifact")
    parser.add_argument(
        "--rtol",
        metavar="NUMBER",
        type=float,
        help="how far floats may differ, relative to the expected ones",
    )
    parser.add_argument(
        "--atol", metavar="NUMBER", type=float, help="how far they may differ beside that"
    )


def _execute(arguments: argparse.Namespace) -> None:
    if read_manifest(arguments.folder).x64:  # read before JAX is imported
        os.environ.setdefault("JAX_ENABLE_X64", "1")
    from exporter.verification import verify

    report = verify(arguments.folder, rtol=arguments.rtol, atol=arguments.atol)
    for line in str(report).splitlines():
        print(printable(line))
    if not report.ok:
        failed = sum(not sample.ok for sample in report.samples)
        raise VerificationError(f"{failed} of {len(report.samples)} samples failed.", report)


VERIFY = Command(
    name="verify",
    usage="DIR [--rtol NUMBER] [--atol NUMBER]",
    summary="run the samples of an artifact and compare the results with the original's",
    description="""\
Run the calls that were recorded when the artifact was saved, and compare what
they return here with what they returned then. Integers, flags and random keys
must be equal; floats must agree in two thirds of their digits, unless --rtol or
--atol says otherwise. The exit status is 0 if all agree and 1 if not.

The artifact stays as it is.""",
    examples="""\
  exporter verify digits/1
  exporter verify digits/1 --rtol 1e-2""",
    add_arguments=_add_arguments,
    execute=_execute,
)

"""`exporter verify`: whether each part of an artifact is as it was saved, and works here."""

import argparse
import os
from pathlib import Path

from exporter.artifact.manifest import read as read_manifest
from exporter.cli.command import Command, Exit, given_path
from exporter.cli.terminal import bad, bar, dim, good, heading
from exporter.errors import ArtifactError, ArtifactNotFoundError, FormatVersionError

_STYLES = {"ok": good, "failed": bad, "none": dim}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=given_path, help="an artifact")
    parser.add_argument(
        "--rtol",
        metavar="NUMBER",
        type=float,
        help="how far floats may differ, relative to the expected ones",
    )
    parser.add_argument(
        "--atol", metavar="NUMBER", type=float, help="how far they may differ beside that"
    )
    parser.add_argument(
        "--key", metavar="FILE", type=given_path, help="the public key (PEM) of whoever signed it"
    )
    parser.add_argument(
        "--signature",
        metavar="FILE",
        type=given_path,
        help="the signature, with --key (default: DIR.sig, beside the folder)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _execute(arguments: argparse.Namespace) -> Exit:
    if arguments.signature and not arguments.key:
        arguments.parser.error("--signature needs --key, the public key of whoever signed")
    if _is_wide(arguments.folder):  # set before JAX is imported
        os.environ.setdefault("JAX_ENABLE_X64", "1")
    from exporter.verification import verify

    with bar() as tell:
        report = verify(
            arguments.folder,
            rtol=arguments.rtol,
            atol=arguments.atol,
            key=arguments.key,
            signature=arguments.signature,
            progress=tell,
        )
    if arguments.json:
        print(report.to_json())
    else:
        first, *rest = report.lines()
        print(heading(first[0]) if report.ok else bad(first[0]))
        for line, state in rest:
            print(_STYLES[state](line))
    return Exit.answer(is_yes=report.ok)


def _is_wide(folder: Path) -> bool:
    """Whether it has 64-bit arrays. What is no artifact is refused before JAX is imported."""
    try:
        return read_manifest(folder).x64
    except (ArtifactNotFoundError, FormatVersionError):
        raise
    except ArtifactError:  # the report says what is wrong with it
        return False


VERIFY = Command(
    name="verify",
    usage="DIR [--rtol NUMBER] [--atol NUMBER] [--key FILE [--signature FILE]] [--json]",
    summary="tell whether an artifact is intact and computes what it did when it was saved",
    description="""\
Judge each part of an artifact:
signer     with --key: it is what the holder of the key signed, to the last file.
           If not, nothing else is judged and nothing is run
manifest   it is as it was written, and what it says can be
files      each has its digest; what no digest covers is told
programs   each can be read, and suits this JAX and this machine
variables  they can be loaded
samples    the calls that were recorded when it was saved return here what they
           returned then: integers, flags and random keys must be equal, floats
           agree in two thirds of their digits, unless --rtol or --atol says
           otherwise

A part is ok, failed, or none if there is nothing to judge. The exit code is 3 if
one has failed, and 1 if DIR is no artifact. The artifact stays as it is.""",
    examples="""\
  exporter verify digits/1
  exporter verify digits/1 --rtol 1e-2
  exporter verify digits/1 --key public.pem
  exporter verify digits/1 --json | jq '.parts[] | select(.state == "failed")'""",
    add_arguments=_add_arguments,
    execute=_execute,
)

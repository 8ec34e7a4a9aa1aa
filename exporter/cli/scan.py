"""`exporter scan`: what a careful person asks of an artifact before loading it."""

import argparse
import dataclasses
import json
from contextlib import closing

from exporter.artifact.manifest import read as read_manifest
from exporter.cli.command import Command, Exit, given_path
from exporter.errors import OptionError
from exporter.markup import printable
from exporter.runtime.describe import counted
from exporter.runtime.inspection import Reader
from exporter.runtime.suspicions import LARGE_BYTES, describe_suspicions, suspicions


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=given_path, help="an artifact")
    parser.add_argument(
        "--allow",
        metavar="NAME",
        nargs="+",
        action="extend",
        default=[],
        help="native functions that programs may call by name, beside those that JAX keeps stable",
    )
    parser.add_argument(
        "--constants",
        metavar="BYTES",
        type=int,
        default=LARGE_BYTES,
        help="from what size on a constant in a program is told (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def _execute(arguments: argparse.Namespace) -> Exit:
    if arguments.constants < 1:
        raise OptionError(f"--constants {arguments.constants}: expected a number of 1 or more.")
    manifest = read_manifest(arguments.folder)
    with closing(Reader()) as reader:
        found = suspicions(
            arguments.folder,
            manifest,
            reader,
            allowed=arguments.allow,
            large_bytes=arguments.constants,
        )
    if arguments.json:
        print(json.dumps({"findings": [dataclasses.asdict(one) for one in found]}, indent=2))
    else:
        for line in describe_suspicions(found):
            print(printable(line))
        looked = f"{counted(len(manifest.programs), 'program')} and "
        looked += counted(len(manifest.files), "file")
        print(f"{counted(len(found), 'finding') if found else 'nothing found'} in {looked}")
    return Exit.answer(is_yes=not found)


SCAN = Command(
    name="scan",
    usage="DIR [--allow NAME ...] [--constants BYTES] [--json]",
    summary="look for what a stranger's artifact should not have",
    description="""\
Look through an artifact for what a careful person would ask about before loading
it: native code that programs call by name, callbacks and other effects on the
host, large constants in programs, programs that cannot be read or are not what
the manifest says, files that differ from their digests or that it does not list,
links, paths that leave the folder, and pickles, executables and source among the
files. Nothing is compiled, run, unpickled or imported.

The exit status is 0 if nothing is found, 3 if something is, and 1 if the folder
is no artifact that can be read. Nothing found does not make a program harmless:
it can still loop for ever, take all memory or compute something else than it
claims, and whoever can change a file can change its digest.""",
    examples="""\
  exporter scan digits/1
  exporter scan digits/1 --allow my_kernel
  exporter scan digits/1 --json | jq '.findings[].kind'""",
    add_arguments=_add_arguments,
    execute=_execute,
    only_reads=True,
)

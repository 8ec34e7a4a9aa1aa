"""`exporter convert`: a signature as a file for other compilers and runtimes."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from exporter.artifact.manifest import read as read_manifest
from exporter.cli.command import Command
from exporter.conversion.converting import Converted, convert
from exporter.conversion.formats import FORMATS
from exporter.errors import OptionError
from exporter.runtime.describe import printable


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="an artifact")
    parser.add_argument(
        "--to",
        metavar="FORMAT",
        choices=[one.name for one in FORMATS],
        required=True,
        help=f"one of {', '.join(one.name for one in FORMATS)}",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the file to write")
    parser.add_argument("--signature", metavar="NAME", help="which one (default: the default one)")
    parser.add_argument(
        "--size",
        metavar="AXIS=SIZE",
        dest="sizes",
        nargs="+",
        action="extend",
        default=[],
        help="the size of each named axis; x[0]=8 for the first axis of x, if it has no name",
    )
    parser.add_argument(
        "--platform", metavar="NAME", default="cpu", help="whose operations (default: cpu)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument(
        "--no-check", action="store_true", help="do not run the file beside the loaded model"
    )
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")


def _execute(arguments: argparse.Namespace) -> None:
    if read_manifest(arguments.folder).x64:  # set before JAX is imported
        os.environ.setdefault("JAX_ENABLE_X64", "1")
    found = convert(
        arguments.folder,
        arguments.to,
        arguments.out,
        signature=arguments.signature,
        sizes=_sizes(arguments.sizes),
        platform=arguments.platform,
        overwrite=arguments.overwrite,
        check=not arguments.no_check,
    )
    if arguments.json:
        print(json.dumps(_plain(found), indent=2))
        return
    print(printable(f"{found.path}: {found.signature} as {found.format}, {found.size:,} bytes"))
    for line in found.facts():
        print(printable(f"  {line}"))


def _plain(found: Converted) -> dict[str, Any]:
    checked = found.check
    return {
        "path": str(found.path),
        "format": found.format,
        "signature": found.signature,
        "platform": found.platform,
        "inputs": found.inputs,
        "outputs": found.outputs,
        "bytes": found.size,
        "checked_with": None if checked is None else checked.inputs,
        "largest_difference": found.largest,
        "unchecked": found.unchecked,
    }


def _sizes(words: list[str]) -> dict[str, int]:
    """The sizes in words like `batch=8`.

    Raises:
      OptionError: naming every word that is no such thing.
    """
    found: dict[str, int] = {}
    problems = []
    for word in words:
        name, _, text = word.rpartition("=")
        if not name or name in found or not text.isascii() or not text.isdecimal():
            problems.append(repr(word))
        else:
            found[name] = int(text[:19])  # longer ones are too large in any case
    if problems:
        raise OptionError(f"expected --size AXIS=SIZE, each axis once, got {', '.join(problems)}.")
    return found


CONVERT = Command(
    name="convert",
    usage=(
        "DIR --to FORMAT --out FILE [--signature NAME] [--size AXIS=SIZE ...]\n"
        "                        [--platform NAME] [--overwrite] [--no-check] [--json]"
    ),
    summary="write a signature, with its weights, as a file for other runtimes",
    description="""\
Convert one signature, with its variables, to a file of another format:
stablehlo  .mlir, .mlirbc  StableHLO of fixed shapes, as text or portable bytecode
iree       .vmfb           compiled for processors of this architecture, for IREE
litert     .tflite         for LiteRT (TensorFlow Lite), with names
coreml     .mlpackage      for Core ML; written here, and not run

The code of the model is not needed. All sizes are fixed in the file: each named
axis needs one. Variables that the signature changes are inputs and outputs named
state/PATH; coreml takes no such signature.

The file is run beside the loaded model, on a sample that was saved with the
artifact or on random inputs, and is not written if it computes something else.
It appears whole or not at all. The artifact stays as it is.""",
    examples="""\
  exporter convert digits/1 --to litert --size batch=1 --out digits.tflite
  exporter convert digits/1 --to iree --size batch=8 --out digits.vmfb
  exporter convert encoder/3 --to stablehlo --signature embed --size batch=8 tokens=64 \\
      --out encoder.mlir""",
    add_arguments=_add_arguments,
    execute=_execute,
)

"""`exporter convert`: a signature as a file for other compilers and runtimes."""

import argparse
import json
import os
from typing import Any

from exporter.artifact.manifest import read as read_manifest
from exporter.cli.command import Command, given_path
from exporter.cli.sizes import add_sizes, sizes_of
from exporter.conversion.converted import Converted, ConvertedSignature
from exporter.conversion.converting import convert
from exporter.conversion.formats import FORMATS
from exporter.markup import printable


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=given_path, help="an artifact")
    parser.add_argument(
        "--to",
        metavar="FORMAT",
        choices=[one.name for one in FORMATS],
        required=True,
        help=f"one of {', '.join(one.name for one in FORMATS)}",
    )
    parser.add_argument(
        "--out", metavar="FILE", type=given_path, required=True, help="the file to write"
    )
    parser.add_argument(
        "--signature",
        metavar="NAME",
        action="append",
        help="which one (default: the default one); for tensorflow, all, or as many as are given",
    )
    add_sizes(parser, "in the file; x[0]=8 for the first axis of x, if it has no name")
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
    # TensorFlow tells of the processor in lines of its own. What goes wrong it raises too.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = convert(
        arguments.folder,
        arguments.to,
        arguments.out,
        signature=arguments.signature or (),
        sizes=sizes_of(arguments.sizes),
        platform=arguments.platform,
        overwrite=arguments.overwrite,
        check=not arguments.no_check,
    )
    if arguments.json:
        print(json.dumps(_plain(found), indent=2))
        return
    print(printable(found.headline()))
    for line in found.facts():
        print(printable(f"  {line}"))


def _plain(found: Converted) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "format": found.format,
        "platform": found.platform,
        "bytes": found.size,
        "largest_difference": found.largest,
        "unchecked": found.unchecked,
        "signatures": {one.name: _plain_signature(one) for one in found.signatures},
    }


def _plain_signature(one: ConvertedSignature) -> dict[str, Any]:
    return {
        "inputs": one.inputs,
        "outputs": one.outputs,
        "checked_with": None if one.check is None else one.check.inputs,
        "largest_difference": None if one.check is None else one.check.largest,
    }


CONVERT = Command(
    name="convert",
    usage=(
        "DIR --to FORMAT --out FILE [--signature NAME] [--size AXIS=SIZE ...]\n"
        "                        [--platform NAME] [--overwrite] [--no-check] [--json]"
    ),
    summary="write a signature, with its weights, as a file for other runtimes",
    description="""\
Convert a signature, with its variables, to a file of another format:
stablehlo   .mlir, .mlirbc  StableHLO of fixed shapes, as text or portable bytecode
iree        .vmfb           compiled for processors of this architecture, for IREE
litert      .tflite         for LiteRT (TensorFlow Lite), with names
coreml      .mlpackage      for Core ML; written here, and not run
onnx        .onnx           for onnxruntime and what else runs ONNX, with names
tensorflow  a folder        a SavedModel for TensorFlow and TensorFlow Serving

The code of the model is not needed. All sizes are fixed in the file: each named
axis needs one. Variables that the signature changes are inputs and outputs named
state/PATH; coreml takes no such signature. A SavedModel has all signatures, axes
of any size, and variables that calls change; --size is what it is tried with.

The file is run beside the loaded model, on a sample that was saved with the
artifact or on random inputs, and is not written if it computes something else.
It appears whole or not at all. The artifact stays as it is.""",
    examples="""\
  exporter convert digits/1 --to litert --size batch=1 --out digits.tflite
  exporter convert digits/1 --to iree --size batch=8 --out digits.vmfb
  exporter convert digits/1 --to tensorflow --out digits-tf/1
  exporter convert encoder/3 --to stablehlo --signature embed --size batch=8 tokens=64 \\
      --out encoder.mlir""",
    add_arguments=_add_arguments,
    execute=_execute,
)

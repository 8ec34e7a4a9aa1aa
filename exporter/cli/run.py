"""`exporter run`: call one signature with arrays from files or from the command line."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from exporter.artifact import encoding, records
from exporter.artifact.manifest import read as read_manifest
from exporter.cli.arrays import check_files, read_values, without_keys, write_file
from exporter.cli.command import Command
from exporter.cli.pipelines import run_pipeline, stages_for
from exporter.runtime.describe import printable
from exporter.runtime.summary import json_values
from signatures.binding import bind
from signatures.errors import UnknownSignatureError
from signatures.resolver import DEFAULT, resolve_call
from signatures.signature import Signature
from signatures.spec import TensorSpec


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="an artifact")
    parser.add_argument(
        "--signature",
        metavar="NAME",
        help=f"the signature to call (default: {DEFAULT}, or the only one there is)",
    )
    parser.add_argument(
        "--inputs",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="the inputs: each value is FILE.npy, FILE.npz[KEY], or numbers as JSON",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="write each output to DIR/NAME.npy, print no values"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files that are in the way of --out"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the outputs as one JSON object, whole; otherwise long ones are shortened",
    )


def _execute(arguments: argparse.Namespace) -> None:
    out: Path | None = arguments.out
    if arguments.overwrite and out is None:
        arguments.parser.error("--overwrite is for the files that --out DIR writes")
    if arguments.json and out is not None:
        arguments.parser.error("--json prints the outputs and --out writes them: choose one")
    manifest = read_manifest(arguments.folder)
    name = _chosen(manifest, arguments.signature)
    signature = encoding.signature_of(manifest, manifest.signatures[name], name)
    if stages := stages_for(arguments.folder, manifest, name, arguments.inputs):
        run_pipeline(arguments, stages, wide=manifest.x64)
        return
    # Everything that can be refused is refused before JAX is imported, which takes seconds, and
    # before variables are read, which may take minutes.
    values = bind(
        without_keys(signature), (), read_values(arguments.inputs, signature.inputs)
    ).values
    files = check_files(out, signature.outputs, overwrite=arguments.overwrite) if out else {}
    outputs = _call(arguments.folder, signature, values, wide=manifest.x64)
    if out:
        _write(outputs, signature.outputs, files, overwrite=arguments.overwrite)
    elif arguments.json:
        print(json.dumps({name: json_values(array) for name, array in outputs.items()}))
    else:
        _print(outputs, signature.outputs)


def _chosen(manifest: records.Manifest, name: str | None) -> str:
    """The signature asked for, else the default, else the only one.

    Raises:
      UnknownSignatureError: listing the names that exist.
    """
    known = manifest.signatures
    if name is not None:
        resolve_call(known, name, manifest.signature_note)
        return name
    if DEFAULT not in known and len(known) == 1:
        return next(iter(known))
    try:
        resolve_call(known, DEFAULT, manifest.signature_note)
    except UnknownSignatureError as error:
        if not known:
            raise
        message = f"{error} Choose one with --signature."
        raise UnknownSignatureError(message, DEFAULT, known) from error
    return DEFAULT


def _call(
    folder: Path, signature: Signature, values: Sequence[object], *, wide: bool
) -> dict[str, np.ndarray]:
    """The outputs as NumPy arrays. Random keys are their words, in the values and here.

    With `wide` JAX computes with 64 bits, if it was not imported before and the user has not said
    otherwise.
    """
    if wide:
        os.environ.setdefault("JAX_ENABLE_X64", "1")
    from exporter.keys import from_words, to_words
    from exporter.loading import load

    given = {
        name: from_words(cast(Any, value), spec.dtype)
        for (name, spec), value in zip(signature.inputs.items(), values, strict=True)
    }
    outputs = load(folder).signatures[signature.name](**given)
    return {name: np.asarray(to_words(output)) for name, output in outputs.items()}


def _print(outputs: Mapping[str, np.ndarray], specs: Mapping[str, TensorSpec]) -> None:
    """Each output with its type and values. NumPy shortens what has more than 1,000 of them."""
    for name, array in outputs.items():
        print(printable(f"{name}  {_type(array, specs[name])}"))
        for line in np.array2string(array, max_line_width=98).splitlines():
            print(f"  {line}")


def _write(
    outputs: Mapping[str, np.ndarray],
    specs: Mapping[str, TensorSpec],
    files: Mapping[str, Path],
    *,
    overwrite: bool,
) -> None:
    for name, array in outputs.items():
        stored = write_file(files[name], array, overwrite=overwrite)
        note = f" as {stored.name}" if stored.name != specs[name].dtype.name else ""
        print(printable(f"{files[name]}  {_type(array, specs[name])}{note}"))


def _type(array: np.ndarray, spec: TensorSpec) -> str:
    """The type of an output. The shape of keys is without that of their words."""
    shape = array.shape if isinstance(spec.dtype, np.dtype) else array.shape[:-1]
    return f"{spec.dtype.name}[{', '.join(map(str, shape))}]"


RUN = Command(
    name="run",
    usage=(
        "DIR [--signature NAME] [--inputs NAME=VALUE ...]\n"
        "                    [--json | --out DIR [--overwrite]]"
    ),
    summary="call a signature with arrays from files or from the command line",
    description="""\
Call one signature and print what it returns, or write it to files.

Arrays in files must have the types that the signature names: see `exporter
show`. Numbers and lists written as JSON are converted where nothing is lost, and
may hold NaN and Infinity. Inputs with a default value may be left out.

A signature with stages also takes what they take: text or words as they are or
as JSON, pictures as FILE.png, FILE.jpg or FILE.webp, lists of these as JSON.

The artifact stays as it is: what a call changes in variables is not saved.""",
    examples="""\
  exporter run digits/1 --inputs image=image.npy
  exporter run digits/1 --signature embedding --inputs image=data.npz[test] --out results
  exporter run minilm --inputs text='["hello", "good morning"]'
  exporter run digits/1 --inputs image=digit.png
  exporter run encoder/3 --inputs ids='[[101, 2023, 102]]' mask='[[1, 1, 1]]' --json

types that .npy files and JSON do not have:
  bfloat16 and the smaller floats are written as float32, integers of fewer than 8
  bits as int8 or uint8: these hold each value exactly. For an input of such a type
  a file of its raw bytes, as np.save makes it, is read.
  Random keys are read, written and printed as the uint32 words they are made of.
  --json prints "NaN", "Infinity" and "-Infinity" as text, and a complex number as
  the list of its two parts.""",
    add_arguments=_add_arguments,
    execute=_execute,
)

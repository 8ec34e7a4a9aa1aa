"""`exporter run`: call one signature with arrays from files or from the command line."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from exporter.artifact import encoding, records
from exporter.artifact.layout import check_outside
from exporter.artifact.manifest import read as read_manifest
from exporter.cli.arrays.outputs import as_json, planned_files, storable, write_files
from exporter.cli.arrays.words import read_values
from exporter.cli.benchmark import Call, measured, print_benchmark
from exporter.cli.command import Command, given_path
from exporter.cli.pipelines import staged_values, stages_for
from exporter.cli.sizes import add_sizes, sizes_of
from exporter.made import random_values, sampled
from exporter.markup import printable
from exporter.stages.pipeline import HostStages
from exporter.stages.stage import Kind
from signatures.binding import bind
from signatures.errors import UnknownSignatureError
from signatures.resolver import DEFAULT, resolve_call
from signatures.signature import Signature
from signatures.spec import TensorSpec

# How many calls are made before the measurement begins: the first compiles, and the next ones
# settle how the outputs are handed over.
_WARMUP = 3


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=given_path, help="an artifact")
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
        help="the inputs: each value is a file, several files, '-' for standard input, or JSON; "
        "'-' alone is a JSON object of all inputs in standard input",
    )
    parser.add_argument(
        "--sample",
        metavar="N",
        type=_count,
        nargs="?",
        const=0,
        help="take the inputs of the signature's sample N (default: 0); random ones if it has none",
    )
    parser.add_argument(
        "--random",
        metavar="SEED",
        type=_count,
        nargs="?",
        const=0,
        help="make random inputs that the signature allows (default seed: 0)",
    )
    add_sizes(parser, "in random inputs (default: the smallest allowed)")
    parser.add_argument(
        "--benchmark",
        metavar="N",
        type=_positive,
        help="make N calls, print how long they took, and no values",
    )
    parser.add_argument(
        "--warmup",
        metavar="N",
        type=_count,
        help=f"make N calls before those of --benchmark (default: {_WARMUP})",
    )
    parser.add_argument(
        "--no-stages",
        action="store_true",
        help="take and give arrays, without the stages of the signature",
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        type=given_path,
        help="write the outputs, print no values: to PATH.npz or PATH.json, or each to "
        "PATH/NAME.npy",
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
    _check_together(arguments)
    manifest = read_manifest(arguments.folder)
    name = _chosen(manifest, arguments.signature)
    signature = encoding.signature_of(manifest, manifest.signatures[name], name)
    stages = stages_for(arguments, manifest, name)
    # Everything that can be refused is refused before JAX is imported, which takes seconds, and
    # before variables are read, which may take minutes.
    given, words, origin = _inputs(arguments, manifest, signature, stages)
    values = bind(signature.plain, (), given).values
    out: Path | None = arguments.out
    specs = stages.outputs if stages else signature.outputs
    if out:
        check_outside(out)
    files = planned_files(out, specs, overwrite=arguments.overwrite) if out else {}
    if origin:
        print(printable(f"inputs: {origin}"), file=sys.stderr)
    compute = _loaded(arguments.folder, signature, values, wide=manifest.x64)
    if arguments.benchmark is not None:
        warmup = _WARMUP if arguments.warmup is None else arguments.warmup
        found = measured(_call(compute, stages, words), arguments.benchmark, warmup)
        shown = zip(signature.inputs.items(), values, strict=True)
        inputs = {key: _type(cast(np.ndarray, value), spec) for (key, spec), value in shown}
        by_stages = f"made of {', '.join(words)} by stages" if words else None
        origin = origin or by_stages or "given"
        told = {"signature": signature.name, "inputs": inputs, "inputs_from": origin}
        print_benchmark(found, told, as_json=arguments.json)
        return
    results = compute()
    outputs = _arrays(stages.results(results) if stages else results)
    if out:
        _write(outputs, specs, files, overwrite=arguments.overwrite)
    elif arguments.json:
        print(as_json(outputs))
    else:
        _print(outputs, specs)


def _call(
    compute: Callable[..., Mapping[str, Any]],
    stages: HostStages | None,
    words: Mapping[str, object] | None,
) -> Call:
    """A call with the work of its stages, to be measured."""
    if stages is None:
        return Call(compute)
    if words is None:
        return Call(compute, after=stages.results)
    return Call(compute, before=lambda: stages.fed(words), after=stages.results)


def _check_together(arguments: argparse.Namespace) -> None:
    """Refuse options that say nothing together, as argparse does."""
    is_made = arguments.random is not None or arguments.sample is not None
    for is_wrong, message in (
        (
            arguments.overwrite and arguments.out is None,
            "--overwrite is for the files that --out DIR writes",
        ),
        (
            arguments.json and arguments.out is not None,
            "--json prints the outputs and --out writes them: choose one",
        ),
        (
            arguments.benchmark is not None and arguments.out is not None,
            "--benchmark prints how long calls take and --out writes outputs: choose one",
        ),
        (
            arguments.warmup is not None and arguments.benchmark is None,
            "--warmup is for the calls of --benchmark",
        ),
        (
            arguments.random is not None and arguments.sample is not None,
            "--random and --sample both make the inputs: choose one",
        ),
        (
            is_made and arguments.inputs,
            "--inputs gives the inputs, and --random and --sample make them: choose one",
        ),
        (bool(arguments.sizes) and not is_made, "--size is for inputs that --random makes"),
    ):
        if is_wrong:
            arguments.parser.error(message)


def _count(text: str) -> int:
    """A number of 0 or more in words, for argparse."""
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"expected a number of at most 9 digits, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    count = _count(text)
    if count == 0:
        raise argparse.ArgumentTypeError("expected at least 1")
    return count


def _inputs(
    arguments: argparse.Namespace,
    manifest: records.Manifest,
    signature: Signature,
    stages: HostStages | None,
) -> tuple[Mapping[str, Any], Mapping[str, object] | None, str | None]:
    """The arrays of the call by name, what stages made them of, and where they are from.

    The second is `None` if arrays were given, and the last if something was.
    """
    if arguments.sample is None and arguments.random is None:
        if stages is None:
            return read_values(arguments.inputs, signature.plain.inputs), None, None
        values, is_staged = staged_values(arguments.inputs, stages)
        if is_staged:
            with warnings.catch_warnings():  # the error that follows says the same
                warnings.filterwarnings("ignore", message="Image size .* decompression bomb")
                return stages.arrays(values), values, None
        return values, None, None
    made, origin = _made(arguments, manifest, signature)
    return made, None, origin


def _made(
    arguments: argparse.Namespace, manifest: records.Manifest, signature: Signature
) -> tuple[dict[str, Any], str]:
    """Inputs from a sample or at random, and which."""
    number = manifest.signatures[signature.name]
    if arguments.sample is not None:
        found = sampled(arguments.folder, manifest, number, arguments.sample)
        if found is not None and not arguments.sizes:
            return found, f"sample {arguments.sample} of {signature.name}"
    seed = arguments.random or 0
    programs = manifest.concrete_functions[number].programs
    ranks = manifest.programs[programs[0]].ranks if programs else ()
    made = random_values(signature.plain, sizes_of(arguments.sizes), seed, ranks)
    shown = ", ".join(f"{name} {_described(value)}" for name, value in made.items()) or "none"
    why = "there is no sample, so " if arguments.sample is not None and not arguments.sizes else ""
    return made, f"{why}random with seed {seed}: {shown}"


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


def _loaded(
    folder: Path, signature: Signature, values: Sequence[object], *, wide: bool
) -> Callable[..., Mapping[str, Any]]:
    """The call of the signature with these values. Random keys are their words in them.

    With `wide` JAX computes with 64 bits, if it was not imported before and the user has not said
    otherwise.
    """
    if wide:
        os.environ.setdefault("JAX_ENABLE_X64", "1")
    from exporter.keys import from_words
    from exporter.loading import load

    given = {
        name: from_words(cast(Any, value), spec.dtype)
        for (name, spec), value in zip(signature.inputs.items(), values, strict=True)
    }
    return partial(load(folder).signatures[signature.name], **given)


def _arrays(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The outputs as NumPy arrays, random keys as their words."""
    from exporter.keys import to_words

    return {name: np.asarray(to_words(output)) for name, output in outputs.items()}


def _print(outputs: Mapping[str, np.ndarray], specs: Mapping[str, Kind | TensorSpec]) -> None:
    """Each output with its type and values. NumPy shortens what has more than 1,000 of them."""
    for name, array in outputs.items():
        print(printable(f"{name}  {_type(array, specs[name])}"))
        for line in np.array2string(array, max_line_width=98).splitlines():
            print(printable(f"  {line}"))


def _write(
    outputs: Mapping[str, np.ndarray],
    specs: Mapping[str, Kind | TensorSpec],
    files: Mapping[str, Path],
    *,
    overwrite: bool,
) -> None:
    write_files(files, outputs, overwrite=overwrite)
    for name, array in outputs.items():
        file = files[name]
        place = file if file.suffix == ".npy" else f"{file}[{name}]"
        stored = storable(array).dtype.name
        spec = specs[name]
        is_named = file.suffix == ".json" or isinstance(spec, str) or stored == spec.dtype.name
        note = "" if is_named else f" as {stored}"
        print(printable(f"{place}  {_type(array, spec)}{note}"))


def _type(array: np.ndarray, spec: Kind | TensorSpec) -> str:
    """The type of an array, be it of labels. The shape of keys is without that of their words."""
    if isinstance(spec, str):
        return f"text[{', '.join(map(str, array.shape))}]"
    shape = array.shape if isinstance(spec.dtype, np.dtype) else array.shape[:-1]
    return f"{spec.dtype.name}[{', '.join(map(str, shape))}]"


def _described(array: np.ndarray) -> str:
    return f"{array.dtype.name}[{', '.join(map(str, array.shape))}]"


RUN = Command(
    name="run",
    usage=(
        "DIR [--signature NAME]\n"
        "                    [--inputs NAME=VALUE ... | --sample [N] | --random [SEED]]\n"
        "                    [--size AXIS=SIZE ...] [--no-stages] [--benchmark N [--warmup N]]\n"
        "                    [--json | --out PATH [--overwrite]]"
    ),
    summary="call a signature with arrays from files or from the command line",
    description="""\
Call one signature and print what it returns, or write it to files.

Arrays in files must have the types that the signature names: see `exporter
show`. Numbers and lists written as JSON, and tables, are converted where nothing
is lost, and may hold NaN and Infinity. Inputs with a default value may be left
out. --sample and --random make inputs for a quick try, and say on stderr which.

--benchmark gives arrays of NumPy to each call and waits for its outputs: what it
takes to bring them to the device is part of it, and what JAX compiles before is
part of the calls to warm up.

A signature with stages also takes what they take: text or words as they are or
as JSON, pictures as files without [OPTION,...], lists of these as JSON, and any
of them from standard input. Scores that have labels are printed as labels. With
--no-stages arrays are taken and given as without them. --benchmark tells what
the stages take of each call.

The artifact stays as it is: what a call changes in variables is not saved.""",
    examples="""\
  exporter run digits/1 --inputs image=image.npy
  exporter run digits/1 --signature embedding --inputs image=data.npz[test] --out results
  exporter run minilm --inputs text='["hello", "good morning"]'
  exporter run digits/1 --inputs image=digit.png
  exporter run encoder/3 --inputs ids='[[101, 2023, 102]]' mask='[[1, 1, 1]]' --json
  exporter run photos/2 --inputs 'image=cats/*.jpg[size=224x224,scale=1/255]' --out cats.npz
  exporter run digits/1 --random --size batch=8 --benchmark 100

values of inputs:
  FILE.npy, FILE.npz[KEY]          arrays of NumPy
  FILE.json, FILE.json[FIELD]      nested lists of numbers
  FILE.csv, FILE.csv[COLUMN]       rows of numbers; a first row of names is a header
  FILE.png, FILE.jpg[OPTION,...]   a picture, also .webp, read by Pillow: values as they are, in the
                                   input's type, or with scale=1/255, size=WIDTHxHEIGHT,
                                   mode=L (grey), RGB or RGBA, layout=CHW
  'a*.png', a.npy,b.npy[KEY]       several files make a batch; the brackets are for all
  -, -[...]                        standard input, any of these
  [[1, 2], [3, 4]]                 JSON
An array that lacks only the first axis of its input gets one of size 1.

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

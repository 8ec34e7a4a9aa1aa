"""Calls of `exporter run` by the stages of a signature: texts and pictures in, labels out."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from exporter.artifact.assets import read_asset
from exporter.artifact.records import Manifest
from exporter.artifact.stages import known_options
from exporter.cli.arrays.outputs import as_json, planned_files, write_files
from exporter.cli.arrays.sources import Pipe, sources
from exporter.cli.arrays.words import read_values, without_keys
from exporter.markup import printable
from exporter.stages.pipeline import HostStages, host_stages
from signatures.binding import bind
from signatures.errors import BindError
from signatures.spec import TensorSpec


def stages_for(arguments: argparse.Namespace, manifest: Manifest, name: str) -> HostStages | None:
    """The stages of a signature, if inputs as words like `text=hello` are meant for them.

    An image may have the name of the input that it becomes: then only a picture is one.

    Raises:
      BindError: if a pattern fits no file.
      FormatVersionError: if an input is none of the signature, and it has stages that we do not
        know.
    """
    if arguments.sample is not None or arguments.random is not None:  # these are arrays
        return None
    folder: Path = arguments.folder
    words = [word.partition("=") for word in arguments.inputs]
    concrete = manifest.concrete_functions[manifest.signatures[name]]
    arrays = {tensor.name for tensor in concrete.inputs}
    stages = host_stages(manifest, partial(read_asset, folder, manifest.files)).get(name)
    if stages is None:
        unknown = any(word not in arrays for word, _, _ in words)
        for record in manifest.stages.get(name, ()) if unknown else ():
            known_options(record, name)
        return None
    own = {name for name, kind in stages.inputs.items() if isinstance(kind, str)}
    is_meant = any(
        word in own and (word not in arrays or _pictures(text) is not None)
        for word, _, text in words
    )
    return stages if is_meant or (own and not words) else None


def run_pipeline(arguments: argparse.Namespace, stages: HostStages, *, wide: bool) -> None:
    """Call a signature by its stages, and print or write what it returns."""
    if arguments.benchmark is not None:
        arguments.parser.error("--benchmark measures calls with arrays: give these, or --random")
    # Everything that can be refused is refused before JAX is imported, as for arrays.
    arrays = stages.arrays(_values(arguments.inputs, stages))
    values = bind(without_keys(stages.signature), (), arrays).values
    out: Path | None = arguments.out
    files = planned_files(out, stages.outputs, overwrite=arguments.overwrite) if out else {}
    if wide:
        os.environ.setdefault("JAX_ENABLE_X64", "1")
    from exporter.keys import from_words, to_words
    from exporter.loading import load

    specs = stages.signature.inputs.items()
    given: dict[str, Any] = {
        key: from_words(value, spec.dtype)  # type: ignore[arg-type]  # it is an array
        for (key, spec), value in zip(specs, values, strict=True)
    }
    results = stages.results(load(arguments.folder).signatures[stages.signature.name](**given))
    outputs = {key: np.asarray(to_words(one)) for key, one in results.items()}
    if out:
        write_files(files, outputs, overwrite=arguments.overwrite)
        for key, array in outputs.items():
            print(printable(f"{files[key]}  {_type(array)}"))
    elif arguments.json:
        print(as_json(outputs))
    else:
        _print(outputs)


def _values(given: Sequence[str], stages: HostStages) -> dict[str, object]:
    """The values in words such as `text=["hello"]` and `image=digit.png`."""
    specs = {n: one for n, one in stages.inputs.items() if isinstance(one, TensorSpec)}
    plain = [word for word in given if word.partition("=")[0] not in stages.inputs.keys() - specs]
    values = read_values(plain, specs)
    for word in given:
        name, equals, text = word.partition("=")
        if word in plain:
            continue
        if not equals or name in values:
            problem = f"{name}: given twice" if equals else f"expected NAME=VALUE, got {word!r}"
            raise BindError(f"inputs cannot be read:\n  {problem}", [problem])
        is_image = stages.inputs[name] == "image"
        values[name] = (_pictures(text) or Path(text)) if is_image else _plain(text)
    return values


def _plain(text: str) -> object:
    """The lists of JSON or the text in it, or else the text as it is."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, list | str) else text


def _pictures(text: str) -> list[Path] | None:
    """The files of pictures that a word names, as JSON, by a pattern or with commas between them.

    Files with something in brackets behind are for the signature, which takes them as arrays.
    """
    value = _plain(text)
    if isinstance(value, list):
        names = [name for name in value if isinstance(name, str)]
        return [Path(name) for name in names] if names and len(names) == len(value) else None
    if text.lower().endswith(".webp"):
        return [Path(text)]
    found = None if text.startswith("-") else sources(text, Pipe())
    parts = found.parts if found else ()
    is_fitting = all(one.kind == "image" and one.suffix is None for one in parts)
    return [Path(one.name) for one in parts] if parts and is_fitting else None


def _print(outputs: Mapping[str, np.ndarray]) -> None:
    """Each output with its type and values. NumPy shortens what has more than 1,000 of them."""
    for name, array in outputs.items():
        print(printable(f"{name}  {_type(array)}"))
        for line in np.array2string(array, max_line_width=98).splitlines():
            print(printable(f"  {line}"))


def _type(array: np.ndarray) -> str:
    kind = "text" if array.dtype.kind == "U" else array.dtype.name
    return f"{kind}[{', '.join(map(str, array.shape))}]"

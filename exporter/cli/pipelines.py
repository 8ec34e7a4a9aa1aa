"""Stages in `exporter run`: texts and pictures among the words of the command."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from exporter.artifact.assets import read_asset
from exporter.artifact.records import Manifest
from exporter.artifact.stages import known_options
from exporter.cli.arrays.sources import MAX_TEXT_BYTES, Pipe, sources
from exporter.cli.arrays.words import read_values
from exporter.errors import FormatVersionError
from exporter.markup import printable
from exporter.stages.pipeline import HostStages, host_stages
from signatures.errors import BindError
from signatures.spec import TensorSpec


def stages_for(arguments: argparse.Namespace, manifest: Manifest, name: str) -> HostStages | None:
    """The stages of a signature that a call goes through, if there are any.

    Raises:
      FormatVersionError: if there is one that we do not know.
    """
    records = manifest.stages.get(name)
    if not records or arguments.no_stages:
        return None
    try:
        for record in records:
            known_options(record, name)
    except FormatVersionError as error:
        raise FormatVersionError(f"{error} For this command, that is --no-stages.") from error
    folder: Path = arguments.folder
    return host_stages(manifest, partial(read_asset, folder, manifest.files))[name]


def staged_values(given: Sequence[str], stages: HostStages) -> tuple[dict[str, object], bool]:
    """The values in the words of a command, and whether they are for the stages.

    An image may have the name of the array that it becomes: then only a picture is one, and numbers
    are the array. Values that are all arrays of the signature are for the signature.

    Raises:
      BindError: naming every input that cannot be read.
    """
    own = {name: kind for name, kind in stages.inputs.items() if isinstance(kind, str)}
    arrays = stages.signature.inputs
    _refuse_unknown(given, own, arrays)
    pipe = Pipe()
    staged: dict[str, object] = {}
    plain = []
    for word in given:
        name, equals, text = word.partition("=")
        value = _staged(name, text, own[name], pipe) if equals and name in own else None
        if value is None and (not equals or name in arrays):
            plain.append(word)
        elif name in staged:
            raise _unreadable(f"{name}: given twice")
        elif value is None:  # whatever it is, the stage says why it takes no such thing
            staged[name] = pipe.read() if text == "-" else Path(text)
        else:
            staged[name] = value
    values = read_values(plain, arrays, pipe)
    if twice := [name for name in staged if name in values]:
        raise _unreadable(f"{twice[0]}: given twice")
    meant = {name for name in values if name in own and not _is_array(values[name])}
    return values | staged, bool(staged or meant) or not given


def _refuse_unknown(
    given: Sequence[str], own: Mapping[str, str], arrays: Mapping[str, TensorSpec]
) -> None:
    names = [word.partition("=")[0] for word in given if "=" in word]
    unknown = [name for name in names if name not in own and name not in arrays]
    if unknown and own:
        takes = ", ".join([*(own.keys() - arrays.keys()), *arrays])
        raise _unreadable(f"{unknown[0]}: not an input; there are {takes}")


def _staged(name: str, text: str, kind: str, pipe: Pipe) -> object:
    """What a word is for a stage, or `None` if it is nothing for it."""
    try:
        if kind == "image":
            return _pictures(text, pipe)
        return _texts(_piped_text(pipe) if text == "-" else text)
    except BindError as error:
        raise _unreadable(f"{name}: {error}") from error


def _texts(text: str) -> object:
    """The lists of JSON or the text in it, or else the text as it is."""
    value = _parsed(text)
    if isinstance(value, list | str):
        return value
    if value is None and text.startswith("[") and text.endswith("]"):
        raise BindError(
            f"{text!r} is not JSON: a shell takes quotes away, unless all is in quotes of another "
            f"kind, as in '[\"hello\"]'. If it is the text itself, write '{json.dumps(text)}'"
        )
    if value is None and text.startswith("["):
        _note(f"{text!r} is taken as a text, and is not JSON.")
    elif _is_file(text):
        _note(f"{text!r} is taken as a text. For what is in the file of that name: -, and < {text}")
    return text


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or none at all
        return False


def _note(text: str) -> None:
    """A word on what was made of an input, where results do not stand."""
    print(printable(f"exporter run: note: {text}"), file=sys.stderr)


def _piped_text(pipe: Pipe) -> str:
    data = pipe.read()
    if len(data) > MAX_TEXT_BYTES:
        raise BindError(f"standard input has more than {MAX_TEXT_BYTES:,} bytes of text")
    try:
        return data.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise BindError(f"standard input is not text in UTF-8 (byte {error.start})") from error


def _pictures(text: str, pipe: Pipe) -> object:
    """The pictures that a word names: files, as JSON, by a pattern or with commas; or those in it.

    Files with something in brackets behind are for the signature, which takes them as arrays.
    """
    if text == "-":
        return pipe.read() if pipe.kind() == "image" else None
    value = _parsed(text)
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        named = [Path(one) if isinstance(one, str) else one for one in value]
        return None if _is_array(value) else named
    found = None if text.startswith("-") else sources(text, Pipe())
    parts = found.parts if found else ()
    if not parts and _is_file(text):
        return [Path(text)]  # whatever it is called: its content tells what it is
    is_fitting = all(one.kind == "image" and one.suffix is None for one in parts)
    if parts and not is_fitting and all(one.kind == "image" for one in parts):
        _note(f"{text!r} is read as an array, without the stage for pictures and its scale.")
    return [Path(one.name) for one in parts] if parts and is_fitting else None


def _parsed(text: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value


def _is_array(value: object) -> bool:
    """Whether a value of `read_values`, or of JSON, is made of numbers."""
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int | float | complex | np.ndarray | np.generic)


def _unreadable(problem: str) -> BindError:
    return BindError(f"inputs cannot be read:\n  {problem}", [problem])

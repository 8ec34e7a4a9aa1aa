"""Damaged artifacts, by accident or by an author who means harm: each is refused, and nothing runs.

`hostile/damage.py` has the tools. A harmful author computes every digest anew, so most damages here
are sealed again and must be found by what they say.
"""

import functools
import gzip
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import blake3
import jax
import pytest
from hostile.damage import (
    GOOD,
    Document,
    bytecode_of,
    change,
    copy_to,
    main_function,
    read_manifest,
    replace_program,
    rewrite_array,
    seal,
    unknown_custom_call,
    write_in_checkpoint,
)

import exporter
from exporter import (
    ArtifactError,
    ArtifactNotFoundError,
    ExporterError,
    IncompatibleRuntimeError,
    UnsafeProgramError,
)
from exporter.artifact.layout import MANIFEST

# What Python tells its auditors when code is run or something outside is reached.
FORBIDDEN = re.compile(
    r"exec|import|pickle\.find_class|marshal\.loads?|os\.(system|exec|fork|posix_spawn)"
    r"|subprocess\.Popen|ctypes\.dlopen|socket\.connect"
)
_seen: list[str] = []
_watching: list[bool] = []


def _audit(event: str, arguments: tuple) -> None:
    outside = event == "open" and "outside" in str(arguments[0])
    if _watching and (outside or FORBIDDEN.fullmatch(event)):
        _seen.append(f"{event} {arguments}")


def _listen(event: str, _: float, **__: object) -> None:
    if _watching and "compile" in event:
        _seen.append(event)


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Within the block nothing is executed, imported or compiled, and nothing outside is opened."""
    _seen.clear()
    _watching.append(True)
    try:
        yield
    finally:
        _watching.clear()
    assert _seen == []


@pytest.fixture(scope="module", autouse=True)
def auditors():
    """Neither can be taken away again; both are silent unless something is watched."""
    sys.addaudithook(_audit)
    jax.monitoring.register_event_duration_secs_listener(_listen)
    exporter.load(GOOD)  # imports what loading imports


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "outside.mlirbc").write_bytes((GOOD / "programs/add.mlirbc").read_bytes())
    return copy_to(tmp_path / "model")


def refusal(folder: Path, kind: type[Exception] = ArtifactError, **options: bool) -> str:
    """The message with which an artifact is refused, the paths in it shortened."""
    with nothing_runs(), pytest.raises(ExporterError) as caught:
        exporter.load(folder, **options)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert len(message) < 4000
    assert message.replace("\n", "").isprintable()
    return message.replace(str(folder / MANIFEST), "MANIFEST").replace(str(folder), "FOLDER")


def test_the_good_artifact_is_loaded_and_sealing_it_again_changes_nothing(folder):
    seal(folder)
    assert exporter.load(folder).add(3) == 3


def test_watching_sees_what_runs(folder):
    for run in (functools.partial(exec, "1"), (folder.parent / "outside.mlirbc").read_bytes):
        with pytest.raises(AssertionError, match="exec|outside"), nothing_runs():
            run()
    with pytest.raises(AssertionError, match="compile"), nothing_runs():
        jax.jit(lambda x: x * 3 + 1)(1.5)


# Files, damaged by accident.

CHECKPOINT = sorted(
    path.relative_to(GOOD).as_posix() for path in (GOOD / "variables").rglob("*") if path.is_file()
)
# One of each kind: two files of a folder of data are alike.
FILES = ["programs/fixed.mlirbc"] + [
    name
    for name in CHECKPOINT
    if not name.rpartition("/")[0].endswith("/d")
    or name == next(n for n in CHECKPOINT if n.startswith(name.rpartition("/")[0]))
]
COUNT = len(read_manifest(GOOD)["files"])


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_as_it_was_is_named(folder, name):
    path, data = folder / name, (GOOD / name).read_bytes()
    head = f"artifact 'FOLDER' is damaged: 1 of {COUNT} files are wrong:\n  {name}: "
    tail = "\nCopy it again from where it was saved, or save it again."
    expected, found = (blake3.blake3(content).hexdigest() for content in (data, flip(data)))
    size = len(data)
    path.unlink()
    assert refusal(folder) == f"{head}missing{tail}"
    path.symlink_to("nowhere")
    assert refusal(folder) == f"{head}missing{tail}"
    path.unlink()
    path.mkdir()
    assert refusal(folder) == f"{head}expected a file, found something else{tail}"
    path.rmdir()
    os.mkfifo(path)
    assert refusal(folder) == f"{head}expected a file, found something else{tail}"
    path.unlink()
    path.write_bytes(data[:-1])
    assert refusal(folder) == f"{head}expected {size} bytes, found {size - 1}{tail}"
    path.write_bytes(data + b"\0")
    assert refusal(folder) == f"{head}expected {size} bytes, found {size + 1}{tail}"
    path.write_bytes(flip(data))
    assert refusal(folder) == f"{head}altered, expected BLAKE3 {expected}, found {found}{tail}"
    path.write_bytes(data)
    exporter.load(folder)


def test_a_folder_that_is_missing_names_its_files(folder):
    shutil.rmtree(folder / "variables")
    lines = refusal(folder).splitlines()
    assert (
        lines[0] == f"artifact 'FOLDER' is damaged: {len(CHECKPOINT)} of {COUNT} files are wrong:"
    )
    assert lines[1:11] == [f"  {name}: missing" for name in CHECKPOINT[:10]]
    assert lines[11:] == [
        f"  and {len(CHECKPOINT) - 10} more",
        "Copy it again from where it was saved, or save it again.",
    ]


def test_files_that_are_not_listed_are_no_part_of_it(folder):
    (folder / "programs" / "evil.py").write_text("raise SystemExit")
    (folder / "variables" / "sitecustomize.py").write_text("raise SystemExit")
    (folder / "notes.txt").write_text("mine")
    assert exporter.load(folder).add(1) == 1


# The manifest as bytes.

GOOD_BYTES = (GOOD / MANIFEST).read_bytes()
NOT_JSON = "MANIFEST is damaged, it is not JSON: "


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", f"{NOT_JSON}Input data was truncated."),
        (b"\0" * 100, f"{NOT_JSON}JSON is malformed: invalid character (byte 0)."),
        (b"SavedModel", f"{NOT_JSON}JSON is malformed: invalid character (byte 0)."),
        (GOOD_BYTES[:1000], f"{NOT_JSON}Input data was truncated."),
        (GOOD_BYTES + b"}", f"{NOT_JSON}JSON is malformed: trailing characters (byte ..."),
        (b"\xef\xbb\xbf" + GOOD_BYTES, f"{NOT_JSON}JSON is malformed: invalid character (byte 0)."),
        (GOOD_BYTES.decode().encode("utf-16"), f"{NOT_JSON}JSON is malformed: ..."),
        (gzip.compress(GOOD_BYTES), f"{NOT_JSON}JSON is malformed: ..."),
        (
            b"[" * 10**6,
            "MANIFEST is not the manifest of an artifact: Expected `object`, got `array`.",
        ),
        (b'{"a":' * 10**6, f"{NOT_JSON}maximum recursion depth exceeded..."),
        (b"{}", 'MANIFEST is not the manifest of an artifact: no "format": "jax-exporter".'),
        (
            b'{"format":"other","format_version":1}',
            'MANIFEST is not the manifest of an artifact: no "format": "jax-exporter".',
        ),
        (
            b"[]",
            "MANIFEST is not the manifest of an artifact: Expected `object`, got `array`.",
        ),
        (
            b'"jax-exporter"',
            "MANIFEST is not the manifest of an artifact: Expected `object`, got `str`.",
        ),
        (
            b'{"format":"jax-exporter","format_version":"1"}',
            "MANIFEST is not the manifest of an artifact: Expected `int`, got `str` - at "
            "`$.format_version`.",
        ),
        (
            b'{"format":"jax-exporter","format_version":1}',
            "MANIFEST is damaged: Object missing required field `created`",
        ),
        (
            b'{"format":"jax-exporter","format_version":1,"x":' + b"[" * 900 + b"]" * 900 + b"}",
            "MANIFEST is damaged: Object contains unknown field `x`",
        ),
        (
            GOOD_BYTES.replace(b'"x64": false', b'"x64": ' + b"9" * 5000),
            "MANIFEST is damaged: Number out of range - at `$.x64`",
        ),
        (GOOD_BYTES.replace(b'"x64": false', b'"x64": NaN'), f"{NOT_JSON}JSON is malformed: ..."),
        (
            GOOD_BYTES.replace(b'"x64": false', b'"\\ud800": false'),
            f"{NOT_JSON}JSON is malformed: unexpected end of ...",
        ),
        (
            GOOD_BYTES.replace(b'"batch"', b'"bitch"'),
            "MANIFEST is damaged: it was altered after it was written, its digest is that of other "
            "content",
        ),
        (
            re.sub(rb'"digest": "[0-9a-f]*",', b"", GOOD_BYTES),
            "MANIFEST is damaged: Object missing required field `digest`",
        ),
        (
            re.sub(rb'"digest": "[0-9a-f]*"', b'"digest": "' + b"0" * 64 + b'"', GOOD_BYTES),
            "MANIFEST is damaged: it was altered after it was written, its digest is that of other "
            "content",
        ),
        (b" " * (16 * 2**20 + 1), "MANIFEST has more than 16,777,216 bytes, so it is damaged."),
    ],
)
def test_a_manifest_that_is_none_is_refused(folder, data, message):
    (folder / MANIFEST).write_bytes(data)
    found = refusal(folder)
    if message.endswith("..."):
        assert found.startswith(message[:-3])
    else:
        assert found == message


def garbage(kind: bytes) -> bytes:
    """As large as a manifest may be, of the smallest values there are."""
    start = b'{"format":"jax-exporter","format_version":1,"nodes":['
    return start + (kind + b",") * ((16 * 2**20 - 200) // (len(kind) + 1)) + kind + b"]}"


@pytest.mark.parametrize("kind", [b"[]", b"{}", b"0", b'""', b'{"kind":"list"}'])
def test_a_manifest_full_of_nothing_takes_little_time_and_memory(folder, kind):
    (folder / MANIFEST).write_bytes(garbage(kind))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert refusal(folder).startswith("MANIFEST is damaged: ")
    assert time.monotonic() - start < 10
    # Well-formed nodes are 16 bytes in the file and 220 as objects.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 2**10


def test_a_manifest_that_is_no_file_is_refused(folder):
    path = folder / MANIFEST
    path.unlink()
    missing = "FOLDER is not an artifact: it has no saved_model.json."
    assert refusal(folder, ArtifactNotFoundError) == missing
    path.symlink_to("nowhere")
    assert refusal(folder, ArtifactNotFoundError) == missing
    path.unlink()
    path.mkdir()
    assert refusal(folder) == "MANIFEST is not a file."
    path.rmdir()
    os.mkfifo(path)
    assert refusal(folder) == "MANIFEST is not a file."
    path.unlink()
    path.symlink_to("/dev/zero")
    assert refusal(folder) == "MANIFEST is not a file."


def test_what_is_no_artifact_is_not_found(folder):
    parent = folder.parent
    kind = ArtifactNotFoundError
    assert refusal(parent / "none", kind) == "FOLDER does not exist."
    assert refusal(parent / "none" / "1", kind) == "FOLDER does not exist."
    assert refusal(parent / "outside.mlirbc", kind) == (
        "FOLDER is a file; an artifact is a folder with a saved_model.json."
    )
    assert refusal(parent, kind) == (
        "FOLDER is not an artifact: it has no saved_model.json. It has artifacts in it: model."
    )


def test_what_a_manifest_says_is_harmless_to_a_terminal_and_short(folder):
    long = "\x1b[2J" + "x" * 10**6
    change(folder, lambda d: d["programs"][0].update(file=long))
    assert refusal(folder).startswith("MANIFEST is damaged: programs[0].file is '\\x1b[2Jxxxx")
    change(folder, lambda d: d.update({long: 1}))
    assert refusal(folder).startswith(
        "MANIFEST is damaged: Object contains unknown field `\\x1b[2Jxxxx"
    )
    change(
        folder, lambda d: [d.pop(long), d.update(format_version=7, producer={"jax_exporter": long})]
    )
    with pytest.raises(exporter.FormatVersionError) as caught:
        exporter.load(folder)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


# Manifests that were sealed again and say what cannot be.


def concrete(document: Document, name: str) -> dict:
    return next(one for one in document["concrete_functions"] if one["name"] == name)


def function(document: Document, name: str) -> dict:
    return next(one for one in document["functions"] if one["name"] == name)


def node(document: Document, kind: str) -> dict:
    return next(one for one in document["nodes"] if one["kind"] == kind)


def within(part: dict, depth: int) -> dict:
    """A part inside that many lists."""
    return functools.reduce(
        lambda inner, _: {"kind": "sequence", "type": "list", "items": [inner]}, range(depth), part
    )


def axis(text: object) -> Callable[[Document], object]:
    return lambda d: d["programs"][0]["inputs"][0].update(shape=[text, 3])


def of_program(**fields: object) -> Callable[[Document], object]:
    return lambda d: d["programs"][0].update(fields)


def of_variable(**fields: object) -> Callable[[Document], object]:
    return lambda d: d["variables"][0].update(fields)


def of_default(**fields: object) -> Callable[[Document], object]:
    return lambda d: concrete(d, "fixed")["inputs"][1]["default"].update(fields)


def of_pair(**fields: object) -> Callable[[Document], object]:
    """The namedtuple that `nested` returns."""
    return lambda d: concrete(d, "nested")["result"]["items"][1].update(fields)


def text(value: str) -> dict:
    return {"type": "str", "text": value}


def remove_arguments(document: Document) -> None:
    apply = concrete(document, "apply")
    apply["inputs"] = []
    apply["arguments"] = {"x": {"kind": "sequence", "type": "list", "items": []}}


def nest_tuples(document: Document) -> None:
    first = len(document["nodes"])
    inner = [{"kind": "tuple", "children": [first + number]} for number in range(1, 301)]
    document["nodes"] += [*inner, {"kind": "tuple"}]


def cross_tuples(document: Document) -> None:
    first = len(document["nodes"])
    document["nodes"] += [
        {"kind": "tuple", "children": [first + 1]},
        {"kind": "tuple", "children": [first]},
    ]


def contain_itself(document: Document) -> None:
    kinds = [one["kind"] for one in document["nodes"]]
    node(document, "tuple")["children"] = [kinds.index("tuple")]


NOT_AN_AXIS = (
    " is not an axis. An axis is a size (64), None, a name ('batch') or arithmetic over names "
    "('2*n + 1', with + - * // % ^ and max, min, mod, floordiv)."
)
ELSEWHERE = (
    "a letter comes first, then letters, digits and underscores, and it is not a word of Python's "
    "own."
)

LIES = {
    # What refers to nothing.
    "a signature of no function": (
        lambda d: d["signatures"].update(serving_default=99),
        "signatures refers to 99, but there are 10.",
    ),
    "a function of no concrete function": (
        lambda d: d["functions"][0]["concrete"].append(99),
        "functions[0].concrete refers to 99, but there are 10.",
    ),
    "a concrete function of no program": (
        lambda d: d["concrete_functions"][0].update(programs=[99]),
        "concrete_functions[0].programs refers to 99, but there are 12.",
    ),
    "a program of no variable": (
        of_program(variables=[99]),
        "programs[0] refers to 99, but there are 8.",
    ),
    "a program that updates no variable": (
        of_program(updates=[99]),
        "programs[0] refers to 99, but there are 8.",
    ),
    "a negative position": (
        of_program(variables=[-1]),
        "Expected `int` >= 0 - at `$.programs[0].variables[0]`",
    ),
    "a kept input that is none": (
        of_program(kept_inputs=[99]),
        "programs[0].kept_inputs refers to 99, but there are 3.",
    ),
    "a child that is no node": (
        lambda d: d["nodes"][0]["children"].append(999),
        "nodes[0] refers to 999, but there are 25.",
    ),
    "a node of no variable": (
        lambda d: node(d, "variable").update(index=99),
        "nodes[3] refers to 99, but there are 8.",
    ),
    "a node of no function": (
        lambda d: node(d, "function").update(index=-1),
        "nodes[5] refers to -1, but there are 10.",
    ),
    "a node with a signature of no function": (
        lambda d: d["nodes"][0].update(signatures={"a": 99}),
        "nodes[0].signatures refers to 99, but there are 10.",
    ),
    "a program that is not listed": (
        of_program(file="programs/other.mlirbc"),
        "programs[0].file is 'programs/other.mlirbc', which is not listed in files.",
    ),
    "no files of variables": (
        lambda d: d.update(files=[f for f in d["files"] if "variables" not in f["path"]]),
        "files lists none in variables/, and there are variables.",
    ),
    "a file that is listed twice": (
        lambda d: d["files"].append(d["files"][0]),
        "files lists a path twice.",
    ),
    "a file with a field too many": (
        lambda d: d["files"][0].update(mode=511),
        "files has an entry with an unknown field",
    ),
    # Programs.
    "a variable taken twice": (
        of_program(variables=[0, 0]),
        "programs[0].variables names a variable twice.",
    ),
    "a variable updated twice": (
        of_program(updates=[4, 4]),
        "programs[0].updates names a variable twice.",
    ),
    "kept inputs out of order": (
        of_program(kept_inputs=[1, 0]),
        "programs[0].kept_inputs is not in ascending order.",
    ),
    "a program newer than the artifact": (
        of_program(stablehlo_version="1.9.0"),
        "programs[0] needs StableHLO 1.9.0, and the artifact says 1.0.0.",
    ),
    "a version of words": (
        lambda d: d.update(stablehlo_version="newest"),
        "Expected `str` matching regex '^[0-9]{1,6}\\\\.[0-9]{1,6}\\\\.[0-9]{1,6}$' - at "
        "`$.stablehlo_version`",
    ),
    "a program for other platforms": (
        of_program(platforms=["tpu"]),
        "programs[0] does not run on all of cpu, cuda, rocm, tpu.",
    ),
    # Dimensions and axes.
    "an axis without its dimension": (
        of_program(dims=[]),
        "programs[0].dims does not have 'batch'.",
    ),
    "a dimension twice": (
        lambda d: d["programs"][0]["dims"].append({"name": "batch"}),
        "programs[0].dims has a name twice.",
    ),
    "a dimension without a name": (
        lambda d: d["programs"][0]["dims"].append({"name": ""}),
        f"programs[0].dims: '' is not a name for an axis: {ELSEWHERE}",
    ),
    "a dimension of no size": (
        of_program(dims=[{"name": "batch", "min": 9, "max": 8}]),
        "programs[0].dims: Dim('batch', min=9, max=8) allows no size but 0, or none at all.",
    ),
    "an axis of code": (
        axis("__import__('os')"),
        "programs[0]: axis 0 of float32[__import__('os'), 3]: \"__import__('os')\"" + NOT_AN_AXIS,
    ),
    "an axis that takes for ever": (
        axis("9**9**9"),
        f"programs[0]: axis 0 of float32[9**9**9, 3]: '9**9**9'{NOT_AN_AXIS}",
    ),
    "an axis that is too deep": (
        axis("(" * 2000 + "batch" + ")" * 2000),
        f"programs[0]: axis 0 of float32[...]: '{'(' * 57}...'{NOT_AN_AXIS}",
    ),
    "an axis that is too long": (
        axis("batch" + "+1" * 3000),
        f"programs[0]: axis 0 of float32[...]: the axis 'batch{'+1' * 17}+'... has 6005 "
        "characters, too many to read.",
    ),
    "an axis larger than a program can have": (
        axis(2**63),
        "Expected `int` <= 9223372036854775807 - at `$.programs[0].inputs[0].shape[0]`",
    ),
    "a negative size": (axis(-1), "Expected `int` >= 0 - at `$.programs[0].inputs[0].shape[0]`"),
    "too many axes": (of_variable(shape=[1] * 65), "variables[0] has an array of 65 axes."),
    # Types.
    "a dtype of Python": (
        of_variable(dtype="object"),
        "variables[0]: 'object' is not a dtype name. A program can have bool, int8, ...",
    ),
    "a wide variable without x64": (
        of_variable(dtype="float64"),
        "variables[0] has an array of float64, and x64 is false.",
    ),
    "a wide input without x64": (
        lambda d: d["programs"][0]["inputs"][0].update(dtype="int64"),
        "programs[0] has an array of int64, and x64 is false.",
    ),
    # Variables.
    "a variable larger than its file": (
        of_variable(shape=[10**6, 10**6]),
        "the variables take 4,000,000,000,047 bytes, and the files in variables/ have ...",
    ),
    "a variable larger than memory that is empty": (
        lambda d: d["variables"][6].update(shape=[10**9, 3]),
        "variables[6] is float32[1000000000, 3] and cannot be stored as empty.",
    ),
    "a variable that is not stored": (
        of_variable(storage="empty"),
        "variables[0] is float32[3, 4] and cannot be stored as empty.",
    ),
    "a variable stored as bytes": (
        of_variable(storage="bytes"),
        "variables[0] is float32[3, 4] and cannot be stored as bytes.",
    ),
    "a variable without a key": (
        of_variable(key=[]),
        "variables[0].key is [], which is no path in a checkpoint.",
    ),
    "a variable with a key that leaves the folder": (
        of_variable(key=["..", "..", "etc"]),
        "variables[0].key is ['..', '..', 'etc'], which is no path in a checkpoint.",
    ),
    "a variable with a key that is absolute": (
        of_variable(key=["/etc/passwd"]),
        "variables[0].key is ['/etc/passwd'], which is no path in a checkpoint.",
    ),
    "a key twice": (of_variable(key=["count"]), "two variables have the same key."),
    "a key inside another": (
        of_variable(key=["count", "kernel"]),
        "the key ['count'] is also the beginning of another.",
    ),
    "a path that is no number": (
        lambda d: d["variables"][0]["path"].append({"type": "int", "text": "one"}),
        "variables[0].path: invalid literal for int() ...",
    ),
    # Concrete functions and their programs.
    "two inputs of one name": (
        lambda d: concrete(d, "fixed")["inputs"][1].update(name="x"),
        "concrete_functions[1].inputs has a name twice.",
    ),
    "two outputs of one name": (
        lambda d: concrete(d, "fixed")["outputs"][1].update(name="y"),
        "concrete_functions[1].outputs has a name twice.",
    ),
    "another number of inputs": (
        remove_arguments,
        "concrete_functions[0] and programs[0] differ in their numbers of arrays.",
    ),
    "an input of another dtype": (
        lambda d: concrete(d, "apply")["inputs"][0].update(dtype="int32"),
        "concrete_functions[0] and programs[0] differ in 'x'.",
    ),
    "an input of another size": (
        lambda d: concrete(d, "apply")["inputs"][0].update(shape=["batch", 4]),
        "concrete_functions[0] and programs[0] differ in 'x'.",
    ),
    "an output of another rank": (
        lambda d: concrete(d, "apply")["outputs"][0].update(shape=["batch"]),
        "concrete_functions[0] and programs[0] differ in 'output_0'.",
    ),
    "other ranks": (
        of_program(ranks=[2]),
        "concrete_functions[0] and programs[0] differ in their numbers of axes.",
    ),
    "a constraint that the program does not have": (
        of_program(mesh_axes=["data"]),
        "FOLDER/programs/...",
    ),
    "axes of constraints out of order": (
        of_program(mesh_axes=["model", "data"]),
        "programs[0].mesh_axes is ['model', 'data'], which are no names in ascending order.",
    ),
    "a mesh that has an axis twice": (
        of_program(mesh=[{"name": "data", "size": 2}] * 2),
        "programs[0].mesh has an axis twice, or without a name.",
    ),
    "an axis of size 0": (
        of_program(mesh=[{"name": "data", "size": 0}]),
        "Expected `int` >= 1 - at `$.programs[0].mesh[0].size`",
    ),
    "a spec of more axes than the array": (
        of_variable(partition_spec=[None] * 9),
        "variables[0].partition_spec has 9 axes, and the array ...",
    ),
    "a spec that names an axis twice": (
        of_variable(partition_spec=["data", ["model", "data"]]),
        "variables[0].partition_spec names a mesh axis twice, or one without a name.",
    ),
    "two programs of one rank": (
        lambda d: concrete(d, "apply").update(programs=[0, 0]),
        "concrete_functions[0] has two programs for the same numbers of axes.",
    ),
    # Defaults.
    "a default of another dtype": (
        of_default(dtype="int32"),
        "concrete_functions[1].inputs has a default for 'scale' that does not fit it.",
    ),
    "a default of another size": (
        of_default(shape=[2]),
        "concrete_functions[1].inputs: an array of shape [2] with 4 bytes",
    ),
    "a default that is too short": (
        of_default(data="AA=="),
        "concrete_functions[1].inputs: an array of shape [] with 1 bytes",
    ),
    "a default of no elements and many": (
        of_default(shape=[0, 2**62], data=""),
        "concrete_functions[1].inputs: ...",
    ),
    "a default that is not base64": (of_default(data="?"), "concrete_functions[1].inputs: ..."),
    # Structures.
    "an argument that is missing": (
        lambda d: concrete(d, "apply")["arguments"].clear(),
        "concrete_functions[0].arguments refers to the arrays [], and should once to each of 1.",
    ),
    "an argument of no input": (
        lambda d: concrete(d, "apply")["arguments"]["x"].update(index=7),
        "concrete_functions[0].arguments refers to the arrays [7], and should once to each of 1.",
    ),
    "a parameter without an argument": (
        lambda d: d["functions"][0]["parameters"].append({"name": "y", "kind": "keyword_only"}),
        "functions[0] and concrete_functions[0] differ in their parameters.",
    ),
    "parameters in no order": (
        lambda d: function(d, "fixed")["parameters"].reverse(),
        "functions[1].parameters: ...",
    ),
    "a parameter that is no name": (
        lambda d: d["functions"][0]["parameters"][0].update(name="not a name"),
        "functions[0] has a parameter 'not a name', which is no name.",
    ),
    "a parameter without a name": (
        lambda d: d["functions"][0]["parameters"][0].update(name=""),
        "functions[0] has a parameter '', which is no name.",
    ),
    "a parameter that Python has taken": (
        lambda d: d["functions"][0]["parameters"][0].update(name="class"),
        "functions[0].parameters: ...",
    ),
    "a default of no array": (
        lambda d: d["functions"][0]["parameters"][0].update(default={"kind": "array", "index": 3}),
        "functions[0].parameters refers to the arrays [3], and should once to each of 0.",
    ),
    "an output returned twice": (
        lambda d: concrete(d, "fixed")["result"]["items"][1].update(index=0),
        "concrete_functions[1].result refers to the arrays [0, 0], and should once to each of 2.",
    ),
    "a sequence of another type": (
        of_pair(type="set", fields=[]),
        "concrete_functions[9].result has a sequence of type 'set'.",
    ),
    "a namedtuple without a name": (
        of_pair(type="a b"),
        "concrete_functions[9].result has a namedtuple 'a b' that cannot be.",
    ),
    "a namedtuple with a field of code": (
        of_pair(fields=["low", "high): pass\nimport os\ndef f("]),
        "concrete_functions[9].result has a namedtuple 'Pair' that cannot be.",
    ),
    "a namedtuple with a word of Python's": (
        of_pair(fields=["low", "class"]),
        "concrete_functions[9].result has a namedtuple 'Pair' that cannot be.",
    ),
    "a namedtuple with a field of another name's": (
        of_pair(fields=["low", "__class__"]),
        "concrete_functions[9].result has a namedtuple 'Pair' that cannot be.",
    ),
    "a namedtuple with too many fields": (
        of_pair(fields=["low", "high", "more"]),
        "concrete_functions[9].result has a namedtuple 'Pair' that cannot be.",
    ),
    "a dict with too many keys": (
        lambda d: concrete(d, "fixed")["result"]["keys"].append(text("z")),
        "concrete_functions[1].result has 3 keys for 2 items.",
    ),
    "a dict with a key twice": (
        lambda d: concrete(d, "fixed")["result"].update(
            keys=[{"type": "int", "text": "1"}, {"type": "bool", "text": "True"}]
        ),
        "concrete_functions[1].result has a key twice.",
    ),
    "a dict with a key that was not kept": (
        lambda d: concrete(d, "fixed")["result"]["keys"][0].update(type="opaque"),
        "concrete_functions[1].result has a key of a type that cannot be kept.",
    ),
    "a truth that is no truth": (
        lambda d: function(d, "halves")["parameters"][1]["default"]["value"].update(type="bool"),
        "functions[2].parameters has 'both' for a bool.",
    ),
    "a structure that is too deep": (
        lambda d: concrete(d, "apply").update(result=within(concrete(d, "apply")["result"], 250)),
        "concrete_functions[0].result is more than 200 deep.",
    ),
    "a structure without a bottom": (
        lambda d: concrete(d, "apply").update(result=within(concrete(d, "apply")["result"], 440)),
        "concrete_functions[0].result is more than 200 deep.",
    ),
    # The object tree.
    "no nodes": (lambda d: d.update(nodes=[]), "nodes does not begin with an object."),
    "a root that is no object": (
        lambda d: d["nodes"][0].update(kind="list", keys=[]),
        "nodes does not begin with an object.",
    ),
    "an attribute that is Python's": (
        lambda d: d["nodes"][0]["keys"].__setitem__(0, text("__class__")),
        "nodes[0] has the attribute '__class__', which is reserved.",
    ),
    "an attribute that is ours": (
        lambda d: d["nodes"][0]["keys"].__setitem__(0, text("__signatures__")),
        "nodes[0] has the attribute '__signatures__', which is reserved.",
    ),
    "an attribute without a value": (
        lambda d: d["nodes"][0]["children"].pop(),
        "nodes[0] has 15 keys for 14 items.",
    ),
    "a list with keys": (
        lambda d: node(d, "list").update(keys=[text("a")]),
        "nodes[1] is a list and has keys.",
    ),
    "a list with signatures": (
        lambda d: node(d, "list").update(signatures={}),
        "nodes[1] is a list and has signatures.",
    ),
    "a tuple that holds itself": (
        contain_itself,
        "nodes[8] is a tuple that holds itself or an earlier tuple.",
    ),
    "two tuples that hold each other": (
        cross_tuples,
        "nodes[26] is a tuple that holds itself or an earlier tuple.",
    ),
    "tuples that are too deep": (nest_tuples, "nodes[126] is more than 200 deep."),
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("verify", [True, False])
def test_a_manifest_that_says_what_cannot_be_is_refused(folder, name, verify):
    edit, message = LIES[name]
    change(folder, edit)
    found = refusal(folder, verify=verify).removeprefix("MANIFEST is damaged: ")
    if message.endswith("..."):
        assert found.startswith(message[:-3])
    else:
        assert found == message


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda d: d.update(stablehlo_version="9.0.0"),
            rf"FOLDER needs StableHLO 9\.0\.0, and JAX {re.escape(jax.__version__)} reads up to "
            r"[0-9.]+\. It was written with JAX 0\.10\.2: install that or a newer one, or save "
            r"with SaveOptions\(stablehlo_version=\.\.\.\)\.",
        ),
        (
            of_program(calling_convention_version=99),
            rf"FOLDER calls its programs by convention 99, and JAX {re.escape(jax.__version__)} "
            r"knows \d+ to \d+\. It was written with JAX 0\.10\.2: install that one\.",
        ),
    ],
)
def test_an_artifact_of_the_future_says_what_to_install(folder, edit, message):
    change(folder, edit)
    assert re.fullmatch(message, refusal(folder, IncompatibleRuntimeError))


# Paths.

ESCAPES = {
    "../outside.mlirbc": "leaves the folder",
    "programs/../../outside.mlirbc": "leaves the folder",
    "/etc/passwd": "is absolute",
    "programs\\add.mlirbc": "holds a backslash",
    "C:/outside.mlirbc": "begins with a drive letter",
    "programs//add.mlirbc": "has an empty part",
    "./programs/add.mlirbc": "has an empty part",
    "programs/add\0.mlirbc": "holds a control character or half of one of UTF-16's pairs",
    "": "is empty",
}


@pytest.mark.parametrize("path", ESCAPES)
def test_no_path_leaves_the_folder(folder, path):
    def lead(document: Document) -> None:
        (number,) = (
            i for i, f in enumerate(document["files"]) if f["path"].endswith("/add.mlirbc")
        )
        document["files"][number]["path"] = path
        (program,) = (p for p in document["programs"] if p["file"].endswith("/add.mlirbc"))
        program["file"] = path

    change(folder, lead)
    assert refusal(folder) == (
        f"artifact 'FOLDER' is damaged: 1 of {COUNT} files are wrong:\n"
        f"  {path!r}: the path {ESCAPES[path]}\n"
        "Copy it again from where it was saved, or save it again."
    )
    assert refusal(folder, verify=False) == (
        f"'FOLDER' cannot have a file {path!r}: the path {ESCAPES[path]}."
    )


def test_a_program_that_is_no_file_is_refused_even_unverified(folder):
    path = folder / "programs" / "add.mlirbc"
    path.unlink()
    os.mkfifo(path)
    message = "FOLDER/programs/add.mlirbc is missing, or is not a file."
    assert refusal(folder, ArtifactNotFoundError, verify=False) == message
    path.unlink()
    assert refusal(folder, ArtifactNotFoundError, verify=False) == message


# Programs, with all digests right.

UNREADABLE = "FOLDER/programs/nested.mlirbc is not a program that can be read: "
UNKNOWN = (
    "FOLDER/programs/nested.mlirbc calls native code that is not on the list of stable custom "
    "calls: {0}. It is not loaded. If you trust it, and this process has that code, say so: "
    "exporter.load(path, custom_calls=({0},))."
)
SAID = "and the manifest says (tensor<i32>, tensor<5xui4>, tensor<2xf32>)."
WHOLE = (GOOD / "programs" / "nested.mlirbc").read_bytes()


def constraint(attributes: str) -> bytes:
    """A program with what stands for a sharding constraint."""
    return bytecode_of(
        "module { func.func public @main(%a: tensor<2xf32>) -> tensor<2xf32> { "
        '%0 = stablehlo.composite "exporter.sharding_constraint" %a {composite_attributes = '
        f"{{{attributes}}}, decomposition = @same}} : (tensor<2xf32>) -> tensor<2xf32> "
        "return %0 : tensor<2xf32> } func.func private @same(%a: tensor<2xf32>) -> tensor<2xf32> { "
        "return %a : tensor<2xf32> } }"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"", f"{UNREADABLE}it is not MLIR bytecode."),
        (lambda: b"module {}", f"{UNREADABLE}it is not MLIR bytecode."),
        (lambda: b"\x80\x04cos\nsystem\n.", f"{UNREADABLE}it is not MLIR bytecode."),
        (lambda: WHOLE[:400], f"{UNREADABLE}INVALID_ARGUMENT: Failed to deserialize StableHLO"),
        (lambda: WHOLE[:4], f"{UNREADABLE}INVALID_ARGUMENT: Failed to deserialize StableHLO"),
        (unknown_custom_call, UNKNOWN.format("'run_anything'")),
        (
            lambda: main_function(
                '%0 = "stablehlo.custom_call"(%arg0) <{call_target_name = ""}> : '
                "(tensor<2xf32>) -> tensor<2xf32>"
            ),
            UNKNOWN.format("''"),
        ),
        (
            lambda: main_function(
                "%0 = mhlo.custom_call @run_anything(%arg0) : (tensor<2xf32>) -> tensor<2xf32>"
            ),
            f"{UNREADABLE}it has operations that are not StableHLO: 'mhlo.custom_call'.",
        ),
        (
            lambda: bytecode_of(
                "module { func.func public @main(%arg0: tensor<2xf32>) -> tensor<2xf32> { "
                "return %arg0 : tensor<2xf32> } module @inner { func.func @f(%a: tensor<f32>) { "
                "stablehlo.custom_call @run_anything(%a) : (tensor<f32>) -> () return } } }"
            ),
            UNKNOWN.format("'run_anything'"),
        ),
        *(
            (functools.partial(constraint, spec), f"{UNREADABLE}{fault}")
            for spec, fault in (
                ("", "it has a sharding constraint without a spec."),
                ("spec = 3 : i32", "it has a sharding constraint without a spec."),
                (f'spec = "{"[" * 10**5}"', "it has a sharding constraint without a spec."),
                *(
                    (
                        f'spec = "{spec}"',
                        "it has a sharding constraint that does not fit its array.",
                    )
                    for spec in ("[]", "[null, null]", "[3]", "7", "[[3]]", "[[[]]]")
                ),
            )
        ),
        (
            lambda: bytecode_of("module { func.func public @other() { return } }"),
            f"{UNREADABLE}it has 0 main functions.",
        ),
        (
            lambda: bytecode_of("module { module @main {} }"),
            f"{UNREADABLE}it has 0 main functions.",
        ),
    ],
)
def test_a_program_that_is_none_or_calls_what_nobody_knows_is_refused(folder, make, message):
    replace_program(folder, "nested", make())
    assert refusal(folder, UnsafeProgramError) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            (GOOD / "programs" / "best.mlirbc").read_bytes,
            f"its main function takes (tensor<i32>, tensor<6xf32>), {SAID}",
        ),
        (
            lambda: main_function("%0 = stablehlo.add %arg0, %arg0 : tensor<2xf32>"),
            f"its main function takes (tensor<2xf32>), {SAID}",
        ),
        (
            lambda: bytecode_of(
                "module { func.func public @main(%a: tensor<i32>, %b: tensor<5xui4>, "
                "%c: tensor<2xf32>) -> tensor<2xf32> { return %c : tensor<2xf32> } }"
            ),
            "its main function gives (tensor<2xf32>), and the manifest says (tensor<2xf32>, "
            "tensor<2xf32>, tensor<5xi32>, tensor<f32>).",
        ),
        (
            lambda: constraint('spec = "[[\\22data\\22]]"'),
            "it has the mesh () and constraints on (data), and the manifest says () and ().",
        ),
    ],
)
def test_a_program_that_is_another_than_the_manifest_says_is_refused(folder, make, message):
    replace_program(folder, "nested", make())
    assert refusal(folder) == f"FOLDER/programs/nested.mlirbc does not fit the manifest: {message}"


# The checkpoint, with all digests right.

BIAS = "FOLDER/variables does not hold the arrays of the manifest:\n  layers/0/bias: "


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: rewrite_array(f, "layers.0.bias", shape=[5]),
            "expected float32[4], found float32[5]",
        ),
        (
            lambda f: rewrite_array(f, "layers.0.bias", dtype="<f8"),
            "expected float32[4], found float64[4]",
        ),
        (
            lambda f: rewrite_array(f, "layers.0.bias", chunks=[10**11]),
            "float32[4] has chunks of [100000000000]",
        ),
        (
            lambda f: rewrite_array(f, "layers.0.bias", dtype="|O"),
            'Error reading "layers.0.bias/.zarray": ...',
        ),
        (
            lambda f: write_in_checkpoint(f, "layers.0.bias/.zarray", b"{"),
            'Error reading "layers.0.bias/.zarray": ...',
        ),
        (
            lambda f: write_in_checkpoint(f, "layers.0.bias/.zarray", None),
            'Metadata at "layers.0.bias/.zarray" does not exist',
        ),
        (
            lambda f: write_in_checkpoint(f, "layers.0.bias/0", None),
            'chunk {0} stored at "layers.0.bias/0" is missing',
        ),
        (
            lambda f: write_in_checkpoint(f, "layers.0.bias/0", b"garbage"),
            'Error reading "layers.0.bias/0": ...',
        ),
    ],
)
def test_a_checkpoint_that_holds_other_arrays_is_refused(folder, damage, message):
    damage(folder)
    found = refusal(folder)
    if message.endswith("..."):
        assert found.startswith(f"{BIAS}{message[:-3]}")
    else:
        assert found == f"{BIAS}{message}"


def test_a_checkpoint_that_is_none_names_every_array(folder):
    for file in (folder / "variables").rglob("*"):
        if file.is_file():
            file.write_bytes(b"x" * 50)
    seal(folder)
    lines = refusal(folder).splitlines()
    assert lines[0] == "FOLDER/variables does not hold the arrays of the manifest:"
    stored = [v for v in read_manifest(folder)["variables"] if v["storage"] != "empty"]
    assert [line.partition(":")[0].strip() for line in lines[1:]] == [
        "/".join(variable["key"]) for variable in stored
    ]


def test_a_refused_checkpoint_leaves_nothing_on_the_error_stream(folder):
    rewrite_array(folder, "layers.0.bias", chunks=[10**11])
    code = (
        "import exporter, sys\ntry: exporter.load(sys.argv[1])\nexcept exporter.ArtifactError: pass"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Anything.


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in pairs:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def mutated(document: Document, chance: random.Random) -> None:
    """Change one thing in a manifest, often for another of its kind."""
    found = list(places(document))
    path = chance.choice(found)
    owner = functools.reduce(lambda inner, key: inner[key], path[:-1], document)
    old = owner[path[-1]]
    others = [functools.reduce(lambda inner, key: inner[key], p, document) for p in found]
    same = [other for other in others if type(other) is type(old)]
    choices = [
        None,
        0,
        -1,
        1,
        2**62,
        "",
        "x",
        "../x",
        [],
        {},
        chance.choice(same),
        chance.choice(same),
    ]
    if chance.random() < 0.2:
        del owner[path[-1]]
    elif isinstance(old, list) and old and chance.random() < 0.5:
        old.insert(chance.randrange(len(old)), chance.choice(old))
    else:
        owner[path[-1]] = json.loads(json.dumps(chance.choice(choices)))


def test_no_change_to_a_manifest_gives_an_error_of_another_kind(folder):
    chance, outcomes = random.Random(1), {"loaded": 0, "refused": 0}
    for _ in range(200):
        document = read_manifest(GOOD)
        mutated(document, chance)
        seal(folder, document, files=False)
        try:
            repr(exporter.load(folder, verify=chance.random() < 0.5))
        except ExporterError as error:
            assert isinstance(error, ArtifactError | IncompatibleRuntimeError)  # noqa: PT017
            outcomes["refused"] += 1
        else:
            outcomes["loaded"] += 1
    assert min(outcomes.values()) > 10

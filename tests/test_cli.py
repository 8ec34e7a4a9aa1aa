"""The command: what it prints and writes, and the one line it has for what it cannot use."""

import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import msgspec
import numpy as np
import pytest

import exporter
from exporter import Dim, TensorSpec, Variable
from exporter.artifact import manifest as manifest_file
from exporter.cli import main, one_line
from exporter.cli.arrays.outputs import check_files, storable
from exporter.cli.arrays.sources import FORMS
from exporter.cli.arrays.words import read_values
from exporter.cli.check import PLATFORMS
from exporter.errors import ArtifactError
from exporter.runtime.describe import describe
from exporter.runtime.summary import summarise
from exporter.staging.lowering import ALL_PLATFORMS
from signatures.errors import BindError

ROOT = Path(__file__).resolve().parent.parent

SMALL_TYPES = [
    name
    for name in (
        "bfloat16",
        "float8_e3m4",
        "float8_e4m3",
        "float8_e4m3b11fnuz",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
        "float6_e2m3fn",
        "float6_e3m2fn",
        "float4_e2m1fn",
        "int4",
        "uint4",
        "int2",
        "uint2",
        "int1",
        "uint1",
    )
    if hasattr(ml_dtypes, name)
]


class Classifier:
    def __init__(self):
        self.kernel = jnp.arange(12, dtype=jnp.float32).reshape(3, 4)
        self.calls = Variable(jnp.zeros((), jnp.int32), trainable=False)

    @exporter.function(
        input_signature=[
            TensorSpec((Dim("batch", max=8), 3), "float32", name="image"),
            TensorSpec((), "float32"),
        ]
    )
    def classify(self, image, scale=2.0):
        self.calls.value = self.calls.value + 1
        return {"logits": image @ self.kernel * scale, "calls": self.calls.value}

    @exporter.function(input_signature=[TensorSpec(("n",), "int32", name="ids")])
    def double(self, ids):
        return ids * 2


class Typed:
    """Inputs and outputs of types that .npy files and JSON lack."""

    @exporter.function(
        input_signature=[
            TensorSpec(("n",), "bfloat16", name="half"),
            TensorSpec((2,), "int4", name="four"),
            TensorSpec((), "key<fry>", name="key"),
        ]
    )
    def f(self, half, four, key):
        return {
            "half": half * 2,
            "four": four,
            "key": jax.random.fold_in(key, 1),
            "complex": half.astype(jnp.float32) + 1j,
            "not/finite": jnp.array([jnp.nan, jnp.inf, -jnp.inf]) + half[0].astype(jnp.float32),
        }


class Escaping:
    """The names of its outputs are those of an artifact that means no good."""

    def __init__(self, name):
        self.name = name

    @exporter.function(input_signature=[TensorSpec((), "float32")])
    def f(self, x):
        return {"good": x, self.name: x}


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory):
    """A folder with an artifact of each kind, saved once."""
    folder = tmp_path_factory.mktemp("artifacts")
    model = Classifier()
    both = {"serving_default": model.classify, "double": model.double}
    exporter.save(model, folder / "digits", both, platforms=("cpu",))
    exporter.save(model, folder / "one", {"double": model.double}, platforms=("cpu",))
    named = {"a": model.classify, "b": model.double}
    exporter.save(model, folder / "no_default", named, platforms=("cpu",))
    exporter.save(model, folder / "none", {}, platforms=("cpu",))
    exporter.save(Typed(), folder / "typed", platforms=("cpu",))
    with pytest.warns(UserWarning, match="saved without a signature"):
        exporter.save(model, folder / "unsure", platforms=("cpu",))
    return folder


@pytest.fixture
def here(artifacts, tmp_path, monkeypatch):
    """The artifacts under short names in the current folder, and arrays beside them."""
    monkeypatch.chdir(tmp_path)
    for path in artifacts.iterdir():
        (tmp_path / path.name).symlink_to(path)
    image = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save("image.npy", image)
    np.save("wide.npy", image.astype(np.float64))
    np.save("objects.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    np.savez("data.npz", image=image, other=image + 1, **{"a/b": image})
    np.savez_compressed("objects.npz", one=np.array([{}], dtype=object))
    Path("pickled.npy").write_bytes(pickle.dumps(image))
    Path("text.npy").write_text("not an array")
    Path("empty.npy").write_bytes(b"")
    Path("cut.npz").write_bytes(Path("data.npz").read_bytes()[:100])
    with zipfile.ZipFile("mixed.npz", "w") as archive:
        archive.writestr("notes.txt", "not an array")
    with zipfile.ZipFile("nothing.npz", "w"):
        pass
    return tmp_path


def succeed(capsys, *words: str) -> str:
    """What a command prints when it is done."""
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def fail(capsys, *words: str) -> str:
    """The one line that a command says of what it cannot use."""
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err[:-1]


def in_a_process(
    *words: str, python: str = "-m exporter", **options
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *python.split(), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )


# Show.


def test_show_prints_the_description(here, capsys):
    manifest = manifest_file.read(Path("digits"))
    assert succeed(capsys, "show", "digits") == describe(manifest) + "\n"
    listed = describe(manifest, variables=True)
    assert succeed(capsys, "show", "digits", "--variables") == listed + "\n"
    assert "  calls   int32[]        no         Variable" in listed


def test_show_prints_the_summary_as_json(here, capsys):
    manifest = manifest_file.read(Path("digits"))
    assert json.loads(succeed(capsys, "show", "digits", "--json")) == summarise(manifest)


def test_show_does_not_need_the_programs_and_variables(here, capsys, artifacts):
    Path("bare").mkdir()
    Path("bare/saved_model.json").write_bytes((artifacts / "one/saved_model.json").read_bytes())
    assert "double" in succeed(capsys, "show", "bare")


def test_show_of_one_signature_leaves_the_others_out(here, capsys):
    shown = succeed(capsys, "show", "digits", "--signature", "double", "--variables")
    assert shown == (
        "Signature\n"
        "  double\n"
        "    inputs   ids       int32[n]\n"
        "    outputs  output_0  int32[n]\n\n"
        "Variables\n"
        "  none\n"
    )
    found = json.loads(succeed(capsys, "show", "digits", "--signature", "double", "--json"))
    whole = summarise(manifest_file.read(Path("digits")))
    assert found == {"signatures": {"double": whole["signatures"]["double"]}, "variables": []}


def test_show_draws_the_tree(here, capsys):
    assert succeed(capsys, "show", "one", "--tree").endswith(
        "\n\nTree\n"
        "Classifier  52 bytes\n"
        "├── kernel  float32[3, 4]  48 bytes\n"
        "├── calls  int32[], not trainable  4 bytes\n"
        "├── classify(image, scale=2.0)\n"
        "└── double(ids)\n"
    )
    found = json.loads(succeed(capsys, "show", "one", "--tree", "--json"))
    assert [place["text"] for place in found.pop("tree")][:2] == ["Classifier", "float32[3, 4]"]
    assert found == summarise(manifest_file.read(Path("one")))


def test_show_looks_into_programs(here, capsys):
    words = ["show", "digits", "--signature", "serving_default", "--programs", "--size", "batch=2"]
    shown = succeed(capsys, *words)
    assert "  programs/classify.mlirbc.gz\n    used by     signature serving_default\n" in shown
    # A product of 2x3 and 3x4, the result times a scale, and a call counted.
    flops = 2 * 2 * 3 * 4 + 2 * 4 + 1
    assert f"cost        {flops} FLOP, 248 bytes moved for batch=2\n" in shown
    (program,) = json.loads(succeed(capsys, *words, "--json"))["programs"]["each"]
    assert program["cost"]["flops"] == flops
    assert program["operations"]["stablehlo.dot_general"] == 1
    assert "double" not in shown
    assert "give --size batch=N\n" in succeed(capsys, *words[:-2])


# Run: inputs.

LOGITS = """\
logits  float32[2, 4]
  [[ 40.  46.  52.  58.]
   [112. 136. 160. 184.]]
calls  int32[]
  1
"""


@pytest.mark.parametrize(
    "words",
    [
        ["image=image.npy"],
        ["image=./image.npy"],
        ["image=data.npz[image]"],
        ["image=data.npz[a/b]"],
        ["image=[[0, 1, 2], [3, 4, 5]]"],
        ["image=[[0.0, 1, 2e0], [3, 4, 5]]"],
        ["image=image.npy", "scale=2"],
        ["scale=2.0", "image=image.npy"],
        ["image=image.npy", "--inputs", "scale=2"],
        ["image=image.npy", "--signature", "serving_default"],
    ],
)
def test_run_prints_the_outputs_for_inputs_of_any_form(here, capsys, words):
    assert succeed(capsys, "run", "digits", "--inputs", *words) == LOGITS


def test_run_does_what_the_loaded_signature_does(here, capsys):
    printed = succeed(capsys, "run", "digits", "--inputs", "image=image.npy", "scale=0.3", "--json")
    expected = exporter.load("digits").signatures["serving_default"](
        image=np.load("image.npy"), scale=0.3
    )
    found = json.loads(printed)
    assert list(found) == ["logits", "calls"]
    np.testing.assert_array_equal(np.array(found["logits"], np.float32), expected["logits"])
    assert found["calls"] == 1


def test_run_leaves_the_artifact_as_it_was(here, capsys):
    for _ in range(2):
        words = ["--inputs", "image=[[0, 0, 0]]", "--json"]
        assert json.loads(succeed(capsys, "run", "digits", *words))["calls"] == 1


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["one"], "[2, 4]"),
        (["one", "--signature", "double"], "[2, 4]"),
        (["digits", "--signature", "double"], "[2, 4]"),
        (["no_default", "--signature", "b"], "[2, 4]"),
    ],
)
def test_run_takes_the_signature_asked_for_or_the_only_one(here, capsys, words, output):
    printed = succeed(capsys, "run", *words, "--inputs", "ids=[1, 2]", "--json")
    assert printed == f'{{"output_0": {output}}}\n'


def test_a_file_of_another_byte_order_has_the_same_values(here, capsys):
    np.save("big.npy", np.load("image.npy").astype(">f4"))
    assert succeed(capsys, "run", "digits", "--inputs", "image=big.npy") == LOGITS


def test_an_axis_of_size_0_is_printed(here, capsys):
    assert succeed(capsys, "run", "one", "--inputs", "ids=[]") == "output_0  int32[0]\n  []\n"


def test_long_outputs_are_shortened_for_people_and_whole_in_json(here, capsys):
    np.save("long.npy", np.arange(2000, dtype=np.int32))
    words = ["run", "one", "--inputs", "ids=long.npy"]
    assert succeed(capsys, *words) == (
        "output_0  int32[2000]\n  [   0    2    4 ... 3994 3996 3998]\n"
    )
    whole = json.loads(succeed(capsys, *words, "--json"))["output_0"]
    assert whole == [2 * i for i in range(2000)]


# Types that .npy and JSON lack.

TYPED = ["--inputs", "half=[1, 2, 0.1]", "four=[1, -2]", "key=[0, 42]"]


def test_run_prints_types_that_json_lacks(here, capsys):
    key = jax.random.key_data(jax.random.fold_in(jax.random.key(42), 1)).tolist()
    assert json.loads(succeed(capsys, "run", "typed", *TYPED, "--json")) == {
        "half": [2.0, 4.0, 0.2001953125],
        "four": [1, -2],
        "key": key,
        "complex": [[1.0, 1.0], [2.0, 1.0], [0.100097656, 1.0]],
        "not/finite": ["NaN", "Infinity", "-Infinity"],
    }
    assert succeed(capsys, "run", "typed", *TYPED) == (
        "half  bfloat16[3]\n  [2 4 0.200195]\n"
        "four  int4[2]\n  [1 -2]\n"
        f"key  key<fry>[]\n  {np.array2string(np.array(key, np.uint32))}\n"
        "complex  complex64[3]\n  [1.        +1.j 2.        +1.j 0.10009766+1.j]\n"
        "not/finite  float32[3]\n  [ nan  inf -inf]\n"
    )


def test_run_writes_types_that_npy_lacks_as_types_that_hold_the_same_values(here, capsys):
    assert succeed(capsys, "run", "typed", *TYPED, "--out", "out") == (
        "out/half.npy  bfloat16[3] as float32\n"
        "out/four.npy  int4[2] as int8\n"
        "out/key.npy  key<fry>[] as uint32\n"
        "out/complex.npy  complex64[3]\n"
        "out/not/finite.npy  float32[3]\n"
    )
    half = np.array([1, 2, 0.1], ml_dtypes.bfloat16)
    expected = {
        "half": (half * 2).astype(np.float32),
        "four": np.array([1, -2], np.int8),
        "key": np.asarray(jax.random.key_data(jax.random.fold_in(jax.random.key(42), 1))),
        "complex": half.astype(np.float32) + np.complex64(1j),
        "not/finite": np.array([np.nan, np.inf, -np.inf], np.float32),
    }
    for name, array in expected.items():
        found = np.load(f"out/{name}.npy", allow_pickle=False)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_files_of_raw_bytes_are_inputs_of_the_types_that_npy_lacks(here, capsys):
    np.save("half.npy", np.array([1, 2, 0.1], ml_dtypes.bfloat16))
    np.savez("rest.npz", four=np.array([1, -2], ml_dtypes.int4), key=np.array([0, 42], np.uint32))
    files = ["--inputs", "half=half.npy", "four=rest.npz[four]", "key=rest.npz[key]"]
    assert np.load("half.npy").dtype == np.dtype("V2")
    printed = succeed(capsys, "run", "typed", *files)
    assert printed == succeed(capsys, "run", "typed", *TYPED)


@pytest.mark.parametrize("name", SMALL_TYPES)
def test_every_value_of_a_small_type_is_held_exactly(name):
    dtype = np.dtype(getattr(ml_dtypes, name))
    info = ml_dtypes.iinfo(dtype) if "int" in name else ml_dtypes.finfo(dtype)
    words = np.arange(2**info.bits, dtype=f"u{dtype.itemsize}")
    array = words.astype(dtype) if "int" in name else words.view(dtype)
    stored = storable(array)
    assert stored.dtype.kind in "iuf"
    as_bytes = io.BytesIO()
    np.save(as_bytes, stored, allow_pickle=False)
    as_bytes.seek(0)
    with np.errstate(invalid="ignore"):  # some NaNs are signals
        again = np.load(as_bytes, allow_pickle=False).astype(dtype)
        is_nan = (again != again) & (array != array)  # noqa: PLR0124
        assert (is_nan | (again == array)).all()


def test_a_type_that_npy_has_is_written_as_it_is():
    for name in ("bool", "int8", "uint64", "float16", "float64", "complex128"):
        array = np.zeros(2, name)
        assert storable(array) is array


def test_run_computes_with_64_bits_where_the_artifact_does(tmp_path):
    code = """
import jax
jax.config.update("jax_enable_x64", True)
import exporter

class Wide:
    @exporter.function(input_signature=[exporter.TensorSpec((), "float64", name="x")])
    def f(self, x):
        return x / 3

exporter.save(Wide(), "wide", platforms=("cpu",))
"""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_ENABLE_X64"}
    made = in_a_process(code, python="-c", cwd=tmp_path, env=environment)
    assert made.returncode == 0, made.stderr
    words = ["run", "wide", "--inputs", "x=1"]
    done = in_a_process(*words, "--json", cwd=tmp_path, env=environment)
    assert (done.stdout, done.stderr) == (f'{{"output_0": {1 / 3}}}\n', "")
    refused = in_a_process(*words, cwd=tmp_path, env=environment | {"JAX_ENABLE_X64": "0"})
    assert (refused.returncode, refused.stderr) == (
        1,
        "exporter run: error: wide has 64-bit arrays, which JAX would narrow to 32 bits here. Call "
        "jax.config.update('jax_enable_x64', True) before loading, or set JAX_ENABLE_X64=1.\n",
    )


# Run: files of outputs.

IMAGE = ["--inputs", "image=image.npy"]


def test_run_writes_each_output_to_a_file(here, capsys):
    assert succeed(capsys, "run", "digits", *IMAGE, "--out", "a/b") == (
        "a/b/logits.npy  float32[2, 4]\na/b/calls.npy  int32[]\n"
    )
    expected = exporter.load("digits").signatures["serving_default"](image=np.load("image.npy"))
    assert sorted(path.name for path in Path("a/b").iterdir()) == ["calls.npy", "logits.npy"]
    for name, array in expected.items():
        np.testing.assert_array_equal(np.load(f"a/b/{name}.npy"), array)


def test_nothing_is_overwritten_and_nothing_written_beside_it(here, capsys):
    Path("out").mkdir()
    Path("out/calls.npy").write_text("mine")
    message = fail(capsys, "run", "digits", *IMAGE, "--out", "out")
    assert message == (
        "exporter run: error: outputs cannot be written: out/calls.npy exists, pass --overwrite to "
        "replace it"
    )
    assert [path.name for path in Path("out").iterdir()] == ["calls.npy"]
    assert Path("out/calls.npy").read_text() == "mine"


def test_files_are_overwritten_when_asked_and_links_replaced(here, capsys):
    Path("out").mkdir()
    Path("precious").write_text("mine")
    Path("out/logits.npy").symlink_to(here / "precious")
    Path("out/calls.npy").write_text("old")
    succeed(capsys, "run", "digits", *IMAGE, "--out", "out", "--overwrite")
    assert np.load("out/calls.npy") == 1
    assert np.load("out/logits.npy").shape == (2, 4)
    assert Path("precious").read_text() == "mine"


@pytest.mark.parametrize(
    ("names", "problems"),
    [
        (["kept"], ["out/kept.npy exists, pass --overwrite to replace it"]),
        (["new", "kept", "link"], [
            "out/kept.npy exists, pass --overwrite to replace it",
            "out/link.npy exists, pass --overwrite to replace it",
        ]),
        (["folder"], ["out/folder.npy is a folder"]),
        (["file/x", "file/y"], ["out/file is not a folder"]),
        (["dead/x"], ["out/dead is not a folder"]),
        (["a", "a.npy/b"], ["out/a.npy would have to be a file and a folder"]),
    ],
)  # fmt: skip
def test_everything_in_the_way_of_the_outputs_is_named(tmp_path, monkeypatch, names, problems):
    monkeypatch.chdir(tmp_path)
    Path("out/folder.npy").mkdir(parents=True)
    for name in ("kept.npy", "file"):
        Path("out", name).write_text("")
    for name in ("link.npy", "dead"):
        Path("out", name).symlink_to("nowhere")
    with pytest.raises(exporter.ArtifactExistsError) as caught:
        check_files(Path("out"), names, overwrite=False)
    assert list(caught.value.problems) == problems
    assert str(caught.value).splitlines() == [
        "outputs cannot be written:",
        *(f"  {problem}" for problem in problems),
    ]


def test_folders_are_in_the_way_even_when_files_are_overwritten(tmp_path):
    (tmp_path / "a.npy").mkdir()
    with pytest.raises(exporter.ArtifactExistsError, match="a.npy is a folder"):
        check_files(tmp_path, ["a"], overwrite=True)
    (tmp_path / "b.npy").write_text("")
    assert check_files(tmp_path, ["b"], overwrite=True) == {"b": tmp_path / "b.npy"}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../x", "leaves the folder"),
        ("a/../../x", "leaves the folder"),
        ("/etc/x", "is absolute"),
        ("a//x", "has an empty part"),
        ("a\\x", "holds a backslash"),
        ("C:x", "begins with a drive letter"),
        ("a\nx", "holds a control character or half of one of UTF-16's pairs"),
    ],
)
def test_the_name_of_an_output_cannot_lead_out_of_the_folder(
    tmp_path, monkeypatch, capsys, name, fault
):
    monkeypatch.chdir(tmp_path)
    message = f"'out' cannot have a file {f'{name}.npy'!r}: the path {fault}."
    with pytest.raises(ArtifactError) as caught:
        check_files(Path("out"), ["good", name], overwrite=True)
    assert str(caught.value) == message
    exporter.save(Escaping(name), "escaping", platforms=("cpu",))
    assert fail(capsys, "run", "escaping", "--inputs", "x=1", "--out", "out") == (
        f"exporter run: error: {message}"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["escaping"]


# What cannot be used, each in one line that says what is wrong and what there is instead.


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (BindError("one line."), "one line."),
        (
            BindError("arguments do not fit:\n  a: missing\n  b: too many\nThe signature is f()."),
            "arguments do not fit: a: missing; b: too many. The signature is f().",
        ),
        (
            ArtifactError("damaged:\n  a: missing.\n  b: altered.\n  and 3 more\nCopy it again."),
            "damaged: a: missing. b: altered. and 3 more. Copy it again.",
        ),
        (ArtifactError("one\ntwo\n\nthree"), "one. two. three"),
        (FileNotFoundError(2, "No such file", "a.npy"), "a.npy: No such file"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("unsupported operation"), "unsupported operation"),
    ],
)
def test_an_error_of_several_lines_is_one_line(error, line):
    assert one_line(error) == line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("gone", "gone does not exist."),
        ("image.npy", "image.npy is a file; an artifact is a folder with a saved_model.json."),
        (
            ".",
            ". is not an artifact: it has no saved_model.json. It has artifacts in it: digits, "
            "no_default, none, one, typed, unsure.",
        ),
        (
            "digits --signature nope",
            "no signature 'nope'; the signatures are 'serving_default', 'double'.",
        ),
        (
            "no_default",
            "no signature 'serving_default'; the signatures are 'a', 'b'. Choose one with "
            "--signature.",
        ),
        ("none", "no signature 'serving_default', the artifact has none."),
        ("none --signature a", "no signature 'a', the artifact has none."),
        (
            "unsure",
            "no signature 'serving_default', the artifact has none: when it was saved, several "
            "methods could be the default signature: classify, double. Mark one with "
            "@exporter.function(default=True), or pass signatures={'classify': model.classify} to "
            "save.",
        ),
        (
            "digits",
            "arguments do not fit signature 'serving_default': image: missing, expected "
            "float32[batch, 3]. The signature is serving_default(image: float32[batch, 3], scale: "
            "float32[] = default) -> (logits: float32[batch, 4], calls: int32[]).",
        ),
        (
            "one --inputs id=[1]",
            "arguments do not fit signature 'double': ids: missing, expected int32[n]; id: not an "
            "input, the inputs are ids. The signature is double(ids: int32[n]) -> (output_0: "
            "int32[n]).",
        ),
    ],
)
def test_what_a_run_cannot_use_is_named_in_one_line(here, capsys, words, message):
    assert fail(capsys, "run", *words.split()) == f"exporter run: error: {message}"


@pytest.mark.parametrize(
    "inputs",
    [
        {"image": "wide.npy"},
        {"image": "image.npy", "scale": "[1]"},
        {"image": "[[1, 2], [3, 4]]", "scale": '"x"'},
        {"image": "1"},
        {"image": "null", "scale": "true"},
        {"image": '{"a": 1}'},
        {"image": "[" * 70 + "1" + "]" * 70},
        {"image": "[[0, 0, 1e300]]"},
        {"image": "nine.npy"},
    ],
)
def test_what_does_not_fit_is_told_in_the_words_of_the_library(here, capsys, inputs):
    np.save("nine.npy", np.zeros((9, 3), np.float32))
    values = {
        name: np.load(text) if text.endswith(".npy") else json.loads(text)
        for name, text in inputs.items()
    }
    with pytest.raises(BindError) as caught:
        exporter.load("digits").signatures["serving_default"](**values)
    given = [f"{name}={text}" for name, text in inputs.items()]
    assert fail(capsys, "run", "digits", "--inputs", *given) == (
        f"exporter run: error: {one_line(caught.value)}"
    )


def test_random_keys_are_given_by_their_words(here, capsys):
    message = fail(capsys, "run", "typed", *TYPED[:-1], "key=[1, 2, 3]")
    assert "key: expected uint32[2], got uint32[3]" in message


NEITHER = f"is neither {FORMS}, nor JSON: "
OBJECTS = "holds pickled Python objects, which are never loaded; save arrays of numbers"


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("image", "expected NAME=VALUE, got 'image'"),
        ("=image.npy", "expected NAME=VALUE, got '=image.npy'"),
        ("image=", f"image: '' {NEITHER}Expecting value: line 1 column 1 (char 0)"),
        ("image=a.txt", f"image: 'a.txt' {NEITHER}Expecting value: line 1 column 1 (char 0)"),
        ("image=1 2", f"image: '1 2' {NEITHER}Extra data: line 1 column 3 (char 2)"),
        ("image=(1, 2)", f"image: '(1, 2)' {NEITHER}Expecting value: line 1 column 1 (char 0)"),
        (
            "image=__import__('os').system('touch executed')",
            f"image: \"__import__('os').system('touch executed')\" {NEITHER}Expecting value: line "
            "1 column 1 (char 0)",
        ),
        ("image=1e999", f"image: '1e999' {NEITHER}1e999 is too large for a number"),
        ("image=gone.npy", "image: gone.npy does not exist"),
        ("image=gone.npz[x]", "image: gone.npz does not exist"),
        ("image=folder.npy", "image: folder.npy cannot be read: Is a directory"),
        ("image=text.npy", "image: text.npy is not a NumPy file"),
        ("image=empty.npy", "image: empty.npy is not a NumPy file"),
        ("image=pickled.npy", "image: pickled.npy is not a NumPy file"),
        ("image=objects.npy", f"image: objects.npy {OBJECTS}"),
        ("image=objects.npz[one]", f"image: objects.npz {OBJECTS}"),
        (
            "image=cut.npz[image]",
            "image: cut.npz cannot be read: File is not a zip file; write it again",
        ),
        (
            "image=data.npz",
            "image: data.npz is an archive, write data.npz[KEY] with one of its keys: 'image', "
            "'other', 'a/b'",
        ),
        (
            "image=data.npz[nope]",
            "image: data.npz has no array 'nope', its keys are: 'image', 'other', 'a/b'",
        ),
        ("image=nothing.npz[x]", "image: nothing.npz has no array 'x', its keys are: none"),
        (
            "image=mixed.npz[notes.txt]",
            "image: mixed.npz holds something else than an array as 'notes.txt'",
        ),
        (
            "image=renamed.npz[x]",
            "image: renamed.npz is one array and no archive, write renamed.npz without [x]",
        ),
    ],
)  # fmt: skip
def test_an_input_that_cannot_be_read_is_named(here, capsys, word, problem):
    Path("folder.npy").mkdir()
    Path("renamed.npz").write_bytes(Path("image.npy").read_bytes())
    message = f"exporter run: error: inputs cannot be read: {problem}"
    assert fail(capsys, "run", "digits", "--inputs", word) == message
    assert not Path("executed").exists()


def test_all_inputs_that_cannot_be_read_are_named_at_once(here, capsys):
    words = ["image=gone.npy", "scale=1", "scale=2", "other"]
    assert fail(capsys, "run", "digits", "--inputs", *words) == (
        "exporter run: error: inputs cannot be read: image: gone.npy does not exist; scale: given "
        "twice; expected NAME=VALUE, got 'other'"
    )


@pytest.mark.parametrize(
    "deep", ["[" * 100_000, "[" * 70 + "1" + "]" * 70, "9" * 5000, '{"a": 1}', '"x"', "null"]
)
def test_json_that_is_no_array_is_refused(here, capsys, deep):
    assert "image: " in fail(capsys, "run", "digits", "--inputs", f"image={deep}")


def test_a_damaged_file_is_one_problem_whatever_is_wrong_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.arange(6, dtype=np.float32))
    np.savez("plain.npz", x=np.arange(6))
    np.savez_compressed("packed.npz", x=np.arange(1000))
    sources = {name: Path(name).read_bytes() for name in ("a.npy", "plain.npz", "packed.npz")}
    rng = random.Random(0)
    refused = 0
    for _ in range(600):
        name = rng.choice(list(sources))
        data = bytearray(sources[name])
        for _ in range(rng.choice([1, 1, 3])):
            place = rng.randrange(len(data))
            match rng.randrange(3):
                case 0:
                    data[place] = rng.randrange(256)
                case 1:
                    del data[max(place, 1) :]
                case 2:
                    data[place:place] = rng.randbytes(3)
        Path("damaged").with_suffix(Path(name).suffix).write_bytes(data)
        word = "x=damaged.npy" if name == "a.npy" else "x=damaged.npz[x]"
        try:
            read_values([word], {})
        except BindError:
            refused += 1
    assert refused > 300


def test_an_array_that_is_larger_than_its_file_takes_no_memory(here, capsys):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"1234"
    Path("huge.npy").write_bytes(data)
    message = fail(capsys, "run", "digits", "--inputs", "image=huge.npy")
    assert message.startswith(
        "exporter run: error: inputs cannot be read: image: huge.npy cannot be read: "
    )


@pytest.mark.parametrize("command", ["show", "run"])
@pytest.mark.parametrize("damage", [lambda text: text[:-100], lambda text: text.replace("3", "4")])
def test_a_damaged_artifact_is_named_in_one_line(here, capsys, artifacts, command, damage):
    Path("damaged").mkdir()
    text = (artifacts / "digits/saved_model.json").read_text()
    Path("damaged/saved_model.json").write_text(damage(text))
    with pytest.raises(ArtifactError) as caught:
        manifest_file.read(Path("damaged"))
    message = fail(capsys, command, "damaged")
    assert message == f"exporter {command}: error: {one_line(caught.value)}"
    assert message.startswith(f"exporter {command}: error: damaged/saved_model.json is damaged")


def test_every_damaged_file_is_named_in_one_line(here, capsys, artifacts):
    files = manifest_file.read(artifacts / "one").files
    Path("damaged").mkdir()
    Path("damaged/saved_model.json").write_bytes((artifacts / "one/saved_model.json").read_bytes())
    shown = "; ".join(f"{record.path}: missing" for record in files[:10])
    shown += f"; and {len(files) - 10} more" if len(files) > 10 else ""
    assert fail(capsys, "run", "damaged", "--inputs", "ids=[1]") == (
        f"exporter run: error: artifact 'damaged' is damaged: {len(files)} of {len(files)} files "
        f"are wrong: {shown}. Copy it again from where it was saved, or save it again."
    )


def test_an_artifact_of_another_format_is_refused_in_one_line(here, capsys, artifacts):
    Path("newer").mkdir()
    manifest = msgspec.structs.replace(manifest_file.read(artifacts / "one"), format_version=99)
    Path("newer/saved_model.json").write_bytes(manifest_file.encode(manifest))
    message = fail(capsys, "show", "newer")
    assert message.startswith(
        "exporter show: error: newer/saved_model.json is written in format 99; "
    )


def test_a_folder_that_cannot_be_written_to_is_named(here, capsys):
    words = ["run", "digits", *IMAGE, "--out"]
    assert fail(capsys, *words, "image.npy") == (
        "exporter run: error: outputs cannot be written: image.npy is not a folder"
    )
    assert fail(capsys, *words, "x" * 300).startswith(f"exporter run: error: {'x' * 300}")


def test_escapes_in_names_do_not_reach_the_terminal(here, capsys):
    message = fail(capsys, "show", "no\x1b[31m\nsuch")
    assert message == "exporter show: error: no\\u001b[31m. such does not exist."


# Check: the only command that runs user code.

MODELS = """
import types
import jax
import exporter
from exporter import TensorSpec

print("this is no result")


class Good:
    @exporter.function(input_signature=[TensorSpec(("n",), "float32", name="x")])
    def f(self, x):
        return x * 2


class Calling:
    @exporter.function(input_signature=[TensorSpec(("n",), "float32", name="x")])
    def f(self, x):
        return jax.pure_callback(lambda v: v, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    @property
    def absurd(self):
        raise KeyError("none")


def build():
    return Good()


def with_size(size):
    return Good()


def failing():
    raise ValueError("no weights\\nat all")


good, calling = Good(), Calling()
shelf = types.SimpleNamespace(calling=calling)
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A module of models in the current folder, which is imported anew and forgotten after."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("zoo.py").write_text(MODELS)
    Path("broken.py").write_text("x = 1\n1 / 0\n")
    Path("wrong.py").write_text("x = (\n")
    Path("raising.py").write_text("raise ModuleNotFoundError('bring your own')\n")
    Path("leaving.py").write_text("raise SystemExit('bye')\n")
    Path("needing.py").write_text("import no_such_package\n")
    Path("herd").mkdir()
    Path("herd/__init__.py").write_text("")
    Path("herd/sheep.py").write_text("from zoo import *\n")
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize(
    "name", ["zoo:Good", "zoo:good", "zoo:build", "herd.sheep:Good", "zoo:good.__class__"]
)
def test_check_takes_a_model_or_what_makes_one(models, capsys, name):
    assert main(["check", name, "--platform", "cpu"]) == 0
    out, err = capsys.readouterr()
    report = exporter.check(sys.modules["zoo"].Good(), platforms=("cpu",))
    assert out == f"{report}\n"
    assert err == "this is no result\n"


@pytest.mark.parametrize("name", ["zoo:Calling", "zoo:calling", "zoo:shelf.calling"])
def test_check_says_what_stands_in_the_way(models, capsys, name):
    assert main(["check", name, "--platform", "cpu", "cuda"]) == 3
    report = exporter.check(sys.modules["zoo"].Calling(), platforms=("cpu", "cuda"))
    assert not report.ok
    assert capsys.readouterr().out == f"{report}\n"
    assert main(["check", name, "--json", "--platform", "cpu", "cuda"]) == 3
    assert capsys.readouterr().out == f"{report.to_json()}\n"


def test_check_knows_the_platforms_that_saving_knows():
    assert PLATFORMS == ALL_PLATFORMS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "zoo",
            "expected MODULE:OBJECT, got 'zoo'. For the class Net in models.py write models:Net.",
        ),
        (
            ":x",
            "expected MODULE:OBJECT, got ':x'. For the class Net in models.py write models:Net.",
        ),
        ("zo0:x", "there is no module 'zo0'. Did you mean 'zoo'?"),
        (
            "far.away:x",
            "there is no module 'far'. There are: broken, herd, leaving, needing, raising, wrong, "
            "zoo.",
        ),
        ("herd.ship:x", "there is no module 'herd.ship'. Did you mean 'sheep'?"),
        ("herd.cow:x", "there is no module 'herd.cow'. There are in 'herd': sheep."),
        ("herd:cow", "module 'herd' has no 'cow'. There is none."),
        ("zoo:god", "module 'zoo' has no 'god'. Did you mean 'good'?"),
        (
            "zoo:x",
            "module 'zoo' has no 'x'. There are: Calling, Good, TensorSpec, build, calling, "
            "failing, good, shelf, with_size.",
        ),
        ("zoo:shelf.x", "'shelf' of module 'zoo' has no 'x'. There are: calling."),
        (
            "zoo:calling.absurd",
            "'calling' of module 'zoo' gives no 'absurd': it raises KeyError at zoo.py:23: 'none'.",
        ),
        (
            "zoo:with_size",
            "zoo:with_size cannot be called without arguments: missing a required argument: "
            "'size'. Name a function that makes the model and needs none.",
        ),
        (
            "zoo:failing",
            "zoo:failing makes no model: it raises ValueError at zoo.py:35: no weights.",
        ),
        (
            "broken:x",
            "module 'broken' cannot be imported: it raises ZeroDivisionError at broken.py:2: "
            "division by zero.",
        ),
        (
            "leaving:x",
            "module 'leaving' cannot be imported: it raises SystemExit at leaving.py:1: bye.",
        ),
        (
            "raising:x",
            "module 'raising' cannot be imported: it raises ModuleNotFoundError at raising.py:1: "
            "bring your own.",
        ),
        (
            "needing:x",
            "module 'needing' cannot be imported: it imports 'no_such_package' at needing.py:1, "
            "which is not installed.",
        ),
    ],
)
def test_a_name_that_leads_to_no_model_is_refused(models, capsys, name, message):
    assert main(["check", name]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.removeprefix("this is no result\n") == f"exporter check: error: {message}\n"


def test_a_module_that_is_not_python_is_named_with_its_line(models, capsys):
    assert "SyntaxError at wrong.py:1: " in fail(capsys, "check", "wrong:x")


# Compile.


def test_compile_prints_what_was_compiled_as_json(here, capsys):
    words = ["compile", "one", "--size", "n=1,2", "--cache", "kept", "--json"]
    found = json.loads(succeed(capsys, *words))
    assert [(one["signature"], one["outcome"]) for one in found["compiled"]] == [
        ("double", "kept")
    ] * 2
    again = json.loads(succeed(capsys, *words))
    assert [one["outcome"] for one in again["compiled"]] == ["found"] * 2
    assert again["cache"] == found["cache"]
    assert again["left_out"] == {}


# Words that are no command.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "exporter: error: the following arguments are required: COMMAND"),
        (
            ["shw"],
            "exporter: error: argument COMMAND: invalid choice: 'shw' (choose from show, run, "
            "serve, verify, compile, convert, diff, check, scan, sign); did you mean 'show'?",
        ),
        (
            ["show", "a", "--size", "n=1"],
            "exporter show: error: --size is for the costs that --programs or a page tells",
        ),
        (["show"], "exporter show: error: the following arguments are required: DIR"),
        (["show", "a", "b"], "exporter: error: unrecognized arguments: b"),
        (["show", "a", "--var"], "exporter: error: unrecognized arguments: --var"),
        (
            ["run", "a", "--inputs"],
            "exporter run: error: argument --inputs: expected at least one argument",
        ),
        (
            ["run", "a", "--overwrite"],
            "exporter run: error: --overwrite is for the files that --out DIR writes",
        ),
        (
            ["run", "a", "--json", "--out", "b"],
            "exporter run: error: --json prints the outputs and --out writes them: choose one",
        ),
        (
            ["run", "a", "--benchmark", "1", "--out", "b"],
            "exporter run: error: --benchmark prints how long calls take and --out writes outputs: "
            "choose one",
        ),
        (
            ["run", "a", "--benchmark", "0"],
            "exporter run: error: argument --benchmark: expected at least 1",
        ),
        (
            ["run", "a", "--warmup", "1"],
            "exporter run: error: --warmup is for the calls of --benchmark",
        ),
        (
            ["run", "a", "--random", "--sample"],
            "exporter run: error: --random and --sample both make the inputs: choose one",
        ),
        (
            ["run", "a", "--random", "--inputs", "x=1"],
            "exporter run: error: --inputs gives the inputs, and --random and --sample make them: "
            "choose one",
        ),
        (
            ["run", "a", "--size", "n=1"],
            "exporter run: error: --size is for inputs that --random makes",
        ),
        (
            ["run", "a", "--random", "-1"],
            "exporter run: error: argument --random: expected a number of at most 9 digits, got "
            "'-1'",
        ),
        (["diff", "a"], "exporter diff: error: the following arguments are required: B"),
    ],
)
def test_words_that_are_no_command_are_refused_with_the_choices(capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    # Python 3.11 puts the choices in quotes.
    head, colon, tail = err.splitlines()[-1].partition("(choose from ")
    known, end, hint = tail.partition(")")
    assert "".join([head, colon, known.replace("'", ""), end, hint]) == message


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ["--help"],
            [
                "usage: exporter [-h] [--version] [--print-completion SHELL] COMMAND ...",
                "  3    the command worked and the answer is no",
                "  exporter show digits/1",
            ],
        ),
        (
            ["show", "--help"],
            [
                "usage: exporter show DIR [--signature NAME] [--variables] [--tree]",
                "  exporter show digits/1 --variables",
            ],
        ),
        (
            ["run", "--help"],
            [
                "usage: exporter run DIR [--signature NAME]",
                "  exporter run digits/1 --inputs image=image.npy",
            ],
        ),
        (
            ["diff", "--help"],
            [
                "usage: exporter diff A B [--no-values] [--json]",
                "  exporter diff digits/1 digits/2",
            ],
        ),
    ],
)
def test_help_has_the_usage_and_an_example(capsys, words, lines):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert not caught.value.code
    printed = capsys.readouterr().out.splitlines()
    assert set(lines) <= set(printed)
    assert "examples:" in printed
    assert max(map(len, printed)) <= 100


def test_the_version_is_that_of_the_distribution(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert not caught.value.code
    assert capsys.readouterr().out == "jax-exporter 0.2.0\n"


# The process.


def test_diff_reads_what_was_saved_without_jax(here):
    code = """
import sys
from exporter.cli import main
assert main(sys.argv[1:]) == 3
assert not {"jax", "jaxlib", "orbax"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "diff", "digits", "one"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "  signature serving_default is gone\n" in done.stdout


def test_the_module_is_the_command(here):
    done = in_a_process("run", "digits", *IMAGE)
    assert (done.returncode, done.stdout, done.stderr) == (0, LOGITS, "")
    done = in_a_process("run", "digits")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["show", "run"])
def test_a_reader_that_goes_away_is_no_error(here, command, unbuffered):
    words = ["show", "digits"] if command == "show" else ["run", "digits", *IMAGE]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "exporter", *words],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment,
            timeout=120,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk was written to")
def test_a_full_disk_is_named_in_one_line(here):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "exporter", "show", "digits"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=120,
        )
    message = "exporter show: error: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_letters_that_the_terminal_lacks_are_escaped(tmp_path):
    class Greek:
        @exporter.function(input_signature=[TensorSpec((), "float32", name="α")])
        def f(self, x):
            return x

    exporter.save(Greek(), tmp_path / "greek", platforms=("cpu",))
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = in_a_process("show", "greek", cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "    inputs   \\u03b1         float32[]\n" in done.stdout


def test_bad_input_is_refused_before_jax_is_imported(here):
    code = """
import sys
from exporter.cli import main, one_line
assert main(sys.argv[1:]) == 1
assert not {"jax", "jaxlib", "orbax"} & set(sys.modules)
"""
    for words in (
        ["run", "digits"],
        ["run", "digits", "--inputs", "image=gone.npy"],
        ["run", "digits", "--inputs", "image=wide.npy"],
        ["run", "digits", *IMAGE, "--signature", "nope"],
        ["run", "digits", *IMAGE, "--out", "image.npy"],
        ["show", "digits", "--signature", "nope"],
        ["show", "digits", "--programs", "--size", "batch=x"],
        ["scan", "digits", "--constants", "0"],
        ["run", "digits", "--random", "--size", "batch=9"],
        ["diff", "digits", "gone"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("run", "digits", "--inputs", "image=image.npy", "--out", "digits/out.npz"),
        ("show", "digits", "--html", "digits/page.html"),
        ("compile", "digits", "--size", "batch=1", "n=1", "--cache", "digits/cache"),
    ],
)
def test_nothing_is_written_into_an_artifact(here, capsys, words):
    before = sorted(path for path in Path("digits").rglob("*"))
    assert "is an artifact, and nothing else belongs inside it" in fail(capsys, *words)
    assert sorted(path for path in Path("digits").rglob("*")) == before


def test_what_a_user_s_code_raises_is_told_whatever_it_is(tmp_path, monkeypatch, capsys):
    (tmp_path / "odd_errors.py").write_text(
        "class Odd(BaseException): pass\n\ndef build():\n    raise Odd('no model today')\n"
    )
    (tmp_path / "artifacts_only").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "Odd at odd_errors.py:4: no model today" in fail(capsys, "check", "odd_errors:build")
    assert "is a folder without Python code" in fail(capsys, "check", "artifacts_only:Net")


def test_an_interrupt_waits_where_it_would_be_lost():
    from exporter.__main__ import _interrupted

    def _xla_gc_callback():
        _interrupted(2, sys._getframe())

    with pytest.raises(KeyboardInterrupt):
        _interrupted(2, sys._getframe())
    before = signal.signal(signal.SIGALRM, _interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            _xla_gc_callback()
            time.sleep(5)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("seconds", [0.3, 0.6])
def test_the_first_interrupt_ends_a_command_wherever_it_is(here, seconds):
    command = [sys.executable, "-m", "exporter", "show", "digits", "--programs"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in {0, 130}
    assert "Traceback" not in errors


def test_a_file_of_a_small_type_is_read_as_numpy_writes_it(tmp_path, monkeypatch, capsys):
    class Twice:
        @exporter.function(input_signature=[TensorSpec(("n",), "float8_e5m2", name="x")])
        def twice(self, x):
            return {"y": x.astype("float32") * 2}

    monkeypatch.chdir(tmp_path)
    exporter.save(Twice(), "twice")
    np.save("x.npy", np.array([1, 3], ml_dtypes.float8_e5m2))
    found = json.loads(succeed(capsys, "run", "twice", "--inputs", "x=x.npy", "--json"))
    assert found == {"y": [2.0, 6.0]}


def test_an_error_of_writing_names_no_file_that_nobody_gave():
    from exporter.cli import one_line

    hidden = PermissionError(13, "Permission denied", "out/.0123456789abcdef.writing")
    assert one_line(hidden) == "out: Permission denied"
    given = PermissionError(13, "Permission denied", "out/x.npz")
    assert one_line(given) == "out/x.npz: Permission denied"

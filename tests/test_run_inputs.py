"""What `exporter run` reads, makes, measures and writes: files of every kind, and hostile ones."""

import io
import json
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import fail, succeed

import exporter
from exporter import Dim, TensorSpec
from exporter.cli.arrays import images, tables
from exporter.cli.arrays.outputs import planned_files, write_files
from exporter.cli.arrays.words import read_values
from exporter.cli.benchmark import Call, measured
from exporter.made import random_values
from signatures.binding import bind
from signatures.errors import BindError
from signatures.signature import Signature

PILLOW = "pictures were not read: there is no Pillow"

BYTES = TensorSpec(("batch", 4, 6, 3), "uint8")
FLOATS = TensorSpec(("batch", 4, 6, 3), "float32")


class Sums:
    @exporter.function(
        input_signature=[
            TensorSpec((Dim("batch", multiple_of=2), 3), "float32", name="x"),
            TensorSpec((), "float32"),
        ]
    )
    def scaled(self, x, scale=2.0):
        return {"sum": x.sum(1), "file": x * scale}

    @exporter.function(input_signature=[TensorSpec(("n",), "int32", name="ids")])
    def double(self, ids):
        return ids * 2


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifact") / "sums"
    model = Sums()
    signatures = {"serving_default": model.scaled, "double": model.double}
    samples = [{"x": [[1, 2, 3], [4, 5, 6]]}, {"x": [[0, 0, 1]] * 4}]
    exporter.save(model, folder, signatures, platforms=("cpu",), samples=samples)
    return folder


@pytest.fixture
def here(artifact, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums").symlink_to(artifact)
    return tmp_path


def read(word: str, spec: TensorSpec) -> np.ndarray:
    """What an input is as a call gets it."""
    signature = Signature("f", {"x": spec}, {})
    (value,) = bind(signature, (), read_values([f"x={word}"], {"x": spec})).values
    return np.asarray(value)


def refusal(word: str, spec: TensorSpec) -> str:
    with pytest.raises(BindError) as caught:
        read(word, spec)
    return str(caught.value).splitlines()[1].strip()


def piped(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# Tables and JSON.


@pytest.mark.parametrize(
    ("text", "word", "spec", "expected"),
    [
        ("1,2\n3,4\n", "t.csv", "int32[n, 2]", [[1, 2], [3, 4]]),
        ("\ufeffa, b\r\n1,2.5\r\n\r\n3,1e1\r\n", "t.csv", "float32[n, 2]", [[1, 2.5], [3, 10]]),
        ("a,b\n1,2.5\n3,nan\n", "t.csv[a]", "int32[n]", [1, 3]),
        ('"x,y",name\n1,Ann\n2,Bob\n', "t.csv[x,y]", "uint8[n]", [1, 2]),
        ("id,2020\n7,1\n8,2\n", "t.csv[2020]", "uint8[n]", [1, 2]),
        ("1\n2\n3", "t.csv", "float32[n]", [1, 2, 3]),
        ("true\nFalse", "t.csv", "bool[n]", [True, False]),
        ("[[1, 2], [3, 4]]", "t.json", "float32[n, 2]", [[1, 2], [3, 4]]),
        ('{"a": [1], "b[0]": [2]}', "t.json[b[0]]", "int32[n]", [2]),
        ("7", "t.json", "float32[]", 7),
    ],
)  # fmt: skip
def test_a_table_and_json_are_the_numbers_in_them(here, text, word, spec, expected):
    Path(word.partition("[")[0]).write_text(text)
    found = read(word, TensorSpec.parse(spec))
    np.testing.assert_array_equal(found, expected)
    assert TensorSpec.parse(spec).dtype == found.dtype


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(width=32), min_size=2, max_size=2), min_size=1, max_size=5))
def test_a_table_that_numpy_writes_is_read_as_it_was(tmp_path_factory, rows):
    file = tmp_path_factory.getbasetemp() / "law.csv"
    np.savetxt(file, np.array(rows), delimiter=",")
    found = read(str(file), TensorSpec(("n", 2), "float32"))
    np.testing.assert_array_equal(found, np.array(rows, np.float32))


# Batches and axes.


def test_several_files_are_a_batch_in_the_order_of_their_names(here):
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    for name, row in zip(("b", "a"), rows, strict=True):
        np.save(f"{name}.npy", row)
        np.save(f"{name}_rows.npy", row[None])
        np.savez(f"{name}.npz", row=row)
        Path(f"{name}.json").write_text(json.dumps(row.tolist()))
    spec = TensorSpec(("batch", 3), "float32")
    for word in ("?.npy", "a.npy,b.npy", "a.npz,b.npz[row]", "a.npz[row],b.npz[row]", "[ab].json"):
        if word.startswith("["):  # brackets are no pattern
            assert refusal(word, spec) == "x: [ab].json does not exist"
            continue
        np.testing.assert_array_equal(read(word, spec), rows[::-1])
    np.testing.assert_array_equal(read("b_rows.npy,a_rows.npy", spec), rows)
    np.testing.assert_array_equal(read("b.json,a.json", spec), rows)
    assert refusal("*.nothing.npy", spec) == "x: *.nothing.npy fits no file"
    assert refusal("a.npy,b_rows.npy", spec) == (
        "x: a.npy is float32[3] and b_rows.npy is float32[1, 3]; a batch is of arrays that are "
        "alike"
    )


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(here):
    for name in ("a,b.npy", "*.npy", "x[1].npy"):
        np.save(name, np.array([len(name)], np.int32))
        np.testing.assert_array_equal(read(name, TensorSpec(("n",), "int32")), [len(name)])


@pytest.mark.parametrize(
    ("spec", "shape", "is_added"),
    [
        ("float32[batch, 3]", (3,), True),
        ("float32[1, 3]", (3,), True),
        ("float32[None, 3, 4]", (3, 4), True),
        ("float32[batch, n]", (3,), False),
        ("float32[2, 3]", (3,), False),
        ("float32[3, n]", (3,), False),
        ("float32[batch, 3]", (4,), False),
    ],
)
def test_a_missing_batch_axis_is_added_where_no_other_axis_can_be_missing(
    here, spec, shape, is_added
):
    array = np.ones(shape, np.float32)
    np.save("x.npy", array)
    if is_added:
        np.testing.assert_array_equal(read("x.npy", TensorSpec.parse(spec)), array[None])
    else:
        assert refusal("x.npy", TensorSpec.parse(spec)).startswith("x: expected float32[")


# Pictures.


@pytest.fixture
def pictures(here):
    image = pytest.importorskip("PIL.Image", reason=PILLOW)
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (4, 6, 3), np.uint8)
    image.fromarray(array).save("rgb.png")
    image.fromarray(array[..., 0]).save("grey.png")
    image.fromarray(array).quantize(8).save("palette.png")
    image.fromarray(array).save("photo.JPG")
    return array


def test_a_picture_is_its_values_in_the_type_of_the_input(pictures):
    from PIL import Image

    for spec in (BYTES, FLOATS, TensorSpec(("b", "h", "w", "c"), "bfloat16")):
        found = read("rgb.png", spec)
        assert found.dtype == spec.dtype
        np.testing.assert_array_equal(found.astype(np.float32), pictures[None])
    np.testing.assert_array_equal(read("rgb.png", TensorSpec((4, 6, 3), "uint8")), pictures)
    grey = pictures[..., 0]
    np.testing.assert_array_equal(read("grey.png", TensorSpec(("n", 4, 6), "uint8")), grey[None])
    one = TensorSpec(("n", 4, 6, 1), "uint8")
    np.testing.assert_array_equal(read("grey.png", one), grey[None, ..., None])
    np.testing.assert_array_equal(read("grey.png", TensorSpec((24,), "uint8")), grey.reshape(-1))
    np.testing.assert_array_equal(
        read("grey.png,grey.png", TensorSpec(("n", 24), "uint8")), [grey.reshape(-1)] * 2
    )
    palette = np.asarray(Image.open("palette.png").convert("RGB"))
    np.testing.assert_array_equal(read("palette.png", BYTES), palette[None])
    np.testing.assert_array_equal(
        read("photo.JPG", BYTES), np.asarray(Image.open("photo.JPG"))[None]
    )
    several = read("rgb.png,palette.png[mode=RGB]", BYTES)
    np.testing.assert_array_equal(several, [pictures, palette])


def test_the_options_of_a_picture_are_what_pillow_and_numpy_make_of_it(pictures):
    from PIL import Image

    scaled = read("rgb.png[scale=1/255]", FLOATS)
    np.testing.assert_array_equal(scaled, (pictures[None] / 255).astype(np.float32))
    half = read("rgb.png[scale=0.5,layout=CHW]", TensorSpec((1, 3, 4, 6), "float16"))
    np.testing.assert_array_equal(half[0], (pictures / 2).astype(np.float16).transpose(2, 0, 1))
    small = read("rgb.png[size=3x2,mode=L]", TensorSpec((2, 3), "uint8"))
    expected = Image.fromarray(pictures).convert("L").resize((3, 2), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(small, np.asarray(expected))


def test_a_picture_that_does_not_fit_is_told_how_to_convert_it(pictures):
    assert refusal("grey.png", BYTES) == (
        "x: grey.png is a picture of uint8[4, 6], expected uint8[batch, 4, 6, 3]; convert it with "
        "grey.png[OPTION,...]: scale=1/255, size=WIDTHxHEIGHT, mode=L|RGB|RGBA, layout=HWC|CHW"
    )
    for options in (
        "scale=2/0",
        "size=0x4",
        "size=99999x9",
        "mode=P",
        "what",
        "mode=L,mode=L",
        "scale=-1",
    ):
        assert "is none of scale=1/255, size=" in refusal(f"rgb.png[{options}]", BYTES)
    assert "scale= makes fractions" in refusal("rgb.png[scale=1/255]", BYTES)
    assert "cannot hold" in refusal("rgb.png", TensorSpec((4, 6, 3), "int8"))


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (_png(60_000, 60_000, zlib.compress(b"")), "x.png claims to have more than 67,108,864"),
        (_png(9_000, 9_000, zlib.compress(b"")), "x.png claims to have more than 67,108,864"),
        (_png(8, 8, zlib.compress(b"")[:3]), "x.png cannot be read: "),
        (_png(8, 8, zlib.compress(bytes(range(72))))[:60], "x.png cannot be read: "),
        (b"\x89PNG\r\n\x1a\n", "x.png is no PNG, JPEG or WebP; save it as one"),
        (b"GIF89a" + bytes(20), "x.png is no PNG, JPEG or WebP; save it as one"),
        (b"", "x.png is no PNG, JPEG or WebP; save it as one"),
    ],
    ids=["bomb", "large", "no pixels", "cut", "no header", "another kind", "empty"],
)
def test_a_hostile_picture_is_one_problem(here, data, problem):
    pytest.importorskip("PIL.Image", reason=PILLOW)
    Path("x.png").write_bytes(data)
    assert refusal("x.png", BYTES).startswith(f"x: {problem}")


def test_without_pillow_a_picture_says_how_to_install_it(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    Path("x.png").write_bytes(b"")
    assert fail(capsys, "run", "sums", "--inputs", "x=x.png") == (
        "exporter run: error: x: x.png is a picture, which Pillow reads. Install it: pip install "
        "'jax-exporter[stages]'"
    )


# Files that mean no good.


@pytest.mark.parametrize(
    ("name", "data", "word", "problem"),
    [
        ("t.csv", ",".join("1" * 1_000_000), "t.csv", "t.csv has 1,000,000 columns, and at most"),
        ("t.csv", "1,2\n3\n", "t.csv", "t.csv is no table: row 2 has 1 values and row 1 has 2"),
        ("t.csv", "1,\n3,4\n", "t.csv", "t.csv has '' in row 1, column 2, which is no number"),
        ("t.csv", "1,2\n3,\n", "t.csv", "t.csv has '' in row 2, column 2, which is no number"),
        ("t.csv", "1,2\n", "t.csv[a]", "t.csv has no header, so no column 'a'; write the names"),
        ("t.csv", "a,b\n1,2\n", "t.csv[c]", "t.csv has no column 'c', its columns are: 'a', 'b'"),
        ("t.csv", "a,a\n1,2\n", "t.csv[a]", "t.csv has several columns 'a', its columns are"),
        ("t.csv", "a,b\n", "t.csv", "t.csv has a header and nothing else; give it a row"),
        ("t.csv", "", "t.csv", "t.csv is an empty table; give it a row of numbers"),
        ("t.csv", '1,"2\n', "t.csv", "t.csv is no table: "),
        ("t.csv", "1" * 200_000, "t.csv", "t.csv is no table: field larger than field limit"),
        ("t.csv", b"1,\xff\n", "t.csv", "t.csv is not text in UTF-8 (byte 2); save it as such"),
        ("t.json", "[" * 100_000, "t.json", "t.json is not JSON: "),
        ("t.json", "[1,", "t.json", "t.json is not JSON: "),
        ("t.json", '{"a": 1, "a": 2}', "t.json[a]", "t.json is not JSON: the field 'a' is"),
        ("t.json", '{"a": 1}', "t.json", "t.json is an object, write t.json[FIELD] with one of"),
        ("t.json", '{"a": 1}', "t.json[b]", "t.json has no field 'b', its fields are: 'a'"),
        ("t.json", "[1]", "t.json[b]", "t.json has no fields, write t.json without [b]"),
    ],
    ids=lambda value: None if len(value) < 60 else "long",
)  # fmt: skip
def test_a_hostile_table_or_document_is_one_problem(here, name, data, word, problem):
    Path(name).write_bytes(data if isinstance(data, bytes) else data.encode())
    assert refusal(word, TensorSpec(("n", 2), "float32")).startswith(f"x: {problem}")


def test_an_archive_that_unpacks_to_far_more_is_refused_before_it_is_unpacked(here):
    with zipfile.ZipFile("bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (70 * 2**20,)}
        )
        archive.writestr("x.npy", header.getvalue() + bytes(70 * 2**20), compresslevel=1)
    assert "which may be a trap; save it with np.savez" in refusal("bomb.npz[x]", FLOATS)


def test_what_is_no_plain_file_is_not_waited_for(here):
    import os

    os.mkfifo("pipe.npy")
    assert (
        refusal("pipe.npy", FLOATS) == "x: pipe.npy is not a plain file; write its content to one"
    )


def test_too_many_values_are_not_kept(here, monkeypatch):
    monkeypatch.setattr(tables, "MAX_CELLS", 5)
    Path("t.csv").write_text("1,2\n" * 4)
    assert refusal("t.csv", FLOATS).startswith("x: t.csv has more than 5 values")
    monkeypatch.setattr("exporter.cli.arrays.sources.MAX_TEXT_BYTES", 5)
    assert refusal("t.csv", FLOATS).startswith("x: t.csv has more than 5 bytes of text")
    assert images.MAX_PIXELS < 9_000**2  # what the test above rests on


# Standard input.


def test_standard_input_is_known_by_how_it_begins(here, monkeypatch):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    one, several = io.BytesIO(), io.BytesIO()
    np.save(one, x)
    np.savez(several, x=x)
    table = "a,b,c\n0,1,2\n3,4,5\n"
    spec = TensorSpec(("n", 3), "float32")
    for word, data in (
        ("-", one.getvalue()),
        ("-[x]", several.getvalue()),
        ("-", json.dumps(x.tolist()).encode()),
        ("-[x]", json.dumps({"x": x.tolist()}).encode()),
        ("-", table.encode()),
    ):
        piped(monkeypatch, data)
        np.testing.assert_array_equal(read(word, spec), x)
    piped(monkeypatch, table.encode())
    np.testing.assert_array_equal(read("-[b]", TensorSpec(("n",), "float32")), [1, 4])
    piped(monkeypatch, b"\x00what")
    assert refusal("-", spec).startswith(
        "x: standard input is neither a NumPy file, nor a picture, nor JSON ("
    )


def test_a_picture_comes_in_by_standard_input(pictures, monkeypatch):
    for name in ("rgb.png", "photo.JPG"):
        piped(monkeypatch, Path(name).read_bytes())
        np.testing.assert_array_equal(
            read("-[scale=1/255]", FLOATS), read(f"{name}[scale=1/255]", FLOATS)
        )


def test_all_inputs_come_in_as_one_object(here, capsys, monkeypatch):
    piped(monkeypatch, b'{"x": [[1, 2, 3], [4, 5, 6]], "scale": 3}')
    printed = json.loads(succeed(capsys, "run", "sums", "--inputs", "-", "--json"))
    assert printed == {"sum": [6, 15], "file": [[3, 6, 9], [12, 15, 18]]}
    for data, problem in (
        (b"[1]", "is not a JSON object; write the inputs by name"),
        (b"{", "is not JSON"),
    ):
        piped(monkeypatch, data)
        assert problem in fail(capsys, "run", "sums", "--inputs", "-")
    piped(monkeypatch, b"[[1, 2, 3], [4, 5, 6]]")
    assert fail(capsys, "run", "sums", "--inputs", "x=-", "scale=-").endswith(
        "scale: standard input can be one input only"
    )


# Inputs that nobody gave.


def test_a_sample_gives_the_inputs_and_says_so(here, capsys):
    from exporter.cli import main

    assert main(["run", "sums", "--sample", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["sum"] == [1] * 4
    assert err == "inputs: sample 1 of serving_default\n"
    assert main(["run", "sums", "--signature", "double", "--sample"]) == 0
    assert capsys.readouterr().err == (
        "inputs: there is no sample, so random with seed 0: ids int32[1]\n"
    )
    assert fail(capsys, "run", "sums", "--sample", "2").endswith(
        "there is no sample 2: this signature has 2, numbered from 0."
    )


def test_random_inputs_are_those_of_their_seed_and_sizes(here, capsys):
    from exporter.cli import main

    found = []
    for words in (
        ["--random"],
        ["--random", "0"],
        ["--random", "1"],
        ["--random", "--size", "batch=4"],
    ):
        assert main(["run", "sums", *words, "--json"]) == 0
        out, err = capsys.readouterr()
        found.append(json.loads(out)["file"])
        rows = 4 if "--size" in words else 2  # the smallest that is allowed
        assert (
            f"random with seed {words[1] if words[-1].isdigit() else 0}: x float32[{rows}, 3]"
            in err
        )
        assert np.shape(found[-1]) == (rows, 3)
    assert found[0] == found[1] != found[2]
    assert fail(capsys, "run", "sums", "--random", "--size", "n=1").endswith(
        "--size n: there is no such axis, the named axes are batch."
    )
    assert "batch is a multiple of 2" in fail(
        capsys, "run", "sums", "--random", "--size", "batch=3"
    )
    assert "at most 4,294,967,296 are made" in fail(
        capsys, "run", "sums", "--random", "--size", "batch=4000000000"
    )


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec((Dim("n", min=3, multiple_of=4), "2*n - 1", None), "int8"),
        TensorSpec(None, "uint1"),
        TensorSpec((2,), "int1"),
        TensorSpec((2,), "complex64"),
        TensorSpec((2,), "float8_e8m0fnu"),
        TensorSpec((2,), "bool"),
        TensorSpec((), "bfloat16"),
    ],
    ids=str,
)
def test_random_inputs_fit_the_signature_they_are_for(spec):
    signature = Signature("f", {"x": spec}, {})
    made = random_values(signature, {}, 0, [2])
    assert bind(signature, (), made).values[0].dtype == spec.dtype
    assert np.isfinite(made["x"].astype(np.complex64)).all()


# Files of outputs.


def test_outputs_are_written_into_one_file(here, capsys):
    words = ["run", "sums", "--inputs", "x=[[1, 2, 3], [4, 5, 6]]"]
    assert succeed(capsys, *words, "--out", "new/all.npz") == (
        "new/all.npz[sum]  float32[2]\nnew/all.npz[file]  float32[2, 3]\n"
    )
    with np.load("new/all.npz", allow_pickle=False) as archive:
        assert archive.files == ["sum", "file"]
        np.testing.assert_array_equal(archive["sum"], [6, 15])
        np.testing.assert_array_equal(archive["file"], [[2, 4, 6], [8, 10, 12]])
    succeed(capsys, *words, "--out", "all.json")
    assert json.loads(Path("all.json").read_text()) == json.loads(succeed(capsys, *words, "--json"))
    assert fail(capsys, *words, "--out", "all.json").endswith(
        "outputs cannot be written: all.json exists, pass --overwrite to replace it"
    )
    succeed(capsys, *words, "--out", "all.json", "--overwrite")
    # What was written is an input again.
    again = succeed(capsys, "run", "sums", "--inputs", "x=new/all.npz[file]", "--json")
    assert json.loads(again)["sum"] == [12, 30]
    assert sorted(path.name for path in here.iterdir()) == ["all.json", "new", "sums"]


@pytest.mark.parametrize("out", ["folder", "all.npz", "all.json"])
def test_outputs_are_written_whole_or_not_at_all(here, monkeypatch, out):
    arrays = {"a": np.zeros(3), "b": np.array([object()])}  # which no file takes
    files = planned_files(Path(out), arrays, overwrite=False)
    with pytest.raises((ValueError, TypeError)):
        write_files(files, arrays, overwrite=False)
    assert [path for path in here.rglob("*") if path.is_file() and "sums" not in path.parts] == []
    del arrays["b"]
    files = planned_files(Path(out), arrays, overwrite=False)
    files["a"].parent.mkdir(exist_ok=True)
    files["a"].write_text("mine")  # it appears after the plan
    with pytest.raises(FileExistsError):
        write_files(files, arrays, overwrite=False)
    assert files["a"].read_text() == "mine"
    assert [path.name for path in files["a"].parent.glob(".*")] == []


# Benchmarks.


def test_a_benchmark_states_what_it_measured(here, capsys):
    from exporter.cli import main

    words = ["run", "sums", "--random", "--size", "batch=6", "--benchmark", "4"]
    assert main([*words, "--warmup", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["inputs"] == {"x": "float32[6, 3]", "scale": "float32[]"}
    assert found["inputs_from"] == "random with seed 0: x float32[6, 3]"
    assert (found["signature"], found["calls"], found["warmup"]) == ("serving_default", 4, 2)
    assert found["device"] == "cpu (cpu)"
    latency = found["latency_ms"]
    assert (
        0 < latency["min"] <= latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    )
    assert main(words) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == [
        "signature", "inputs", "device", "calls", "p50", "p90", "p99", "min", "max", "mean", "rate",
    ]  # fmt: skip
    assert printed[3] == "calls      4 after 3 to warm up"


def test_every_measured_call_is_waited_for():
    events = []

    class Output:
        def block_until_ready(self):
            events.append("ready")

        def devices(self):
            return set()

    def call():
        events.append("call")
        return {"a": Output(), "b": Output()}

    found = measured(Call(call), 3, 1)
    assert events == ["call", "ready", "ready"] * 4
    latency = found.latency_ms
    assert found.calls_per_second == pytest.approx(1e3 / latency["mean"], rel=1e-2)

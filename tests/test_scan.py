"""What a careful person asks of a stranger's artifact: one crafted artifact for each answer."""

import gzip
import json
import os
import pickle
import zipfile
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hostile.damage import (
    bytecode_of,
    change,
    copy_to,
    read_manifest,
    replace_program,
    seal,
    unknown_custom_call,
)
from jax import export
from jax._src.interpreters import mlir
from jaxlib.mlir import ir

import exporter
from exporter.artifact.manifest import read
from exporter.artifact.programs import read_program
from exporter.cli import main
from exporter.errors import ArtifactError
from exporter.jax_internals import portable_bytecode
from exporter.runtime.inspection import Reader
from exporter.runtime.payloads import payload_of
from exporter.runtime.suspicions import Suspicion, suspicions

GOLDEN = sorted(path.parent for path in Path(__file__).parent.glob("golden/*/saved_model.json"))
SPEC = jax.ShapeDtypeStruct((2,), jnp.float32)


@pytest.fixture(scope="module", autouse=True)
def reader():
    """One process reads the programs of all these tests."""
    with closing(Reader()) as reader:
        found.reader = reader
        yield


def found(folder: Path, **options) -> list[Suspicion]:
    return suspicions(folder, read(folder), found.reader, **options)


def kinds(folder: Path, **options) -> list[str]:
    return sorted({one.kind for one in found(folder, **options)})


@pytest.fixture
def folder(tmp_path) -> Path:
    return copy_to(tmp_path / "model")


def with_program(folder: Path, program: bytes) -> list[Suspicion]:
    """What is found where a program is exchanged and the manifest says no lie of its calls."""
    replace_program(folder, "nested", program)
    return found(folder)


def main_function(body: str) -> bytes:
    """A portable program of one function that a hand has written."""
    text = f"func.func public @main(%0: tensor<2xf32>) -> tensor<2xf32> {{ {body} }}"
    with mlir.make_ir_context():
        return portable_bytecode(ir.Module.parse(text), "1.0.0")


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
def test_nothing_is_found_in_the_committed_artifacts(golden):
    assert found(golden) == []


# Programs.


def test_native_code_that_nobody_vouches_for_is_found(folder):
    replace_program(folder, "fixed", unknown_custom_call())
    (one,) = (one for one in found(folder) if one.kind == "custom call")
    assert asdict(one) == {
        "kind": "custom call",
        "place": "programs/fixed.mlirbc, function main",
        "what": "it calls the native function 'run_anything'",
        "why": "whatever is registered under this name in the process runs, with all its rights",
    }
    assert "custom call" not in kinds(folder, allowed=["run_anything"])
    assert "custom call" in kinds(folder, allowed=["run_any"])


def test_a_call_is_found_in_a_function_that_nothing_calls_and_inside_of_loops(folder):
    def loop(x):
        return jax.lax.fori_loop(0, 3, lambda _, y: jax.ffi.ffi_call("hidden", SPEC)(y), x)

    check = export.DisabledSafetyCheck.custom_call("hidden")
    exported = export.export(jax.jit(loop), platforms=["cpu"], disabled_checks=[check])(SPEC)
    assert "hidden" in str(with_program(folder, bytes(exported.mlir_module_serialized)))
    unused = main_function(
        "return %0 : tensor<2xf32> } func.func private @unused(%0: tensor<2xf32>) -> tensor<2xf32> "
        "{ %1 = stablehlo.custom_call @dormant(%0) : (tensor<2xf32>) -> tensor<2xf32> "
        "return %1 : tensor<2xf32>"
    )
    places = [one.place for one in with_program(folder, unused) if one.kind == "custom call"]
    assert places == ["programs/nested.mlirbc, function unused"]


def test_operations_that_are_not_stablehlo_are_found_wherever_they_stand(folder):
    foreign = bytecode_of(
        "module { func.func public @main(%arg0: tensor<2xf32>) -> tensor<2xf32> { "
        "return %arg0 : tensor<2xf32> } module @inner { func.func @f(%a: tensor<f32>) { "
        'mhlo.custom_call @"dormant\\1b[2J"(%a) : (tensor<f32>) -> () return } } }'
    )
    (one,) = (one for one in with_program(folder, foreign) if one.kind != "claim")
    assert (one.kind, one.place) == ("foreign operation", "programs/nested.mlirbc")
    assert one.what == "it has operations that are not StableHLO: 'mhlo.custom_call'"


def test_what_calls_python_back_is_found(folder):
    def call(x):
        return jax.pure_callback(np.sin, SPEC, x)

    exported = jax.jit(call).trace(SPEC).lower(lowering_platforms=("cpu",))
    with exported.compiler_ir().context:
        program = portable_bytecode(exported.compiler_ir(), "1.0.0")
    (one,) = (one for one in with_program(folder, program) if one.kind == "host effect")
    assert one.place == "programs/nested.mlirbc, function main"
    assert one.what.startswith("it calls Python of the process that runs it ('xla_")


TOKEN = "%1 = stablehlo.create_token : !stablehlo.token "


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (
            '%2:2 = "stablehlo.infeed"(%1) : (!stablehlo.token) -> '
            "(tensor<2xf32>, !stablehlo.token)",
            "it reads what the host feeds it while it runs",
        ),
        (
            '%2 = "stablehlo.outfeed"(%0, %1) : (tensor<2xf32>, !stablehlo.token) -> '
            "!stablehlo.token",
            "it gives arrays to the host while it runs",
        ),
        (
            '%2 = "stablehlo.send"(%0, %1) {channel_handle = #stablehlo.channel_handle<'
            "handle = 1, type = 2>, is_host_transfer = true} : "
            "(tensor<2xf32>, !stablehlo.token) -> !stablehlo.token",
            "it sends arrays to another program or to the host",
        ),
        (
            '%2:2 = "stablehlo.recv"(%1) {channel_handle = #stablehlo.channel_handle<'
            "handle = 1, type = 3>, is_host_transfer = true} : "
            "(!stablehlo.token) -> (tensor<2xf32>, !stablehlo.token)",
            "it waits for arrays of another program or of the host",
        ),
        (
            "return %0 : tensor<2xf32> } func.func private @later(%0: !stablehlo.token) "
            "-> tensor<2xf32> { %1 = stablehlo.constant dense<0.0> : tensor<2xf32>",
            "it orders effects by a token in func.func",
        ),
    ],
)
def test_effects_on_the_host_are_found(folder, body, what):
    token = "" if "@later" in body else TOKEN
    last = "%1" if "@later" in body else "%0"
    program = main_function(f"{token} {body} return {last} : tensor<2xf32>")
    effects = [one.what for one in with_program(folder, program) if one.kind == "host effect"]
    assert what in effects


def test_large_constants_are_found_with_their_size(folder):
    weights = np.arange(2**19, dtype=np.float32)
    exported = export.export(jax.jit(lambda x: x.sum() * weights), platforms=["cpu"])(SPEC)
    program = bytes(exported.mlir_module_serialized)
    (one,) = (one for one in with_program(folder, program) if one.kind == "constant")
    assert one.what == "stablehlo.constant has 2.0 MiB of values written into it"
    assert "constant" in kinds(folder, large_bytes=2**21)
    assert "constant" not in kinds(folder, large_bytes=2**21 + 1)


def test_a_payload_in_a_native_call_counts_as_a_constant(folder):
    program = main_function(
        f'%1 = stablehlo.custom_call @kernel(%0) {{backend_config = "{"x" * 3000}"}} '
        ": (tensor<2xf32>) -> tensor<2xf32> return %1 : tensor<2xf32>"
    )
    replace_program(folder, "nested", program)
    (one,) = (one for one in found(folder, large_bytes=3000) if one.kind == "constant")
    assert one.what == "stablehlo.custom_call has 2.9 KiB of values written into it"


@pytest.mark.parametrize("program", [b"", b"junk", b"ML\xefR" + bytes(100), b"\x1f\x8b" + bytes(9)])
def test_a_program_that_cannot_be_read_is_found_and_the_others_are_read(folder, program):
    replace_program(folder, "fixed", unknown_custom_call())
    first, second = (one for one in with_program(folder, program) if one.kind != "claim")
    assert (first.kind, first.place) == ("custom call", "programs/fixed.mlirbc, function main")
    assert (second.kind, second.place) == ("unreadable", "programs/nested.mlirbc")


@pytest.mark.parametrize("name", ["big.mlirbc", "big.mlirbc.gz"])
def test_a_small_file_that_is_a_huge_program_is_not_unpacked(name, tmp_path):
    data = bytes(10**7)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    sizes = {name: (tmp_path / name).stat().st_size}
    assert read_program(tmp_path, name, sizes, limit=10**7) == data
    with pytest.raises(ArtifactError, match=r"9,999,999"):
        read_program(tmp_path, name, sizes, limit=10**7 - 1)


def test_what_the_manifest_says_of_a_program_is_compared_with_it(folder):
    replace_program(folder, "fixed", unknown_custom_call())
    claims = [one.what for one in found(folder) if one.kind == "claim"]
    assert claims[0] == "it calls 'run_anything', and the manifest says nothing"
    assert claims[1] == (
        "its main function takes nothing, and the manifest says (3, 4), (4,), (2, 3), ()"
    )
    assert claims[2].startswith("its main function gives f32[2], and the manifest says (")


def test_a_mesh_that_the_program_does_not_have_is_a_claim(folder):
    mesh = [{"name": "x", "size": 2}]
    change(folder, lambda document: document["programs"][1].update(mesh=mesh))
    (one,) = found(folder)
    assert (one.kind, one.what) == (
        "claim",
        "it computes on arrays as a whole, and the manifest says the shards of a mesh",
    )


# Files.


def test_files_that_differ_from_their_digests_are_found(folder):
    program = folder / "programs" / "nested.mlirbc"
    data = program.read_bytes()
    program.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (folder / "variables" / "_METADATA").unlink()
    digests = {one.place: one for one in found(folder) if one.kind == "digest"}
    assert digests.keys() == {"programs/nested.mlirbc", "variables/_METADATA"}
    assert digests["variables/_METADATA"].what == "missing"
    altered = digests["programs/nested.mlirbc"]
    assert altered.what.startswith("altered, expected BLAKE3 ")
    assert altered.why == "this is not the program that was saved"


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "C:/x", "a\x1b[2J"])
def test_paths_that_leave_the_folder_are_found_and_not_followed(folder, path):
    record = {"path": path, "size": 1, "blake3": "0" * 64}
    change(folder, lambda document: document["files"].append(record))
    (one,) = found(folder)
    assert (one.kind, one.place) == ("path", repr(path))


def test_links_files_that_the_manifest_lacks_and_pipes_are_found(folder):
    (folder / "programs" / "nested.mlirbc").rename(folder.parent / "outside")
    (folder / "programs" / "nested.mlirbc").symlink_to(folder.parent / "outside")
    (folder / "assets").symlink_to("/")
    (folder / "notes\x1b[2J.txt").write_text("hello")
    os.mkfifo(folder / "pipe")
    assert [(one.kind, one.place, one.what) for one in found(folder)] == [
        ("link", "assets", "it is a symbolic link to '/'"),
        (
            "stray file",
            "notes\x1b[2J.txt",
            "the manifest does not list it; it has 5 bytes",
        ),
        ("stray file", "pipe", "it is neither a file nor a folder"),
        (
            "link",
            "programs/nested.mlirbc",
            f"it is a symbolic link to '{folder.parent / 'outside'}'",
        ),
    ]


class Planted:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("planted",)


def zipped(name: str, content: bytes) -> bytes:
    path = Path("archive.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "hello")
        archive.writestr(name, content)
    return path.read_bytes()


OBJECTS = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
PE = b"MZ" + bytes(58) + (64).to_bytes(4, "little") + b"PE\0\0"


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        *(
            ("model.bin", pickle.dumps(Planted(), protocol), "a pickle that imports posix.mkdir")
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
        ("list.bin", pickle.dumps([1, 2]), "a pickle"),
        ("list.pkl", b"", "a pickle, by its name"),
        ("array.npy", OBJECTS, "a NumPy file of Python objects, which is a pickle"),
        ("lib", b"\x7fELF\x02\x01", "an ELF executable or library"),
        ("lib", PE, "a Windows executable or library"),
        ("lib", b"\xcf\xfa\xed\xfe\x07", "a Mach-O executable or library"),
        ("lib", b"\0asm\x01\0\0\0", "WebAssembly"),
        ("run", b"#!/usr/bin/env python3\n", "a script"),
        ("setup.PY", b"pass", "Python source"),
        ("words", b"# words\nimport os\n", "text that reads like Python: 'import os'"),
        ("words", b"x\nfrom os import system\n", "text that reads like Python: 'from os import s'"),
        ("lib.gz", gzip.compress(b"\x7fELF" + bytes(10**6), mtime=0),
         "an ELF executable or library, compressed with gzip"),
        ("m.pt", ("m/data.pkl", b""), "a ZIP archive with 'm/data.pkl': a pickle, by its name"),
        ("m.npz", ("a.npy", OBJECTS),
         "a ZIP archive with 'a.npy': a NumPy file of Python objects, which is a pickle"),
        ("m.zip", b"PK\x03\x04 and no more", "a damaged ZIP archive"),
        ("words", b"the\nimport of goods\nPython", None),
        ("words", "größe\nfrom here\n".encode(), None),
        ("array.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', }", None),
        ("m.npz", ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', }"), None),
        ("empty", b"", None),
        ("words.gz", gzip.compress(b"hello", mtime=0), None),
        ("words.gz", b"\x1f\x8b\x08 damaged", None),
    ],
)  # fmt: skip
def test_code_and_pickles_are_told_from_data(name, content, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(zipped(*content) if isinstance(content, tuple) else content)
    assert payload_of(Path(name)) == what
    assert not Path("planted").exists()


def test_random_arrays_are_no_payloads(tmp_path):
    random = np.random.default_rng(0)
    for number in range(300):
        array = random.normal(size=500).astype(np.float32).tobytes()
        (tmp_path / "array").write_bytes(bytes([0x80, 2 + number % 4]) * (number % 2) + array)
        assert payload_of(tmp_path / "array") is None


def test_payloads_are_found_wherever_they_lie_and_listed_or_not(folder):
    (folder / "assets").mkdir()
    (folder / "assets" / "words.txt").write_bytes(pickle.dumps(Planted()))
    (folder / "variables" / "d" / "tool").write_bytes(b"\x7fELF")
    assert kinds(folder) == ["payload", "stray file"]
    seal(folder)
    assert [(one.kind, one.place, one.what) for one in found(folder)] == [
        ("payload", "assets/words.txt", "it is a pickle that imports posix.mkdir"),
        ("payload", "variables/d/tool", "it is an ELF executable or library"),
    ]


# The command.


def test_the_command_prints_findings_and_says_no(folder, capsys):
    assert main(["scan", str(folder)]) == 0
    assert capsys.readouterr().out == "nothing found in 12 programs and 26 files\n"
    (folder / "notes\x1b[2J.txt").write_text("hello")
    assert main(["scan", str(folder)]) == 3
    assert capsys.readouterr().out == (
        "Stray file\n"
        "  notes\\u001b[2J.txt\n"
        "    the manifest does not list it; it has 5 bytes\n"
        "    no save wrote it, and no digest covers it\n"
        "1 finding in 12 programs and 26 files\n"
    )
    assert main(["scan", str(folder), "--json"]) == 3
    (one,) = json.loads(capsys.readouterr().out)["findings"]
    assert (one["kind"], one["place"]) == ("stray file", "notes\x1b[2J.txt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "exporter scan: error: nowhere does not exist.\n"),
        (
            ["--constants", "0"],
            "exporter scan: error: --constants 0: expected a number of 1 or more.\n",
        ),
    ],
)
def test_what_cannot_be_read_is_an_error(folder, words, message, capsys, monkeypatch):
    monkeypatch.chdir(folder.parent)
    options = words if words[0].startswith("--") else []
    assert main(["scan", words[0] if not options else "model", *options]) == 1
    assert capsys.readouterr().err == message


def test_an_artifact_that_a_save_has_just_written_is_clean(tmp_path):
    def double(x):
        return x * 2

    function = exporter.function(double, input_signature=[exporter.TensorSpec((2,))])
    exporter.save(SimpleNamespace(f=function), tmp_path / "m")
    assert found(tmp_path / "m") == []
    assert read_manifest(tmp_path / "m")["programs"][0]["custom_calls"] == []

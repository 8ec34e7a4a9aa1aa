"""Signatures of stored artifacts as files of other formats, run by what runs those."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import Dim, TensorSpec, Variable
from exporter.cli import main
from exporter.conversion.formats import FORMATS

ROOT = Path(__file__).parents[1]

WEIGHTS = np.random.default_rng(3).normal(size=(8, 4)).astype(np.float32)
SCALES = np.array([3, -2, 5, 1], np.int8)
IMAGE = np.random.default_rng(4).normal(size=(3, 8)).astype(np.float32)


class Model:
    def __init__(self):
        self.weights = jnp.asarray(WEIGHTS)
        self.scales = jnp.asarray(SCALES)
        self.half = jnp.ones(4, jnp.bfloat16)
        self.key = jax.random.key(0)
        self.calls = Variable(jnp.int32(7), trainable=False)

    @exporter.function(
        input_signature=[
            TensorSpec((Dim("batch", max=16), 8), "float32", name="image"),
            TensorSpec((), "float32", name="unused"),
        ],
        default=True,
    )
    def classify(self, image, unused=0.5):
        logits = jax.nn.gelu(image @ self.weights) * self.scales
        return {"logits": logits, "image": jnp.sort(image, axis=1)[:, :2] + self.half[0]}

    @exporter.function(input_signature=[TensorSpec((None, 2), "float32", name="x")])
    def count(self, x):
        self.calls.value += 1
        return {"y": x * self.calls.value}

    @exporter.function(input_signature=[TensorSpec((2, 2), "float32", name="x")])
    def factor(self, x):
        return jnp.linalg.cholesky(x @ x.T + jnp.eye(2))

    @exporter.function(input_signature=[TensorSpec((2,), "complex64", name="z")])
    def turn(self, z):
        return z * 1j

    @exporter.function(input_signature=[TensorSpec(None, "float32", name="x")])
    def double(self, x):
        return x * 2

    @exporter.function(input_signature=[TensorSpec((3,), "float32", name="x")])
    def draw(self, x):
        return x + jax.random.uniform(self.key, x.shape)

    @exporter.function(input_signature=[TensorSpec(("n", 3), "float32", name="x")])
    def loop(self, x):
        def step(carry, _):
            inner = jax.lax.fori_loop(0, 2, lambda i, y: y * 0.5 + i * x, carry)
            return inner + self.weights[:1, :3], carry.sum()

        carry, sums = jax.lax.scan(step, x, None, length=4)
        return {"carry": carry, "sums": sums}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "model"
    model = Model()
    names = ("classify", "count", "factor", "turn", "double", "draw", "loop")
    signatures = {name: getattr(model, name) for name in names}
    exporter.save(model, folder, signatures, samples={"classify": [{"image": IMAGE}]})
    return folder


def _needs(*modules):
    missing = [one for one in modules if importlib.util.find_spec(one) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed: its format is not checked")


def _expected(image):
    """The outputs of `classify`, by the original itself."""
    found = jax.jit(lambda image: Model.classify.__wrapped__(Model(), image, 0.5))(image)
    return {name: np.asarray(value) for name, value in found.items()}


def _assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def _run_by_hand(file, *arrays):
    """What the StableHLO in a file returns: compiled by XLA itself, without `jax.export`."""
    from jax._src.interpreters import mlir
    from jax._src.lib import _jax, xla_client
    from jaxlib.mlir import ir

    data = file.read_bytes()
    with mlir.make_ir_context():
        if file.suffix == ".mlirbc":
            module = _jax.mlir.deserialize_portable_artifact(data)
        else:
            module = ir.Module.parse(data.decode())
        text = str(module)
        compiled = jax.devices("cpu")[0].client.compile_and_load(
            mlir.module_to_bytecode(module),
            _jax.DeviceList((jax.devices("cpu")[0],)),
            xla_client.CompileOptions(),
        )
    results = compiled.execute_sharded([jnp.asarray(one) for one in arrays])
    return text, [np.asarray(one[0]) for one in results.disassemble_into_single_device_arrays()]


@pytest.mark.parametrize("extension", ["mlir", "mlirbc"])
def test_stablehlo_has_named_arrays_of_fixed_sizes_and_its_weights(folder, tmp_path, extension):
    file = tmp_path / f"m.{extension}"
    made = exporter.convert(folder, "stablehlo", file, signature="classify", sizes={"batch": 3})
    assert made.inputs == ("image: float32[3, 8]", "unused: float32[]")
    assert made.outputs == ("logits: float32[3, 4]", "image: float32[3, 2]")
    assert made.signatures[0].check.inputs == "a sample of the artifact"
    assert made.largest == 0
    assert made.size == file.stat().st_size
    text, (logits, image) = _run_by_hand(file, IMAGE, np.float32(0))
    expected = _expected(IMAGE)
    _assert_close(logits, expected["logits"])
    _assert_close(image, expected["image"])
    assert text.count("jax.arg_info") == 2
    assert 'jax.result_info = "logits"' in text
    for absent in ("?x", "shape_assertion", "platform_index", "custom_call", "composite"):
        assert absent not in text


def test_state_goes_in_and_comes_out_by_its_path(folder, tmp_path):
    file = tmp_path / "count.mlir"
    made = exporter.convert(folder, "stablehlo", file, signature="count", sizes={"x[0]": 1})
    assert made.inputs == ("x: float32[1, 2]", "state/calls: int32[]")
    assert made.outputs == ("y: float32[1, 2]", "state/calls: int32[]")
    _, (y, calls) = _run_by_hand(file, np.ones((1, 2), np.float32), np.int32(41))
    assert y.tolist() == [[42, 42]]
    assert calls == 42


def test_iree_runs_the_file_and_knows_the_names(folder, tmp_path):
    _needs("iree")
    from iree import runtime

    file = tmp_path / "m.vmfb"
    made = exporter.convert(folder, "iree", file, signature="classify", sizes={"batch": 3})
    assert made.largest < 2e-5
    context = runtime.SystemContext(config=runtime.Config("local-sync"))
    context.add_vm_module(runtime.VmModule.copy_buffer(context.instance, file.read_bytes()))
    call = context.modules.jit_classify["main"]
    logits, image = call(IMAGE, np.float32(0))
    expected = _expected(IMAGE)
    _assert_close(logits.to_host(), expected["logits"])
    _assert_close(image.to_host(), expected["image"])
    said = call.vm_function.reflection
    assert json.loads(said["inputs"]) == ["image", "unused"]
    assert json.loads(said["outputs"]) == ["logits", "image"]
    looped = exporter.convert(folder, "iree", tmp_path / "l.vmfb", signature="loop", sizes={"n": 2})
    assert looped.signatures[0].check.inputs == "random inputs"
    assert looped.largest < 1e-5


def test_litert_keeps_the_signature_with_its_names_and_its_state(folder, tmp_path):
    _needs("litert_converter", "ai_edge_litert")
    from ai_edge_litert.interpreter import Interpreter

    file = tmp_path / "m.tflite"
    made = exporter.convert(
        folder, "litert", file, signature="count", sizes={"x[0]": 2}, overwrite=True
    )
    assert made.largest == 0
    interpreter = Interpreter(model_path=str(file))
    assert interpreter.get_signature_list() == {
        "count": {"inputs": ["state/calls", "x"], "outputs": ["state/calls", "y"]}
    }
    found = interpreter.get_signature_runner("count")(
        **{"x": np.ones((2, 2), np.float32), "state/calls": np.int32(1)}
    )
    assert found["y"].tolist() == [[2, 2], [2, 2]]
    assert found["state/calls"] == 2


def test_loops_inside_loops_go_into_litert(folder, tmp_path):
    _needs("litert_converter", "ai_edge_litert")
    from ai_edge_litert.interpreter import Interpreter

    file = tmp_path / "l.tflite"
    exporter.convert(folder, "litert", file, signature="loop", sizes={"n": 2})
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    carry, sums = x, []
    for _ in range(4):
        sums.append(carry.sum())
        for i in range(2):
            carry = carry * np.float32(0.5) + i * x
        carry = carry + WEIGHTS[:1, :3]
    found = Interpreter(model_path=str(file)).get_signature_runner("loop")(x=x)
    _assert_close(found["carry"], carry)
    _assert_close(found["sums"], sums)


# Packages that coremltools makes on its way go when Python finds them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
def test_coreml_is_read_back_with_its_names_shapes_and_dtypes(folder, tmp_path):
    _needs("coremltools", "stablehlo_coreml")
    import coremltools

    package = tmp_path / "m.mlpackage"
    made = exporter.convert(folder, "coreml", package, signature="loop", sizes={"n": 2})
    assert made.signatures[0].check is None
    assert made.unchecked == "this machine has no Core ML, of iOS 18, macOS 15 or newer"
    description = coremltools.utils.load_spec(str(package)).description
    (x,) = description.input
    assert x.name == "x"
    assert list(x.type.multiArrayType.shape) == [2, 3]
    assert [one.name for one in description.output] == ["carry", "sums"]
    again = exporter.convert(
        folder, "coreml", package, signature="loop", sizes={"n": 3}, overwrite=True
    )
    assert again.inputs == ("x: float32[3, 3]",)


@pytest.mark.parametrize(
    ("to", "options", "expected"),
    [
        (
            "stablehlo",
            {"signature": "classify"},
            "signature 'classify' has axes of any size, and a file of another format has one: give "
            "a size for batch, for example sizes={'batch': 1}, or in a shell --size batch=1",
        ),
        (
            "stablehlo",
            {"signature": "classify", "sizes": {"batch": 17, "tokens": 2}},
            "the sizes for signature 'classify' do not fit:\n"
            "  tokens: no axis has this name; they are batch\n"
            "  batch: batch is at most 16 was expected, got 17",
        ),
        ("tflite", {}, "there is no format 'tflite'; the formats are stablehlo, iree, litert, cor"),
        ("stablehlo", {}, "which signature? There is no 'serving_default'; the signatures are 'cl"),
        (
            "stablehlo",
            {"signature": "factor", "platform": "metal"},
            "signature 'factor' was not saved for 'metal'; its platforms are cpu, cuda, rocm, tpu.",
        ),
        (
            "stablehlo",
            {"signature": "double"},
            "signature 'double' takes x with any number of axes, by one program for each number",
        ),
        (
            "coreml",
            {"signature": "count", "sizes": {"x[0]": 1}},
            "signature 'count' cannot become coreml:\n"
            "  it changes calls, and coreml has no place for that\n"
            "It can become stablehlo, iree, litert, onnx or tensorflow.",
        ),
        (
            "litert",
            {"signature": "turn"},
            "signature 'turn' cannot become litert:\n"
            "  z is complex64, which litert has no inputs and outputs of\n"
            "  output_0 is complex64, which litert has no inputs and outputs of\n"
            "It can become stablehlo or tensorflow.",
        ),
        (
            "iree",
            {"signature": "factor", "platform": "cuda"},
            "signature 'factor' cannot become iree:\n  iree has no program for cuda\n"
            "It can become stablehlo.",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_could(folder, tmp_path, to, options, expected):
    with pytest.raises(exporter.ExporterError) as error:
        exporter.convert(folder, to, tmp_path / "out", **options)
    assert str(error.value).startswith(expected)
    assert list(tmp_path.iterdir()) == []


def test_native_code_is_named_and_goes_into_stablehlo_alone(folder, tmp_path):
    made = exporter.convert(folder, "stablehlo", tmp_path / "f.mlirbc", signature="factor")
    assert made.largest == 0
    made = exporter.convert(
        folder, "stablehlo", tmp_path / "f.mlir", signature="factor", platform="tpu"
    )
    assert made.unchecked == "this machine has no tpu"
    assert "custom_call @lapack" not in (tmp_path / "f.mlir").read_text()
    _needs("iree")
    with pytest.raises(exporter.ConversionError, match="native code of JAX, lapack_spotrf_ffi, "):
        exporter.convert(folder, "iree", tmp_path / "f.vmfb", signature="factor")
    assert not (tmp_path / "f.vmfb").exists()


def test_what_a_foreign_compiler_says_is_cut_and_kept_whole_in_the_cause(folder, tmp_path):
    _needs("litert_converter", "ai_edge_litert")
    with pytest.raises(exporter.ConversionError) as error:
        exporter.convert(folder, "litert", tmp_path / "d.tflite", signature="draw")
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("It can become stablehlo.")
    assert error.value.__cause__ is not None
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_not_written(folder, tmp_path, monkeypatch):
    from exporter.conversion import stablehlo
    from exporter.conversion.program import Written

    write = stablehlo.write

    def wrong(program, file):
        made = write(program, file)

        def run(inputs):
            first, *rest = made.run(inputs)
            return [first + np.eye(3, 4, dtype=np.float32), *rest]

        return Written(made.inputs, made.outputs, run)

    monkeypatch.setattr(stablehlo, "write", wrong)
    options = {"signature": "classify", "sizes": {"batch": 3}}
    file = tmp_path / "m.mlir"
    with pytest.raises(exporter.ConversionError, match=r"logits: float32\[3, 4\]: 3 of 12 element"):
        exporter.convert(folder, "stablehlo", file, **options)
    assert list(tmp_path.iterdir()) == []
    made = exporter.convert(folder, "stablehlo", file, check=False, **options)
    assert made.largest is None
    assert made.unchecked == "the check was left out"
    assert file.exists()


def test_nothing_is_replaced_unasked_and_no_folder_of_others(folder, tmp_path):
    file = tmp_path / "m.mlir"
    file.write_text("mine")
    options = {"signature": "factor", "check": False}
    with pytest.raises(exporter.ArtifactExistsError, match="is there already. Pass overwrite=True"):
        exporter.convert(folder, "stablehlo", file, **options)
    assert file.read_text() == "mine"
    exporter.convert(folder, "stablehlo", file, overwrite=True, **options)
    assert "stablehlo.custom_call" in file.read_text()
    (tmp_path / "mine.mlirbc").mkdir()
    with pytest.raises(exporter.ArtifactExistsError, match="is a folder, and not one that a conv"):
        exporter.convert(folder, "stablehlo", tmp_path / "mine.mlirbc", overwrite=True, **options)
    with pytest.raises(exporter.OptionError, match="end in .mlir or .mlirbc, got"):
        exporter.convert(folder, "stablehlo", tmp_path / "m.vmfb", **options)
    with pytest.raises(exporter.OptionError, match="is an artifact, and nothing else belongs"):
        exporter.convert(folder, "stablehlo", folder / "m.mlir", **options)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["m.mlir", "mine.mlirbc"]


def test_without_its_libraries_a_format_says_how_to_get_them(folder, tmp_path, monkeypatch):
    for format_ in FORMATS:
        if format_.extra is None:
            continue
        for name in ("iree.runtime", "iree", "ai_edge_litert", "ai_edge_litert.interpreter"):
            monkeypatch.setitem(sys.modules, name, None)
        for name in ("coremltools", "tensorflow", "onnx", "onnxruntime", format_.module):
            monkeypatch.delitem(sys.modules, name, raising=False)
        for name in ("coremltools", "tensorflow", "onnx", "onnxruntime"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=rf"pip install 'jax-exporter\[{format_.extra}\]'"):
            exporter.convert(
                folder,
                format_.name,
                tmp_path / f"m{(*format_.extensions, '')[0]}",
                signature="loop",
                sizes={"n": 1},
            )


@pytest.mark.parametrize("jax_release", ["0_10", "0_12"])
@pytest.mark.parametrize("version", [1, 2])
def test_artifacts_of_other_releases_are_converted(version, jax_release, tmp_path):
    golden = ROOT / "tests" / "golden" / f"format_{version}_jax_{jax_release}"
    made = exporter.convert(golden, "stablehlo", tmp_path / "m.mlirbc")
    assert made.largest == 0


def test_the_command_prints_what_it_made(folder, tmp_path, capsys):
    words = ["convert", str(folder), "--to", "stablehlo", "--signature", "count"]
    file = tmp_path / "m.mlir"
    assert main([*words, "--size", "x[0]=2", "--out", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{file}: count as stablehlo, ")
    assert "  input   state/calls: int32[]\n" in out
    assert "run with random inputs: y: float32[2, 2]: equal; state/calls: int32[]: equal\n" in out
    again = ["--size", "x[0]=2", "--out", str(file), "--overwrite", "--no-check", "--json"]
    assert main([*words, *again]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["signatures"]["count"]["outputs"] == ["y: float32[2, 2]", "state/calls: int32[]"]
    assert told["bytes"] == file.stat().st_size
    assert told["largest_difference"] is None
    assert main([*words, "--out", str(file)]) == 1
    assert "give a size for x[0]" in capsys.readouterr().err


def test_variables_are_arguments_for_a_format_that_wants_them_so(folder):
    from exporter.artifact.manifest import read
    from exporter.conversion.choosing import chosen
    from exporter.conversion.specializing import specialize
    from exporter.jax_static import run_by_pjrt

    choice = chosen(folder, read(folder), signature="classify", sizes={"batch": 3}, platform="cpu")
    program = specialize(choice, embed=False)
    given = dict(program.variables)
    assert sorted(given) == ["half", "scales", "weights"]
    np.testing.assert_array_equal(given["weights"], WEIGHTS)
    arrays = [-value if name == "scales" else value for name, value in program.variables]
    found = run_by_pjrt(program.bytecode, [*arrays, IMAGE, np.float32(0)], jax.devices("cpu")[0])
    expected = _expected(IMAGE)
    _assert_close(found[0], -expected["logits"])
    _assert_close(found[1], expected["image"])

"""Stored artifacts as SavedModels of TensorFlow, run by TensorFlow in a process without JAX."""

import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import Dim, TensorSpec, Variable
from exporter.cli import main

if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("no TensorFlow: SavedModels are not checked", allow_module_level=True)

# TensorFlow and protobuf warn of their own ways when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

RANDOM = np.random.default_rng(5)
WEIGHTS = RANDOM.normal(size=(3, 4)).astype(np.float32)
KEY = jax.random.key(7)


class Model:
    def __init__(self):
        self.layers = [{"kernel": jnp.asarray(WEIGHTS)}]
        self.half = jnp.full(4, 1.5, jnp.bfloat16)
        self.calls = Variable(jnp.int32(3), trainable=False)
        self.cache = Variable(jnp.zeros((2, 8, 3)), trainable=False)
        self.random = Variable(KEY, trainable=False)

    @exporter.function(
        input_signature=[
            TensorSpec((Dim("batch", max=16), 3), "float32", name="x"),
            TensorSpec(("batch",), "bool", name="mask"),
        ]
    )
    def predict(self, x, mask):
        y = x @ self.layers[0]["kernel"] * mask[:, None]
        return {"y": y, "half": y.astype(jnp.bfloat16) + self.half, "no/mask": ~mask}

    @exporter.function(input_signature=[TensorSpec((2, 1, 3), "float32", name="token")])
    def decode(self, token):
        place = (0, self.calls.value % 8, 0)
        self.cache.value = jax.lax.dynamic_update_slice(self.cache.value, token, place)
        self.calls.value += 1
        return {"sum": self.cache.value.sum(1), "calls": self.calls.value}

    @exporter.function(input_signature=[])
    def draw(self):
        self.random.value, key = jax.random.split(self.random.value)
        return {"drawn": jax.random.normal(key, (4,))}

    @exporter.function(
        input_signature=[
            TensorSpec((), "key<fry>", name="key"),
            {"a b": TensorSpec((None, 8), "float32"), "a/b": TensorSpec(("n",), "int8")},
        ]
    )
    def odd(self, key, arrays):
        values, places = jax.lax.top_k(arrays["a b"], 3)
        return {
            "values": values,
            "places": places,
            "keys": jax.random.split(key),
            "twice": jnp.concatenate([arrays["a/b"], arrays["a/b"]]),
        }

    @exporter.function(
        input_signature=[TensorSpec((), "int32", name=name) for name in ("self", "class", "0")]
    )
    def named(self, a, b, c):
        return {"self": a - b, "args": c}

    @exporter.function(input_signature=[TensorSpec(("n", 3), "float32", name="x")])
    def plain(self, x):
        return {"y": jnp.tanh(x @ self.layers[0]["kernel"])}

    @exporter.function(input_signature=[TensorSpec((2, 2), "float32", name="x")])
    def factor(self, x):
        return jnp.linalg.cholesky(x @ x.T + jnp.eye(2))


NAMES = ("predict", "decode", "draw", "odd", "named", "plain")

# What a process of TensorFlow alone does: the calls in one file, the outputs into another.
CLIENT = """
import json, sys
for name in ("jax", "jaxlib", "exporter", "signatures"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf

folder, calls, out = sys.argv[1:]
model = tf.saved_model.load(folder)
found = {}
for number, (signature, inputs) in enumerate(json.load(open(calls))):
    function = model.signatures[signature]
    kinds = function.structured_input_signature[1]
    given = {name: tf.constant(value, kinds[name].dtype) for name, value in inputs.items()}
    for name, value in function(**given).items():
        found[f"{number} {name}"] = tf.cast(value, tf.float32).numpy()
        found[f"{number} {name} dtype"] = value.dtype.name
assert model.variables["layers"]["0"]["kernel"].trainable
assert not model.variables["calls"].trainable
found["calls"] = model.variables["calls"].numpy()
found["shape"] = str(model.signatures["predict"].structured_input_signature[1]["x"].shape)
try:
    model.signatures["predict"](x=tf.ones((17, 3)), mask=tf.ones(17, tf.bool))
except tf.errors.InvalidArgumentError as error:
    found["refusal"] = str(error)
lite = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["plain"]).convert()
call = tf.lite.Interpreter(model_content=lite).get_signature_runner("plain")
found["lite"] = call(x=np.eye(3, dtype=np.float32))["y"]
assert not any(name.startswith("jax") for name, module in sys.modules.items() if module)
np.savez(out, **found)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    model = Model()
    signatures = {name: getattr(model, name) for name in (*NAMES, "factor")}
    exporter.save(model, folder, signatures)
    return folder


@pytest.fixture(scope="module")
def converted(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("tensorflow") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
        return exporter.convert(folder, "tensorflow", out, signature=NAMES)


def test_every_signature_agrees_with_the_model_and_keeps_its_names(converted):
    assert [one.name for one in converted.signatures] == list(NAMES)
    predict, decode, draw, odd, named, _ = converted.signatures
    assert predict.inputs == ("x: float32[batch, 3]", "mask: bool[batch]")
    assert predict.outputs == (
        "y: float32[batch, 4]",
        "half: bfloat16[batch, 4]",
        "no/mask: bool[batch]",
    )
    assert decode.inputs == ("token: float32[2, 1, 3]",)
    assert draw.inputs == ()
    assert odd.inputs == (
        "key: uint32[2]",
        "arrays_a_b for arrays/a b: float32[None, 8]",
        "arrays_a_b_1 for arrays/a/b: int8[n]",
    )
    assert named.inputs == (
        "x_self for self: int32[]",
        "x_class for class: int32[]",
        "x_0 for 0: int32[]",
    )
    assert converted.unchecked is None
    assert converted.largest < 1e-5
    compared = [one.output for one in decode.check.outputs]
    assert compared == ["sum", "calls", "state/calls", "state/cache"]
    assert (converted.path / "saved_model.pb").is_file()


def test_tensorflow_runs_it_without_jax_at_any_batch_size_and_keeps_its_state(converted, tmp_path):
    calls = [
        ("predict", {"x": RANDOM.normal(size=(size, 3)).tolist(), "mask": [True] * size})
        for size in (1, 5, 16)
    ]
    tokens = RANDOM.normal(size=(3, 2, 1, 3))
    calls += [("decode", {"token": token.tolist()}) for token in tokens]
    calls += [("draw", {}), ("draw", {})]
    scores = RANDOM.normal(size=(4, 8)).astype(np.float32)
    words = {"key": [0, 9], "arrays_a_b": scores.tolist(), "arrays_a_b_1": [1, -2]}
    calls.append(("odd", words))
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    out = tmp_path / "out.npz"
    subprocess.run(
        [sys.executable, "-P", "-c", CLIENT, converted.path, tmp_path / "calls.json", out],
        check=True,
        capture_output=True,
        cwd=tmp_path,
        timeout=300,
    )
    found = dict(np.load(out))
    for number, (_, inputs) in enumerate(calls[:3]):
        y = np.array(inputs["x"], np.float32) @ WEIGHTS
        np.testing.assert_allclose(found[f"{number} y"], y, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[f"{number} half"], y + 1.5, rtol=1e-2, atol=2e-2)
        assert found[f"{number} half dtype"] == "bfloat16"
        assert not found[f"{number} no/mask"].any()
        assert found[f"{number} no/mask dtype"] == "bool"
    sums = np.cumsum(tokens, axis=0)[:, :, 0]
    for step in range(3):
        np.testing.assert_allclose(found[f"{3 + step} sum"], sums[step], rtol=1e-5)
        assert found[f"{3 + step} calls"] == 4 + step
    assert found["calls"] == 6
    key = KEY
    for number in (6, 7):
        key, drawn = jax.random.split(key)
        expected = jax.random.normal(drawn, (4,))
        np.testing.assert_allclose(found[f"{number} drawn"], expected, rtol=1e-5)
    np.testing.assert_array_equal(found["8 values"], -np.sort(-scores)[:, :3])
    np.testing.assert_array_equal(found["8 places"], np.argsort(-scores)[:, :3])
    split = jax.random.key_data(jax.random.split(jax.random.wrap_key_data(jnp.uint32([0, 9]))))
    np.testing.assert_array_equal(found["8 keys"], split.astype(jnp.float32))
    assert found["8 twice"].tolist() == [1, -2, 1, -2]
    np.testing.assert_allclose(found["lite"], np.tanh(WEIGHTS), rtol=1e-5)
    assert found["shape"] == "(None, 3)"
    assert "batch <= 16" in str(found["refusal"])


def test_nothing_is_left_of_what_tensorflow_cannot_have(folder, tmp_path):
    class Packed:
        def __init__(self):
            self.weights = jnp.ones(3, jnp.int4)

        @exporter.function(input_signature=[TensorSpec((3,), "float32", name="x")])
        def scale(self, x):
            return x * self.weights.astype(jnp.float32)

    exporter.save(Packed(), tmp_path / "packed")
    refusals = {
        "variable weights is int4, which TensorFlow keeps one to a byte": (tmp_path / "packed", {}),
        "signature 'factor' cannot become tensorflow:\n  it calls native code of JAX, lapack_spotrf"
        "_ffi, which": (folder, {}),
        "no axis is called rows; they are arrays/a b[0], batch, n": (
            folder,
            {"signature": NAMES, "sizes": {"rows": 3}},
        ),
    }
    out = tmp_path / "out"
    for expected, (artifact, options) in refusals.items():
        with pytest.raises(exporter.ExporterError) as error:
            exporter.convert(artifact, "tensorflow", out, **options)
        assert expected in str(error.value)
        assert [one.name for one in tmp_path.iterdir()] == ["packed"]


def test_the_command_replaces_a_saved_model_and_no_other_folder(folder, tmp_path, capsys):
    out = tmp_path / "served" / "1"
    words = ["convert", str(folder), "--to", "tensorflow", "--out", str(out), "--no-check"]
    assert main([*words, "--signature", "draw", "--signature", "predict"]) == 0
    assert f"{out}: draw, predict as tensorflow, " in capsys.readouterr().out
    assert main([*words, "--signature", "draw"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main([*words, "--signature", "draw", "--overwrite", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["signatures"]) == ["draw"]
    words[words.index(str(out))] = str(out.parent)
    assert main([*words, "--signature", "draw", "--overwrite"]) == 1
    assert "is a folder, and not one that a conversion made" in capsys.readouterr().err
    assert [one.name for one in out.parent.iterdir()] == ["1"]

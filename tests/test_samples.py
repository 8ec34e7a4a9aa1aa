"""Golden samples: recorded when a model is saved, run again and compared by `exporter.verify`."""

import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hostile.damage import change, seal

import exporter
from exporter import (
    ArtifactError,
    OptionError,
    TensorSpec,
    Variable,
    VerificationError,
    function,
)
from exporter.artifact.records import SampleArrayRecord
from exporter.artifact.samples import Sample, joined
from exporter.cli import main
from exporter.comparison import compare

X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Model:
    """Counts, and classifies with weights that training changes."""

    def __init__(self):
        self.w = Variable(jnp.arange(12, dtype=jnp.float32).reshape(3, 4))
        self.n = Variable(jnp.int32(5), trainable=False)
        self.part = SimpleNamespace(double=double)

    @function(input_signature=[TensorSpec(("b", 3), "float32", name="x")])
    def classify(self, x):
        self.n.value = self.n + 1
        return {"label": (x @ self.w).argmax(-1), "n": self.n}

    @function(
        input_signature=[TensorSpec(("b", 3), "float32", name="x"), TensorSpec((), "float32")]
    )
    def scale(self, x, by=3.0):
        return by * x

    @function(input_signature=[TensorSpec(None, "float32", max_rank=2, name="x")])
    def total(self, x):
        return x.sum() + self.n


@function
def double(x):
    return [x + x, {"shape": x.shape}]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples") / "m"
    model = Model()
    model.part.double(X)
    model.part.double(np.arange(4, dtype=np.int32))
    exporter.save(
        model,
        folder,
        {"classify": model.classify, "scale": model.scale},
        platforms=("cpu",),
        samples={
            "classify": [{"x": X}, {"x": X[:1]}],
            "total": [{"x": X}, {"x": X[0]}, {"x": [1, 2, 3]}],
            "scale": [{"x": X}, {"x": X, "by": 2}],
            "part.double": [{"x": np.arange(4, dtype=np.int32)}, {"x": X}],
        },
    )
    assert int(model.n) == 5
    return folder


def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def manifest_of(folder):
    return json.loads((folder / "saved_model.json").read_text())


def test_samples_are_what_the_functions_return_in_order(saved):
    manifest = manifest_of(saved)
    found = []
    for entry in manifest["samples"]:
        record = exporter.load(saved).manifest.samples[len(found)]
        found.append(Sample(record, (saved / entry["file"]).read_bytes()).arrays()[1])
    labels = (X @ np.arange(12, dtype=np.float32).reshape(3, 4)).argmax(-1)
    np.testing.assert_array_equal(found[0][0], labels)
    assert [int(one[1]) for one in found[:2]] == [6, 7]
    assert [float(one[0]) for one in found[2:5]] == [15 + 7, 3 + 7, 6 + 7]
    np.testing.assert_array_equal(found[5][0], 3 * X)
    np.testing.assert_array_equal(found[6][0], 2 * X)
    np.testing.assert_array_equal(found[7][0], [0, 2, 4, 6])
    np.testing.assert_array_equal(found[8][0], 2 * X)


def test_a_sound_artifact_verifies_and_says_what_was_compared(saved):
    report = exporter.verify(saved)
    assert report.ok
    assert report.raise_if_failed() is None
    assert [one.name for one in report.samples] == [
        "classify",
        "classify",
        "total",
        "total",
        "total",
        "scale",
        "scale",
        "part.double",
        "part.double",
    ]
    lines = str(report).splitlines()
    assert lines[0] == f"{saved} on cpu: all is well"
    assert lines[5:9] == [
        "  samples    ok      9 agree",
        "sample 0 of classify: ok",
        "  label: int32[2]: equal",
        "  n: int32[]: equal",
    ]
    assert exporter.verify(saved, device="cpu") == report


def test_any_reader_can_take_a_sample_apart(saved):
    entry = manifest_of(saved)["samples"][0]
    data = (saved / entry["file"]).read_bytes()
    assert [one["name"] for one in entry["inputs"] + entry["outputs"]] == ["x", "label", "n"]
    np.testing.assert_array_equal(np.frombuffer(data[:24], "<f4").reshape(2, 3), X)
    assert np.frombuffer(data[24:], "<i4").tolist() == [3, 3, 6]


def altered(folder, number, change):
    """Change the outputs of a sample, and the digests so that the artifact is sound again."""
    record = exporter.load(folder).manifest.samples[number]
    inputs, outputs = Sample(record, (folder / record.file).read_bytes()).arrays()
    (folder / record.file).write_bytes(joined([*inputs, *change(outputs)]))
    seal(folder)


def test_wrong_labels_are_seen_one_by_one(tmp_path):
    class Labels:
        @function(input_signature=[TensorSpec((4, 3), "float32", name="x")])
        def __call__(self, x):
            return x.argmax(-1)

    exporter.save(
        Labels(), tmp_path / "m", platforms=("cpu",), samples=[{"x": np.eye(4, 3, dtype="f")}]
    )
    altered(tmp_path / "m", 0, lambda outputs: [outputs[0] + np.int32([0, 1, 1, 2])])
    report = exporter.verify(tmp_path / "m")
    assert not report.ok
    (compared,) = report.samples[0].comparisons
    assert (compared.wrong, compared.size, compared.largest) == (3, 4, 2)
    assert (compared.first, compared.expected, compared.found) == ((1,), 2, 1)
    first, *_, heading, problem, sample, difference = str(report).splitlines()
    assert first == f"{tmp_path / 'm'} on cpu: samples FAILED"
    assert f"{heading}\n{problem}\n{sample}\n{difference}" == (
        "  samples    failed  1 of 1 wrong\n    sample 0 of serving_default\n"
        "sample 0 of serving_default: FAILED\n"
        "  output_0: int32[4]: 3 of 4 elements are wrong, the largest difference is 2; first at "
        "[1]: expected 2, got 1 (rtol 0, atol 0)"
    )
    with pytest.raises(VerificationError) as raised:
        report.raise_if_failed()
    assert raised.value.report is report
    assert str(raised.value) == str(report)
    assert isinstance(raised.value, AssertionError)


def test_other_weights_are_seen(saved, tmp_path):
    other = Model()
    other.w.value = -other.w.value
    other.part.double(X)
    other.part.double(np.arange(4, dtype=np.int32))
    exporter.save(
        other,
        tmp_path / "m",
        {"classify": other.classify, "scale": other.scale},
        platforms=("cpu",),
    )
    copy = copied(saved, tmp_path)
    shutil.rmtree(copy / "variables")
    shutil.copytree(tmp_path / "m" / "variables", copy / "variables")
    seal(copy)
    report = exporter.verify(copy)
    assert [one.ok for one in report.samples] == [False, False, *[True] * 7]


@pytest.mark.parametrize(
    ("dtype", "expected", "found", "wrong"),
    [
        ("float32", [1, 2], [1 + 2e-5, 2], 0),
        ("float32", [1, 2], [1 + 1e-4, 2], 1),
        ("float32", [1e-9, 2], [2e-9, 2], 0),  # terms that cancelled
        ("float32", [1e-9, 2e-9], [2e-9, 2e-9], 1),  # all is small: nothing has cancelled
        ("float32", [-1e9, 1, 1], [-1e9, 1, 2], 1),  # a mask hides nothing
        ("float32", [0, 0], [1e-9, 0], 1),
        ("float32", [np.nan, np.inf, -np.inf], [np.nan, np.inf, -np.inf], 0),
        ("float32", [np.nan, np.inf, 1, 1], [1, -np.inf, np.nan, np.inf], 4),
        ("float32", [], [], 0),
        ("float16", [1, 2], [1.005, 2], 0),
        ("float16", [1, 2], [1.05, 2], 1),
        ("bfloat16", [1, 2], [1.03, 2], 0),
        ("bfloat16", [1, 2], [1.1, 2], 1),
        ("float64", [1, 2], [1 + 1e-11, 2], 0),
        ("float64", [1, 2], [1 + 1e-9, 2], 1),
        ("float8_e4m3fn", [1, 2], [1.125, 2], 0),
        ("float8_e4m3fn", [1, 2], [2, 2], 1),
        ("complex64", [1 + 1j, 1], [1 + 1.00001j, 1], 0),
        ("complex64", [1 + 1j, 1], [1 - 1j, 1], 1),
        ("int8", [1, 2], [1, 3], 1),
        ("int4", [1, 2], [1, 3], 1),
        ("uint64", [2**64 - 1, 2], [2**64 - 2, 2], 1),
        ("int64", [-(2**63), 2], [2**63 - 1, 2], 1),
        ("bool", [True, False], [True, True], 1),
        ("bool", [], [], 0),
    ],
)
def test_each_dtype_has_its_tolerance(dtype, expected, found, wrong):
    one, other = (np.array(v, getattr(ml_dtypes, dtype, dtype)) for v in (expected, found))
    result = compare(SampleArrayRecord("y", dtype, list(one.shape)), one, other)
    assert result.wrong == wrong
    assert result.ok == (wrong == 0)
    assert (result.first is None) == (wrong == 0)


def test_the_command_prints_the_report_and_fails_if_it_does(saved, tmp_path, capsys):
    assert main(["verify", str(saved)]) == 0
    assert capsys.readouterr().out == f"{exporter.verify(saved)}\n"
    copy = copied(saved, tmp_path)
    altered(copy, 5, lambda outputs: [outputs[0] * np.float32(1.001)])
    assert main(["verify", str(copy)]) == 3
    out, err = capsys.readouterr()
    assert "  samples    failed  1 of 9 wrong\n    sample 5 of scale\n" in out
    assert "output_0: float32[2, 3]: 5 of 6 elements are wrong, the largest difference is 0." in out
    assert err == ""
    assert main(["verify", str(copy), "--rtol", "0.01"]) == 0
    assert main(["verify", str(copy), "--rtol", "0", "--atol", "0.1"]) == 0
    capsys.readouterr()


def put(**fields):
    """A change of the first sample in a manifest."""
    return lambda manifest: manifest["samples"][0].update(fields)


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (put(concrete=9), "samples[0] refers to 9, but there are 5."),
        (put(concrete=1), "samples[0] does not fit concrete_functions[1]."),
        (put(file="samples/9.bin"), "samples[0].file is 'samples/9.bin', which files does not"),
        (put(file="saved_model.json"), "samples[0].file is 'saved_model.json', which files does"),
        (put(inputs=[]), "samples[0] does not fit concrete_functions[2]."),
        (
            put(inputs=[{"name": "x", "dtype": "float32", "shape": [2, 4]}]),
            "samples[0] does not fit concrete_functions[2].",
        ),
        (
            put(inputs=[{"name": "x", "dtype": "float32", "shape": [2**62, 3]}]),
            "samples[0] takes 55,340,232,221,128,654,860 bytes, and its file has 36.",
        ),
        (lambda m: m.update(tags=["a", "a"]), "tags has one twice."),
        (lambda m: m.update(metadata="[]"), "metadata: it is not a JSON object"),
        (lambda m: m.update(metadata="{"), "metadata: Expecting property name"),
        (lambda m: m.update(metadata='{"a": NaN}'), "metadata: JSON has no NaN"),
        (lambda m: m.update(metadata='{"a":' * 10**5), ""),
        (lambda m: m.update(function_aliases={"a": 9}), "function_aliases refers to 9, but there"),
        (
            lambda m: m["nodes"][1].update(kind="asset", path="assets/x"),
            "nodes[1] is the asset 'assets/x', which files does not list in assets/.",
        ),
        (
            lambda m: m["nodes"][1].update(kind="asset", path="samples/0.bin"),
            "nodes[1] is the asset 'samples/0.bin', which files does not list in assets/.",
        ),
        (lambda m: m["nodes"][1].update(kind="asset"), "nodes[1] is the asset '', which files do"),
        (lambda m: m["nodes"][1].update(path="assets/x"), "nodes[1] is a variable and has a path."),
    ],
)
def test_a_manifest_that_cannot_be_true_is_refused(saved, lie, message, tmp_path):
    copy = copied(saved, tmp_path)
    change(copy, lie)
    with pytest.raises(ArtifactError) as refused:
        exporter.load(copy, skip_variables=True, verify=False)
    assert str(refused.value).startswith(f"{copy / 'saved_model.json'} is damaged: {message}")


def test_an_asset_that_leaves_the_folder_is_refused(saved, tmp_path):
    def escape(manifest):
        manifest["files"].append({"path": "assets/../../x", "size": 1, "blake3": "0" * 64})
        manifest["nodes"][1].update(kind="asset", path="assets/../../x")

    copy = copied(saved, tmp_path)
    change(copy, escape)
    with pytest.raises(ArtifactError, match=r"cannot have a file .* the path leaves the folder"):
        exporter.load(copy, verify=False, skip_variables=True)


def test_tolerances_can_be_given():
    record = SampleArrayRecord("y", "float32", [2])
    one, other = np.float32([1, 2]), np.float32([1.01, 2])
    assert not compare(record, one, other).ok
    assert compare(record, one, other, rtol=0.02).ok
    assert compare(record, one, other, rtol=0, atol=0.02).ok
    assert not compare(record, one, other, rtol=0, atol=0).ok
    assert compare(record, one, one, rtol=0, atol=0).ok


def test_another_shape_is_no_match():
    result = compare(SampleArrayRecord("y", "int32", [2]), np.int32([1, 2]), np.int32([1]))
    assert not result.ok
    assert str(result) == "y: int32[2]: expected int32[2], got int32[1]"


def test_every_kind_of_array_is_recorded(tmp_path):
    class Kinds:
        @function(
            input_signature={
                "key": jax.eval_shape(lambda: jax.random.key(0)),
                "small": TensorSpec((2,), "int4"),
                "half": TensorSpec((), "bfloat16"),
                "none": TensorSpec((0, 3), "float32"),
                "pair": TensorSpec((1,), "complex64"),
            }
        )
        def __call__(self, key, small, half, none, pair):
            return {
                "key": jax.random.split(key),
                "small": small + 1,
                "half": half * 2,
                "none": none,
                "pair": pair * 1j,
                "flag": half > 0,
            }

    inputs = {
        "key": jax.random.key(3),
        "small": np.array([-8, 7], ml_dtypes.int4),
        "half": 1.5,
        "none": np.zeros((0, 3), np.float32),
        "pair": [1 + 2j],
    }
    exporter.save(Kinds(), tmp_path / "m", platforms=("cpu",), samples=[inputs])
    (sample,) = exporter.verify(tmp_path / "m").samples
    assert {one.output: one.dtype for one in sample.comparisons} == {
        "key": "key<fry>",
        "small": "int4",
        "half": "bfloat16",
        "none": "float32",
        "pair": "complex64",
        "flag": "bool",
    }
    assert all(one.ok and one.largest == 0 for one in sample.comparisons)
    altered(tmp_path / "m", 0, lambda o: [o[0] ^ np.uint32(1), *o[1:]])
    (sample,) = exporter.verify(tmp_path / "m").samples
    assert [one.ok for one in sample.comparisons] == [False, True, True, True, True, True]


def test_random_state_and_statistics_are_not_touched_and_run_anew(tmp_path):
    class Noisy(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(3, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        @function(input_signature=[TensorSpec(("b", 3), "float32", name="x")])
        def step(self, x):
            return self.drop(self.norm(x))

    model = Noisy(nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    count = int(model.drop.rngs.count[...])
    exporter.save(model, tmp_path / "m", platforms=("cpu",), samples=[{"x": X}, {"x": X}])
    jax.tree.map(
        np.testing.assert_array_equal,
        before,
        nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)),
    )
    assert int(model.drop.rngs.count[...]) == count
    report = exporter.verify(tmp_path / "m")
    report.raise_if_failed()
    np.testing.assert_allclose(
        exporter.load(tmp_path / "m").step(X), model.step(X), rtol=1e-5, atol=1e-6
    )


def test_a_loaded_model_keeps_its_samples_while_its_variables_are_as_they_were(saved, tmp_path):
    model = exporter.load(saved)
    exporter.save(model, tmp_path / "again", platforms=("cpu",))
    assert exporter.verify(tmp_path / "again").samples == exporter.verify(saved).samples
    exporter.save(model, tmp_path / "none", platforms=("cpu",), samples={})
    assert exporter.load(tmp_path / "none").manifest.samples == []
    del model.part
    exporter.save(model, tmp_path / "fewer", platforms=("cpu",))
    assert len(exporter.verify(tmp_path / "fewer").samples) == 7
    model.classify(X)
    with pytest.warns(UserWarning, match="samples") as warned:
        exporter.save(model, tmp_path / "changed", platforms=("cpu",))
    assert str(warned[0].message) == (
        "the samples of the loaded model are not saved, since its variables have other values than "
        "when they were recorded. Pass samples= to record new ones, or samples={} for none."
    )
    assert warned[0].filename == __file__
    assert exporter.load(tmp_path / "changed").manifest.samples == []
    exporter.save(model, tmp_path / "new", platforms=("cpu",), samples={"classify": [{"x": X}]})
    (sample,) = exporter.verify(tmp_path / "new").samples
    assert sample.ok
    assert int(model.n) == 6
    assert int(exporter.load(tmp_path / "new").n) == 6


def test_samples_that_are_gone_since_the_model_was_loaded_are_named(saved, tmp_path):
    copy = copied(saved, tmp_path)
    model = exporter.load(copy)
    (copy / "samples" / "1.bin").write_bytes(b"other")
    with pytest.raises(ArtifactError, match=r"1\.bin is not what it was when the model was loaded"):
        exporter.save(model, tmp_path / "m", platforms=("cpu",))
    shutil.rmtree(copy)
    with pytest.raises(ArtifactError, match=r"samples of the loaded model cannot be read from"):
        exporter.save(model, tmp_path / "m", platforms=("cpu",))
    exporter.save(model, tmp_path / "m", platforms=("cpu",), samples={})


def test_an_artifact_without_samples_is_judged_without_them(tmp_path):
    exporter.save(Model(), tmp_path / "m", {}, platforms=("cpu",), samples={})
    report = exporter.verify(tmp_path / "m")
    assert report.ok
    assert str(report.part("samples")) == "samples    none    it was saved without samples="


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (
            {"nope": [{}]},
            "samples has 'nope', which is neither a signature (scale) nor the path of a function "
            "(part.double, classify, scale, total).",
        ),
        ({"scale": {"x": X}}, "samples['scale'] is a list with a dict of inputs for each sample;"),
        ({"scale": [X]}, "samples['scale'][0] is a dict of inputs by name; got array("),
        ([{"x": X[:, :2]}], "samples['scale'][0] cannot be recorded: arguments do not fit sig"),
        ({"scale": [{"x": X}, {"z": X}]}, "samples['scale'][1] cannot be recorded: arguments do"),
        ({"part.double": [{}]}, "samples['part.double'][0] is for a function that was never cal"),
        (
            {"total": [{"x": np.zeros((2, 0), "f")}]},
            "samples['total'][0] cannot be recorded: x has an axis of size 0, and programs are for "
            "sizes of at least 1.",
        ),
    ],
)
def test_wrong_samples_are_refused(samples, message, tmp_path):
    model = Model()
    model.part.double = exporter.function(lambda x: x)
    with pytest.warns(UserWarning, match="double|lambda"), pytest.raises(OptionError) as refused:
        exporter.save(
            model, tmp_path / "m", {"scale": model.scale}, platforms=("cpu",), samples=samples
        )
    assert str(refused.value).startswith(message)
    assert not (tmp_path / "m").exists()


def test_a_list_is_for_the_default_signature(tmp_path):
    model = Model()
    with pytest.raises(OptionError) as refused:
        exporter.save(
            model,
            tmp_path / "m",
            {"a": model.scale, "b": model.classify},
            platforms=("cpu",),
            samples=[{"x": X}],
        )
    assert str(refused.value) == (
        "samples is a list, which is for the default signature, and there is none. Pass a dict "
        "with the samples of each signature; they are a, b."
    )

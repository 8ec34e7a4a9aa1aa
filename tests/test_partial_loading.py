"""Loading one part of a model, and loading without the values of its variables."""

import shutil
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import (
    Asset,
    SaveOptions,
    StateError,
    TensorSpec,
    UnknownPartError,
    UnknownSignatureError,
    Variable,
    function,
)

PAIR = TensorSpec((2,), "float32", name="x")
X = np.float32([1, 2])


class Layer:
    def __init__(self, value, shared):
        self.w = Variable(jnp.full(2, float(value)))
        self.shared = shared

    @function(input_signature=[PAIR])
    def apply(self, x):
        return self.w * x + self.shared


class Heads(NamedTuple):
    left: Any
    right: Any


class Model:
    def __init__(self, vocab):
        self.embedding = Variable(jnp.full(2, 100.0))
        self.encoder = SimpleNamespace(
            layers=[Layer(1, self.embedding), Layer(2, self.embedding)],
            vocab=Asset(vocab / "vocab.txt"),
            settings={"depth": 2},
            owner=self,
        )
        self.decoder = SimpleNamespace(
            layers={"first": Layer(3, self.embedding), 7: Layer(4, self.embedding)},
            words=Asset(vocab / "words.txt"),
            huge=Variable(jnp.zeros(1000)),
        )
        self.heads = Heads(Layer(5, Variable(jnp.zeros(2))), 3)
        self.key = Variable(jax.random.key(1))

    @function(input_signature=[PAIR])
    def encode(self, x):
        for layer in self.encoder.layers:
            x = layer.apply(x)
        return x

    @function(input_signature=[PAIR])
    def run(self, x):
        return self.decoder.layers["first"].apply(self.encode(x))

    @function(input_signature=[PAIR])
    def plain(self, x):
        return x + 1


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    (folder / "vocab.txt").write_text("vocabulary")
    (folder / "words.txt").write_text("words")
    model = Model(folder)
    exporter.save(
        model,
        folder / "m",
        {
            "serving_default": model.run,
            "encode": model.encode,
            "plain": model.plain,
            "second": model.encoder.layers[1].apply,
        },
        platforms=("cpu",),
        options=SaveOptions(
            tags=["serve"],
            metadata={"a": 1},
            function_aliases={"e": model.encoder.layers[0].apply, "r": model.run},
        ),
        samples={"encode": [{"x": X}]},
    )
    return folder / "m"


def names(model):
    return {name for name in vars(model) if not name.startswith("__")}


def test_a_part_comes_at_its_path_with_what_its_functions_need(saved):
    model = exporter.load(saved, only="encoder")
    assert names(model) == {"encoder", "embedding"}
    assert names(model.encoder) == {"layers", "vocab", "settings", "owner"}
    assert model.encoder.owner is model
    assert model.encoder.settings == {"depth": 2}
    assert model.encoder.vocab.path.read_text() == "vocabulary"
    assert model.encoder.layers[0].shared is model.embedding
    np.testing.assert_array_equal(model.encoder.layers[1].apply(X), 2 * X + 100)
    assert set(model.variables) == {"embedding", "encoder"}
    assert list(model.signatures) == ["encode", "plain", "second"]
    np.testing.assert_array_equal(model.signatures["encode"](X)["output_0"], 2 * (X + 100) + 100)
    assert dict(model.function_aliases) == {"e": model.encoder.layers[0].apply}
    assert model.metadata == {"a": 1}
    assert len(model.manifest.programs) == 4
    assert model.manifest.tags == ["serve"]


def test_signatures_that_need_more_say_so(saved):
    model = exporter.load(saved, only="encoder.layers[1]")
    assert list(model.signatures) == ["plain", "second"]
    assert "encode" not in model.signatures
    with pytest.raises(UnknownSignatureError) as missing:
        model.signatures["serving_default"]
    assert str(missing.value) == (
        "no signature 'serving_default' was loaded: only= left out 'serving_default', 'encode', "
        "which need other parts of the model. Loaded were 'plain', 'second'."
    )


@pytest.mark.parametrize(
    ("only", "variables"),
    [
        ("encoder.layers[0]", ["embedding", "encoder/layers/0/w"]),
        ("encoder.layers[0].apply", ["embedding", "encoder/layers/0/w"]),
        ("encoder.layers[0].w", ["encoder/layers/0/w"]),
        ("decoder.layers['first']", ["decoder/layers/first/w", "embedding"]),
        ("decoder.layers.first", ["decoder/layers/first/w", "embedding"]),
        ("decoder.layers[7]", ["decoder/layers/7/w", "embedding"]),
        ("heads.left", ["heads/left/shared", "heads/left/w"]),
        (
            ["heads", "encoder.layers[0].w"],
            ["encoder/layers/0/w", "heads/left/shared", "heads/left/w"],
        ),
        ("plain", []),
        ("encoder.vocab", []),
        ("encoder.settings", []),
        ("embedding", ["embedding"]),
        ([], []),
    ],
)
def test_any_path_is_a_part(saved, only, variables):
    model = exporter.load(saved, only=only)
    assert sorted("/".join(record.key) for record in model.manifest.variables) == variables


def test_lists_and_tuples_keep_their_places(saved):
    model = exporter.load(saved, only=["encoder.layers[1]", "decoder.layers[7]", "heads.left"])
    assert model.encoder.layers[0] is None
    np.testing.assert_array_equal(model.encoder.layers[1].apply(X), 2 * X + 100)
    assert list(model.decoder.layers) == [7]
    assert model.heads.right is None
    np.testing.assert_array_equal(model.heads.left.apply(X), 5 * X)


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (
            "coder",
            "only= has 'coder', and the model has no 'coder'. The parts there are embedding, "
            "encoder, decoder, heads, key, encode, run, plain.",
        ),
        (
            "encoder.layers[2]",
            "only= has 'encoder.layers[2]', and encoder.layers has no '[2]'. The parts there are "
            "encoder.layers[0], encoder.layers[1].",
        ),
        (
            ["encoder", "decoder.layers.second"],
            "only= has 'decoder.layers.second', and decoder.layers has no 'second'. The parts "
            "there are decoder.layers['first'], decoder.layers[7].",
        ),
        (
            "embedding.value",
            "only= has 'embedding.value', and embedding has no 'value'. The parts there are none.",
        ),
        (
            "",
            "only= has '', and the model has no ''. The parts there are embedding, encoder, "
            "decoder, heads, key, encode, run, plain.",
        ),
    ],
)
def test_a_path_that_leads_nowhere_lists_where_it_could(saved, only, message):
    with pytest.raises(UnknownPartError) as refused:
        exporter.load(saved, only=only)
    assert isinstance(refused.value, LookupError)
    assert str(refused.value) == message


def test_what_is_left_out_is_not_read(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "m")
    part = exporter.load(saved, only="plain").manifest
    kept = {file.path for file in part.files}
    assert kept == {"programs/plain.mlirbc.gz"}
    for path in copy.rglob("*"):
        if path.is_file() and path.relative_to(copy).as_posix() not in {*kept, "saved_model.json"}:
            path.unlink()
    model = exporter.load(copy, only="plain")
    np.testing.assert_array_equal(model.plain(X), X + 1)
    with pytest.raises(exporter.ArtifactError, match="files are wrong"):
        exporter.load(copy, only="encoder")


def test_the_arrays_of_other_parts_are_not_read(saved, monkeypatch):
    from exporter.artifact import variables

    opened = []
    monkeypatch.setattr(
        variables,
        "Wanted",
        lambda key, *rest, real=variables.Wanted: opened.append(key) or real(key, *rest),
    )
    exporter.load(saved, only="heads.left", verify=False)
    assert sorted(opened) == ["heads.left.shared", "heads.left.w"]


def test_a_part_can_be_saved_by_itself(saved, tmp_path):
    model = exporter.load(saved, only="encoder.layers[1]")
    exporter.save(model, tmp_path / "m", platforms=("cpu",))
    again = exporter.load(tmp_path / "m")
    assert list(again.signatures) == ["plain", "second"]
    np.testing.assert_array_equal(again.encoder.layers[1].apply(X), 2 * X + 100)
    assert again.manifest.tags == ["serve"]
    assert again.manifest.samples == []


def test_all_of_a_model_is_a_part_too(saved):
    whole = exporter.load(saved)
    part = exporter.load(saved, only=list(names(whole)))
    assert part.manifest.variables == whole.manifest.variables
    assert part.manifest.programs == whole.manifest.programs
    assert dict(part.manifest.signatures) == dict(whole.manifest.signatures)
    np.testing.assert_array_equal(part.run(X), whole.run(X))


def test_without_variables_everything_is_there_but_their_values(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "m")
    shutil.rmtree(copy / "variables")
    model = exporter.load(copy, skip_variables=True)
    assert list(model.signatures) == ["serving_default", "encode", "plain", "second"]
    assert model.decoder.huge.shape == (1000,)
    assert model.key.dtype == jax.random.key(0).dtype
    np.testing.assert_array_equal(model.plain(X), X + 1)
    np.testing.assert_array_equal(model.signatures["plain"](X)["output_0"], X + 1)


MESSAGE = (
    "{} the model was loaded with skip_variables=True. Assign values first, as in "
    "model.variables = tree."
)


@pytest.mark.parametrize(
    ("use", "named"),
    [
        (lambda m: m.embedding.value, "embedding has no value:"),
        (lambda m: m.embedding + 1, "embedding has no value:"),
        (lambda m: np.asarray(m.embedding), "embedding has no value:"),
        (lambda m: jnp.sin(m.embedding), "embedding has no value:"),
        (lambda m: m.embedding[0], "embedding has no value:"),
        (lambda m: m.variables, "embedding has no value:"),
        (lambda m: m.trainable_variables, "embedding has no value:"),
        (lambda m: m.encoder.layers[0].apply(X), "encoder/layers/0/w, embedding have no values:"),
        (
            lambda m: m.signatures["serving_default"](X),
            "embedding, encoder/layers/0/w, encoder/layers/1/w, decoder/layers/first/w have no "
            "values:",
        ),
        (
            lambda m: jax.jit(m.heads.left.apply)(X),
            "heads/left/w, heads/left/shared have no values:",
        ),
    ],
)
def test_using_a_variable_without_a_value_is_an_error(saved, use, named):
    model = exporter.load(saved, skip_variables=True)
    with pytest.raises(StateError) as refused:
        use(model)
    found = str(refused.value)
    assert sorted(found.replace(" have", ", have").split(", ")) == sorted(
        MESSAGE.format(named).replace(" have", ", have").split(", ")
    )


def test_a_model_without_values_is_not_saved(saved, tmp_path):
    model = exporter.load(saved, skip_variables=True)
    with pytest.raises(StateError, match="^embedding has no value"):
        exporter.save(model, tmp_path / "m", platforms=("cpu",))
    assert not (tmp_path / "m").exists()


def test_values_that_are_assigned_make_a_model_whole(saved, tmp_path):
    whole, model = exporter.load(saved), exporter.load(saved, skip_variables=True)
    with pytest.raises(StateError, match="missing"):
        model.variables = {"embedding": jnp.zeros(2)}
    with pytest.raises(StateError, match=r"cannot be assigned float32\[3\]"):
        model.embedding.value = jnp.zeros(3)
    model.variables = whole.variables
    np.testing.assert_array_equal(model.run(X), whole.run(X))
    np.testing.assert_array_equal(
        jax.random.key_data(model.key.value), jax.random.key_data(whole.key.value)
    )
    exporter.save(model, tmp_path / "m", platforms=("cpu",))
    np.testing.assert_array_equal(exporter.load(tmp_path / "m").run(X), whole.run(X))


def test_one_value_is_enough_for_the_functions_that_need_no_other(saved):
    model = exporter.load(saved, skip_variables=True, only="encoder.layers[0]")
    model.encoder.layers[0].w.value = [3, 4]
    with pytest.raises(StateError, match="^embedding has no value"):
        model.encoder.layers[0].apply(X)
    model.embedding.value = jnp.ones(2)
    np.testing.assert_array_equal(model.encoder.layers[0].apply(X), [4, 9])


def test_state_counts_from_the_value_it_is_given(reload, tmp_path):
    class Counter:
        def __init__(self):
            self.n = Variable(jnp.int32(3))

        @function(input_signature=[])
        def count(self):
            self.n.value = self.n + 1
            return self.n

    exporter.save(Counter(), tmp_path / "m", platforms=("cpu",))
    model = exporter.load(tmp_path / "m", skip_variables=True)
    with pytest.raises(StateError, match="^n has no value"):
        model.count()
    model.n.value = 40
    assert [int(model.count()), int(model.count())] == [41, 42]


def test_files_of_variables_are_not_checked_when_they_are_not_read(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "m")
    for path in (copy / "variables").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    with pytest.raises(exporter.ArtifactError):
        exporter.load(copy)
    exporter.load(copy, skip_variables=True)
    (copy / "assets" / "vocab.txt").write_text("damaged")
    with pytest.raises(exporter.ArtifactError, match=r"assets/vocab\.txt"):
        exporter.load(copy, skip_variables=True)

"""How calls are joined: the options, and as a part of an artifact."""

import pytest

import exporter
from exporter import Batching, OptionError, TensorSpec


class Totals:
    @exporter.function(input_signature=[TensorSpec(("batch", "tokens"), "float32", name="x")])
    def total(self, x):
        return {"total": x.sum(axis=1)}


class Fixed:
    @exporter.function(input_signature=[TensorSpec((2,), "float32", name="x")])
    def same(self, x):
        return {"y": x}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch_size": 0}, "max_batch_size is a whole number from 1"),
        ({"max_batch_size": True}, "max_batch_size"),
        ({"max_batch_size": 2**40}, "max_batch_size"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros is a whole number from 0"),
        ({"max_enqueued_batches": 0.5}, "max_enqueued_batches"),
        ({"allowed_batch_sizes": (4, 2)}, "allowed_batch_sizes has whole numbers"),
        ({"allowed_batch_sizes": (2, 4)}, "allowed_batch_sizes ends with max_batch_size, 32"),
        ({"allowed_batch_sizes": 4}, "allowed_batch_sizes has whole numbers"),
        ({"enable_large_batch_splitting": 1}, "enable_large_batch_splitting is True or False"),
        ({"buckets": {"tokens": ()}}, "buckets['tokens'] has whole numbers"),
        ({"buckets": (16,)}, "buckets is a dict by name"),
        ({"pad_values": {"x": "0"}}, "pad_values['x'] is a number"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(OptionError) as caught:
        Batching(**options)
    assert words in str(caught.value)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(OptionError) as caught:
        Batching(max_batch_size=0, buckets=3, pad_values={"x": None})
    assert str(caught.value).count(";") >= 3


def test_sizes_are_powers_of_two_up_to_the_most():
    assert Batching().sizes == (1, 2, 4, 8, 16, 32)
    assert Batching(max_batch_size=12).sizes == (1, 2, 4, 8, 12)
    assert Batching(max_batch_size=1).sizes == (1,)
    assert Batching(max_batch_size=6, allowed_batch_sizes=[3, 6]).sizes == (3, 6)


def test_what_is_said_when_a_model_is_saved_comes_back(tmp_path):
    said = Batching(
        max_batch_size=8,
        allowed_batch_sizes=(4, 8),
        batch_timeout_micros=5,
        max_enqueued_batches=3,
        enable_large_batch_splitting=False,
        buckets={"tokens": (4, 16)},
        pad_values={"x": -0.5},
    )
    exporter.save(Totals(), tmp_path / "one", batching={"serving_default": said})
    loaded = exporter.load(tmp_path / "one")
    from exporter.artifact.batching import batching_of

    assert batching_of(loaded.manifest.batching["serving_default"]) == said
    # It stays when the model is saved again, and goes when that is said.
    exporter.save(loaded, tmp_path / "two")
    again = exporter.load(tmp_path / "two")
    assert batching_of(again.manifest.batching["serving_default"]) == said
    exporter.save(loaded, tmp_path / "three", batching={})
    assert exporter.load(tmp_path / "three").manifest.batching == {}


@pytest.mark.parametrize(
    ("model", "batching", "words"),
    [
        (Totals, {"other": Batching()}, "batching has 'other', and the signatures are"),
        (Totals, {"serving_default": {"max_batch_size": 4}}, "is an exporter.Batching"),
        (Totals, Batching(), "batching is a dict by the name of a signature"),
        (Totals, {"serving_default": Batching(buckets={"t": (4,)})}, "names 't'"),
        (Totals, {"serving_default": Batching(pad_values={"y": 0})}, "names 'y'"),
        (Fixed, {"serving_default": Batching()}, "no named axis to join calls along"),
    ],
)
def test_batching_that_does_not_fit_is_refused_when_saving(tmp_path, model, batching, words):
    with pytest.raises(OptionError) as caught:
        exporter.save(model(), tmp_path / "model", batching=batching)
    assert words in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_a_manifest_with_batching_that_cannot_be_is_refused(tmp_path):
    exporter.save(Totals(), tmp_path / "one", batching={"serving_default": Batching()})
    file = tmp_path / "one/saved_model.json"
    text = file.read_text()
    assert '"batching":' in text.replace(" ", "")
    import json

    manifest = json.loads(text)
    for wrong in ({"other": {}}, {"serving_default": {"allowed_batch_sizes": [4, 2]}}):
        manifest["batching"] = wrong
        file.write_text(json.dumps(manifest))
        with pytest.raises(exporter.ArtifactError, match="batching"):
            exporter.load(tmp_path / "one")

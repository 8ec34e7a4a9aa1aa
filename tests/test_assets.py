"""Files that belong to a model: copied when it is saved, found where the loaded model is."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import exporter
from exporter import Asset, AssetNotFoundError, TensorSpec, TrackingError, Variable, function


class Pair(NamedTuple):
    words: Asset
    weights: Any


@pytest.fixture
def files(tmp_path):
    """A folder with two files called vocab.txt, and one with the same content elsewhere."""
    for name, text in (("a", "one two"), ("b", "three"), ("same", "one two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.txt").write_text(text)
    return tmp_path


def stored(folder):
    """The files among the assets of an artifact, with what they hold."""
    below = sorted(path for path in (folder / "assets").rglob("*") if path.is_file())
    return {path.relative_to(folder / "assets").as_posix(): path.read_text() for path in below}


def saved(folder, **attributes):
    exporter.save(SimpleNamespace(**attributes), folder, {}, platforms=("cpu",))
    return folder


def test_files_are_copied_once_and_names_that_clash_get_numbers(files):
    first = Asset(files / "a" / "vocab.txt")
    folder = saved(
        files / "m",
        vocab=first,
        again=first,
        other=Asset(str(files / "b" / "vocab.txt")),
        child=SimpleNamespace(items=[Asset(files / "same" / "vocab.txt"), 1, None]),
        table={"words": Asset(files / "a" / "vocab.txt"), 3: "text"},
        pair=Pair(Asset(files / "b" / "vocab.txt"), jnp.ones(2)),
    )
    assert stored(folder) == {"vocab.txt": "one two", "vocab_1.txt": "three"}
    model = exporter.load(folder)
    assert model.again is model.vocab
    assert model.vocab == Asset(folder / "assets" / "vocab.txt")
    assert Path(model.other).read_text() == "three"
    assert model.child.items == [model.vocab, 1, None]
    assert model.table == {"words": model.vocab, 3: "text"}
    assert model.pair.words == model.other
    with open(model.vocab) as file:  # noqa: PTH123  # it is a path to whatever takes one
        assert file.read() == "one two"


def test_names_that_differ_in_case_alone_do_not_meet_on_any_file_system(files):
    (files / "b" / "Vocab.txt").write_text("one two")
    (files / "b" / "VOCAB_1.txt").write_text("last")
    folder = saved(
        files / "m",
        items=[
            Asset(files / "a" / "vocab.txt"),
            Asset(files / "b" / "Vocab.txt"),
            Asset(files / "b" / "VOCAB_1.txt"),
        ],
    )
    assert stored(folder) == {
        "vocab.txt": "one two",
        "Vocab_1.txt": "one two",
        "VOCAB_1_1.txt": "last",
    }


def test_a_moved_artifact_finds_its_files_and_can_be_saved_again_and_again(files):
    folder = saved(files / "m", vocab=Asset(files / "a" / "vocab.txt"))
    shutil.rmtree(files / "a")
    for cycle in range(3):
        moved = files / "elsewhere" / str(cycle)
        shutil.copytree(folder, moved)
        shutil.rmtree(folder)
        model = exporter.load(os.path.relpath(moved))
        assert model.vocab.path == moved.resolve() / "assets" / "vocab.txt"
        folder = files / f"m{cycle}"
        exporter.save(model, folder, platforms=("cpu",))
        assert stored(folder) == {"vocab.txt": "one two"}
    exporter.save(exporter.load(folder), folder, overwrite=True)
    assert stored(folder) == {"vocab.txt": "one two"}


def test_folders_are_copied_whole_and_links_are_followed(files):
    folder = files / "tokenizer"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "deep" / "merges.txt").symlink_to(files / "a" / "vocab.txt")
    (files / "link.txt").symlink_to(files / "b" / "vocab.txt")
    other = files / "other" / "tokenizer"
    shutil.copytree(folder, other)
    model = exporter.load(
        saved(files / "m", link=Asset(files / "link.txt"), a=Asset(folder), b=Asset(other))
    )
    assert stored(files / "m") == {
        "link.txt": "three",
        "tokenizer/config.json": "{}",
        "tokenizer/deep/merges.txt": "one two",
    }
    assert model.a == model.b
    assert (model.a.path / "deep" / "merges.txt").read_text() == "one two"
    assert not any(path.is_symlink() for path in (files / "m").rglob("*"))


def make_cycle(path):
    path.mkdir()
    (path / "self").symlink_to(path)


def make_pipe(path):
    path.mkdir()
    os.mkfifo(path / "pipe")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "it is a folder without files."),
        (make_cycle, "{path}/self is a symbolic link to a folder that it lies in."),
        (make_pipe, "{path}/pipe is neither a file nor a folder."),
    ],
)
def test_what_cannot_be_copied_is_refused(make, message, tmp_path):
    path = tmp_path / "thing"
    make(path)
    with pytest.raises(TrackingError) as refused:
        saved(tmp_path / "m", table={"x": Asset(path)})
    assert str(refused.value) == (
        f"table.x is Asset('{path}'), which cannot be copied: {message.format(path=path)}"
    )
    assert not (tmp_path / "m").exists()


def test_every_missing_file_is_named_before_anything_is_traced(tmp_path):
    class Model:
        def __init__(self):
            self.vocab = Asset(tmp_path / "no.txt")
            self.labels = [Asset(tmp_path / "neither")]

        @function(input_signature=[TensorSpec((), "float32")])
        def f(self, x):
            raise AssertionError("it was traced")

    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    model = Model()
    with pytest.raises(AssetNotFoundError) as refused:
        exporter.save(model, tmp_path / "m")
    assert isinstance(refused.value, FileNotFoundError)
    assert str(refused.value) == (
        f"vocab is Asset('{tmp_path}/no.txt'), and there is no such file. "
        f"labels[0] is Asset('{tmp_path}/neither'), and there is no such file."
    )
    with pytest.raises(AssetNotFoundError, match="^link is Asset"):
        saved(tmp_path / "m", link=Asset(tmp_path / "dangling"))


@pytest.mark.parametrize("path", [None, "", b"bytes", 3, "a\0b"])
def test_an_asset_is_a_path(path):
    with pytest.raises(TrackingError) as refused:
        Asset(path)
    assert str(refused.value) == (
        f"an Asset is the path of a file or folder, as in Asset('vocab.txt'); got {path!r}."
    )


def test_an_asset_is_a_plain_value(files, monkeypatch):
    monkeypatch.chdir(files / "a")
    asset = Asset("vocab.txt")
    monkeypatch.chdir(files)
    assert asset.path == files / "a" / "vocab.txt"
    assert asset == Asset(files / "a" / "vocab.txt")
    assert len({asset, Asset(files / "a" / "vocab.txt")}) == 1
    assert repr(asset) == f"Asset({str(files / 'a' / 'vocab.txt')!r})"


def test_plain_paths_stay_out_and_classes_may_hold_assets(files):
    class Model:
        vocab = Asset(files / "a" / "vocab.txt")

        def __init__(self):
            self.text = str(files / "b" / "vocab.txt")
            self.path = files / "b" / "vocab.txt"
            self.listed = [str(files / "b")]

    exporter.save(Model(), files / "m", {}, platforms=("cpu",))
    model = exporter.load(files / "m")
    assert stored(files / "m") == {"vocab.txt": "one two"}
    assert model.listed == [str(files / "b")]
    assert not hasattr(model, "text")
    assert not hasattr(model, "path")


def test_a_flax_module_holds_files_and_reads_them_while_it_is_traced(files, elsewhere):
    class Lookup(nnx.Module):
        def __init__(self):
            self.vocab = Asset(files / "a" / "vocab.txt")
            self.scale = nnx.Param(jnp.float32(2))

        @function(input_signature=[TensorSpec(("n",), "float32", name="x")])
        def __call__(self, x):
            return x * self.scale * len(self.vocab.path.read_text().split())

    model = Lookup()
    np.testing.assert_array_equal(model(np.ones(3, np.float32)), [4, 4, 4])
    exporter.save(model, files / "m", platforms=("cpu",))
    (files / "a" / "vocab.txt").write_text("gone")
    program = (
        "import sys, exporter; m = exporter.load(sys.argv[1]); "
        "print(open(m.vocab).read(), m(x=[1.0]), m.signatures['serving_default'](x=[1.0]))"
    )
    assert elsewhere(program, files / "m").startswith("one two [4.] {'output_0'")


def test_damage_to_a_file_is_found_when_the_model_is_loaded(files):
    folder = saved(files / "m", vocab=Asset(files / "a" / "vocab.txt"))
    (folder / "assets" / "vocab.txt").write_text("one 2wo")
    with pytest.raises(exporter.ArtifactError, match=r"assets/vocab\.txt: altered"):
        exporter.load(folder)
    assert exporter.load(folder, verify=False).vocab.path.read_text() == "one 2wo"


def test_a_model_inside_another_brings_its_files(files):
    inner = exporter.load(saved(files / "inner", vocab=Asset(files / "a" / "vocab.txt")))
    outer = saved(files / "m", inner=inner, vocab=Asset(files / "b" / "vocab.txt"), v=Variable(1.0))
    shutil.rmtree(files / "inner")
    model = exporter.load(outer)
    assert stored(outer) == {"vocab.txt": "one two", "vocab_1.txt": "three"}
    assert model.inner.vocab.path.read_text() == "one two"

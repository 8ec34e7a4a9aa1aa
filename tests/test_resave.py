"""Saving what was loaded, again and again; and saves that fail."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import ArtifactExistsError, TensorSpec, Variable, function

PAIR = TensorSpec((2,), "float32")
X = np.array([1, 2], np.float32)


@function(input_signature=[PAIR])
def free(x):
    return 7 * x


class Model:
    def __init__(self):
        self.n = Variable(jnp.int32(0), name="count")
        self.scale = Variable(jnp.ones(2), trainable=False)
        self.key = Variable(jnp.zeros((0, 3)))
        self.child = SimpleNamespace(items=[self.scale, 1, None], pair=(jnp.full(2, 4.0), "text"))
        self.child.root = self

    @function(input_signature=[PAIR])
    def count(self, x):
        """Counts its calls."""
        self.n.value = self.n + 1
        return {"y": self.scale * x, "n": self.n}

    @function(input_signature=[PAIR, TensorSpec((), "float32")])
    def shift(self, x, by=3.0):
        return x + by

    @function
    def poly(self, x, times=1):
        return times * x

    @function(input_signature=[TensorSpec(None, "float32", max_rank=2)])
    def any_rank(self, x):
        return 2 * x

    @function(input_signature=[TensorSpec(("b", None), "float32")])
    def rows(self, x, flag=False):
        return [x.sum(1), {"none": None}]


def called():
    model = Model()
    model.poly(X)
    model.poly(X, 3)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "m"
    model = called()
    exporter.save(model, folder, {"one": model.count, "two": model.shift}, platforms=("cpu",))
    return folder


@pytest.fixture
def loaded(saved):
    return exporter.load(saved)


def test_any_number_of_cycles_keeps_signatures_functions_and_state(loaded, reload):
    model = loaded
    for cycle in range(4):
        assert int(model.n) == 2 * cycle
        assert int(model.count(X)["n"]) == 2 * cycle + 1
        assert int(model.signatures["one"](X)["n"]) == 2 * cycle + 2
        model = reload(model)
        assert list(model.signatures) == ["one", "two"]
        np.testing.assert_array_equal(model.signatures["two"](x=X)["output_0"], X + 3)
        np.testing.assert_array_equal(model.shift(X, 1.0), X + 1)
        np.testing.assert_array_equal(model.poly(X, 3), 3 * X)
        np.testing.assert_array_equal(model.poly(X), X)
        for rank in range(3):
            x = np.ones((2,) * rank, np.float32)
            np.testing.assert_array_equal(model.any_rank(x), 2 * x)
        sums, rest = model.rows(np.ones((2, 5), np.float32))
        np.testing.assert_array_equal(sums, [5, 5])
        assert rest == {"none": None}
        assert model.count.__name__ == "count"
        assert model.count.__doc__ == "Counts its calls."
        assert model.child.items[0] is model.scale
        assert model.child.items[1:] == [1, None]
        assert model.child.pair[1] == "text"
        assert model.child.root is model
        assert not model.scale.trainable
        assert model.n.name == "count"
        assert model.key.shape == (0, 3)
        assert [str(one.signature) for one in model.poly.concrete] == [
            "poly(x: float32[2]) -> (output_0: float32[2])"
        ] * 2


def test_a_cycle_without_a_call_gives_the_same_artifact(loaded, saved, tmp_path):
    exporter.save(loaded, tmp_path / "again", platforms=("cpu",))
    first, second = (exporter.load(folder).manifest for folder in (saved, tmp_path / "again"))
    assert first.content == second.content
    programs = sorted(path.name for path in (saved / "programs").iterdir())
    assert programs == sorted(path.name for path in (tmp_path / "again" / "programs").iterdir())
    for name in programs:
        mine, theirs = saved / "programs" / name, tmp_path / "again" / "programs" / name
        assert mine.read_bytes() == theirs.read_bytes()


def test_saving_twice_gives_the_same_content(tmp_path):
    manifests = []
    for name in "ab":
        model = called()
        exporter.save(model, tmp_path / name, {"one": model.count}, platforms=("cpu",))
        manifests.append(exporter.load(tmp_path / name).manifest)
    assert manifests[0].content == manifests[1].content


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (lambda model: {}, []),
        (lambda model: model.shift, ["serving_default"]),
        (lambda model: model.signatures["two"], ["serving_default"]),
        (
            lambda model: {"b": model.signatures["two"], "a": model.count, "f": free},
            ["b", "a", "f"],
        ),
        (lambda model: dict(model.signatures), ["one", "two"]),
        (lambda model: model.signatures, ["one", "two"]),
    ],
)
def test_signatures_can_be_chosen_anew(loaded, reload, asked, names):
    model = reload(loaded, asked(loaded))
    assert list(model.signatures) == names
    for signature in model.signatures.values():
        signature(x=X)


def test_a_model_without_signatures_says_the_same_after_another_cycle(reload):
    with pytest.warns(UserWarning, match="saved without a signature: several methods"):
        first = reload(called())
    second = reload(first)
    messages = []
    for model in (first, second):
        with pytest.raises(KeyError) as missing:
            model.signatures["serving_default"]
        messages.append(str(missing.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(
        "no signature 'serving_default', the artifact has none: when it was saved, several methods "
        "could be the default signature: count, shift, any_rank. Mark one with "
    )


def test_members_added_to_a_loaded_model_are_saved_but_plain_attributes_are_not(loaded, reload):
    class Other:
        def __init__(self):
            self.v = Variable(jnp.full(2, 5.0))

        @function(input_signature=[PAIR])
        def f(self, x):
            return self.v * x

    @function(input_signature=[PAIR])
    def uses_the_model(x):
        loaded.n.value = loaded.n + 10
        return loaded.count(x)["n"] + loaded.extra.sum()

    loaded.extra = Variable(jnp.ones(3))
    loaded.free = free
    loaded.other = Other()
    loaded.uses_the_model = uses_the_model
    loaded.number = 3
    model = reload(loaded)
    assert list(model.signatures) == ["one", "two"]
    np.testing.assert_array_equal(model.extra, [1, 1, 1])
    np.testing.assert_array_equal(model.free(X), 7 * X)
    np.testing.assert_array_equal(model.other.f(X), 5 * X)
    assert float(model.uses_the_model(X)) == 14
    assert int(model.n) == 11
    assert not hasattr(model, "number")


def test_members_taken_off_a_loaded_model_are_gone_and_its_signatures_stay(loaded, reload):
    del loaded.shift
    del loaded.poly
    model = reload(loaded)
    assert not hasattr(model, "shift")
    assert not hasattr(model, "poly")
    np.testing.assert_array_equal(model.signatures["two"](x=X)["output_0"], X + 3)


def test_a_signature_whose_variable_was_taken_off_is_refused(loaded, tmp_path):
    del loaded.n
    with pytest.raises(exporter.TrackingError) as refused:
        exporter.save(loaded, tmp_path / "m", platforms=("cpu",))
    assert str(refused.value) == (
        "count uses count, which is not part of the saved object, so its value would be "
        "lost. Assign what holds it to an attribute of the object."
    )


def test_parts_of_a_loaded_model_can_be_saved_alone(loaded, reload):
    part = reload(loaded.child, {})
    assert float(part.items[0].value[0]) == 1
    np.testing.assert_array_equal(part.root.shift(X), X + 3)


def test_values_assigned_to_a_loaded_model_are_saved(loaded, reload):
    loaded.scale.value = jnp.full(2, 9.0)
    np.testing.assert_array_equal(reload(loaded).count(X)["y"], 9 * X)


def test_a_loaded_model_inside_a_new_one_survives_more_cycles(loaded, reload):
    class Outer:
        def __init__(self):
            self.inner = loaded
            self.w = Variable(jnp.full(2, 2.0))

        @function(input_signature=[PAIR])
        def f(self, x):
            return self.w * self.inner.count(x)["y"] + self.inner.n

    model = Outer()
    for cycle in range(3):
        np.testing.assert_array_equal(model.f(X), 2 * X + cycle + 1)
        model = reload(model)
        assert int(model.inner.n) == cycle + 1


def test_an_artifact_is_replaced_only_when_asked_and_whole(tmp_path, loaded):
    path = tmp_path / "deep" / "er" / "m"
    exporter.save(loaded, path, platforms=("cpu",))
    with pytest.raises(ArtifactExistsError) as refused:
        exporter.save(loaded, path, platforms=("cpu",))
    assert str(refused.value) == (
        f"cannot save to {str(path)!r}: there is an artifact already. Pass overwrite=True, or save "
        "to another path."
    )
    again = exporter.load(path)
    again.count(X)
    exporter.save(again, path, platforms=("cpu",), overwrite=True)
    assert int(exporter.load(path).n) == 1
    again.count(X)
    assert int(again.n) == 2


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_save_that_fails_leaves_what_was_there(overwrite, tmp_path, loaded):
    class Failing:
        @function(input_signature=[PAIR])
        def f(self, x):
            raise RuntimeError("no answer")

    path = tmp_path / "m"
    if overwrite:
        exporter.save(loaded, path, platforms=("cpu",))
    with pytest.raises(RuntimeError, match="^no answer"):
        exporter.save(Failing(), path, platforms=("cpu",), overwrite=overwrite)
    assert [entry.name for entry in tmp_path.iterdir()] == (["m"] if overwrite else [])
    if overwrite:
        assert list(exporter.load(path).signatures) == ["one", "two"]


def test_a_program_runs_where_it_was_made_for_after_any_cycle(loaded, tmp_path):
    assert list(loaded.manifest.platforms) == ["cpu"]
    exporter.save(SimpleNamespace(f=free), tmp_path / "both", platforms=("cpu", "gpu"))
    both = exporter.load(tmp_path / "both")
    for name, model, platforms in (("a", loaded, ["cpu"]), ("b", both, ["cpu", "cuda"])):
        assert list(model.manifest.platforms) == platforms
        exporter.save(model, tmp_path / name)
        assert list(exporter.load(tmp_path / name).manifest.platforms) == platforms
    with pytest.raises(exporter.LoweringError) as refused:
        exporter.save(both, tmp_path / "c", platforms=("cpu", "cuda", "tpu"))
    assert str(refused.value) == (
        "free was loaded and has a program for cpu, cuda, which cannot be made one for tpu. Leave "
        "out platforms=, or save the original."
    )


@pytest.mark.parametrize(
    ("platforms", "found"), [(("xpu",), "'xpu'"), (("cpu", "CUDA"), "'CUDA'"), ((), "none")]
)
def test_unknown_platforms_are_refused(platforms, found, tmp_path):
    with pytest.raises(exporter.LoweringError) as refused:
        exporter.save(SimpleNamespace(f=free), tmp_path / "m", platforms=platforms)
    assert str(refused.value) == (
        f"platforms= names {found}; the choices are cpu, cuda, rocm, tpu ('gpu' is 'cuda')."
    )

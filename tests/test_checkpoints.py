"""Training checkpoints: what is saved comes back into living objects, or an error says why not."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import exporter
from exporter import Checkpoint, RestoreError, TensorSpec, TrackableSaver, Variable
from exporter.checkpoints.aliases import Branch, aliases_of, other_names

ROOT = Path(__file__).resolve().parent.parent

NAMES = (
    *("bool", "int8", "int16", "int32", "uint8", "uint16", "uint32", "float16", "float32"),
    *("complex64", "bfloat16", "int4", "uint4", "int2", "uint2", "float8_e3m4", "float8_e4m3"),
    *("float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"),
    *("float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn"),
)
KEYS = ("threefry2x32", "rbg", "unsafe_rbg")


class Affine:
    """A plain class: a weight in a Variable, a bias as an attribute."""

    def __init__(self, scale: float = 0.0) -> None:
        self.w = Variable(jnp.full((2, 2), scale))
        self.b = jnp.full((2,), scale)

    @exporter.function(input_signature=[TensorSpec((None, 2), jnp.float32, name="x")])
    def apply(self, x):
        return {"y": x @ self.w.value + self.b}


class Network(nnx.Module):
    def __init__(self, seed: int = 0) -> None:
        rngs = nnx.Rngs(seed)
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs)])
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.dropout(self.norm(self.layers[0](x))))


def words(array) -> np.ndarray:
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(array) if is_key else array)


def assert_same(one, other) -> None:
    """Two trees hold the same arrays, to the last bit."""
    pairs = (dict(jax.tree_util.tree_flatten_with_path(tree)[0]) for tree in (one, other))
    one, other = ({jax.tree_util.keystr(path): leaf for path, leaf in p.items()} for p in pairs)
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert (array.dtype, array.shape) == (other[name].dtype, other[name].shape), name
        assert words(array).tobytes() == words(other[name]).tobytes(), name


def by_orbax(folder: Path | str):
    """The arrays in a folder, as Orbax alone reads them."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("artifact") / "1"
    exporter.save(Affine(3.0), folder, platforms=("cpu",))
    return folder


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> Path:
    """A directory with steps 1 and 2 of `Affine(1)` and `Affine(2)`."""
    directory = tmp_path_factory.mktemp("steps")
    for scale in (1.0, 2.0):
        Checkpoint(Affine(scale)).save(directory)
    return directory


# What comes back.


def everything(fill) -> Checkpoint:
    """Every kind of array in every kind of place, made by `fill(name, shape)`."""
    arrays = {
        f"{name}{list(shape)}": fill(name, shape)
        for name in (*NAMES, *KEYS)
        for shape in ((), (3, 2), (2, 0))
        if shape == (3, 2) or name in ("float32", "uint4", "rbg")
    }
    arrays |= {
        "a.b": fill("int8", (2,)),
        "a": {"b": fill("int8", (3,))},
        "n": {5: [fill("int8", (1,))]},
    }
    holder = SimpleNamespace(attribute=fill("float32", (2,)), box=Variable(fill("int32", ())))
    opt_state = optax.adamw(1e-3).init({"w": fill("float32", (2, 2)), "b": fill("bfloat16", ())})
    return Checkpoint(arrays=arrays, holder=holder, opt_state=opt_state)


def counted(name: str, shape: tuple[int, ...]):
    if name in KEYS:
        return jax.random.split(jax.random.key(7, impl=name), 6)[: math.prod(shape)].reshape(shape)
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    return jnp.asarray(
        (np.arange(math.prod(shape)) % 2 + (shape == ())).reshape(shape).astype(dtype)
    )


def zero(name: str, shape: tuple[int, ...]):
    if name in KEYS:
        return jax.random.split(jax.random.key(0, impl=name), 6)[: math.prod(shape)].reshape(shape)
    return jnp.asarray(np.zeros(shape, np.dtype(getattr(ml_dtypes, name, name))))


def test_every_dtype_comes_back_in_every_kind_of_place(tmp_path):
    saved, other = everything(counted), everything(zero)
    path = saved.save(tmp_path)
    status = other.restore(path)
    assert status.assert_consumed().assert_existing_objects_matched() is status
    assert_same(vars(saved.holder) | saved.arrays, vars(other.holder) | other.arrays)
    assert_same(saved.opt_state, other.opt_state)
    assert type(other.opt_state[0]) is type(saved.opt_state[0])
    # Orbax alone gives the same arrays, but for those without elements or of dtypes it lacks.
    alone = by_orbax(f"{path}/variables")
    for name, array in saved.arrays.items():
        if hasattr(array, "dtype") and array.size and name.replace(".", "%2E") in alone["arrays"]:
            found = alone["arrays"][name.replace(".", "%2E")]
            assert words(found).tobytes() == words(array).tobytes(), name
    assert "float32[2, 0]" not in alone["arrays"]
    assert alone["arrays"]["uint4[]"].dtype == np.uint8
    np.testing.assert_array_equal(alone["arrays"]["n"]["5"]["0"], saved.arrays["n"][5][0])


def test_nnx_models_are_as_flax_and_orbax_have_them(tmp_path):
    model, other = Network(0), Network(1)
    path = TrackableSaver(model).save(tmp_path / "net", 3)
    assert path == f"{tmp_path}/net-3"
    state = nnx.to_pure_dict(nnx.state(model))
    flat = {jax.tree_util.keystr(p): v for p, v in jax.tree_util.tree_flatten_with_path(state)[0]}
    alone = jax.tree_util.tree_flatten_with_path(by_orbax(f"{path}/variables"))[0]
    found = {re.sub(r"'(\d+)'", r"\1", jax.tree_util.keystr(p)): v for p, v in alone}
    assert_same(flat, found)
    TrackableSaver(other).restore(path).assert_consumed()
    assert_same(nnx.state(model), nnx.state(other))


@pytest.mark.parametrize("tree", ["pure", "state"])
def test_a_checkpoint_that_orbax_wrote_alone_restores(tmp_path, tree):
    state = nnx.state(Network(0))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "o", nnx.to_pure_dict(state) if tree == "pure" else state)
    other = Network(1)
    Checkpoint(other).restore(tmp_path / "o").assert_consumed()
    assert_same(state, nnx.state(other))
    with pytest.raises(RestoreError) as caught:
        Checkpoint(nnx.Linear(2, 3, rngs=nnx.Rngs(0))).restore(tmp_path / "o")
    assert "nothing matches" in str(caught.value)


def test_a_manager_of_orbax_alone_restores_and_some_of_its_arrays_do(tmp_path):
    tree = {"w": jnp.ones((2, 2)), "b": np.arange(2, dtype=np.float32), "rest": (jnp.zeros(3),)}
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(5, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
    model = Affine()
    status = Checkpoint(model).restore(tmp_path)
    assert (status.missing, status.extra) == ((), ("rest/0",))
    status.expect_partial()
    assert_same([model.w.value, model.b], [tree["w"], tree["b"]])


def test_an_array_keeps_its_form(tmp_path):
    device = jax.devices()[0]
    objects = {
        "bound": jax.device_put(jnp.ones(2), device),
        "free": jnp.ones(2),
        "weak": jnp.full((2,), 1.0),
        "numpy": np.ones(2),
        "key": jax.random.key(1),
    }
    path = Checkpoint(**objects).save(tmp_path)
    other = Checkpoint(
        **jax.tree.map(lambda array: array * 0, objects | {"key": 0}) | {"key": jax.random.key(0)}
    )
    before = {name: getattr(other, name) for name in objects}
    other.restore(path)
    assert [getattr(other, n).committed for n in ("bound", "free", "weak", "key")] == [
        True,
        False,
        False,
        False,
    ]
    assert (other.weak.weak_type, other.free.weak_type) == (True, False)
    assert type(other.numpy) is np.ndarray
    assert other.numpy.dtype == np.float64
    assert before["numpy"] is not other.numpy
    assert_same(objects, {name: getattr(other, name) for name in objects})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    mean: jax.Array
    by_name: dict


def test_an_immutable_object_is_restored_where_it_is_held(tmp_path):
    ckpt = Checkpoint(state=Moments(jnp.ones(2), {"a": jnp.ones(3)}))
    other = Checkpoint(state=Moments(jnp.zeros(2), {"a": jnp.zeros(3)}))
    other.restore(ckpt.save(tmp_path)).assert_consumed()
    assert type(other.state) is Moments
    assert_same(ckpt.state, other.state)


def test_an_object_with_nothing_to_store_is_saved_all_the_same(tmp_path):
    ckpt = Checkpoint(empty=jnp.zeros((0, 3)))
    Checkpoint(empty=jnp.zeros((0, 3))).restore(ckpt.save(tmp_path)).assert_consumed()
    with pytest.raises(RestoreError):
        Checkpoint(empty=jnp.zeros((0, 4))).restore(tmp_path)


# Names.


def test_root_and_objects_lie_side_by_side(tmp_path):
    model = Affine(1.0)
    path = Checkpoint(model, step=Variable(7), same=model).save(tmp_path)
    assert sorted(by_orbax(f"{path}/variables")) == ["b", "step", "w"]
    other = Affine()
    ckpt = Checkpoint(other, step=Variable(0), same=other)
    ckpt.restore(path).assert_consumed()
    assert (float(other.b[0]), int(ckpt.step)) == (1.0, 7)


def shared(tied: bool, scale: float) -> SimpleNamespace:
    encoder = SimpleNamespace(table=Variable(jnp.full(3, scale)), free=Variable(jnp.full(2, scale)))
    decoder = (
        encoder
        if tied
        else SimpleNamespace(table=Variable(jnp.zeros(3)), free=Variable(jnp.zeros(2)))
    )
    return SimpleNamespace(encoder=encoder, decoder=decoder, pair=(encoder.table, decoder.table))


@pytest.mark.parametrize("saved_by", ["checkpoint", "artifact"])
def test_what_was_one_thing_fills_all_its_places(tmp_path, saved_by):
    tied = shared(True, 5.0)
    path = tmp_path / "saved"
    if saved_by == "checkpoint":
        Checkpoint(tied).save(path)
        assert list(by_orbax(path / "1/variables")) == ["encoder"]
    else:
        with pytest.warns(UserWarning, match="without a signature"):
            exporter.save(tied, path, platforms=("cpu",))
    separate = shared(False, 0.0)
    Checkpoint(separate).restore(path).assert_consumed()
    for holder in (separate.encoder, separate.decoder):
        assert holder.table.value.tolist() == [5.0] * 3
        assert holder.free.value.tolist() == [5.0] * 2


def test_what_is_one_thing_takes_whichever_of_its_names_is_there(tmp_path):
    box = Variable(1.0)
    path = Checkpoint(SimpleNamespace(later=box)).save(tmp_path / "one")
    other = Variable(0.0)
    Checkpoint(SimpleNamespace(first=other, later=other)).restore(path).assert_consumed()
    assert float(other) == 1.0
    with pytest.raises(RestoreError, match="later: only in the checkpoint"):
        path = Checkpoint(SimpleNamespace(first=Variable(2.0), later=Variable(3.0))).save(
            tmp_path / "two"
        )
        Checkpoint(SimpleNamespace(first=other, later=other)).restore(path).assert_consumed()


def test_an_immutable_array_in_two_places_is_saved_in_both(tmp_path):
    zeros = jnp.zeros(3)
    path = Checkpoint(mu=zeros, nu=zeros).save(tmp_path)
    assert sorted(by_orbax(f"{path}/variables")) == ["mu", "nu"]
    # Where both are one variable, as in a loaded model, there is no contradiction.
    box = Variable(jnp.ones(3))
    Checkpoint(mu=box, nu=box).restore(path).assert_consumed()
    assert box.value.tolist() == [0.0] * 3


def test_names_lead_to_what_was_met_first_and_circles_end():
    branches = [
        Branch("root", [("a", 1), ("b", 2)]),
        Branch("A", [("x", 3), ("up", 0)]),
        Branch("B", [("a", 1), ("x", 3)]),
        Branch("x", []),
    ]
    aliases = aliases_of(branches)
    assert aliases == {("a", "up"): (), ("b", "a"): ("a",), ("b", "x"): ("a", "x")}
    assert list(other_names(("b", "a", "up", "b", "x"), aliases)) == [
        ("a", "up", "b", "x"),
        ("b", "x"),
        ("a", "x"),
    ]
    assert len(list(other_names(("p",), {("p",): ("p", "p")}))) == 100  # a hostile file


# Spellings.


@pytest.mark.parametrize("spelling", ["", "variables", "variables/variables", "variables/"])
def test_an_artifact_restores_however_it_is_spelled(artifact, spelling):
    model = Affine()
    Checkpoint(model).restore(artifact / spelling).assert_consumed()
    assert (float(model.w[0, 0]), float(model.b[0])) == (3.0, 3.0)
    Checkpoint(model).restore(f"{artifact}/{spelling}").assert_consumed()
    TrackableSaver(model).restore(f"{artifact}/{spelling}").assert_consumed()


@pytest.mark.parametrize(
    ("spelling", "scale"),
    [("", 2.0), ("1", 1.0), ("2/", 2.0), ("1/variables", 1.0), ("1/variables/variables", 1.0)],
)
def test_a_step_restores_however_it_is_spelled(steps, spelling, scale, monkeypatch):
    model = Affine()
    Checkpoint(model).restore(steps / spelling).assert_consumed()
    assert float(model.b[1]) == scale
    monkeypatch.chdir(steps)
    Checkpoint(model).restore(spelling or ".").assert_consumed()


def test_a_loaded_model_takes_a_training_checkpoint(artifact, steps, tmp_path):
    loaded = exporter.load(artifact)
    x = np.ones((1, 2), np.float32)
    assert loaded.signatures["serving_default"](x)["y"].tolist() == [[9.0, 9.0]]
    Checkpoint(loaded).restore(steps / "1").assert_consumed()
    assert loaded.signatures["serving_default"](x)["y"].tolist() == [[3.0, 3.0]]
    assert loaded.apply(x)["y"].tolist() == [[3.0, 3.0]]
    # And gives one, from which the original restores.
    loaded.w.value = loaded.w.value * 2
    model = Affine()
    Checkpoint(model).restore(TrackableSaver(loaded).save(tmp_path / "c")).assert_consumed()
    assert model.apply(x)["y"].tolist() == [[5.0, 5.0]]


def test_variables_that_programs_take_for_themselves_are_saved_and_restored(tmp_path, reload):
    class Counter:
        def __init__(self):
            self.n = Variable(jnp.zeros(1000, jnp.int32))

        @exporter.function(input_signature=[])
        def count(self):
            self.n.value = self.n.value + 1
            return self.n.value[0]

    loaded = reload(Counter())
    loaded.count()
    ckpt = Checkpoint(loaded)
    ckpt.save(tmp_path, asynchronous=True)
    assert [int(loaded.count()) for _ in range(3)] == [2, 3, 4]
    for _ in range(2):
        ckpt.restore(tmp_path).assert_consumed()
        assert [int(loaded.count()) for _ in range(2)] == [2, 3]


# What does not fit.


def held(model: Affine) -> list:
    return [model.w.value.tolist(), model.b.tolist()]


def test_arrays_of_another_type_are_an_error_at_once_and_nothing_changes(steps):
    model = Affine(0.5)
    model.w = Variable(jnp.zeros((2, 3), jnp.bfloat16))
    with pytest.raises(RestoreError) as caught:
        Checkpoint(model).restore(steps / "1", partial=True)
    assert str(caught.value) == (
        f"the checkpoint '{steps}/1' does not fit the object:\n"
        "  w: the object has bfloat16[2, 3], the checkpoint float32[2, 2]\n"
        "Nothing was restored. Make the object as it was when it was saved."
    )
    assert caught.value.misfits == ("w",)
    assert model.b.tolist() == [0.5, 0.5]


def bigger() -> Affine:
    model = Affine(0.5)
    model.head = Variable(jnp.zeros(3))
    return model


def smaller() -> SimpleNamespace:
    return SimpleNamespace(w=Variable(jnp.zeros((2, 2))))


@pytest.mark.parametrize("ask", ["expect_partial", "assert_existing_objects_matched"])
def test_more_in_the_checkpoint_is_accepted_when_asked(steps, ask):
    model = smaller()
    status = Checkpoint(model).restore(steps / "1")
    assert model.w.value.tolist() == [[0, 0], [0, 0]]
    assert repr(status) == f"<RestoreStatus of {steps}/1: nothing restored, 0 missing, 1 extra>"
    with pytest.raises(RestoreError) as caught:
        status.assert_consumed()
    assert (caught.value.missing, caught.value.extra) == ((), ("b",))
    assert model.w.value.tolist() == [[0, 0], [0, 0]]
    assert getattr(status, ask)() is status
    assert model.w.value.tolist() == [[1, 1], [1, 1]]


def test_less_in_the_checkpoint_is_accepted_when_asked(steps):
    model = bigger()
    status = Checkpoint(model).restore(steps / "1")
    for check in (status.assert_consumed, status.assert_existing_objects_matched):
        with pytest.raises(AssertionError) as caught:
            check()
        assert str(caught.value) == (
            f"the checkpoint '{steps}/1' does not hold what the object does:\n"
            "  head: only in the object\n"
            "To restore what both have all the same, call restore(...).expect_partial()."
        )
    assert held(model) == held(Affine(0.5))
    status.expect_partial()
    assert held(model) == held(Affine(1.0))
    assert model.head.value.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "restore",
    [
        lambda ckpt, path: ckpt.restore(path).expect_partial(),
        lambda ckpt, path: ckpt.restore(path, partial=True),
        lambda ckpt, path: ckpt.restore(path).assert_nontrivial_match(),
    ],
)
def test_a_part_is_restored_in_one_line(steps, restore):
    model = bigger()
    restore(Checkpoint(model), steps / "2")
    assert held(model) == held(Affine(2.0))


def test_an_incomplete_restore_that_nobody_asks_about_warns_and_bars_saving(steps, tmp_path):
    model = bigger()
    ckpt = Checkpoint(model)
    with pytest.warns(UserWarning, match="^nothing was restored: .*\n  head: only in the object"):
        ckpt.restore(steps / "1")
    assert held(model) == held(Affine(0.5))
    with pytest.raises(RestoreError, match="was not restored, so it is not saved"):
        ckpt.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    ckpt.restore(steps / "1", partial=True)
    assert ckpt.save(tmp_path) == f"{tmp_path}/1"


def test_nothing_in_common_is_an_error_even_for_a_part(steps):
    with pytest.raises(RestoreError) as caught:
        Checkpoint(model=Affine()).restore(steps, partial=True)
    assert str(caught.value).startswith("nothing matches: the checkpoint")
    assert caught.value.missing == ("model/w", "model/b")


def test_restoring_none_does_nothing_and_says_so(tmp_path):
    ckpt = Checkpoint(Affine())
    status = ckpt.restore(Checkpoint.latest(tmp_path / "not yet"))
    assert status.path is None
    assert status.expect_partial() is status
    for check in (
        status.assert_consumed,
        status.assert_existing_objects_matched,
        status.assert_nontrivial_match,
    ):
        with pytest.raises(RestoreError, match=r"nothing was restored: restore\(None\) was called"):
            check()
    assert ckpt.save(tmp_path)


def test_a_checkpoint_that_is_not_there_names_those_that_are(steps, tmp_path):
    saver = TrackableSaver(Affine())
    for number in (1, 20):
        saver.save(tmp_path / "run" / "model", number)
    (tmp_path / "foreign").mkdir()
    shutil.copytree(steps, tmp_path / "outer" / "steps")
    cases = {
        steps / "7": f"'{steps}' has the steps 1, 2.",
        tmp_path / "run/model": f"'{tmp_path}/run' has model-1, model-20.",
        tmp_path / "outer": "There are steps in steps below it.",
        tmp_path / "foreign": "Pass what `save` returned, a directory of steps, or an artifact.",
        tmp_path / "no/where": "Pass what `save` returned, a directory of steps, or an artifact.",
    }
    for path, hint in cases.items():
        with pytest.raises(FileNotFoundError) as caught:
            saver.restore(path)
        assert str(caught.value) == f"there is no checkpoint at '{path}'. {hint}"


def test_damage_is_told_and_changes_nothing(steps, artifact, tmp_path):
    model = Affine(0.5)
    for damage in ("arrays", "json", "version", "artifact", "orbax"):
        folder = tmp_path / damage
        shutil.copytree(artifact if damage == "artifact" else steps / "1", folder)
        note = folder / "exporter/checkpoint.json"
        if damage == "json":
            note.write_text("{")
        elif damage == "version":
            note.write_text(json.dumps(json.loads(note.read_text()) | {"format_version": 9}))
        elif damage == "orbax":
            (folder / "variables/_METADATA").write_text("{")
            folder = shutil.copytree(folder / "variables", tmp_path / "alone")
        if damage in ("arrays", "artifact"):
            for file in [*folder.glob("variables/**/d/*"), folder / "variables/manifest.ocdbt"]:
                file.write_bytes(b"")
        with pytest.raises((exporter.CheckpointError, exporter.ArtifactError)) as caught:
            Checkpoint(model).restore(folder)
        assert str(folder) in str(caught.value)
        assert held(model) == held(Affine(0.5))


def test_a_value_that_changed_on_the_disk_is_told_by_its_path(tmp_path):
    class Numbers:
        def __init__(self):
            self.noise = Variable(jax.random.normal(jax.random.key(0), (1000,)))

    path = TrackableSaver(Numbers()).save(tmp_path / "step")
    file = max(Path(path).glob("variables/**/d/*"), key=lambda one: one.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    model = Numbers()
    with pytest.raises(exporter.CheckpointError, match=r"damaged[\s\S]*noise"):
        TrackableSaver(model).restore(path)


# Refusals.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Checkpoint(x=3), "Checkpoint was given x=3 (int), which holds no arrays."),
        (lambda: Checkpoint(x="a"), "Checkpoint was given x='a' (str), which holds no arrays."),
        (lambda: Checkpoint(x=Affine), "Checkpoint was given x=<class"),
        (lambda: Checkpoint(x=None), "Checkpoint was given x=None (NoneType)"),
        (lambda: Checkpoint(3), "3 (int) cannot be saved"),
        (lambda: Checkpoint(save=Affine()), "Checkpoint.save is a method."),
        (lambda: Checkpoint(Affine(), w=Variable(1)), "the root object has an attribute 'w'"),
        (lambda: Checkpoint(max_to_keep=0), "expected a positive integer for max_to_keep, got 0."),
        (lambda: Checkpoint(max_to_keep=True), "expected a positive integer for max_to_keep"),
        (
            lambda: Checkpoint(save_interval_steps=0),
            "expected a positive integer for save_interval",
        ),
        (lambda: Checkpoint(Affine()).save("gs://b/c"), "expected the path of a local folder"),
        (lambda: Checkpoint(Affine()).restore(3), "expected the path of a local folder, got 3"),
        (lambda: Checkpoint(Affine()).save("d", -1), "expected a step that is a whole number"),
        (
            lambda: Checkpoint(d={1: jnp.ones(1), "1": jnp.ones(1)}).save("d"),
            "two arrays have the path d/1",
        ),
        (lambda: Checkpoint(Affine(), save_interval_steps=2).save("d"), "step= must be passed"),
    ],
)
def test_a_mistake_is_named(make, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(exporter.ExporterError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_neither_half_runs_inside_a_traced_function(tmp_path, steps):
    ckpt, saver = Checkpoint(Affine()), TrackableSaver(Affine())
    for call in (
        lambda: ckpt.save(tmp_path / "a"),
        lambda: saver.save(tmp_path / "b"),
        lambda: ckpt.restore(steps),
        lambda: saver.restore(steps),
    ):
        with pytest.raises(exporter.TracingError, match="while JAX traces a function"):
            jax.jit(lambda x, call=call: (call(), x)[1])(1.0)
    assert list(tmp_path.iterdir()) == []


def test_an_array_whose_buffer_is_gone_is_named_when_saving_and_restored(steps, tmp_path):
    model = Affine()
    jax.jit(lambda b: b + 1, donate_argnums=0)(model.b)
    with pytest.raises(exporter.TrackingError, match="b is an array whose buffer was deleted"):
        Checkpoint(model).save(tmp_path)
    Checkpoint(model).restore(steps / "1").assert_consumed()
    assert held(model) == held(Affine(1.0))


# Directories of steps.


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_newest_stay_through_restarts_moves_and_foreign_files(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")
    (directory / "12.orbax-checkpoint-tmp").mkdir()  # what a save that was killed leaves
    assert Checkpoint.latest(directory) is None
    first, second = (Checkpoint(Affine(), max_to_keep=2) for _ in range(2))  # both on one directory
    assert [first.save(directory), second.save(directory), first.save(directory, 10)] == [
        f"{directory}/{step}" for step in (1, 2, 10)
    ]
    assert names_in(directory) == ["10", "12.orbax-checkpoint-tmp", "2", "notes.txt"]
    moved = directory.rename(tmp_path / "moved")
    assert Checkpoint.latest(moved) == f"{moved}/10"
    assert Checkpoint(Affine(), max_to_keep=2).save(moved) == f"{moved}/11"
    assert second.save(moved) == f"{moved}/12"
    assert [name for name in names_in(moved) if name.isdigit()] == ["11", "12"]
    assert (moved / "notes.txt").read_text() == "mine"


def test_steps_that_are_not_due_are_not_saved(tmp_path):
    ckpt = Checkpoint(Affine(), save_interval_steps=5)
    saved = [step for step in range(12) if ckpt.save(tmp_path, step, asynchronous=step > 3)]
    assert saved == [0, 5, 10]
    ckpt.wait()
    assert names_in(tmp_path) == ["0", "10", "5"]
    assert Checkpoint(Affine(), save_interval_steps=5).save(tmp_path, 12) is None


def test_steps_only_go_up(steps):
    for step in (1, 2):
        with pytest.raises(FileExistsError) as caught:
            Checkpoint(Affine()).save(steps, step)
        assert str(caught.value) == (
            f"cannot save step {step} to '{steps}': its newest step is 2. Pass a greater number or "
            "none, save to another directory, or remove the later steps."
        )
    saver = TrackableSaver(Affine())
    with pytest.raises(FileExistsError, match="it exists. Pass another checkpoint_number"):
        saver.save(steps / "2")


def test_what_others_made_is_never_taken_for_a_step(artifact, tmp_path):
    (tmp_path / "2024").mkdir()
    (tmp_path / "2025.txt").write_text("mine")
    cases = {
        artifact: "it is an artifact, and nothing else belongs inside it.",
        artifact.parent: "it holds '1', which no checkpoint is",
        tmp_path: "it holds '2024', which no checkpoint is",
    }
    for directory, reason in cases.items():
        before = names_in(directory)
        with pytest.raises(exporter.CheckpointExistsError) as caught:
            Checkpoint(Affine(), max_to_keep=1).save(directory)
        assert str(caught.value).startswith(f"cannot save to '{directory}': {reason}")
        assert names_in(directory) == before
    assert exporter.is_artifact(artifact)


# In the background.


def test_what_changes_after_the_call_is_not_saved(tmp_path):
    size = 2_000_000
    model = SimpleNamespace(a=jnp.arange(size), n=np.arange(size), v=Variable(jnp.arange(size)))
    with Checkpoint(model, asynchronous=True) as ckpt:
        path = ckpt.save(tmp_path)
        model.n[:] = -1
        model.v.value = model.v.value * 0
        model.a = jax.jit(lambda a: a * 0 - 1, donate_argnums=0)(model.a)
    ckpt.restore(path).assert_consumed()
    for array in (model.a, model.n, model.v.value):
        np.testing.assert_array_equal(array, np.arange(size))


def test_an_error_of_the_background_surfaces_at_the_next_call(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    ckpt = Checkpoint(Affine(), asynchronous=True)
    for call in (
        ckpt.wait,
        lambda: ckpt.save(tmp_path),
        lambda: ckpt.restore(None),
        ckpt.__exit__,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(ocp.JsonCheckpointHandler, "finalize", full)
            ckpt.save(tmp_path)
            with pytest.raises(exporter.CheckpointError, match="was not written: .*No space left"):
                call()
    assert Checkpoint.latest(tmp_path) is None
    assert ckpt.save(tmp_path, asynchronous=False) == f"{tmp_path}/1"


# A training loop, in one process and in two of which the first is killed.


class Trained(nnx.Module):
    def __init__(self, seed: int) -> None:
        rngs = nnx.Rngs(seed)
        self.hidden = nnx.Linear(2, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.out = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


def train(directory: str, seed: int, killed_at: int | None = None) -> list[str]:
    """Twelve steps, from the newest checkpoint on: where it began, and the loss of each."""
    model = Trained(seed)
    optimiser = optax.adamw(1e-2)
    ckpt = Checkpoint(
        model=model,
        opt_state=optimiser.init(nnx.state(model, nnx.Param)),
        step=Variable(0),
        max_to_keep=2,
        save_interval_steps=3,
        asynchronous=True,
    )
    ckpt.restore(Checkpoint.latest(directory))

    @nnx.jit
    def update(model, opt_state, x):
        value, gradients = nnx.value_and_grad(
            lambda model: jnp.mean((model(x) - x.sum(1, keepdims=True)) ** 2)
        )(model)
        parameters = nnx.state(model, nnx.Param)
        updates, opt_state = optimiser.update(gradients, opt_state, parameters)
        nnx.update(model, optax.apply_updates(parameters, updates))
        return value, opt_state

    told = [f"from {int(ckpt.step)}"]
    for step in range(int(ckpt.step) + 1, 13):
        x = np.random.default_rng(step).normal(size=(16, 2)).astype(np.float32)
        loss, ckpt.opt_state = update(model, ckpt.opt_state, x)
        ckpt.step.value = step
        ckpt.save(directory, step)
        told.append(f"{step} {float(loss).hex()}")
        if step == killed_at:
            sys.stdout.write("\n".join(told))
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    return told


def train_elsewhere(directory: Path, seed: int, killed_at: int | None) -> list[str]:
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
        f"from test_checkpoints import train\n"
        f"print(*train({str(directory)!r}, {seed}, {killed_at}), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == (0 if killed_at is None else -signal.SIGKILL), done.stderr
    assert "Traceback" not in done.stderr  # Orbax may log that it removes the half step
    return done.stdout.splitlines()


def test_training_that_is_killed_goes_on_as_if_it_had_not_been(tmp_path):
    whole = train(str(tmp_path / "whole"), seed=0)
    assert train_elsewhere(tmp_path / "killed", seed=0, killed_at=10) == whole[:11]
    # Step 9 may have been complete or not. The model starts from other values, to see that none of
    # them is used.
    first, *resumed = train_elsewhere(tmp_path / "killed", seed=1, killed_at=None)
    assert first in ("from 6", "from 9")
    assert resumed == whole[int(first.split()[1]) + 1 :]
    # The last step was being written when that process ended, and is complete.
    assert [name for name in names_in(tmp_path / "killed") if name.isdigit()] == ["12", "9"]
    Checkpoint(model=Trained(2)).restore(tmp_path / "killed", partial=True)


ON_A_MESH = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from exporter import Checkpoint, Variable

directory = sys.argv[1]
mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto, AxisType.Auto))

def objects(fill, *specs):
    put = [NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs]
    return {
        "w": Variable(jax.device_put(jnp.full((8, 4), fill), put[0])),
        "k": jax.device_put(jax.random.split(jax.random.key(int(fill)), 8), put[1]),
        "other": jax.device_put(jnp.full(3, fill), jax.devices()[5]),
        "count": jnp.array(fill),
    }

first = Checkpoint(**objects(2.0, ("x", "y"), ("x",)))
path = first.save(directory)
then = Checkpoint(**objects(0.0, (None, "x"), ("y",)))
before = {name: getattr(then, name).sharding for name in ("w", "k", "other", "count")}
then.restore(path).assert_consumed()
after = {name: getattr(then, name).sharding for name in before}
assert before == after, after
assert (then.w.value == 2).all() and (then.other == 2).all() and float(then.count) == 2
assert (jax.random.key_data(then.k) == jax.random.key_data(first.k)).all()
assert {shard.data.shape for shard in then.w.value.addressable_shards} == {(8, 1)}
# An array that is bound to no device goes with any mesh, before and after.
product = jax.jit(lambda w, n: w * n)(then.w.value, then.count)
assert product.sharding.device_set == set(mesh.devices.flat)
"""


def test_arrays_stay_on_the_devices_they_were_on(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ON_A_MESH, tmp_path],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    one = Checkpoint(
        w=jnp.zeros((8, 4)),
        k=jax.random.split(jax.random.key(0), 8),
        other=jnp.ones(3),
        count=Variable(0.0),
    )
    one.restore(tmp_path).assert_consumed()
    assert (one.w == 2).all()

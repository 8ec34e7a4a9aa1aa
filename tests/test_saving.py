"""Saving as users do it: odd paths, threads, 64 bits, values that cannot be kept."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import TensorSpec, TrackingError, function


class Scale:
    """Multiplies by many small weights."""

    def __init__(self, count: int = 2) -> None:
        self.weights = [jnp.full((2,), 2.0, jnp.float32) for _ in range(count)]

    @function(input_signature=[TensorSpec(("n", 2), "float32", name="x")])
    def scale(self, x):
        for weight in self.weights:
            x = x * weight
        return x


X = np.ones((3, 2), np.float32)


def test_a_model_saved_with_x64_for_all_platforms_loads_with_and_without(tmp_path):
    with jax.enable_x64(True):
        exporter.save(Scale(), tmp_path / "m")
        assert exporter.load(tmp_path / "m").scale(X).tolist() == (4 * X).tolist()
    assert exporter.load(tmp_path / "m").scale(X).tolist() == (4 * X).tolist()


@pytest.mark.parametrize("path", ["m", "./m/", "inner/../m", "../{name}/m"])
def test_a_relative_path_serves_for_saving_and_loading(path, tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path)
    path = path.format(name=tmp_path.name)
    exporter.save(Scale(), path, platforms=("cpu",))
    assert exporter.load(path).scale(X).tolist() == (4 * X).tolist()
    assert exporter.is_artifact(tmp_path / "m")


def test_threads_that_save_one_object_leave_it_whole(tmp_path):
    model = Scale(30)
    before = list(model.weights)
    failures = []

    def save(number: int) -> None:
        try:
            exporter.save(model, tmp_path / f"{number}", platforms=("cpu",))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(new is old for new, old in zip(model.weights, before, strict=True))
    assert exporter.load(tmp_path / "5").scale(X).tolist() == (2.0**30 * X).tolist()


def test_a_traced_array_that_outlived_its_trace_is_refused_by_name(tmp_path):
    model = Scale()

    def leak(x):
        model.weights[1] = x
        return x

    jax.jit(leak)(jnp.ones(2))
    with pytest.raises(TrackingError) as refused:
        exporter.save(model, tmp_path / "m")
    assert str(refused.value) == (
        "weights[1] is a traced array without a value: it was assigned under jax.jit, jax.grad or "
        "the like and has outlived the trace. Assign it an array."
    )


def test_a_donated_array_is_refused_by_name(tmp_path):
    model = Scale()
    model.weights[0].delete()
    with pytest.raises(TrackingError) as refused:
        exporter.save(model, tmp_path / "m")
    assert str(refused.value) == (
        "weights[0] is an array whose buffer was deleted: it was donated to a compiled function. "
        "Assign what that function returned in its place."
    )


def test_numbers_that_32_bits_cannot_hold_are_refused_by_name(tmp_path):
    model = Scale()
    model.weights.append(np.array([2**40, 1]))
    with pytest.raises(TrackingError) as refused:
        exporter.save(model, tmp_path / "m")
    assert str(refused.value) == (
        "weights[2] is a NumPy array of int64 with values that int32 cannot hold, and JAX computes "
        "with int32 here. Call jax.config.update('jax_enable_x64', True) first, or hold smaller "
        "values."
    )


def test_what_was_loaded_is_not_copied(tmp_path):
    import copy

    exporter.save(Scale(), tmp_path / "m", platforms=("cpu",))
    loaded = exporter.load(tmp_path / "m")
    for part in (loaded, loaded.scale, *loaded.signatures.values()):
        with pytest.raises(TypeError, match="Load the folder again"):
            copy.deepcopy(part)


def test_loading_under_a_trace_gives_arrays_with_values(tmp_path):
    exporter.save(Scale(), tmp_path / "m", platforms=("cpu",))
    loaded = []
    jax.jit(lambda x: (loaded.append(exporter.load(tmp_path / "m")), x)[1])(X)
    assert loaded[0].scale(X).tolist() == (4 * X).tolist()

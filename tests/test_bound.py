import itertools
import signal
import sys
import threading
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import BindError, TensorSpec, Variable, function
from exporter.variable import get_all

X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Scale:
    """Two variables that stay, of which one may be too large to embed, and a count of calls."""

    def __init__(self, rows=3):
        self.weight = Variable(jnp.ones((rows, 3)))
        self.bias = Variable(jnp.arange(3.0))
        self.calls = Variable(jnp.zeros((), jnp.int32))

    @function(input_signature=[TensorSpec(("n", 3), name="x")])
    def scale(self, x):
        return scaled(self.weight.value, self.bias.value, x)

    @function(input_signature=[TensorSpec(("n", 3), name="x")])
    def count(self, x):
        self.calls.value = self.calls.value + 1
        return scaled(self.weight.value, self.bias.value, x) + self.calls.value


def scaled(weight, bias, x):
    return x * weight[:1] + weight[-1:] + bias


jitted = jax.jit(scaled)


@pytest.fixture(params=[3, 2**18], ids=["small", "large"])
def loaded(request, tmp_path):
    exporter.save(Scale(request.param), tmp_path / "model", {}, platforms=("cpu",))
    return exporter.load(tmp_path / "model")


def called_in(function, *args):
    """The names of the Python functions that run while a function is called."""
    names = set()
    sys.setprofile(lambda frame, event, _: names.add(frame.f_code.co_name))
    try:
        function(*args)
    finally:
        sys.setprofile(None)
    return names


@pytest.mark.parametrize("name", ["scale", "count"])
def test_a_call_like_one_before_is_run_without_a_look_at_its_inputs(loaded, name):
    call = getattr(loaded, name)
    first = called_in(call, X)
    again = called_in(call, X + 1)
    assert "choose" in first
    assert not again & {"choose", "run", "fits", "compiled"}
    assert "choose" in called_in(call, X[:1])


@pytest.mark.parametrize("earlier", [0, 1, 3, 20])
def test_what_is_assigned_takes_effect_at_the_next_call(loaded, earlier):
    loaded.scale(X)
    for number in range(earlier):
        loaded.bias.value = jnp.full(3, float(number))
        loaded.scale(X)
    loaded.bias.value = jnp.full(3, 7.0)
    np.testing.assert_allclose(loaded.scale(X), jitted(loaded.weight.value, loaded.bias.value, X))
    loaded.variables = jax.tree.map(lambda array: array + 2, loaded.variables)
    np.testing.assert_allclose(loaded.scale(X), jitted(loaded.weight.value, loaded.bias.value, X))
    calls = int(loaded.calls)
    wanted = jitted(loaded.weight.value, loaded.bias.value, X) + calls + 1
    np.testing.assert_allclose(loaded.count(X), wanted)
    assert int(loaded.calls) == calls + 1


def test_a_model_with_other_values_has_its_own(loaded):
    loaded.scale(X)
    other = loaded.with_variables({"bias": jnp.zeros(3)})
    np.testing.assert_array_equal(other.scale(X), jitted(loaded.weight.value, jnp.zeros(3), X))
    np.testing.assert_array_equal(
        loaded.scale(X), jitted(loaded.weight.value, loaded.bias.value, X)
    )


@pytest.mark.parametrize(
    "wrong",
    [X.astype(np.float64), X[:, :2], X.astype(np.int32), jnp.ones((2, 3), jnp.int32), X[0]],
    ids=["float64", "axis", "int32", "array", "rank"],
)
def test_what_does_not_fit_is_refused_after_calls_that_did(loaded, wrong):
    with pytest.raises(BindError) as before:
        loaded.scale(wrong)
    for _ in range(3):
        loaded.scale(X)
        loaded.scale(jnp.asarray(X))
    with pytest.raises(BindError) as after:
        loaded.scale(wrong)
    assert str(after.value) == str(before.value)


def test_python_values_are_converted_after_calls_with_arrays(loaded):
    wanted = loaded.scale(X)
    np.testing.assert_array_equal(loaded.scale(X.tolist()), wanted)
    np.testing.assert_array_equal(loaded.scale(x=jnp.asarray(X)), wanted)


def test_calls_under_a_trace_are_part_of_it_after_calls_without(loaded):
    wanted = loaded.scale(X)
    traced = jax.make_jaxpr(lambda: loaded.scale(X))()
    assert "call_exported" in str(traced)
    with jax.disable_jit():
        np.testing.assert_allclose(loaded.scale(X), wanted)


@pytest.mark.parametrize("times", [0, 1])  # the first call, or one that C++ runs
def test_values_that_are_not_finite_are_found_where_jax_looks_for_them(loaded, times):
    for _ in range(times):
        loaded.count(X)
    with jax.debug_nans(True):
        with pytest.raises(FloatingPointError, match="invalid value .nan. encountered in count"):
            loaded.count(X * np.nan)
        assert loaded.calls.value == times
        loaded.count(X)
    assert loaded.calls.value == times + 1


def test_threads_see_one_of_the_values_that_others_assign(loaded):
    values = [jnp.full(3, float(number)) for number in range(8)]
    wanted = [np.asarray(jitted(loaded.weight.value, value, X)) for value in values]
    loaded.bias.value = values[0]
    wrong = []

    def call():
        for _ in range(50):
            found = np.asarray(loaded.scale(X))
            if not any(np.allclose(found, one) for one in wanted):
                wrong.append(found)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for value in values:
        loaded.bias.value = value
    for thread in threads:
        thread.join()
    assert wrong == []
    np.testing.assert_allclose(loaded.scale(X), wanted[-1])


def test_small_variables_are_constants_until_one_is_assigned(loaded):
    bound = loaded.scale.concrete[0].programs[()]
    loaded.scale(X)
    is_small = loaded.weight.size < 100
    [code] = bound.program._compiled.values()
    assert len(code.args_info[0]) == (1 if is_small else 3)
    loaded.bias.value = jnp.zeros(3)
    loaded.scale(X)
    assert len(list(bound.program._compiled.values())[-1].args_info[0]) == 3
    assert get_all(bound.reads)[1] is loaded.bias.value


@contextmanager
def in_a_thread(work):
    """Within the block, a thread does this over and over."""
    done = threading.Event()

    def over_and_over():
        while not done.is_set():
            work()

    thread = threading.Thread(target=over_and_over)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_an_assignment_counts_although_another_thread_is_calling(loaded):
    loaded.count(X)
    lost = 0
    with in_a_thread(lambda: loaded.count(X)):
        for _ in range(300):
            loaded.calls.value = 1_000_000
            lost += int(loaded.calls.value) < 1_000_000
            loaded.calls.value = 0
            lost += int(loaded.calls.value) > 900_000
    assert lost == 0


def test_state_can_be_read_copied_and_saved_while_another_thread_changes_it(loaded, tmp_path):
    loaded.count(X)
    seen = [0]
    with in_a_thread(lambda: loaded.count(X)):
        for _ in range(300):
            seen.append(int(loaded.calls))
            seen.append(int(loaded.variables["calls"]))
            seen.append(int(loaded.with_variables({}).calls))
        for number in range(3):
            exporter.save(loaded, tmp_path / "again", overwrite=True)
            seen.append(int(exporter.load(tmp_path / "again").calls))
            exporter.Checkpoint(model=loaded).save(tmp_path / f"checkpoint{number}")
    assert seen == sorted(seen)


def test_a_tree_is_assigned_in_one_step(loaded):
    def assign():
        number = next(numbers)
        loaded.variables = {
            "weight": jnp.full(loaded.weight.shape, number, "float32"),
            "bias": jnp.full(3, number, "float32"),
            "calls": jnp.int32(0),
        }

    numbers = (float(number) for number in itertools.count())
    assign()
    torn = 0
    with in_a_thread(assign):
        for _ in range(300):
            tree = loaded.variables
            torn += not np.all(np.asarray(tree["weight"]) == tree["bias"][0])
            torn += bool(np.any(np.asarray(loaded.scale(0 * X)) % 2))  # the sum of both
    assert torn == 0


def test_an_interrupt_loses_no_state(loaded):
    interrupted = 0
    loaded.count(X)
    was = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for number in range(200):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0003 + 0.000007 * (number % 100), 0.01)
                while True:
                    loaded.count(X)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, was)
    assert interrupted == 200
    calls = int(loaded.calls)
    loaded.count(X)
    assert int(loaded.calls) == calls + 1


def test_a_thousand_constants_of_one_number_each_compile(tmp_path):
    class Sum:
        def __init__(self):
            self.terms = [jnp.full(8, number, "float32") for number in range(1000)]
            self.matrix = jnp.eye(8)
            self.flags = jnp.arange(8) % 2 == 0
            self.count = jnp.int32(3)

        @function(input_signature=[TensorSpec((8,), name="x")])
        def add(self, x):
            for term in self.terms:
                x = x + term
            return jnp.where(self.flags, x, 0) @ self.matrix * self.count

    exporter.save(Sum(), tmp_path / "model", platforms=("cpu",))
    add = exporter.load(tmp_path / "model", cache=False).add
    np.testing.assert_allclose(add(np.ones(8, np.float32)), [3 * 499501, 0] * 4)

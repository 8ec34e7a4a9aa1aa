"""State that functions change: written back, shared, safe, and nobody else's."""

import copy
import enum
import gc
import pickle
import shutil
import threading
import weakref
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import StateError, TensorSpec, TrackingError, Variable, function

PAIR = TensorSpec((2,), "float32")
X = np.array([1, 2], np.float32)


class Point(NamedTuple):
    x: object
    y: object


class Mode(enum.Enum):
    SQUARE = 1
    DOUBLE = 2


class Counter:
    def __init__(self):
        self.n = Variable(jnp.int32(0))
        self.scale = Variable(jnp.ones(2), trainable=False)

    @function(input_signature=[])
    def inc(self):
        self.n.value = self.n + 1
        return self.n

    @function(input_signature=[PAIR])
    def look(self, x):
        return {"n": self.n, "y": self.scale * x}

    @function(input_signature=[PAIR])
    def rescale(self, x):
        self.scale.value = self.scale + x
        return self.scale


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "counter"
    counter = Counter()
    exporter.save(
        counter,
        path,
        {"inc": counter.inc, "look": counter.look},
        platforms=("cpu",),
    )
    return path


@pytest.fixture
def counter(folder):
    return exporter.load(folder)


def test_state_persists_and_is_shared_by_attributes_signatures_and_variables(counter):
    assert int(counter.inc()) == 1
    assert int(counter.signatures["inc"]()["output_0"]) == 2
    assert int(counter.look(X)["n"]) == int(counter.signatures["look"](X)["n"]) == 2
    assert int(counter.n) == int(counter.variables["n"]) == 2
    counter.n.value = 7
    assert int(counter.inc()) == 8
    counter.variables = {"n": jnp.int32(20), "scale": jnp.full(2, 3.0)}
    assert int(counter.inc()) == 21
    np.testing.assert_array_equal(counter.look(X)["y"], 3 * X)


def test_each_load_and_the_original_have_state_of_their_own(tmp_path):
    original = Counter()
    original.inc()
    exporter.save(original, tmp_path / "m", {}, platforms=("cpu",))
    first, second = exporter.load(tmp_path / "m"), exporter.load(tmp_path / "m")
    first.inc()
    first.inc()
    original.inc()
    original.n.value = original.n + 10
    assert (int(first.n), int(second.n), int(original.n)) == (3, 1, 12)
    assert int(exporter.load(tmp_path / "m").n) == 1


def test_an_array_read_before_a_call_still_has_its_value_after_it(counter):
    counter.rescale(X)
    before = counter.scale.value
    shared = counter.variables["scale"]
    counter.rescale(X)
    counter.rescale(X)
    np.testing.assert_array_equal(before, 1 + X)
    np.testing.assert_array_equal(shared, 1 + X)
    np.testing.assert_array_equal(counter.scale, 1 + 3 * X)


def test_a_value_that_a_caller_assigned_is_still_the_caller_s_after_a_call(counter):
    mine = jnp.full(2, 5.0)
    counter.scale.value = mine
    counter.rescale(X)
    np.testing.assert_array_equal(mine, [5, 5])
    np.testing.assert_array_equal(counter.scale, 5 + X)
    np.testing.assert_array_equal(counter.look(mine)["y"], (5 + X) * 5)


def test_an_original_s_arrays_are_still_its_own_after_the_loaded_one_ran(reload):
    array = jnp.ones(2)

    class Model:
        def __init__(self):
            self.a = array

        @function(input_signature=[PAIR])
        def f(self, x):
            self.a = self.a + x
            return self.a

    original = Model()
    loaded = reload(original)
    loaded.f(X)
    original.f(X)
    original.f(X)
    np.testing.assert_array_equal(array, [1, 1])
    np.testing.assert_array_equal(original.a, 1 + 2 * X)
    np.testing.assert_array_equal(loaded.a, 1 + X)


def by_signature(signature):
    return lambda: signature()["output_0"]


def by_name(signatures):
    return lambda: signatures["inc"]()["output_0"]


@pytest.mark.parametrize(
    "keep",
    [
        lambda model: model.inc,
        lambda model: by_signature(model.signatures["inc"]),
        lambda model: by_name(model.signatures),
    ],
    ids=["function", "signature", "signatures"],
)
def test_keeping_a_part_of_a_model_keeps_its_state(folder, keep):
    call = keep(exporter.load(folder))
    gc.collect()
    assert [int(call()) for _ in range(3)] == [1, 2, 3]


def test_a_model_that_nobody_holds_is_freed(folder):
    model = exporter.load(folder)
    model.inc()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_the_folder_is_not_needed_once_it_is_loaded(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    model = exporter.load(tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy")
    assert int(model.inc()) == 1
    np.testing.assert_array_equal(model.look(X)["y"], X)


def run_in_threads(call, threads=4, times=50):
    errors = []

    def run():
        try:
            for _ in range(times):
                call()
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert errors == []


def test_no_update_is_lost_between_threads(folder):
    loaded, original = exporter.load(folder), Counter()
    for call in (loaded.inc, loaded.signatures["inc"], original.inc):
        run_in_threads(call)
    assert int(loaded.n) == 400
    assert int(original.n) == 200


def test_threads_that_trace_and_threads_that_run_do_not_meet():
    class Grows:
        def __init__(self):
            self.n = Variable(jnp.int32(0))

        @function
        def add(self, x):
            self.n.value = self.n + 1
            return self.n + x.sum()

    model = Grows()
    sizes = iter(range(1, 1000))
    run_in_threads(lambda: model.add(np.zeros(1 + next(sizes) % 8, np.int32)), times=25)
    assert int(model.n) == 100


class Places:
    """Every place in which an array can be assigned."""

    def __init__(self):
        self.a = jnp.zeros(2)
        self.numpy = np.zeros(2, np.float32)
        self.items = [jnp.zeros(2), jnp.full(2, 10.0)]
        self.by_key = {"k": jnp.zeros(2), "l": {"m": jnp.zeros(2)}}
        self.fixed = (jnp.zeros(2), "kept", [jnp.zeros(2)])
        self.point = Point(jnp.zeros(2), jnp.zeros(2))
        self.child = SimpleNamespace(a=jnp.zeros(2), v=Variable(jnp.zeros(2)))

    @function(input_signature=[PAIR])
    def attribute(self, x):
        self.a = self.a + x
        return self.a

    @function(input_signature=[PAIR])
    def numpy_array(self, x):
        self.numpy = self.numpy + x
        return self.numpy

    @function(input_signature=[PAIR])
    def list_item(self, x):
        self.items[0] = self.items[0] + x
        return self.items[0]

    @function(input_signature=[PAIR])
    def whole_list(self, x):
        self.items = [self.items[0] + x, self.items[1]]
        return self.items[0]

    @function(input_signature=[PAIR])
    def whole_tree(self, x):
        self.by_key = jax.tree.map(lambda one: one + x, self.by_key)
        return self.by_key["k"]

    @function(input_signature=[PAIR])
    def dict_items(self, x):
        self.by_key["k"] += x
        self.by_key["l"]["m"] += 2 * x
        return self.by_key["l"]["m"] - self.by_key["k"]

    @function(input_signature=[PAIR])
    def tuple_items(self, x):
        self.fixed[2][0] = self.fixed[2][0] + x
        self.fixed = (self.fixed[0] + x, *self.fixed[1:])
        return (self.fixed[0] + self.fixed[2][0]) / 2

    @function(input_signature=[PAIR])
    def field(self, x):
        self.point = self.point._replace(y=self.point.y + x)
        return self.point.y

    @function(input_signature=[PAIR])
    def child_s_attribute(self, x):
        self.child.a = self.child.a + x
        return self.child.a

    @function(input_signature=[PAIR])
    def child_s_variable(self, x):
        self.child.v.value += x
        return self.child.v

    @function(input_signature=[PAIR])
    def exchange(self, x):
        self.items[0], self.items[1] = self.items[1] + x, self.items[0]
        return self.items[0]

    @function(input_signature=[PAIR])
    def unchanged(self, x):
        self.a = self.a
        self.items[0] = self.items[0] + 0 * x
        return self.a


PLACES = [name for name, item in vars(Places).items() if isinstance(item, exporter.Function)]


@pytest.mark.parametrize("name", PLACES)
def test_an_array_assigned_anywhere_is_written_back(name, reload):
    others = {other: None for other in PLACES if other != name}
    original = type("Places", (Places,), others)()
    loaded = reload(original)
    for _ in range(3):
        np.testing.assert_array_equal(getattr(loaded, name)(X), getattr(original, name)(X))
    found = jax.tree.leaves(loaded.variables)
    wanted = jax.tree.leaves(
        [
            original.a,
            original.by_key,
            [original.child.a, original.child.v.value],
            [original.fixed[0], original.fixed[2]],
            original.items,
            original.numpy,
            [original.point.x, original.point.y],
        ]
    )
    assert len(found) == len(wanted)
    for left, right in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(left, right)


LEFT = (
    "the function leaves an array at {}, where none was before. State must exist before it is "
    "saved: assign an array of the right shape and dtype there first."
)


class Shapes:
    def __init__(self):
        self.a = jnp.zeros(2)
        self.v = Variable(jnp.zeros(2))
        self.items = [jnp.zeros(2), jnp.zeros(2)]
        self.by_key = {"k": jnp.zeros(2)}


def body(change):
    """A class with one function whose body is `change`."""

    class Model(Shapes):
        @function(input_signature=[TensorSpec((3,), "float32")])
        def f(self, x):
            change(self, x)
            return x

    return Model


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        (
            lambda self, x: setattr(self, "a", x),
            "a",
            "{} holds float32[2] and the function assigns float32[3]. State keeps its shape and "
            "dtype.",
        ),
        (
            lambda self, x: setattr(self, "a", self.a.astype("int32")),
            "a",
            "{} holds float32[2] and the function assigns int32[2]. State keeps its shape and "
            "dtype.",
        ),
        (
            lambda self, x: self.items.__setitem__(1, x),
            "items[1]",
            "{} holds float32[2] and the function assigns float32[3]. State keeps its shape and "
            "dtype.",
        ),
        (
            lambda self, x: self.by_key.__setitem__("k", x),
            "by_key.k",
            "{} holds float32[2] and the function assigns float32[3]. State keeps its shape and "
            "dtype.",
        ),
        (lambda self, x: setattr(self, "new", x), "new", LEFT),
        (lambda self, x: setattr(self, "new", jnp.zeros(2)), "new", LEFT),
        (lambda self, x: setattr(self, "new", Variable(x)), "new", LEFT),
        (lambda self, x: setattr(self, "new", [1, {"a": x}]), "new", LEFT),
        (lambda self, x: self.items.append(x), "items[2]", LEFT),
        (lambda self, x: self.by_key.__setitem__("new", x), "by_key.new", LEFT),
        (
            lambda self, x: setattr(self, "v", x),
            "v",
            "{0} is a Variable: assign its value, as in {0}.value = ...",
        ),
        (
            lambda self, x: setattr(self, "v", Variable(x)),
            "v",
            "{0} is a Variable: assign its value, as in {0}.value = ...",
        ),
    ],
)
def test_state_that_would_not_fit_its_place_is_refused_and_put_back(
    change, place, message, tmp_path
):
    for attempt, prefix in (
        (lambda m: exporter.save(m, tmp_path / "m", platforms=("cpu",)), ""),
        (lambda m: m.f(np.ones(3, np.float32)), "self."),
    ):
        model = body(change)()
        before = vars(model).copy()
        items, by_key = list(model.items), dict(model.by_key)
        with pytest.raises(StateError) as refused:
            attempt(model)
        shown = str(refused.value)
        assert shown in (message.format(place), message.format(f"{prefix}{place}"))
        assert vars(model) == before
        assert [id(item) for item in model.items] == [id(item) for item in items]
        assert model.by_key.keys() == by_key.keys()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda self: setattr(self, "a", None), "a"),
        (lambda self: setattr(self, "a", 3.0), "a"),
        (lambda self: delattr(self, "a"), "a"),
        (lambda self: self.items.pop(), "items[1]"),
        (lambda self: self.items.clear(), "items[0]"),
        (lambda self: self.by_key.clear(), "by_key.k"),
    ],
)
def test_an_array_that_a_function_takes_away_is_named(change, place, tmp_path):
    for attempt in (
        lambda m: exporter.save(m, tmp_path / "m", platforms=("cpu",)),
        lambda m: m.f(np.ones(3, np.float32)),
    ):
        model = body(lambda self, x: change(self))()
        before = vars(model).copy()
        items, by_key = list(model.items), dict(model.by_key)
        with pytest.raises(StateError) as refused:
            attempt(model)
        assert place in str(refused.value)
        assert "float32[2]" in str(refused.value)
        assert vars(model) == before
        assert [id(item) for item in model.items] == [id(item) for item in items]
        assert model.by_key.keys() == by_key.keys()


def test_a_variable_made_in_a_function_for_itself_is_no_state(reload):
    class Model:
        @function(input_signature=[PAIR])
        def f(self, x):
            running = Variable(x)
            for _ in range(3):
                running.value = running + 1
            return running

    for model in (Model(), reload(Model())):
        np.testing.assert_array_equal(model.f(X), X + 3)


def test_a_call_that_fails_changes_nothing(counter):
    counter.inc()
    for call in (
        lambda: counter.look(np.ones(3, np.float32)),
        lambda: counter.signatures["inc"](x=1),
        lambda: counter.rescale("x"),
    ):
        with pytest.raises(TypeError):
            call()
    assert int(counter.n) == 1
    np.testing.assert_array_equal(counter.scale, [1, 1])


def test_a_function_that_raises_while_it_is_traced_leaves_the_object_as_it_was():
    class Model:
        def __init__(self):
            self.v = Variable(jnp.zeros(2))
            self.a = jnp.zeros(2)

        @function(input_signature=[PAIR])
        def f(self, x):
            self.v.value = self.v + x
            self.a = self.a + x
            raise RuntimeError("half way")

    model = Model()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="half way"):
            model.f(X)
        np.testing.assert_array_equal(model.v, [0, 0])
        np.testing.assert_array_equal(model.a, [0, 0])


class TestOtherTraces:
    """Loaded functions inside jax.jit, other functions and other models."""

    def test_a_function_that_only_reads_state_runs_in_jit(self, counter):
        counter.scale.value = jnp.full(2, 3.0)
        result = jax.jit(lambda x: counter.look(x)["y"] + counter.signatures["look"](x=x)["y"])(X)
        np.testing.assert_array_equal(result, 6 * X)

    @pytest.mark.parametrize("name", ["inc", "rescale"])
    def test_one_that_changes_state_is_refused_in_jit_and_the_model_stays_whole(
        self, counter, name
    ):
        args = () if name == "inc" else (X,)
        for call in (getattr(counter, name), lambda *a: getattr(counter, name)(*a) + 1):
            with pytest.raises(StateError, match="under jax.jit or another"):
                jax.jit(call)(*args)
        assert int(counter.inc()) == 1
        np.testing.assert_array_equal(counter.rescale(X), 1 + X)

    def outer(self, inner, attached):
        class Outer:
            def __init__(self):
                self.calls = Variable(jnp.int32(0))
                if attached:
                    self.inner = inner

            @function(input_signature=[PAIR])
            def f(self, x):
                self.calls.value = self.calls + 1
                count = inner.inc()
                return {"calls": self.calls, "n": count, "y": inner.signatures["look"](x=x)["y"]}

        return Outer()

    def test_inside_a_decorated_function_and_a_new_model_state_is_followed(self, counter, reload):
        def counts(model):
            result = model.f(X)
            return int(result["calls"]), int(result["n"])

        outer = self.outer(counter, attached=True)
        assert counts(outer) == (1, 1)
        assert int(outer.f(X)["n"]) == int(counter.n) == 2
        loaded = reload(outer)
        assert counts(loaded) == (3, 3)
        np.testing.assert_array_equal(loaded.f(X)["y"], X)
        assert int(loaded.inner.inc()) == 5
        assert int(loaded.f(X)["n"]) == 6
        assert (int(counter.n), int(outer.calls)) == (2, 2)

    def test_the_inner_model_keeps_its_own_signatures(self, counter, reload):
        loaded = reload(self.outer(counter, attached=True))
        assert list(loaded.inner.signatures) == ["inc", "look"]
        assert int(loaded.inner.signatures["inc"]()["output_0"]) == 1
        assert int(loaded.f(X)["n"]) == int(loaded.inner.n) == 2
        assert list(loaded.signatures) == ["serving_default"]

    def test_an_inner_model_that_is_not_attached_is_refused(self, counter, tmp_path):
        with pytest.raises(TrackingError) as refused:
            exporter.save(self.outer(counter, attached=False), tmp_path / "m", platforms=("cpu",))
        assert str(refused.value).startswith("f uses ")
        assert str(refused.value).endswith(
            "n, which is not part of the saved object, so its value would be lost. Assign what "
            "holds it to an attribute of the object."
        )

    def test_a_decorated_function_calls_another_as_plain_python(self, reload):
        class Model:
            def __init__(self):
                self.n = Variable(jnp.int32(0))

            @function(input_signature=[PAIR])
            def step(self, x):
                self.n.value = self.n + 1
                return x + self.n

            @function(input_signature=[PAIR])
            def twice(self, x):
                return self.step(self.step(x))

        original = Model()
        loaded = reload(original, {})
        for model in (loaded, original):
            np.testing.assert_array_equal(model.twice(X), X + 3)
            np.testing.assert_array_equal(model.step(X), X + 3)
            assert int(model.n) == 3


class TestBuffers:
    """Arrays that a caller, two variables or two models share, while calls write new ones."""

    class Two:
        def __init__(self):
            self.p = Variable(jnp.ones(2))
            self.q = Variable(jnp.full(2, 5.0))

        @function(input_signature=[PAIR])
        def add(self, x):
            self.p.value = self.p + x
            return self.p

        @function(input_signature=[PAIR])
        def exchange(self, x):
            self.p.value, self.q.value = self.q + x, self.p + x
            return self.p - self.q

    @pytest.fixture
    def two(self, reload):
        return reload(self.Two(), {})

    def test_two_variables_may_hold_one_array(self, two):
        two.p.value = two.q.value
        np.testing.assert_array_equal(two.add(X), 5 + X)
        np.testing.assert_array_equal(two.q, [5, 5])
        two.p.value = two.q.value
        np.testing.assert_array_equal(two.exchange(X), [0, 0])
        np.testing.assert_array_equal(two.p, 5 + X)
        np.testing.assert_array_equal(two.q, 5 + X)

    def test_a_variable_and_its_value_may_be_arguments(self, two):
        np.testing.assert_array_equal(two.add(two.p.value), [2, 2])
        np.testing.assert_array_equal(two.add(two.p), [4, 4])
        np.testing.assert_array_equal(two.add(two.variables["p"]), [8, 8])

    def test_results_and_trees_outlive_the_next_call(self, two):
        first, tree = two.add(X), two.variables
        two.add(X)
        np.testing.assert_array_equal(first, 1 + X)
        np.testing.assert_array_equal(tree["p"], 1 + X)
        two.variables = tree
        two.add(X)
        two.variables = tree
        np.testing.assert_array_equal(two.add(X), 1 + 2 * X)

    def test_two_models_and_an_original_may_hold_one_array(self, two, reload):
        original, other = self.Two(), reload(self.Two(), {})
        two.p.value = other.p.value = original.p.value
        for model in (two, other, original, two, original, other):
            model.add(X)
        for model in (two, other, original):
            np.testing.assert_array_equal(model.p, 1 + 2 * X)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"n": jnp.float32(1), "other": 1},
            "the values do not fit the variables:\n"
            "  scale: missing\n"
            "  other: not a variable\n"
            "  n: expected int32[], got float32[]; convert it with .astype('int32') if that is "
            "meant",
        ),
        (
            None,
            "the values of variables are nested dicts by attribute path, as model.variables gives "
            "them; got None (NoneType).",
        ),
        (
            {"n": jnp.int32(1), "scale": jnp.ones(3)},
            "the values do not fit the variables:\n  scale: expected float32[2], got float32[3]",
        ),
        (
            {"n": {"deep": jnp.int32(1)}, "scale": jnp.ones(2)},
            "the values do not fit the variables:\n  n: missing\n  n/deep: not a variable",
        ),
    ],
)
def test_values_that_do_not_fit_the_variables_are_refused_whole(counter, tree, message):
    counter.inc()
    with pytest.raises(StateError) as refused:
        counter.variables = tree
    assert str(refused.value) == message
    assert int(counter.n) == 1


def test_trainable_variables_are_read_and_assigned_alone(reload):
    loaded = reload(
        SimpleNamespace(
            w=Variable(jnp.ones(2)),
            z=Variable(jnp.ones((), jnp.complex64)),
            frozen=Variable(jnp.ones(2), trainable=False),
            count=Variable(jnp.int32(0)),
            key=Variable(jax.random.key(0)),
        ),
        {},
    )
    assert set(loaded.trainable_variables) == {"w", "z"}
    loaded.trainable_variables = {"w": jnp.full(2, 9.0), "z": jnp.complex64(1j)}
    np.testing.assert_array_equal(loaded.w, [9, 9])
    np.testing.assert_array_equal(loaded.frozen, [1, 1])


def test_what_was_saved_is_not_replaced_and_other_attributes_are_the_user_s(counter):
    for value in (3, Variable(jnp.int32(3))):
        with pytest.raises(StateError) as refused:
            counter.n = value
        message = "n is a Variable: assign its value, as in model.n.value = ..."
        assert str(refused.value) == message
    with pytest.raises(StateError, match="^inc was saved with the model, whose programs would go"):
        counter.inc = lambda: 3
    counter.n += 1
    assert int(counter.inc()) == 2
    counter.note = "mine"
    counter.note = "changed"
    del counter.note
    with pytest.raises(AttributeError, match="has no attribute 'note'"):
        _ = counter.note
    with pytest.raises(StateError, match="holds int32\\[\\] and cannot be assigned float32\\[2\\]"):
        counter.n.value = jnp.ones(2)


def test_python_state_is_taken_as_it_is_at_save(reload):
    class Model:
        def __init__(self):
            self.factor = 2

        @function(input_signature=[PAIR])
        def f(self, x):
            return self.factor * x

    model = Model()
    np.testing.assert_array_equal(model.f(X), 2 * X)
    model.factor = 5
    np.testing.assert_array_equal(model.f(X), 5 * X)
    loaded = reload(model)
    model.factor = 7
    np.testing.assert_array_equal(loaded.f(X), 5 * X)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (2, 3),
        ("square", "double"),
        (jnp.square, jnp.sin),
        (Mode.SQUARE, Mode.DOUBLE),
        (np.float32(2), np.float32(3)),
        (jnp.float32, jnp.int32),
        (("square",), ("double",)),
        (frozenset([1]), frozenset([1, 2])),
        ({1}, {1, 2}),
        ({"k": [1]}, {"k": [2]}),
        (SimpleNamespace(n=1), SimpleNamespace(n=2)),
    ],
)
def test_a_function_notices_that_a_python_attribute_has_changed(first, second, reload):
    class Model:
        def __init__(self):
            self.mode = first

        @function(input_signature=[PAIR])
        def f(self, x):
            return x * 2 if self.mode == first else x * 3

    model = Model()
    np.testing.assert_array_equal(model.f(X), 2 * X)
    model.mode = second
    np.testing.assert_array_equal(model.f(X), 3 * X)
    np.testing.assert_array_equal(reload(model).f(X), 3 * X)
    model.mode = first
    np.testing.assert_array_equal(model.f(X), 2 * X)


def test_an_overridden_method_and_the_one_it_overrides_share_the_state(reload):
    class Base:
        def __init__(self):
            self.n = Variable(jnp.int32(0))

        @function(input_signature=[PAIR])
        def f(self, x):
            self.n.value = self.n + 1
            return 2 * x

    class Derived(Base):
        @function(input_signature=[PAIR])
        def f(self, x):
            return super().f(x) + super().f(x)

    original = Derived()
    loaded = reload(original)
    for model in (loaded, original):
        np.testing.assert_array_equal(model.f(X), 4 * X)
        assert int(model.n) == 2


def test_a_loaded_model_says_why_it_cannot_be_copied(counter):
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError) as refused:
            attempt(counter)
        assert str(refused.value) == (
            "what was loaded cannot be copied or pickled: its programs and locks belong to this "
            "process. Load the folder again, which gives another model with its own variables."
        )


def test_a_copy_of_an_original_has_state_of_its_own():
    first = Counter()
    first.inc()
    second = copy.deepcopy(first)
    assert [int(second.inc()), int(second.inc()), int(first.inc())] == [2, 3, 2]


def test_random_state_goes_on_as_the_original_s(reload):
    class Sampler:
        def __init__(self):
            self.key = Variable(jax.random.key(3))
            self.old_style = jax.random.PRNGKey(4)

        @function(input_signature=[])
        def draw(self):
            self.key.value, now = jax.random.split(self.key.value)
            self.old_style, then = jax.random.split(self.old_style)
            return {"new": jax.random.normal(now, (3,)), "old": jax.random.uniform(then, (3,))}

    original = Sampler()
    original.draw()
    loaded = reload(original)
    for _ in range(3):
        found, wanted = loaded.draw(), original.draw()
        for name in ("new", "old"):
            np.testing.assert_array_equal(found[name], wanted[name])


def test_a_python_number_that_a_function_changes_is_told_when_saving(tmp_path):
    class Counter:
        def __init__(self):
            self.n = 0

        @function(input_signature=[TensorSpec((2,), "float32")])
        def f(self, x):
            self.n += 1
            return x + self.n

    counter = Counter()
    with pytest.warns(UserWarning, match="changes n") as caught:
        exporter.save(counter, tmp_path / "m", platforms=("cpu",))
    assert str(caught[0].message) == (
        "f changes n, which the saved function will not: only arrays are state. Hold it in a "
        "Variable."
    )
    assert counter.n == 0

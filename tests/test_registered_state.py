"""Objects of classes registered with JAX as holders of state: dataclasses, nodes, train states."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict
from flax.training.train_state import TrainState
from jax.experimental import sparse

import exporter
from exporter import StateError, TensorSpec, TrackingError, Variable, function

PAIR = TensorSpec((2,), "float32")
X = np.array([1, 2], np.float32)
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4) / 10


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    """A registered dataclass: JAX knows its children by the names of attributes."""

    weight: Any
    more: Any = None
    label: str = dataclasses.field(default="layer", metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    weights: Any
    step: int


@jax.tree_util.register_pytree_node_class
class Pair:
    """Children without names that are attributes all the same."""

    def __init__(self, left: object, right: object, label: str = "pair") -> None:
        self.left, self.right, self.label = left, right, label

    def tree_flatten(self):
        return (self.left, self.right), self.label

    @classmethod
    def tree_unflatten(cls, label, children):
        return cls(*children, label)


@jax.tree_util.register_pytree_node_class
class Stack:
    """Children that are no attributes: what JAX takes apart and puts together is another stack."""

    def __init__(self, *items: object) -> None:
        self.items = list(items)

    def tree_flatten(self):
        return tuple(self.items), len(self.items)

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


class Point(NamedTuple):
    x: object
    y: object


class Struct(flax.struct.PyTreeNode):
    weight: Any
    count: int
    factor: int = flax.struct.field(pytree_node=False)
    table: Any = flax.struct.field(pytree_node=False)


def holding(make: Callable[[], object], *changes: Callable[[Any, Any], object]) -> Any:
    """An object that holds something, and whose function makes all the changes in turn."""

    class Model:
        def __init__(self):
            self.held = make()

        @function(input_signature=[PAIR])
        def run(self, x):
            return {str(n): change(self, x) for n, change in enumerate(changes)}

    return Model()


def replace_by_map(self, x):
    self.held = jax.tree.map(lambda one: one + x, self.held)
    return jax.tree.leaves(self.held)[0]


def assigned(name, change):
    def assign(self, x):
        new = change(getattr(self.held, name), x)
        object.__setattr__(self.held, name, new)
        return jax.tree.leaves(new)[0]

    return assign


def set_held(self, new):
    self.held = new
    return jax.tree.leaves(new)[0]


def mapped(change):
    return lambda self, x: set_held(self, jax.tree.map(lambda one: change(one, x), self.held))


KINDS = {
    "a registered dataclass": (
        lambda: Layer(jnp.ones(2), {"b": [jnp.zeros(2)]}),
        replace_by_map,
        assigned("weight", jnp.add),
        lambda self, x: set_held(self, dataclasses.replace(self.held, weight=self.held.weight * x)),
        lambda self, x: (
            self.held.more["b"].__setitem__(0, self.held.more["b"][0] + x) or self.held.more["b"][0]
        ),
    ),
    "a frozen dataclass with slots": (
        lambda: Slotted({"w": jnp.ones(2)}, 0),
        lambda self, _: set_held(self, jax.tree.map(lambda one: one + 1, self.held)),
        assigned("weights", lambda old, x: {"w": old["w"] + x}),
        lambda self, x: self.held.step * x,
    ),
    "a node without names": (
        lambda: Pair(jnp.ones(2), Pair(jnp.zeros(2), None)),
        mapped(jnp.add),
        lambda self, x: set_held(self, Pair(self.held.left * x, self.held.right)),
    ),
    "a FrozenDict": (
        lambda: FrozenDict({"a": {"b": jnp.ones(2)}, "c": np.zeros(2, np.float32)}),
        mapped(jnp.add),
        lambda self, x: set_held(self, self.held.copy({"c": self.held["c"] * x})),
        lambda self, _: self.held["a"]["b"],
    ),
    "a node that is no holder": (
        lambda: Stack(jnp.ones(2), {"k": jnp.zeros(2)}, [Point(jnp.ones(2), "text")]),
        lambda self, x: set_held(self, Stack(self.held.items[0] + x, *self.held.items[1:])),
        lambda self, x: (
            self.held.items.__setitem__(0, self.held.items[0] * x) or self.held.items[0]
        ),
        lambda self, x: (
            self.held.items[1].update(k=self.held.items[1]["k"] + x) or self.held.items[1]["k"]
        ),
    ),
    "such a node in a tuple in a dict": (
        lambda: {"a": (Stack(jnp.ones(2), (jnp.zeros(2), 3)), "text", {"b": FrozenDict(c=X)})},
        lambda self, x: set_held(
            self, {"a": (Stack(self.held["a"][0].items[0] + x, (x, 3)), *self.held["a"][1:])}
        ),
        lambda self, x: self.held["a"][2]["b"]["c"] * self.held["a"][0].items[1][0] * x,
    ),
    "a namedtuple with dicts": (
        lambda: Point({"m": jnp.zeros(2)}, Point(jnp.ones(2), ())),
        mapped(jnp.add),
        lambda self, x: set_held(self, self.held._replace(x={"m": self.held.x["m"] * x})),
    ),
    "a dict with numbers for keys": (
        lambda: {0: Layer(jnp.ones(2)), 1: Pair(jnp.ones(2), 5)},
        lambda self, x: set_held(
            self, {0: Layer(self.held[0].weight + x), 1: Pair(self.held[1].left * x, 5)}
        ),
    ),
    "a Partial": (
        lambda: jax.tree_util.Partial(jnp.multiply, jnp.full(2, 3.0)),
        lambda self, x: self.held(x),
        mapped(jnp.add),
    ),
    "a sparse array": (
        lambda: sparse.BCOO.fromdense(jnp.eye(2)),
        assigned("data", jnp.add),
        lambda self, x: self.held.data * x,
    ),
    "arrays of optax": (
        lambda: optax.adam(0.1).init({"w": jnp.ones(2)}),
        lambda self, x: set_held(
            self, optax.adam(0.1).update({"w": x}, self.held, {"w": jnp.ones(2)})[1]
        ),
        lambda self, _: self.held[0].mu["w"],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_in_every_kind_of_node_are_state(kind, reload):
    make, *changes = KINDS[kind]
    original, plain = holding(make, *changes), holding(make, *changes)
    loaded = reload(original)
    for _ in range(2):
        wanted = plain.run.call(X)  # the Python code itself, without tracing
        for model in (original, loaded):
            found = model.run(X)
            for name, value in wanted.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-6)
    assert jax.tree.structure(original.held) == jax.tree.structure(plain.held)
    pairs = zip(jax.tree.leaves(original.held), jax.tree.leaves(plain.held), strict=True)
    for left, right in pairs:
        if not isinstance(left, str):
            np.testing.assert_allclose(left, right, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: Layer(X, [X]), "<LoadedObject Layer: weight, more>"),
        (lambda: Pair(X, X), "<LoadedObject Pair: left, right>"),
        (lambda: sparse.BCOO.fromdense(jnp.eye(2)), "<LoadedObject BCOO: data, indices, shape>"),
    ],
)
def test_objects_whose_children_are_attributes_come_back_as_objects(make, shown, reload):
    loaded = reload(holding(make, lambda self, x: x))
    assert repr(loaded.held) == shown


def test_other_nodes_come_back_as_dicts_or_tuples_and_keep_the_name_of_their_class(reload):
    model = holding(lambda: [FrozenDict(a=X, b={"c": X * 2}), Stack(X, [X * 3])], lambda _, x: x)
    loaded = reload(model)
    mapping, stack = loaded.held
    np.testing.assert_array_equal(mapping["b"]["c"], X * 2)
    np.testing.assert_array_equal(stack[1][0], X * 3)
    assert (type(mapping), type(stack)) == (dict, tuple)
    assert mapping["a"] is stack[0]  # one array in two places
    named = [node.name for node in loaded.manifest.nodes if node.kind in ("dict", "tuple")]
    assert named == ["FrozenDict", "", "Stack"]


def test_a_loaded_model_with_nodes_can_be_saved_again(reload):
    def run(self, x):
        layer, (stack, mapping) = self.held
        self.held = [dataclasses.replace(layer, weight=x), (Stack(stack.items[0] + x), mapping)]
        return self.held[0].weight * self.held[1][0].items[0] + self.held[1][1]["a"]

    def make():
        return [Layer(jnp.ones(2)), (Stack(jnp.ones(2)), FrozenDict(a=X))]

    original = holding(make, run)
    loaded = reload(original)
    again = reload(loaded)
    for _ in range(2):
        wanted = original.run(X)["0"]
        for model in (loaded, again):
            np.testing.assert_array_equal(model.run(X)["0"], wanted)
    assert again.manifest.content.variables == loaded.manifest.content.variables


def test_a_child_that_only_jax_sees_by_name_is_an_attribute_of_what_is_loaded(reload):
    @jax.tree_util.register_pytree_with_keys_class
    class Scaled:
        def __init__(self, array):
            self.stored = np.asarray(array) * 2

        def tree_flatten_with_keys(self):
            return ((jax.tree_util.GetAttrKey("array"), self.stored / 2),), None

        @classmethod
        def tree_unflatten(cls, _, children):
            made = object.__new__(cls)
            made.stored = children[0] * 2
            return made

    model = holding(lambda: Scaled(X), lambda self, x: self.held.stored * x)
    loaded = reload(model)
    np.testing.assert_array_equal(loaded.held.array, X)
    np.testing.assert_array_equal(loaded.run(X)["0"], 2 * X * X)


def test_an_array_that_two_attributes_share_is_one_until_a_function_assigns_it(reload):
    def make():
        return Pair(X, X)

    assert len(reload(holding(make, lambda self, x: self.held.left)).manifest.variables) == 1
    original = holding(make, assigned("left", jnp.add), lambda self, _: self.held.right)
    loaded = reload(original)
    for _ in range(2):
        for name, value in original.run(X).items():
            np.testing.assert_array_equal(loaded.run(X)[name] if name == "0" else X, value)
    np.testing.assert_array_equal(loaded.held.right, X)


class Inner:
    def __init__(self):
        self.count = jnp.int32(0)

    @function(input_signature=[])
    def tick(self):
        self.count = self.count + 1
        return self.count


def test_variables_and_objects_inside_of_nodes_are_those_that_others_hold(reload):
    class Model:
        def __init__(self):
            self.variable, self.inner = Variable(jnp.zeros(2)), Inner()
            self.stack = Stack(self.variable, self.inner, jnp.ones(2))
            self.layer = Layer(self.variable, self.inner)

        @function(input_signature=[PAIR])
        def run(self, x):
            self.stack.items[0].value += x
            self.layer.more.tick()
            return self.variable * self.inner.count + self.stack.items[2]

    original = Model()
    loaded = reload(original)
    for _ in range(2):
        np.testing.assert_array_equal(loaded.run(X), original.run(X))
    assert loaded.variable is loaded.stack[0] is loaded.layer.weight
    assert loaded.inner is loaded.stack[1] is loaded.layer.more
    assert int(loaded.inner.tick()) == int(original.inner.tick()) == 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Part:
    total: Any

    @function(input_signature=[PAIR])
    def add(self, x):
        object.__setattr__(self, "total", self.total + x)
        return self.total


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Root:
    weight: Any
    part: Part
    times: int = 3

    @function(input_signature=[PAIR])
    def __call__(self, x):
        for _ in range(self.times):  # a number in a class with functions computes as it is
            x = x + self.weight
        return x + self.part.add(x)


@jax.tree_util.register_pytree_node_class
class Deep(Stack):
    @function(input_signature=[PAIR])
    def __call__(self, x):
        self.items[0] = self.items[0] + x
        return self.items[0]


@pytest.mark.parametrize(
    "make", [lambda: Root(jnp.ones(2), Part(jnp.zeros(2))), lambda: Deep(jnp.zeros(2))]
)
def test_a_registered_root_and_functions_of_inner_nodes_work(make, reload):
    original = make()
    loaded = reload(original)
    for _ in range(2):
        np.testing.assert_array_equal(loaded(X), original(X))
    if isinstance(original, Root):
        np.testing.assert_array_equal(loaded.part.add(X), original.part.add(X))


def test_random_keys_in_nodes_are_state(reload):
    def draw(self, x):
        first, second = jax.random.split(self.held.items[0])
        self.held = Stack(first, *self.held.items[1:])
        return x + jax.random.normal(second, (2,)) + jax.random.normal(self.held.items[1][0], (2,))

    original = holding(lambda: Stack(jax.random.key(0), [jax.random.key(1, impl="rbg")]), draw)
    loaded = reload(original)
    for _ in range(2):
        np.testing.assert_allclose(loaded.run(X)["0"], original.run(X)["0"], rtol=1e-6)


def test_static_fields_are_part_of_the_function_and_numbers_beside_arrays_are_state(reload):
    def step(self, x):
        self.held = self.held.replace(weight=self.held.weight + x, count=self.held.count + 1)
        factor = self.held.factor * float(self.held.table[0])  # static: values while traced
        return self.held.weight * self.held.count * factor

    table = np.full(1, 3.0, np.float32)
    original = holding(lambda: Struct(jnp.ones(2), 0, factor=0, table=table), step)
    loaded = reload(original)
    for _ in range(3):
        np.testing.assert_array_equal(loaded.run(X)["0"], original.run(X)["0"])
    assert repr(loaded.held) == "<LoadedObject Struct: weight, count>"
    assert int(loaded.held.count) == int(original.held.count) == 3
    assert not loaded.held.count.trainable


def test_numbers_stay_numbers_in_settings_without_arrays(reload):
    def run(self, x):
        return x * sum(range(self.held.step))

    loaded = reload(holding(lambda: Slotted("text", 4), run))
    np.testing.assert_array_equal(loaded.run(X)["0"], 6 * X)


class Regression:
    def __init__(self):
        self.train_state = TrainState.create(
            apply_fn=predict, params={"w": jnp.ones((4, 2))}, tx=optax.adam(0.1)
        )

    @function(input_signature=[TensorSpec((3, 4), "float32")])
    def train_step(self, batch):
        Regression.count += 1
        self.train_state, loss = updated(self.train_state, batch)
        return loss

    count = 0


def predict(variables, x):
    return x @ variables["params"]["w"]


def updated(state, batch):
    def loss_of(params):
        return (state.apply_fn({"params": params}, batch) ** 2).mean()

    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    return state.apply_gradients(grads=gradients), loss


@pytest.fixture(scope="module")
def saved_training(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "model"
    exporter.save(Regression(), folder, platforms=("cpu",))
    return folder


def test_a_train_state_goes_on_training_like_the_original(saved_training):
    original, loaded = Regression(), exporter.load(saved_training)
    state, plain = original.train_state, jax.jit(updated)
    before = Regression.count
    for step in range(1, 4):
        state, wanted = plain(state, ROWS)
        for model in (original, loaded):
            np.testing.assert_allclose(model.train_step(ROWS), wanted, rtol=1e-6)
        now = loaded.train_state
        assert int(now.step) == int(original.train_state.step) == int(now.opt_state[0].count)
        assert int(now.step) == step
        np.testing.assert_allclose(now.params["w"], state.params["w"], rtol=1e-6)
        np.testing.assert_allclose(now.opt_state[0].mu["w"], state.opt_state[0].mu["w"], rtol=1e-6)
    assert Regression.count == before + 1  # one trace for all calls, from a number to an array
    assert isinstance(original.train_state, TrainState)


def test_a_train_state_trains_in_a_process_without_flax_and_optax(
    saved_training, tmp_path, elsewhere
):
    elsewhere(
        """
import numpy as np
import exporter

model = exporter.load(sys.argv[1])
rows = np.arange(12, dtype=np.float32).reshape(3, 4) / 10
for _ in range(3):
    model.train_step(rows)
np.save(sys.argv[2], model.train_state.params["w"])
assert not {"flax", "optax"} & set(sys.modules)
""",
        saved_training,
        tmp_path / "w.npy",
    )
    state = Regression().train_state
    for _ in range(3):
        state, _ = updated(state, ROWS)
    np.testing.assert_allclose(np.load(tmp_path / "w.npy"), state.params["w"], rtol=1e-6)


OTHERWISE = (
    "the function replaces {} by a value that is built otherwise: {} {}. State keeps its shape and "
    "dtype."
)
STATIC = "has other static parts, which are part of the saved function"


@pytest.mark.parametrize(
    ("make", "change", "place", "problem"),
    [
        (lambda: Layer(X), lambda _, x: Layer(x, None, "other"), "held", STATIC),
        (lambda: Layer(X), lambda _, x: Layer(x, x), "held.more", "differs in a value"),
        (lambda: Layer(X), lambda _, x: {"weight": x}, "held", "is a dict instead of a Layer"),
        (
            lambda: Layer({"a": X}),
            lambda _, x: Layer({"b": x}),
            "held.weight",
            "has other keys",
        ),
        (
            lambda: Layer((X, X)),
            lambda _, x: Layer((x,)),
            "held.weight",
            "has 1 items instead of 2",
        ),
        (lambda: Stack(X), lambda _, x: Stack(x, x), "held", STATIC),
        (
            lambda: Stack(X, X),
            lambda _, x: Stack(x, None),
            "held[1]",
            "holds None instead of an array",
        ),
        (
            lambda: ("a", (X, {"b": X})),
            lambda old, x: ("a", (x, {"c": old[1][1]["b"]})),
            "held[1][1]",
            "has other keys",
        ),
        (lambda: (X, 1), lambda _, x: (x, 2), "held[1]", "differs in a value"),
        (lambda: FrozenDict(a=X), lambda _, x: FrozenDict(b=x), "held", STATIC),
        (
            lambda: FrozenDict(a=[X, X]),
            lambda _, x: FrozenDict(a=[x]),
            "held.a",
            "has 1 items instead of 2",
        ),
    ],
)
def test_what_is_built_otherwise_is_refused_and_put_back(make, change, place, problem, tmp_path):
    def replace(self, x):
        self.held = change(self.held, x)
        return x

    model = holding(make, replace)
    before = model.held
    for attempt, prefix in (
        (lambda: exporter.save(model, tmp_path / "m", platforms=("cpu",)), ""),
        (lambda: model.run(X), "self."),
    ):
        with pytest.raises(StateError) as refused:
            attempt()
        assert str(refused.value) == OTHERWISE.format(f"{prefix}held", f"{prefix}{place}", problem)
        assert model.held is before
        assert not any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(model.held))


def test_an_array_of_another_shape_in_a_node_is_refused(tmp_path):
    model = holding(lambda: Stack(X), lambda self, x: set_held(self, Stack(x[:1])))
    with pytest.raises(StateError) as refused:
        exporter.save(model, tmp_path / "m", platforms=("cpu",))
    assert str(refused.value) == (
        "held[0] holds float32[2] and the function assigns float32[1]. State keeps its shape and "
        "dtype."
    )


class Unknown:
    """A module of a library of its own: it says what is to be walked."""

    def __init__(self):
        self.store = {"w": jnp.ones(2)}
        self.bias = jnp.zeros(2)
        self.cache = jnp.full(2, 7.0)

    def __exporter_attributes__(self):
        return [("weights", self.store), ("bias", self.bias)]

    @function(input_signature=[PAIR])
    def __call__(self, x):
        self.store["w"] = self.store["w"] + x
        self.bias = self.bias - x
        return self.store["w"] * x + self.bias


def test_a_class_of_an_unknown_library_says_by_a_method_what_is_walked(reload):
    original = Unknown()
    loaded = reload(original)
    for _ in range(2):
        np.testing.assert_array_equal(loaded(X), original(X))
    assert repr(loaded).startswith("<LoadedModel Unknown: weights, bias, __call__")
    np.testing.assert_array_equal(loaded.weights["w"], 1 + 2 * X)


def test_an_array_that_such_a_method_gives_must_be_held_under_its_name(tmp_path):
    class Wrong(Unknown):
        def __exporter_attributes__(self):
            return [("w", self.store["w"])]

    with pytest.raises(TrackingError) as refused:
        exporter.save(Wrong(), tmp_path / "m", platforms=("cpu",))
    assert str(refused.value) == (
        "w is an array, or a value with arrays, that __exporter_attributes__ of Wrong gives and "
        "its attribute 'w' does not hold, so no other can be put there. Give the list, dict or "
        "object that holds it."
    )

"""Arguments and results of the user's own classes: traced as they are, loaded without them."""

import dataclasses
from collections import OrderedDict, defaultdict
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import equinox as eqx
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict, freeze

import exporter
from exporter import BindError, TensorSpec, Variable, function
from exporter.pytrees import without_classes
from exporter.staging.inputs import is_array_like
from signatures.tree import describe, flatten

X = np.array([1, 2, 3], np.float32)
SPEC = TensorSpec(("n",))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Batch:
    image: object
    label: object
    scale: float = dataclasses.field(default=1.0, metadata={"static": True})


@flax.struct.dataclass
class State:
    position: object
    nested: object
    activation: object = flax.struct.field(pytree_node=False, default=jnp.tanh)


@jax.tree_util.register_pytree_node_class
class Interval:
    def __init__(self, low: object, high: object) -> None:
        self.low, self.high = low, high

    def tree_flatten(self):
        return (self.low, self.high), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


class Affine(eqx.Module):
    weight: object
    bias: object
    use_bias: bool = eqx.field(static=True, default=True)

    def __call__(self, x):
        return self.weight * x + (self.bias if self.use_bias else 0)


class Pair(NamedTuple):
    a: object
    b: object


class Model:
    """Each method works on its argument as an object of its own class, never on a stand-in."""

    @function(input_signature=[Batch(SPEC, SPEC, 3.0)])
    def batch(self, batch):
        assert isinstance(batch, Batch)
        return Batch(batch.image * batch.scale, batch.label, batch.scale + 1)

    @function(input_signature=[State(SPEC, [SPEC, {"k": SPEC}])])
    def state(self, state):
        assert isinstance(state, State)
        return state.replace(position=state.activation(state.position))

    @function(input_signature=[Interval(SPEC, SPEC)])
    def interval(self, interval):
        assert isinstance(interval, Interval)
        return Interval(interval.low, {"width": interval.high - interval.low})

    @function(input_signature=[freeze({"w": SPEC, "inner": {"b": SPEC}})])
    def frozen(self, tree):
        assert isinstance(tree, FrozenDict)
        return freeze({"sum": tree["w"] + tree["inner"]["b"]})

    @function(input_signature=[Affine(SPEC, SPEC, use_bias=False), SPEC])
    def module(self, affine, x):
        return affine(x), affine

    @function(input_signature=[OrderedDict(z=SPEC, a=SPEC), {1: SPEC, 0: SPEC}])
    def keyed(self, ordered, numbered):
        assert isinstance(ordered, OrderedDict)
        return OrderedDict(z=ordered["a"], a=ordered["z"]), {2: numbered[0], 1: numbered[1]}

    @function(input_signature=[Pair(Batch(SPEC, SPEC), (Interval(SPEC, SPEC),))])
    def deep(self, pair):
        return [Pair(pair.b[0].high, Batch(pair.a.label, pair.a.image, 0.5))]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("structures") / "model"
    with pytest.warns(UserWarning, match="without a signature"):
        exporter.save(Model(), folder, platforms=("cpu",))
    return folder


@pytest.fixture(scope="module")
def loaded(saved):
    return exporter.load(saved)


def retyped(tree, like):
    """The arrays of a tree in the structure of another, whose namedtuples are of other classes."""
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(tree))


CALLS = {
    "batch": (Batch(X, 2 * X, 3.0),),
    "state": (State(X, [X, {"k": 2 * X}]),),
    "interval": (Interval(X, 3 * X),),
    "frozen": (freeze({"w": X, "inner": {"b": 2 * X}}),),
    "module": (Affine(2 * X, X, use_bias=False), X),
    "keyed": (OrderedDict(z=X, a=2 * X), {1: X, 0: 3 * X}),
    "deep": (Pair(Batch(X, 2 * X), (Interval(X, 3 * X),)),),
}


@pytest.mark.parametrize("name", CALLS)
def test_objects_of_registered_classes_are_arguments_and_results(loaded, name):
    expected = getattr(Model(), name)(*CALLS[name])
    plain = jax.jit(getattr(Model, name).python_function, static_argnums=0)(Model(), *CALLS[name])
    assert jax.tree.structure(expected) == jax.tree.structure(plain)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), expected, plain)
    result = getattr(loaded, name)(*CALLS[name])
    known = without_classes(expected)
    assert describe(flatten(result, is_array_like)[0], str) == describe(
        flatten(known, is_array_like)[0], str
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), result, retyped(known, result))


def test_objects_come_back_by_the_names_of_their_fields(loaded):
    batch = loaded.batch(CALLS["batch"][0])
    assert type(batch).__name__ == "Batch"
    assert batch._fields == ("image", "label", "scale")
    assert batch.scale == 4.0
    state = loaded.state(CALLS["state"][0])
    assert state._fields == ("position", "nested")
    assert isinstance(loaded.interval(Interval(X, X)), tuple)
    assert list(loaded.frozen(CALLS["frozen"][0])) == ["sum"]
    ordered, numbered = loaded.keyed(*CALLS["keyed"])
    assert list(ordered) == ["z", "a"]
    assert list(numbered) == [2, 1]
    deep = loaded.deep(*CALLS["deep"])
    assert [type(deep).__name__, type(deep[0]).__name__] == ["list", "Pair"]
    assert deep[0].b.scale == 0.5


def test_what_one_function_returns_another_takes(loaded):
    batch = loaded.batch(Batch(X, X, 3.0))
    with pytest.raises(BindError, match=r"batch/scale: the value 3\.0 is part of the saved functi"):
        loaded.batch(batch)  # its scale is 4.0
    again = loaded.batch(batch._replace(scale=3.0))
    np.testing.assert_array_equal(again.image, 9 * X)
    _, affine = loaded.module(Affine(X, X, use_bias=False), X)
    np.testing.assert_array_equal(loaded.module(affine, 2 * X)[0], 2 * X * X)
    low, rest = loaded.interval(Interval(X, 3 * X))
    np.testing.assert_array_equal(loaded.interval((low, rest["width"]))[1]["width"], X)


def test_a_process_without_the_classes_calls_with_namedtuples_dicts_and_tuples(saved, elsewhere):
    printed = elsewhere(
        """
from collections import namedtuple
import numpy as np
import exporter
model = exporter.load(sys.argv[1])
x = np.array([1, 2, 3], np.float32)
Batch = namedtuple("Batch", "image label scale")
print(model.batch(Batch(x, x, 3.0)))
print(model.frozen({"w": x, "inner": {"b": x}})["sum"])
print(model.interval((x, 2 * x))[1]["width"])
print(model.deep(namedtuple("P", "a b")(Batch(x, 2 * x, 1.0), ((x, 3 * x),)))[0].b.image)
""",
        saved,
    )
    assert printed.splitlines() == [
        "Batch(image=Array([3., 6., 9.], dtype=float32), label=Array([1., 2., 3.], dtype=float32), "
        "scale=4.0)",
        "[2. 4. 6.]",
        "[1. 2. 3.]",
        "[2. 4. 6.]",
    ]


@pytest.mark.parametrize(
    ("name", "args", "problem"),
    [
        (
            "batch",
            (Batch(X, X, 2.0),),
            "batch/scale: the value 3.0 is part of the saved function, got 2.0 (float)",
        ),
        (
            "batch",
            (Batch(X, X[:2], 3.0),),
            "batch/label: expected float32[n] with n=3 from batch/image, got float32[2]",
        ),
        (
            "interval",
            ((X, X, X),),
            "interval: expected (array, array), got (float32[3], float32[3], float32[3]) (tuple)",
        ),
        (
            "frozen",
            ({"w": X},),
            "tree: expected {'inner': {'b': array}, 'w': array}, got {'w': float32[3]} (dict)",
        ),
        ("batch", (X,), "batch: expected Batch(image=array, label=array, scale=3.0), got an array"),
    ],
)
def test_objects_that_do_not_fit_are_refused_by_the_path_of_the_part(loaded, name, args, problem):
    with pytest.raises(BindError) as refused:
        getattr(loaded, name)(*args)
    (found,) = refused.value.problems
    assert found.startswith(problem)


def test_a_dataclass_is_a_signature_by_its_fields(reload):
    class Typed:
        @function(input_signature=[Batch(SPEC, SPEC, 2.0)])
        def f(self, batch):
            return Batch(batch.image + 1, batch.label + 2, 5.0)

    signature = reload(Typed()).signatures["serving_default"]
    assert str(signature.signature) == (
        "serving_default(batch/image: float32[n], batch/label: float32[n]) -> "
        "(image: float32[n], label: float32[n])"
    )
    outputs = signature(**{"batch/image": X, "batch/label": X})
    np.testing.assert_array_equal(outputs["label"], X + 2)


def test_types_that_only_their_class_tells_apart_are_refused_when_saving(tmp_path):
    class Acts:
        @function
        def f(self, state):
            return state.activation(state.position)

    model = Acts()
    model.f(State(X, None, jnp.tanh))
    np.testing.assert_allclose(model.f(State(X, None, jnp.exp)), np.exp(X), rtol=1e-6)
    with pytest.raises(exporter.TracingError) as refused:
        exporter.save(model, tmp_path / "model", {}, platforms=("cpu",))
    assert str(refused.value) == (
        "f was called with two types of arguments that cannot be told apart once they are saved: "
        "(state/position: float32[3]). They differ in what only their classes know, such as a "
        "function that an object holds. Make two functions of it, or pass a name instead."
    )
    assert not (tmp_path / "model").exists()


def test_static_parts_of_objects_choose_the_trace(reload):
    class Scaled:
        @function
        def f(self, batch):
            return batch.image * batch.scale

    model = Scaled()
    for scale in (2.0, 3.0):
        np.testing.assert_array_equal(model.f(Batch(X, X, scale)), scale * X)
    loaded = reload(model, {})
    for scale in (3.0, 2.0):
        np.testing.assert_array_equal(loaded.f(Batch(X, X, scale)), scale * X)
    with pytest.raises(BindError, match=r"got 4\.0 \(float\)"):
        loaded.f(Batch(X, X, 4.0))


def test_a_defaultdict_and_its_factory_are_the_functions_own(reload):
    class Counts:
        @function
        def f(self, counts):
            return counts["there"] + len(counts["new"])

    model = Counts()
    counts = defaultdict(list, there=X)
    np.testing.assert_array_equal(model.f(counts), X)
    assert list(counts) == ["there"]
    np.testing.assert_array_equal(reload(model, {}).f({"there": X}), X)


def test_objects_that_hold_the_state_of_a_framework_are_no_arguments():
    model = SimpleNamespace(f=function(lambda net, x: net(x)))
    with pytest.raises(BindError) as refused:
        model.f(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), X)
    assert str(refused.value) == (
        "<lambda> is given a Linear with arrays in it for 'net'. Pass its arrays in a dict, a "
        "list, a tuple, a namedtuple or an object of a class registered with JAX."
    )


def test_mutable_arrays_inside_results_are_returned_as_their_values(reload):
    class Holds:
        def __init__(self):
            self.v = Variable(X)

        @function(input_signature=[SPEC])
        def f(self, x):
            self.v.value = self.v + x.sum()
            return Interval(self.v, [self.v, {"k": (self.v,)}])

    loaded = reload(Holds(), {})
    low, rest = loaded.f(X)
    np.testing.assert_array_equal(low, X + 6)
    np.testing.assert_array_equal(rest[1]["k"][0], X + 6)


def test_a_default_of_a_registered_class_is_kept(reload):
    class Defaults:
        @function(input_signature=[TensorSpec((3,))])
        def f(self, x, batch=Batch(X, 2 * X, 7.0)):  # noqa: B008  # the default is the point
            return x * batch.scale + batch.label

    loaded = reload(Defaults())
    np.testing.assert_array_equal(loaded.f(X), 9 * X)
    np.testing.assert_array_equal(loaded.f(X, Batch(X, 2 * X, 7.0)), 9 * X)
    with pytest.raises(BindError, match="batch/label: the value array"):
        loaded.f(X, Batch(X, X, 7.0))

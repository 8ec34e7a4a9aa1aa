"""`jax.vmap` over loaded functions: as one large batch where rows stay apart, else one by one."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import Dim, NotBatchableError, SaveOptions, StateError, TensorSpec, Variable, function

ROWS = TensorSpec(("batch", 3), "float32")
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 3)), jnp.float32)


class Model:
    def __init__(self):
        self.w = Variable(jnp.arange(6.0).reshape(3, 2) / 5)
        self.count = Variable(jnp.int32(0))
        self.last = Variable(jnp.zeros(3))

    @function(input_signature=[ROWS])
    def dense(self, x):
        return jnp.tanh(x @ self.w)

    @function(input_signature=[ROWS, TensorSpec((), "float32"), TensorSpec(("batch",), "float32")])
    def several(self, x, scale, y=None):
        return {"scaled": x * scale, "shared": scale + 1, "y": [y, x.sum(1)]}

    @function(input_signature=[TensorSpec((None, 3), "float32")])
    def unnamed(self, x):
        return x * 2

    @function(input_signature=[TensorSpec((Dim("n", max=8), 3), "float32")])
    def bounded(self, x):
        return x + 1

    @function(input_signature=[ROWS])
    def normed(self, x):
        return x - x.mean(0)

    @function(input_signature=[TensorSpec((3,), "float32")])
    def single(self, x):
        return x @ self.w

    @function(input_signature=[ROWS, TensorSpec((), "key<fry>")])
    def noisy(self, x, key):
        return x + jax.random.normal(key, x.shape)

    @function(input_signature=[ROWS])
    def counted(self, x):
        self.count.value = self.count + 1
        return x * self.count

    @function(input_signature=[TensorSpec((3,), "float32")])
    def remember(self, x):
        self.last.value = self.last / 2 + x
        return self.last


@pytest.fixture(scope="module")
def original():
    return Model()


@pytest.fixture(scope="module")
def loaded(original, tmp_path_factory):
    """No call here changes its state."""
    path = tmp_path_factory.mktemp("vmap") / "m"
    exporter.save(
        original,
        path,
        {"dense": original.dense, "single": original.single},
        platforms=("cpu",),
        options=SaveOptions(vjp_order=1),
    )
    return exporter.load(path)


@pytest.fixture(scope="module")
def models(loaded, original):
    return loaded, original


def same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


NOTE = (
    "jax.vmap runs {} for each of the {} elements, one after another (jax.lax.map): the program "
    "has no named leading axis that all mapped inputs share and along which its rows are known not "
    "to depend on each other."
)


def noted(call):
    """What a call gives, and the warnings on the way."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = call()
    return result, [str(one.message) for one in told]


def loops(function, *arguments):
    """Whether a loop runs in it."""
    return "while" in jax.jit(function).lower(*arguments).as_text()


KEYS = jax.random.split(jax.random.key(0), 5)
MOVED = {"scaled": 1, "shared": 0, "y": [1, 0]}
SCALE, Y = jnp.arange(5.0), X[:, :, 0]


@pytest.mark.parametrize(
    ("name", "arguments", "axes", "merges"),
    [
        ("dense", (X,), (0, 0), True),
        ("dense", (X,), (1, 0), True),
        ("dense", (X.transpose(1, 2, 0),), (2, -1), True),
        ("several", (X, 2.0, Y), ((0, None, 0), 0), True),
        (
            "several",
            (X, 2.0, Y[0]),
            ((0, None, None), {"scaled": 1, "shared": 0, "y": [1, 0]}),
            True,
        ),
        ("several", (X[0], 2.0, Y), ((None, None, 0), 0), True),
        ("several", (X, SCALE, Y), (0, 0), False),
        ("several", (X[0], SCALE, Y[0]), ((None, 0, None), 0), False),
        ("unnamed", (X,), (0, 0), True),
        ("bounded", (X[:2],), (0, 0), True),
        ("bounded", (X,), (0, 0), False),
        ("normed", (X,), (0, 0), False),
        ("normed", (X,), (1, 1), False),
        ("single", (X[0],), (0, 0), False),
        ("single", (X[0].T,), (1, 0), False),
        ("noisy", (X, KEYS), (0, 0), False),
        ("noisy", (X[0], KEYS), ((None, 0), 0), False),
    ],
)
def test_each_element_is_as_if_called_alone(name, arguments, axes, merges, models):
    ours, theirs = (jax.vmap(getattr(model, name), *axes) for model in models)
    found, _ = noted(lambda: jax.jit(ours)(*arguments))
    same(found, jax.jit(theirs)(*arguments))
    assert noted(lambda: loops(ours, *arguments))[0] is not merges


def test_that_it_runs_one_after_another_is_told_once(reload):
    loaded = reload(Model(), {})
    call = jax.vmap(loaded.normed)
    assert noted(lambda: call(X))[1] == [NOTE.format("normed", 5)]
    assert noted(lambda: (call(X), call(X[:2])))[1] == []
    assert noted(lambda: jax.vmap(loaded.dense)(X))[1] == []
    assert noted(lambda: jax.vmap(loaded.single)(X[0]))[1] == [NOTE.format("single", 4)]


def test_signatures_are_mapped_like_functions(loaded):
    found = jax.vmap(lambda x: loaded.signatures["dense"](x=x)["output_0"])(X)
    same(found, jnp.tanh(X @ loaded.w.value))


def test_maps_in_maps(loaded, original):
    x = jnp.stack([X, X + 1])
    for name in ("dense", "normed"):
        for_each, theirs = (
            jax.jit(jax.vmap(jax.vmap(getattr(model, name)), 1)) for model in (loaded, original)
        )
        same(noted(lambda call=for_each: call(x))[0], theirs(x))


@pytest.mark.parametrize("name", ["dense", "normed"])
def test_gradients_of_maps_and_maps_of_gradients(name, loaded, original):
    def both(model):
        call = getattr(model, name)
        each = jax.vmap(jax.grad(lambda x: (call(x) ** 2).sum()))
        whole = jax.grad(lambda x: (jax.vmap(call)(x) ** 3).sum())
        return jax.jit(lambda x: (each(x), whole(x)))

    same(noted(lambda: both(loaded)(X))[0], both(original)(X))


def test_gradients_of_variables_for_each_example(loaded):
    def loss(w, x):
        return (loaded.with_variables({"w": w}).dense(x) ** 2).sum()

    found = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(loaded.w.value, X)
    theirs = jax.vmap(jax.grad(lambda w, x: (jnp.tanh(x @ w) ** 2).sum()), (None, 0))
    same(found, theirs(loaded.w.value, X))


def test_many_models_at_once(loaded):
    ws = jnp.stack([loaded.w.value * k for k in (1.0, -2.0)])
    call = jax.vmap(lambda w, x: loaded.with_variables({"w": w}).dense(x), (0, None))
    same(noted(lambda: call(ws, X[0]))[0], jnp.stack([jnp.tanh(X[0] @ w) for w in ws]))


def test_a_function_that_updates_state_is_refused_unless_each_element_has_its_own(loaded):
    for call, changed, x in ((loaded.counted, "count", X), (loaded.remember, "last", X[0])):
        with pytest.raises(NotBatchableError) as refused:
            jax.vmap(call)(x)
        assert str(refused.value) == (
            f"{call.__name__} changes {changed}, and under jax.vmap each element would leave "
            "another value there. Map over models instead, as made by model.with_variables(...) "
            "in the mapped function."
        )
    assert int(loaded.count) == 0
    np.testing.assert_array_equal(loaded.last, [0, 0, 0])

    def each(last, x):
        model = loaded.with_variables({"last": last})
        model.remember(x)
        return model.remember(x), model.variables["last"]

    lasts = jnp.arange(12.0).reshape(4, 3)
    found = jax.jit(jax.vmap(each))(lasts, X[0])
    same(found, (lasts / 4 + 1.5 * X[0],) * 2)
    outside = loaded.with_variables({})
    with pytest.raises(StateError, match="under jax.jit or another transformation"):
        jax.vmap(outside.remember)(X[0])


def test_state_that_a_map_does_not_reach_is_refused_in_a_function_being_saved(loaded, tmp_path):
    class Outer:
        def __init__(self):
            self.inner = loaded

        @function(input_signature=[TensorSpec((2, 3), "float32")])
        def f(self, x):
            return jax.vmap(self.inner.remember)(x)

    with pytest.raises(NotBatchableError, match="remember changes last"):
        exporter.save(Outer(), tmp_path / "m", platforms=("cpu",))


def test_what_maps_a_loaded_function_can_be_saved(loaded, reload):
    class Outer:
        def __init__(self):
            self.inner = loaded

        @function(input_signature=[TensorSpec(("models", "batch", 3), "float32")])
        def f(self, x):
            return jax.vmap(self.inner.dense)(x)

    outer = reload(Outer(), options=SaveOptions(vjp_order=1))
    same(outer.f(X), jnp.tanh(X @ loaded.w.value))
    found = jax.grad(lambda x: outer.f(x).sum())(X)
    same(found, jax.grad(lambda x: jnp.tanh(x @ loaded.w.value).sum())(X))


def test_the_manifest_names_the_dimension_of_independent_rows(loaded):
    rows = {record.file: record.row_wise for record in loaded.manifest.programs}
    assert {file[9:-10]: name for file, name in rows.items() if ".vjp" not in file} == {
        "dense": "batch",
        "several": "batch",
        "unnamed": "_1",
        "bounded": "n",
        "normed": None,
        "single": None,
        "noisy": None,
        "counted": None,
        "remember": None,
    }
    assert rows["programs/unnamed.vjp.mlirbc.gz"] == "_1"
    assert rows["programs/dense.vjp.mlirbc.gz"] is None

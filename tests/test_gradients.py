"""Gradients through loaded functions, against those of the original under plain JAX."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import exporter
from exporter import (
    BindError,
    NoDerivativeError,
    OptionError,
    SaveOptions,
    StateError,
    TensorSpec,
    Variable,
    function,
)
from exporter.artifact import records
from exporter.artifact.derivatives import check_derivatives
from exporter.artifact.soundness import check
from exporter.runtime.describe import describe
from exporter.runtime.summary import summarise

ROWS = TensorSpec(("batch", 3), "float32")
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)


@jax.custom_vjp
def straight(x):
    """Rounds, and lets gradients through as if it had not, three times as large."""
    return jnp.round(x)


straight.defvjp(lambda x: (straight(x), None), lambda _, g: (3 * g,))


class Model:
    def __init__(self):
        self.w = Variable(jnp.arange(6.0).reshape(3, 2) / 5)
        self.tied = self.w
        self.b = Variable(jnp.ones(2) / 4, trainable=False)
        self.z = Variable(jnp.asarray([1 + 2j, -1j], jnp.complex64))
        self.half = Variable(jnp.asarray([0.5, -2, 3], jnp.bfloat16))
        self.key = Variable(jax.random.key(3))
        self.mean = Variable(jnp.zeros(2), trainable=False)
        self.count = Variable(jnp.int32(0))

    @function(input_signature=[ROWS])
    def dense(self, x):
        return jnp.tanh(x @ self.w + self.b)

    @function(input_signature=[ROWS])
    def nested(self, x):
        return {"y": jnp.sin(x) @ self.w, "best": x.argmax(1), "more": [self.b * 2, x.sum()]}

    @function(input_signature=[ROWS, TensorSpec(("batch",), "int32")])
    def picked(self, x, ids):
        return jnp.take_along_axis(x, ids[:, None] % 3, axis=1)[:, 0] * (ids + 1)

    @function(input_signature=[ROWS])
    def rounded(self, x):
        return straight(x * 2) @ self.tied

    @function(input_signature=[TensorSpec((2,), "complex64")])
    def complex(self, x):
        return (x * self.z) ** 2 + jnp.conj(x)

    @function(input_signature=[TensorSpec((3,), "bfloat16")])
    def bfloat(self, x):
        return jnp.exp(x) * self.half

    @function(input_signature=[ROWS])
    def noisy(self, x):
        self.key.value, now = jax.random.split(self.key.value)
        return x * jax.random.normal(now, x.shape)

    @function(input_signature=[ROWS])
    def normed(self, x):
        y = x @ self.w
        self.mean.value = 0.9 * self.mean + 0.1 * y.mean(0)
        self.count.value = self.count + 1
        return y - self.mean

    @function(input_signature=[TensorSpec(None, "float32", max_rank=2)])
    def ranked(self, x):
        return jnp.sin(x) * 2

    @function(input_signature=[ROWS, TensorSpec(("t", "batch"), "float32")])
    def two(self, x, y):
        return y @ x

    @function(input_signature=[ROWS])
    def scanned(self, x):
        return lax.scan(lambda c, row: (jnp.tanh(c + row), c.sum()), jnp.zeros(3), x)

    @function(input_signature=[ROWS])
    def best(self, x):
        return x.argmax(1)

    @function(input_signature=[])
    def constant(self):
        return jnp.cos(self.w).sum()


@pytest.fixture(scope="module")
def original():
    return Model()


@pytest.fixture(scope="module")
def folder(original, tmp_path_factory):
    """Saved with first derivatives."""
    path = tmp_path_factory.mktemp("gradients") / "m"
    signatures = {"dense": original.dense, "picked": original.picked}
    exporter.save(original, path, signatures, platforms=("cpu",), options=SaveOptions(vjp_order=1))
    return path


@pytest.fixture(scope="module")
def twice(reload):
    """Some of it, saved with second derivatives."""
    some = dict.fromkeys((*CALLS, "noisy", "normed", "best", "constant"))
    for name in SECOND:
        del some[name]
    return reload(type("Model", (Model,), some)(), {}, options=SaveOptions(vjp_order=2))


@pytest.fixture
def loaded(folder):
    return exporter.load(folder)


def total(tree):
    """One number made of all inexact outputs, each element with a weight of its own."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return sum(
        (jnp.abs(leaf * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape)) ** 2).sum()
        for leaf in leaves
    ).astype("float32")


IDS = jnp.asarray([0, 2, 1, 1], jnp.int32)
CALLS = {
    "dense": (X,),
    "nested": (X,),
    "picked": (X, IDS),
    "rounded": (X,),
    "complex": (jnp.asarray([1 - 1j, 2j], jnp.complex64),),
    "bfloat": (jnp.asarray([1, 0.5, -1], jnp.bfloat16),),
    "ranked": (X,),
    "two": (X, jnp.ones((2, 4))),
    "scanned": (X,),
}


def same(found, wanted, rtol=1e-5):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for pair in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert pair[0].dtype == pair[1].dtype
        if pair[0].dtype != jax.dtypes.float0:
            one, other = (np.asarray(array).astype("complex64") for array in pair)
            np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-5)


SECOND = ("dense", "rounded", "two")
OF_VARIABLES = ("dense", "nested", "rounded", "normed", "complex", "bfloat", "constant")


def with_values(values):
    """What `with_variables` gives, for the original: a copy with other values."""
    new = Model()
    for key, value in values.items():
        getattr(new, key)._value = value  # past its check
    return new


def of_inputs(model, name):
    arguments, call = CALLS[name], getattr(model, name)
    every = tuple(range(len(arguments)))
    floats = tuple(i for i in every if arguments[i].dtype != jnp.int32)
    return jax.value_and_grad(lambda *a: total(call(*a)), floats)(*arguments)


def of_variables(make, values, name):
    arguments = () if name == "constant" else CALLS.get(name, (X,))
    return jax.value_and_grad(lambda v: total(getattr(make(v), name)(*arguments)))(values)


def of_second_order(model, name):
    call, rest = getattr(model, name), CALLS[name][1:]
    return jax.jacrev(jax.grad(lambda x: total(call(x, *rest))))(X)


@pytest.fixture(scope="module")
def gradients(folder, twice, original):
    """What is found and what is wanted, by kind and name."""
    loaded = exporter.load(folder)

    @jax.jit  # once for all: compiling one by one takes several times as long
    def everything(values):
        makers = (loaded.with_variables, with_values)
        return {
            "inputs": {n: [of_inputs(m, n) for m in (loaded, original)] for n in CALLS},
            "variables": {n: [of_variables(m, values, n) for m in makers] for n in OF_VARIABLES},
            "second": {n: [of_second_order(m, n) for m in (twice, original)] for n in SECOND},
        }

    return everything(loaded.trainable_variables)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("inputs", name) for name in CALLS),
        *(("variables", name) for name in OF_VARIABLES),
        *(("second", name) for name in SECOND),
    ],
)
def test_gradients_equal_the_original_s(kind, name, gradients):
    found, wanted = gradients[kind][name]
    same(found, wanted, 1e-2 if name == "bfloat" else 1e-5)  # bfloat16 has eight bits


def test_the_trainable_variables_are_those_that_have_gradients(loaded):
    assert set(loaded.trainable_variables) == {"w", "z", "half"}
    assert {"b", "mean", "count", "key"} <= set(loaded.variables)


def test_second_derivatives_mix_inputs_and_variables(twice):
    def of(make):
        def slope(v, x):
            return jax.grad(lambda one: total(make(v).dense(one)))(x).sum()

        return jax.jit(jax.grad(slope))(twice.trainable_variables, X)

    same(of(twice.with_variables), of(with_values))


def test_whole_numbers_among_the_inputs_have_no_gradient(loaded):
    call = loaded.picked
    found, none = jax.grad(lambda x, ids: call(x, ids).sum(), (0, 1), allow_int=True)(X, IDS)
    np.testing.assert_array_equal(found, np.eye(3)[IDS % 3] * (IDS[:, None] + 1))
    assert none.dtype == jax.dtypes.float0


def test_state_that_changes_on_the_way_is_the_new_model_s(loaded):
    before = jax.tree.map(np.asarray, {k: v for k, v in loaded.variables.items() if k != "key"})

    @jax.jit
    def step(values):
        def loss(values):
            model = loaded.with_variables(values)
            model.normed(X)
            return total(model.normed(X)), model.variables

        return jax.grad(loss, has_aux=True)(values)

    _, after = step(loaded.trainable_variables)
    y = np.asarray(X @ before["w"]).mean(0)
    np.testing.assert_allclose(after["mean"], 0.1 * y + 0.09 * y, rtol=1e-5)
    assert int(after["count"]) == 2
    assert int(loaded.count) == 0
    np.testing.assert_array_equal(loaded.mean, before["mean"])
    loaded.variables = after
    assert int(loaded.count) == 2


def test_what_updates_state_has_gradients_for_inputs_in_a_model_of_its_own(loaded):
    def gradient(make):
        return jax.grad(lambda x: total(make().normed(x)))(X)

    def plain(x):
        y = x @ loaded.w.value
        return total(y - 0.1 * y.mean(0))

    same(gradient(lambda: loaded.with_variables({})), jax.grad(plain)(X))
    made_outside = loaded.with_variables({})
    for model in (loaded, made_outside):
        with pytest.raises(StateError, match="changes mean, and under jax.jit"):
            gradient(lambda model=model: model)
        assert int(model.count) == 0


def test_random_keys_are_state_like_any_other(loaded):
    def of(make):
        return jax.jit(jax.grad(lambda x: total(make().noisy(x))))(X)

    same(of(lambda: loaded.with_variables({})), of(Model))


def test_the_same_through_vjp_linearize_and_signatures(loaded, original):
    y, pull_back = jax.vjp(loaded.dense, X)
    wanted, theirs = jax.vjp(original.dense, X)
    same((y, pull_back(y)), (wanted, theirs(wanted)))
    call = loaded.signatures["picked"]
    found = jax.grad(lambda x: call(x=x, ids=IDS)["output_0"].sum())(X)
    same(found, jax.grad(lambda x: original.picked(x, IDS).sum())(X))
    same(jax.jacrev(loaded.dense)(X), jax.jacrev(original.dense)(X))


def test_an_output_without_a_gradient_needs_no_program_of_it(folder, loaded):
    assert jax.grad(lambda x: loaded.best(x).sum() * x.sum())(X).shape == X.shape
    records = {record.file: record for record in loaded.manifest.programs}
    assert records["programs/best.mlirbc.gz"].vjp is None
    assert records["programs/best.mlirbc.gz"].vjp_problem is None
    assert "programs/best.vjp.mlirbc.gz" not in records
    assert "programs/dense.vjp.mlirbc.gz" in records


def test_a_function_of_variables_alone_has_gradients(loaded):
    found = jax.grad(lambda v: loaded.with_variables(v).constant())(loaded.trainable_variables)
    np.testing.assert_allclose(found["w"], -np.sin(loaded.w), rtol=1e-6)
    np.testing.assert_array_equal(found["z"], [0, 0])


def test_two_places_of_one_array_have_one_gradient_the_sum(reload):
    shared = jnp.arange(3.0)

    class Twice:
        def __init__(self):
            self.a, self.b = shared, shared

        @function(input_signature=[TensorSpec((3,), "float32")])
        def f(self, x):
            return (self.a * x + jnp.sin(self.b)).sum()

    loaded = reload(Twice(), options=SaveOptions(vjp_order=1))
    found = jax.grad(lambda v: loaded.with_variables(v).f(jnp.ones(3)))(loaded.trainable_variables)
    assert list(found) == ["a"]
    np.testing.assert_allclose(found["a"], 1 + np.cos(shared), rtol=1e-6)


class Square:
    def __init__(self):
        self.w = Variable(jnp.float32(2))

    @function(input_signature=[TensorSpec((), "float32")])
    def square(self, x):
        return self.w * x * x


class Loop(Square):
    @function(input_signature=[TensorSpec((), "float32"), TensorSpec((), "int32")])
    def power(self, x, times):
        return lax.fori_loop(0, times, lambda _, y: y * x, self.w.value)


WHILE = (
    "Reverse-mode differentiation does not work for lax.while_loop or lax.fori_loop "
    "with dynamic start/stop values. Try using lax.scan, or using fori_loop with static start/stop."
)


def test_a_function_without_a_derivative_is_saved_and_says_why(tmp_path):
    with pytest.warns(UserWarning, match="power is saved without") as told:
        exporter.save(
            Loop(), tmp_path / "m", {}, platforms=("cpu",), options=SaveOptions(vjp_order=2)
        )
    assert [str(one.message) for one in told] == [
        "power is saved without its derivative, so gradients through it will be refused when it is "
        f"loaded: {WHILE}"
    ]
    loaded = exporter.load(tmp_path / "m")
    assert float(loaded.power(3.0, 2)) == 18
    assert float(jax.grad(loaded.square)(3.0)) == 12
    with pytest.raises(NoDerivativeError) as refused:
        jax.grad(loaded.power)(3.0, 2)
    assert str(refused.value) == (
        f"power was saved without its derivative, which could not be made then: {WHILE}"
    )


@pytest.mark.parametrize(
    ("order", "transform", "message"),
    [
        (
            0,
            jax.grad,
            "square was saved without its derivative, so JAX cannot differentiate through it. Save "
            "the original with SaveOptions(vjp_order=1).",
        ),
        (
            1,
            lambda f: jax.grad(jax.grad(f)),
            "the derivative of square was saved without its derivative, so JAX cannot "
            "differentiate through it. Save the original with SaveOptions(vjp_order=2), for "
            "derivatives of derivatives.",
        ),
        (
            2,
            lambda f: jax.grad(jax.grad(jax.grad(f))),
            "the derivative of the derivative of square has no derivative: artifacts hold them up "
            "to the second order.",
        ),
        (
            1,
            jax.jacfwd,
            "square cannot be differentiated in forward mode (jax.jvp, jax.jacfwd, jax.linearize, "
            "jax.hessian): it was loaded, and artifacts hold derivatives in reverse mode only. Use "
            "jax.grad, jax.vjp or jax.jacrev; a Hessian is jax.jacrev(jax.jacrev(f)), from what "
            "was saved with SaveOptions(vjp_order=2).",
        ),
    ],
)
def test_a_derivative_that_was_not_saved_is_refused_with_the_remedy(
    order, transform, message, reload
):
    loaded = reload(Square(), options=SaveOptions(vjp_order=order))
    with pytest.raises(NoDerivativeError) as refused:
        transform(loaded.square)(jnp.float32(3))
    assert str(refused.value) == message


@pytest.mark.parametrize("order", [3, -1, "1", None])
def test_an_order_that_there_is_not_is_refused(order):
    with pytest.raises(OptionError) as refused:
        SaveOptions(vjp_order=order)
    assert str(refused.value) == (
        f"vjp_order={order!r} is not one of 0, 1, 2: how often functions can be differentiated "
        "once they are loaded."
    )


def test_wrong_arguments_are_named_as_ever_under_a_gradient(loaded):
    with pytest.raises(BindError, match=r"x: expected float32\[batch, 3\]"):
        jax.grad(lambda x: loaded.dense(x).sum())(jnp.ones((4, 2)))


ELSEWHERE = """
import sys
import jax, jax.numpy as jnp
import exporter

model = exporter.load(sys.argv[1])
x = jnp.ones((2, 3))
loss = lambda v: (model.with_variables(v).dense(x) ** 2).sum()
print(float(jax.grad(loss)(model.trainable_variables)["w"].sum()))
"""


def test_a_process_without_the_code_has_the_gradients_too(folder, elsewhere, original):
    def loss(w):
        return (jnp.tanh(jnp.ones((2, 3)) @ w + original.b.value) ** 2).sum()

    wanted = float(jax.grad(loss)(original.w.value).sum())
    assert float(elsewhere(ELSEWHERE, folder)) == pytest.approx(wanted, rel=1e-5)


class TestSavedAgain:
    """Derivatives of functions that were loaded, in the artifacts they come to."""

    def test_any_number_of_cycles_keeps_derivatives(self, twice, reload):
        again = reload(reload(twice))
        assert again.manifest.content == twice.manifest.content
        same(*(jax.jit(of_second_order, static_argnums=(0, 1))(m, "two") for m in (again, twice)))

    @pytest.mark.parametrize(("stored", "asked"), [(0, 1), (0, 2), (1, 2)])
    def test_more_than_is_there_cannot_be_had_and_that_is_said(self, stored, asked, reload):
        loaded = reload(SimpleNamespace(loop=Square()), {}, options=SaveOptions(vjp_order=stored))
        with pytest.warns(UserWarning, match="keeps the derivatives") as told:
            again = reload(loaded, options=SaveOptions(vjp_order=asked))
        assert str(told[0].message) == (
            "square was loaded and keeps the derivatives it was saved with, fewer than vjp_order="
            f"{asked}: they cannot be made from a program. Save the original with that option."
        )
        assert again.manifest.content == loaded.manifest.content

    def test_less_than_is_there_keeps_all(self, loaded, reload):
        again = reload(loaded, options=SaveOptions(vjp_order=1))
        assert again.manifest.content == loaded.manifest.content

    @pytest.mark.parametrize("inner_order", [0, 1, 2])
    def test_a_new_model_differentiates_through_a_loaded_one_inside(self, inner_order, reload):
        inner = reload(
            SimpleNamespace(part=Square()), {}, options=SaveOptions(vjp_order=inner_order)
        )

        class Outer:
            def __init__(self):
                self.inner = inner
                self.k = Variable(jnp.float32(5))

            @function(input_signature=[TensorSpec((), "float32")])
            def f(self, x):
                return jnp.sin(self.inner.part.square(x) * self.k)

        if inner_order == 0:
            with (
                pytest.warns(UserWarning, match="square was loaded and keeps the derivatives"),
                pytest.warns(UserWarning, match="f is saved without its") as told,
            ):
                outer = reload(Outer(), options=SaveOptions(vjp_order=1))
            assert str(told[-1].message) == (
                "f is saved without its derivative, so gradients through it will be refused when "
                "it is loaded: square was saved without its derivative, so JAX "
                "cannot differentiate through it. Save the original with SaveOptions(vjp_order=1)."
            )
            with pytest.raises(NoDerivativeError, match="could not be made then: square"):
                jax.grad(outer.f)(3.0)
            return
        outer = reload(Outer(), options=SaveOptions(vjp_order=inner_order))
        grad, theirs = jax.grad(outer.f), jax.grad(lambda x: jnp.sin(2 * x * x * 5))
        for _ in range(inner_order):
            np.testing.assert_allclose(grad(3.0), theirs(3.0), rtol=1e-4)
            grad, theirs = jax.grad(grad), jax.grad(theirs)
        found = jax.grad(lambda v: outer.with_variables(v).f(3.0))(outer.trainable_variables)
        wanted = jax.grad(lambda w, k: jnp.sin(w * 9 * k), (0, 1))(2.0, 5.0)
        np.testing.assert_allclose(found["inner"]["part"]["w"], wanted[0], rtol=1e-4)
        np.testing.assert_allclose(found["k"], wanted[1], rtol=1e-4)


def edited(position, **fields):
    """A manifest with other fields in one of its programs."""

    def edit(manifest):
        programs = list(manifest.programs)
        programs[position] = records.replace(programs[position], **fields)
        return records.replace(manifest, programs=programs)

    return edit


UNLIKE = "programs[0] and programs[1] do not fit as a program and its derivative."
NOT_FIRST = "programs[2].row_wise is 'batch', which is not first everywhere."
# The programs of the artifact below are: 0 of `dense`, 1 of its derivative, 2 of `moved`.
LIES = {
    "a derivative that is not there": (
        edited(0, vjp=9),
        "programs[0].vjp is 9, and should be after 0 and below 3.",
    ),
    "a derivative of itself": (
        edited(1, vjp=1),
        "a program is the derivative of two others.",
    ),
    "a derivative before it": (
        lambda m: edited(1, vjp=0)(edited(0, vjp=None)(m)),
        "a concrete function calls the derivative of a program.",
    ),
    "a derivative that a function calls": (
        edited(0, vjp=2),
        "a concrete function calls the derivative of a program.",
    ),
    "a derivative and why there is none": (
        edited(0, vjp_problem="no"),
        "programs[0] has vjp and vjp_problem.",
    ),
    "a derivative that takes less": (edited(1, inputs=[], kept_inputs=[0]), UNLIKE),
    "a derivative that gives less": (edited(1, outputs=[]), UNLIKE),
    "a derivative that updates": (edited(1, updates=[0]), UNLIKE),
    "a derivative of other variables": (edited(1, variables=[], kept_inputs=[0, 1]), UNLIKE),
    "rows along nothing": (
        edited(0, row_wise="rows"),
        "programs[0].row_wise is 'rows', which no input has first.",
    ),
    "rows that are not first": (edited(2, row_wise="batch"), NOT_FIRST),
    "rows and updates": (edited(0, updates=[0], outputs=[]), "programs[0] has row_wise and ..."),
}


@pytest.fixture(scope="module")
def manifest(reload):
    class Two:
        dense = Model.dense

        def __init__(self):
            self.w, self.b = Variable(jnp.ones((3, 2))), Variable(jnp.ones(2))

        @function(input_signature=[ROWS])
        def moved(self, x):
            return jnp.astype(x.T, jnp.int32)

    return reload(Two(), {}, options=SaveOptions(vjp_order=1)).manifest


@pytest.mark.parametrize("name", LIES)
def test_a_manifest_cannot_lie_about_derivatives_and_rows(name, manifest):
    check(manifest)
    edit, message = LIES[name]
    with pytest.raises(ValueError, match=".") as refused:
        check(edit(manifest))
    assert str(refused.value).startswith(message.removesuffix("..."))


def test_no_chain_of_derivatives_is_long(manifest):
    empty = records.replace(manifest.programs[2], variables=[], inputs=[], outputs=[])
    chained = [records.replace(empty, vjp=position + 1) for position in range(11)]
    last = records.replace(
        manifest, programs=[*chained, empty], concrete_functions=[], functions=[]
    )
    with pytest.raises(ValueError, match="programs\\[8\\] is differentiated too often"):
        check_derivatives(last)


def test_what_an_artifact_says_of_derivatives_is_shown(manifest):
    shown = describe(manifest)
    assert "has derivatives of order 1" in shown
    summary = summarise(manifest)["functions"]
    calls = {one["paths"][0]: one["options"][0] for one in summary}
    assert [calls["dense"][key] for key in ("derivatives", "no_derivative", "row_wise")] == [
        1,
        None,
        "batch",
    ]

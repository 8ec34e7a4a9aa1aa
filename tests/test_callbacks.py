"""What a function prints or asks of Python while it runs, wherever in it that stands."""

import inspect
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify, io_callback
from jax.experimental import pallas as pl
from jax.sharding import AxisType, PartitionSpec

import exporter
from exporter import LoweringError, TensorSpec

X = np.array([1.0, 2.0, 3.0], np.float32)
SPEC = TensorSpec((3,), name="x")


def attached(python_function) -> SimpleNamespace:
    """An object with one function of one input, `x`."""
    return SimpleNamespace(f=exporter.function(python_function, input_signature=[SPEC]))


def attached_at(place, step) -> SimpleNamespace:
    """The same of a function that does a step in such a place."""

    def call(x):
        return place(step)(x)

    return attached(call)


# Each takes a function of one array that does something on the way, and uses it somewhere deep.

ROWS = jnp.arange(3.0)


def in_scan(step):
    return lambda x: jax.lax.scan(lambda c, row: (step(c), row), x, ROWS)[0]


def in_while(step):
    return lambda x: jax.lax.while_loop(lambda c: c.sum() < 20, step, x)


def in_condition(step):
    return lambda x: jax.lax.while_loop(lambda c: step(c).sum() < 20, lambda c: c + 1, x)


def in_branch(step):
    return lambda x: jax.lax.cond(x[0] > 0, step, jnp.sin, x)


def in_jit(step):
    return jax.jit(step)


def in_checkpoint(step):
    return jax.checkpoint(step)


def in_custom_vjp(step):
    rule = jax.custom_vjp(step)
    rule.defvjp(lambda x: (step(x), None), lambda _, g: (g,))
    return rule


def in_custom_jvp(step):
    rule = jax.custom_jvp(step)
    rule.defjvp(lambda primals, tangents: (step(*primals), tangents[0]))
    return rule


def in_gradient(step):
    return jax.grad(lambda x: (in_scan(step)(x) ** 2).sum())


def in_vmap(step):
    return lambda x: jax.vmap(step)(jnp.stack([x, x]))[0]


def in_shard_map(step):
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec()
    return jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)


def in_linear_solve(step):
    return lambda x: jax.lax.custom_linear_solve(
        lambda v: step(v) * 0 + v * 2, x, lambda _, b: b / 2, symmetric=True
    )


def in_all_of_them(step):
    return in_jit(in_scan(in_branch(in_checkpoint(in_custom_vjp(step)))))


PLACES = [
    in_scan,
    in_while,
    in_condition,
    in_branch,
    in_jit,
    in_checkpoint,
    in_custom_vjp,
    in_custom_jvp,
    in_gradient,
    in_vmap,
    in_shard_map,
    in_linear_solve,
    in_all_of_them,
]


def printing(x):
    jax.debug.print("x is {}", x)
    return x * 2


PRINT_LINE = f"{__file__}:{inspect.getsourcelines(printing)[1] + 1}"


@pytest.mark.parametrize("place", PLACES)
def test_prints_are_left_out_wherever_they_stand(place, reload, capfd):
    with pytest.warns(UserWarning, match="without what it prints") as warned:
        loaded = reload(attached_at(place, printing))
    told = [str(one.message) for one in warned]
    assert told == [
        f"call is saved without what it prints with jax.debug, which needs Python: {PRINT_LINE}."
    ]
    np.testing.assert_allclose(loaded.f(X), jax.jit(place(lambda x: x * 2))(X), rtol=1e-6)
    assert "x is" not in capfd.readouterr().out


def ordered(x):
    jax.debug.print("x is {}", x, ordered=True)
    return x * 2


def calling(x):
    jax.debug.callback(print, x)
    return x * 2


def stopping(x):
    jax.debug.breakpoint()
    return x * 2


# JAX's own breakpoint looks at its caller's variables in a way that JAX warns of.
@pytest.mark.filterwarnings("ignore:Python iterable type 'generator':DeprecationWarning")
@pytest.mark.parametrize("step", [ordered, calling, stopping])
@pytest.mark.parametrize("place", [in_jit, in_while])
def test_every_kind_of_debug_call_is_left_out(place, step, reload):
    line = f"{__file__}:{inspect.getsourcelines(step)[1] + 1}"
    with pytest.warns(UserWarning, match=re.escape(line)):
        loaded = reload(attached_at(place, step))
    np.testing.assert_array_equal(loaded.f(X), place(lambda x: x * 2)(X))


def test_a_print_inside_a_kernel_that_is_interpreted_is_left_out(reload):
    def kernel(x_ref, out_ref):
        jax.debug.print("first is {}", x_ref[0])
        out_ref[...] = x_ref[...] * 2

    def call(x):
        return pl.pallas_call(kernel, out_shape=x, interpret=True)(x)

    with pytest.warns(UserWarning, match="without what it prints"):
        loaded = reload(attached(call))
    np.testing.assert_array_equal(loaded.f(X), X * 2)


def asking(x):
    return jax.pure_callback(np.sin, jax.typeof(x), x, vmap_method="sequential")


ASK_LINE = f"{__file__}:{inspect.getsourcelines(asking)[1] + 1}"


def refusal(obj, folder, **options) -> LoweringError:
    with pytest.raises(LoweringError) as caught:
        exporter.save(obj, folder / "m", **{"platforms": ("cpu",)} | options)
    assert list(folder.iterdir()) == []
    return caught.value


@pytest.mark.parametrize(
    "place", [place for place in PLACES if place not in (in_gradient, in_shard_map, in_condition)]
)
def test_a_call_of_python_is_refused_with_its_line_wherever_it_stands(place, tmp_path):
    message = str(refusal(attached_at(place, asking), tmp_path))
    assert message == (
        "call calls back into Python, which a program without its Python code cannot do: "
        f"pure_callback at {ASK_LINE}. Remove the call, or return the value and use it outside."
    )


def test_calls_of_python_and_all_else_come_in_one_error(tmp_path):
    large = np.ones((600, 600), np.float32)

    def everything(x):
        io_callback(print, None, x)
        y = jax.scipy.linalg.schur(jnp.outer(x, x))[0][0]
        return asking(y) + jnp.asarray(large).sum()

    error = refusal(attached(everything), tmp_path, platforms=("cpu", "tpu"))
    first = inspect.getsourcelines(everything)[1]
    assert [(one.kind, one.line) for one in error.problems] == [
        ("callback", f"{__file__}:{first + 1}"),
        ("callback", ASK_LINE),
        ("constant", f"{__file__}:{first + 3}"),
        ("platform", f"{__file__}:{first + 2}"),
    ]
    assert len(str(error).splitlines()) == 4
    assert {one.inputs for one in error.problems} == {"x: float32[3]"}


def test_what_several_functions_call_comes_in_one_error(tmp_path):
    obj = SimpleNamespace(
        one=exporter.function(asking, input_signature=[SPEC]),
        two=exporter.function(lambda x: asking(x) + 1, input_signature=[SPEC]),
    )
    problems = refusal(obj, tmp_path, signatures={}).problems
    assert [(one.function, one.kind) for one in problems] == [
        ("one", "callback"),
        ("two", "callback"),
    ]


def test_a_check_of_equinox_is_named_with_what_switches_it_off(tmp_path):
    eqx = pytest.importorskip("equinox", reason="equinox is not installed: its advice is not told")

    def positive(x):
        return eqx.error_if(x, x.sum() < 0, "negative")

    message = str(refusal(attached(positive), tmp_path))
    place = f"{__file__}:{inspect.getsourcelines(positive)[1] + 1}"
    assert message == (
        "positive calls back into Python, which a program without its Python code cannot do: "
        f"pure_callback at {place}. It is a check of Equinox's error_if: set the environment "
        "variable EQX_ON_ERROR=nan to have NaN where it fails, or EQX_ON_ERROR=off to leave it out."
    )


def test_a_checked_function_whose_error_is_handled_is_saved(reload):
    def checked(x):
        checkify.check(x.sum() > 0, "not positive")
        return x * 2

    def counted(x):
        error, y = checkify.checkify(checked, errors=checkify.user_checks)(x)
        failed = jnp.stack([jnp.asarray(leaf) for leaf in jax.tree.leaves(error._pred)])
        return jnp.where(failed.any(), -1, y)

    loaded = reload(attached(counted))
    np.testing.assert_array_equal(loaded.f(X), X * 2)
    np.testing.assert_array_equal(loaded.f(-X), [-1, -1, -1])

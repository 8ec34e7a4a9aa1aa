"""Kernels: code for one platform, saved for it, with other code for the others, or interpreted."""

import inspect
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

import exporter
from exporter import LoweringError, TensorSpec, Variable

SHAPE = (8, 128)
X = np.arange(8 * 128, dtype=np.float32).reshape(SHAPE)


def add_one(x_ref, out_ref):
    out_ref[...] = x_ref[...] + 1.0


def kernel(x):
    return pl.pallas_call(add_one, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype))(x)


KERNEL_LINE = f"{__file__}:{inspect.getsourcelines(kernel)[1] + 1}"


def interpreted(x):
    out = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(add_one, out_shape=out, interpret=True)(x)


def dispatched(x):
    return jax.lax.platform_dependent(x, tpu=kernel, default=lambda y: y + 1.0)


def attached(python_function, *specs) -> SimpleNamespace:
    signature = list(specs or [TensorSpec(SHAPE, name="x")])
    return SimpleNamespace(f=exporter.function(python_function, input_signature=signature))


def test_a_kernel_is_saved_for_the_platform_it_is_written_for(tmp_path):
    exporter.save(attached(kernel), tmp_path / "m", platforms=("tpu",))
    with pytest.raises(exporter.IncompatibleRuntimeError, match="runs on tpu"):
        exporter.load(tmp_path / "m")


def test_a_kernel_alone_is_refused_for_other_platforms_with_both_remedies(tmp_path):
    with pytest.raises(LoweringError) as caught:
        exporter.save(attached(kernel), tmp_path / "m", platforms=("cpu", "tpu"))
    assert str(caught.value) == (
        f"kernel cannot be lowered for cpu: pallas_call at {KERNEL_LINE}: Only interpret mode is "
        "supported on CPU backend. A kernel runs on the platform that it was written for: save it "
        "with platforms=('tpu',), or give the others code of their own with "
        "jax.lax.platform_dependent(..., tpu=kernel, default=plain)."
    )
    assert list(tmp_path.iterdir()) == []


# Lowering for GPUs on a machine without one is refused by JAX 0.12, and warned of by JAX 0.10.
@pytest.mark.filterwarnings("ignore:Using ``pl.pallas_call`` for Mosaic GPU:DeprecationWarning")
def test_a_report_names_every_platform_that_a_kernel_does_not_run_on():
    report = exporter.check(attached(kernel))
    refused = [platform for problem in report.problems for platform in problem.platforms]
    assert {"cpu", "rocm"} <= set(refused)
    assert "tpu" not in refused
    assert {problem.line for problem in report.problems if problem.is_error} == {KERNEL_LINE}


def test_a_kernel_that_is_interpreted_runs_everywhere(reload):
    loaded = reload(attached(interpreted), platforms=None)
    assert loaded.manifest.platforms == ["cpu", "cuda", "rocm", "tpu"]
    np.testing.assert_array_equal(loaded.f(X), X + 1)


def test_a_kernel_with_other_code_for_the_others_is_saved_for_all(reload):
    loaded = reload(attached(dispatched), platforms=None)
    (program,) = loaded.manifest.programs
    assert program.platforms == ["cpu", "cuda", "rocm", "tpu"]
    assert program.custom_calls == ["tpu_custom_call"]
    np.testing.assert_array_equal(loaded.f(X), X + 1)
    np.testing.assert_array_equal(jax.jit(lambda x: loaded.f(x) * 2)(X), (X + 1) * 2)


def test_the_program_of_a_kernel_reads_in_a_process_without_the_model(tmp_path, elsewhere):
    exporter.save(attached(dispatched), tmp_path / "m")
    program = (
        "import sys, numpy as np, exporter; f = exporter.load(sys.argv[1]).f; "
        "print(float(np.sum(f(np.ones((8, 128), np.float32)))))"
    )
    assert elsewhere(program, tmp_path / "m") == f"{8 * 128 * 2.0}\n"


class Stateful:
    """A kernel among named sizes, variables, constants and linear algebra."""

    def __init__(self):
        self.total = Variable(jnp.zeros(SHAPE))
        self.scale = jnp.float32(3)

    @exporter.function(
        input_signature=[TensorSpec(("n", "n"), name="a"), TensorSpec(SHAPE, name="x")]
    )
    def f(self, a, x):
        self.total.value = self.total.value + dispatched(x)
        outer = dispatched(x * self.scale)
        spd = a @ a.T + jnp.eye(a.shape[0])
        return jnp.linalg.cholesky(spd), outer, jnp.float32(a.shape[0])


@pytest.mark.parametrize("platforms", [None, ("tpu", "cpu"), ("cpu", "tpu")])
def test_joined_programs_keep_named_sizes_state_and_structure(platforms, reload):
    loaded = reload(Stateful(), platforms=platforms)
    for n in (1, 2, 5):
        a = np.random.default_rng(n).normal(size=(n, n)).astype(np.float32)
        factor, outer, size = loaded.f(a, X)
        np.testing.assert_allclose(factor, np.linalg.cholesky(a @ a.T + np.eye(n)), rtol=1e-4)
        np.testing.assert_array_equal(outer, X * 3 + 1)
        assert size == n
    np.testing.assert_allclose(loaded.total, (X + 1) * 3)


def test_a_program_that_was_joined_is_saved_again_as_it_was(reload):
    loaded = reload(attached(dispatched), platforms=None)
    again = reload(loaded, platforms=None)
    assert again.manifest.content.programs == loaded.manifest.content.programs
    np.testing.assert_array_equal(again.f(X), X + 1)


def test_a_joined_program_is_the_same_each_time(reload):
    one, two = (reload(attached(dispatched), platforms=None) for _ in range(2))
    assert one.manifest.content == two.manifest.content

"""What is read out of programs: their operations, counted, and what they cost, as XLA counts it."""

import os
import signal
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hostile.damage import copy_to, replace_program
from jax import export
from jax._src.interpreters import mlir
from jaxlib.mlir import ir

import exporter
from exporter import ArtifactError, Dim, OptionError, TensorSpec
from exporter.artifact.manifest import read as read_manifest
from exporter.jax_internals import portable_bytecode
from exporter.jax_programs import read_operations
from exporter.operations import MOST, Array, Operations
from exporter.runtime.costs import Amount, UnknownSizeError, cost_of
from exporter.runtime.inspection import Reader, inspect

GOLDEN = sorted(path.parent for path in Path(__file__).parent.glob("golden/*/saved_model.json"))


def bytecode_of(text: str) -> bytes:
    """A portable program written by hand."""
    with mlir.make_ir_context():
        return portable_bytecode(ir.Module.parse(text), "1.0.0")


def struct(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def bytecode_for(function, *structs) -> bytes:
    return bytes(
        export.export(jax.jit(function), platforms=["cpu"])(*structs).mlir_module_serialized
    )


def both(function, *structs) -> list[Operations]:
    """The operations of an exported function as they stand in it, and those that are left."""
    whole, sized = read_operations(bytecode_for(function, *structs), [one.shape for one in structs])
    assert isinstance(sized, Operations)
    return [whole, sized]


def convolution(**options):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
        )

    return convolve


def network(x, kernel, weights):
    x = jnp.tanh(convolution(window_strides=(2, 2), padding="SAME")(x, kernel))
    return jax.nn.softmax(x.reshape(x.shape[0], -1) @ weights + 1)


IMAGES = struct(4, 16, 12, 6)


@pytest.fixture(scope="module")
def reader():
    with closing(Reader()) as reader:
        yield reader


PLAIN = {"window_strides": (1, 1), "padding": "SAME"}


@pytest.mark.parametrize(
    ("function", "structs"),
    [
        (jnp.matmul, [struct(3, 5), struct(5, 7)]),
        (lambda x, y: jnp.einsum("bij,bkj->bik", x, y), [struct(2, 3, 5), struct(2, 7, 5)]),
        (jnp.vdot, [struct(9), struct(9)]),
        (convolution(**PLAIN), [IMAGES, struct(3, 3, 6, 8)]),
        (convolution(window_strides=(2, 3), padding="VALID"), [IMAGES, struct(5, 1, 6, 2)]),
        (convolution(**PLAIN, rhs_dilation=(2, 1)), [IMAGES, struct(3, 3, 6, 8)]),
        (convolution(window_strides=(1, 1), padding=((2, 1), (0, 3)), lhs_dilation=(2, 3)),
         [IMAGES, struct(3, 3, 6, 8)]),
        (convolution(**PLAIN, feature_group_count=3), [IMAGES, struct(3, 3, 2, 9)]),
        (convolution(**PLAIN, batch_group_count=2), [IMAGES, struct(3, 3, 6, 8)]),
        (lambda x: jax.nn.softmax(x) + jnp.sin(x), [struct(8, 10)]),
        (lambda x: jnp.cumsum(x, axis=1) * jnp.max(x), [struct(8, 10)]),
        (lambda x: jnp.where(x > 0, x, -x).astype(jnp.int32) << 2, [struct(8, 10)]),
        (network, [IMAGES, struct(3, 3, 6, 8), struct(8 * 6 * 8, 10)]),
        (jax.grad(lambda *args: network(*args)[0, 0], (0, 1, 2)),
         [IMAGES, struct(3, 3, 6, 8), struct(8 * 6 * 8, 10)]),
    ],
)  # fmt: skip
def test_operations_are_counted_as_xla_counts_them(function, structs):
    expected = jax.jit(function).lower(*structs).cost_analysis()
    for operations in both(function, *structs):
        cost = cost_of(operations)
        assert cost.loops == 0
        assert cost.once.flops == expected["flops"]
        assert cost.once.transcendentals == expected.get("transcendentals", 0)


def test_the_flops_of_a_network_are_those_that_xla_gives_for_its_compiled_code():
    structs = [IMAGES, struct(3, 3, 6, 8), struct(8 * 6 * 8, 10)]
    compiled = jax.jit(network).lower(*structs).compile().cost_analysis()
    (cost, _) = map(cost_of, both(network, *structs))
    # Compiled, a few operations by elements have become others.
    assert cost.once.flops == pytest.approx(compiled["flops"], rel=0.01)
    assert cost.once.bytes >= compiled["bytes accessed"] * 0.9


def test_bytes_are_those_that_operations_take_and_give():
    (cost, _) = map(cost_of, both(lambda x, y: (x @ y)[:2], struct(4, 8), struct(8, 3)))
    assert cost.once.bytes == 4 * (4 * 8 + 8 * 3 + 4 * 3) + 4 * (2 * 2 * 3)


def test_bytes_of_element_types():
    sizes = {"f32": 4, "bf16": 2, "i1": 1, "ui4": 1, "complex<f64>": 16, "f8E4M3FN": 1, "token": 0}
    assert {name: Array(name).item_bytes for name in sizes} == sizes


def counting(start, end, step, compare):
    def loop(x):
        return jax.lax.while_loop(
            lambda c: compare(c[0], end), lambda c: (c[0] + step, c[1] @ c[1]), (start, x)
        )[1]

    return loop


@pytest.mark.parametrize(
    ("loop", "trips"),
    [
        (lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=7)[0], 7),
        (lambda x: jax.lax.fori_loop(2, 17, lambda i, c: c @ c, x), 15),
        (counting(0, 10, 3, jax.lax.lt), 4),
        (counting(0, 9, 3, jax.lax.lt), 3),
        (counting(0, 9, 3, jax.lax.le), 4),
        (counting(9, 0, -2, jax.lax.gt), 5),
        (counting(9, 1, -2, jax.lax.ge), 5),
        (counting(5, 5, 1, jax.lax.lt), 0),
    ],
)
def test_a_loop_counts_as_often_as_it_runs(loop, trips):
    for operations in both(loop, struct(4, 4)):
        cost = cost_of(operations)
        assert cost.loops == 0
        assert cost.once.flops // (2 * 4**3) == trips


def test_a_loop_without_an_end_in_the_text_is_told_per_iteration():
    def search(x):
        def step(y):
            return jax.lax.fori_loop(0, 5, lambda i, z: z @ z, y)

        return jax.lax.while_loop(lambda y: y.sum() > 0, step, x @ x)

    for operations in both(search, struct(4, 4)):
        cost = cost_of(operations)
        assert cost.loops == 1
        assert cost.once.flops == 2 * 4**3
        assert cost.per_iteration.flops // (2 * 4**3) == 5


def test_of_several_branches_the_dearest_counts():
    def choose(i, x):
        return jax.lax.switch(i, [lambda y: y, lambda y: y @ y @ y, lambda y: y @ y], x)

    structs = [jax.ShapeDtypeStruct((), jnp.int32), struct(4, 4)]
    for operations in both(choose, *structs):
        assert cost_of(operations).once.flops // (2 * 4**3) == 2


def test_operations_of_functions_are_counted_where_they_are_called():
    inner = jax.jit(lambda x: jnp.sin(x) + jnp.sin(x * 2))

    def outer(x):
        y = inner(inner(x))
        return jax.lax.cond(x.sum() > 0, inner, jnp.cos, y)

    whole, sized = both(outer, struct(3))
    assert whole.histogram["stablehlo.sine"] == 6
    assert whole.histogram["stablehlo.cosine"] == 1
    assert "func.call" not in whole.histogram
    # JAX itself writes the functions out, and finds as many.
    assert sized.histogram["stablehlo.sine"] == 6
    assert next(iter(whole.functions)) == "main"


CHAIN = "func.func private @f{0}(%0: tensor<f32>) -> tensor<f32> {{ {1} return %2 : tensor<f32> }}"
CALLS = "%{1} = func.call @f{2}(%{0}) : (tensor<f32>) -> tensor<f32>"
MAIN = CHAIN.replace("private @f{0}", "public @main")
LEAF = "%2 = stablehlo.sine %0 : tensor<f32>"


def test_a_small_program_with_more_operations_than_memory_holds_is_counted():
    depth = 300
    twice = [" ".join(CALLS.format(i, i + 1, n) for i in (0, 1)) for n in range(depth)]
    functions = [CHAIN.format(n, twice[n + 1]) for n in range(depth - 1)]
    last = CHAIN.format(depth - 1, LEAF)
    program = bytecode_of("\n".join([MAIN.format("", twice[0]), *functions, last]))
    whole, sized = read_operations(program, [()])
    assert whole.histogram == {"stablehlo.sine": MOST}
    assert "operations with every call written out" in sized
    assert cost_of(whole).once == Amount(transcendentals=MOST, bytes=MOST)


def test_regions_may_stand_in_regions_as_deep_as_an_author_likes():
    depth = 400
    text = "%2 = stablehlo.sine %0 : tensor<f32>"
    for n in range(depth):
        # Names of values in regions may hide nothing, so each level has its own.
        inner = text.replace("%2 =", f"%x{n} =", 1) if n else text.replace("%2", "%x0")
        text = (
            f'%2 = "stablehlo.if"(%1) ({{ {inner} stablehlo.return %x{n} : tensor<f32> }}, '
            "{ stablehlo.return %0 : tensor<f32> }) : (tensor<i1>) -> tensor<f32>"
        )
    flag = "%1 = stablehlo.constant dense<true> : tensor<i1>"
    operations, _ = read_operations(bytecode_of(MAIN.format("", f"{flag} {text}")))
    assert operations.histogram == {
        "stablehlo.if": depth,
        "stablehlo.constant": 1,
        "stablehlo.sine": 1,
    }
    assert cost_of(operations).once.transcendentals == 1


def test_functions_that_call_each_other_in_a_circle_are_refused(reader, tmp_path):
    once = CALLS.format(0, 2, 0)
    program = bytecode_of(f"{MAIN.format('', once)}\n{CHAIN.format(0, once)}")
    operations, _ = read_operations(program)
    with pytest.raises(ValueError, match="call each other in a circle"):
        _ = operations.histogram
    folder = copy_to(tmp_path / "m")
    replace_program(folder, "add", program)
    with pytest.raises(ArtifactError, match=r"add.mlirbc.* call each other in a circle"):
        inspect(folder, read_manifest(folder), reader)


@pytest.mark.parametrize("program", [b"", b"junk", b"ML\xefR", b"ML\xefR" + bytes(1000)])
def test_what_is_no_program_is_refused(program):
    with pytest.raises(ValueError, match=r"not MLIR bytecode|Failed to deserialize"):
        read_operations(program)


def test_a_program_that_ends_its_reader_or_never_ends_is_refused():
    program = bytecode_for(jnp.sin, struct(3))
    with closing(Reader()) as reader:
        assert reader.read(program)[0].histogram == {"stablehlo.sine": 1}
        os.kill(reader._process.pid, signal.SIGSEGV)
        reader._process.join()
        with pytest.raises(ValueError, match="ends the process that reads it"):
            reader.read(program)
        assert reader.read(program, [(3,)])[1].histogram == {"stablehlo.sine": 1}
    with closing(Reader(timeout_s=0.001)) as reader:
        for _ in range(2):
            with pytest.raises(ValueError, match=r"not read to its end in 0.001 seconds"):
                reader.read(program)


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda path: path.name)
def test_every_program_of_the_committed_artifacts_is_looked_into(reader, folder):
    manifest = read_manifest(folder)
    axes = {dim.name for program in manifest.programs for dim in program.dims}
    for one in inspect(folder, manifest, reader, dict.fromkeys(axes, 4)):
        assert sorted(one.operations.custom_calls) == one.record.custom_calls
        assert one.users.functions
        assert one.operations.count > 0
        assert one.cost is not None, one.without_cost


class Network:
    def __init__(self):
        self.weights = jnp.ones((6, 5))

    @exporter.function(
        input_signature=[TensorSpec((Dim("batch", max=64), "n", 6), name="x")],
    )
    def apply(self, x):
        return jax.nn.gelu(x @ self.weights).sum(axis=1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("network") / "m"
    options = exporter.SaveOptions(vjp_order=1)
    exporter.save(Network(), folder, platforms=("cpu", "cuda"), options=options)
    return folder


def test_the_cost_for_given_sizes_of_named_axes_is_that_of_the_function_for_them(reader, saved):
    manifest = read_manifest(saved)
    program, derivative = inspect(saved, manifest, reader, {"batch": 8, "n": 3}, "serving_default")
    network = Network()
    lowered = jax.jit(lambda w, x: jax.nn.gelu(x @ w).sum(axis=1)).lower(
        network.weights, np.ones((8, 3, 6), np.float32)
    )
    assert program.cost.once.flops == pytest.approx(lowered.cost_analysis()["flops"], rel=0.02)
    assert (program.users.signatures, program.users.functions) == (
        ("serving_default",),
        ("apply",),
    )
    assert derivative.users.derivative_of == program.record.file
    assert derivative.cost.once.flops > program.cost.once.flops
    assert program.bytecode_bytes > program.file_bytes


def test_without_sizes_the_cost_is_not_known_and_the_axes_are_named(reader, saved):
    program, _ = inspect(saved, read_manifest(saved), reader, {"batch": 8})
    assert program.cost is None
    assert program.without_cost == "it depends on the size of n"
    with pytest.raises(UnknownSizeError):
        cost_of(program.operations)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"rows": 1}, "no axis is named 'rows'; known: batch, n."),
        ({"batch": 0}, "batch=0: expected a size from 1 to 2147483647."),
        ({"batch": 2**40}, f"batch={2**40}: expected a size from 1 to 2147483647."),
    ],
)
def test_sizes_of_no_axis_and_impossible_ones_are_refused(reader, saved, sizes, message):
    with pytest.raises(OptionError) as caught:
        inspect(saved, read_manifest(saved), reader, sizes)
    assert str(caught.value) == message


def test_a_size_that_the_program_itself_refuses_has_no_cost(reader, saved):
    program, _ = inspect(saved, read_manifest(saved), reader, {"batch": 65, "n": 1})
    assert program.cost is None
    assert program.without_cost.startswith("its arrays cannot have these sizes: ")

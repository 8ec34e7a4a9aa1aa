"""Programs as they stand in the folder: portable, the same each time, called as FORMAT.md says."""

import gzip
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts
from golden.write import Golden
from jax._src import compiler
from jax._src.export import _export
from jax._src.interpreters import mlir
from jax._src.lib import _jax
from jax.experimental import io_callback
from jaxlib.mlir import ir, passmanager
from jaxlib.mlir.dialects import stablehlo

import exporter
from exporter import Dim, LoweringError, SaveOptions, TensorSpec, Variable

ROOT = Path(__file__).resolve().parent.parent


def model(function, *specs: TensorSpec):
    """An object with one function of no state."""

    class Model:
        call = exporter.function(function, input_signature=list(specs or [TensorSpec((2,))]))

    return Model()


def saved(folder: Path, obj: object, **options: object) -> dict:
    """The manifest of what was saved, as JSON has it."""
    exporter.save(obj, folder, **options)
    return json.loads((folder / "saved_model.json").read_text())


def refusal(folder: Path, obj: object, **options: object) -> str:
    with pytest.raises(LoweringError) as caught:
        exporter.save(obj, folder, **options)
    assert not folder.exists()
    return str(caught.value)


def add_one(self, x):
    return x + 1


def best(self, x):
    return jax.lax.top_k(x, 1)


def narrow(self, x):
    return x.astype(jnp.int2).astype(jnp.float32)


def test_operations_that_jax_lowers_to_others_first_can_stand_in_a_function(tmp_path):
    edges = jnp.arange(3.0)

    def buckets(self, x):
        return jnp.searchsorted(edges, x)

    exporter.save(model(buckets, TensorSpec(("batch", 2))), tmp_path / "model")
    x = np.asarray([[-1.0, 0.5], [1.5, 9.0]], np.float32)
    np.testing.assert_array_equal(
        exporter.load(tmp_path / "model").call(x), np.searchsorted(np.arange(3.0), x)
    )


# Versions.


@pytest.mark.parametrize(
    ("function", "wanted", "written"),
    [
        (add_one, "oldest", "0.9.0"),
        (best, "oldest", "1.0.0"),
        (narrow, "oldest", "1.4.0"),
        (add_one, "1.2.0", "1.2.0"),
        (best, "1.4.0", "1.4.0"),
    ],
)
def test_a_program_is_portable_bytecode_of_the_version_that_is_recorded(
    tmp_path, function, wanted, written
):
    options = SaveOptions(stablehlo_version=wanted)
    document = saved(tmp_path / "model", model(function), options=options)
    (program,) = document["programs"]
    assert program["stablehlo_version"] == document["stablehlo_version"] == written
    bytecode = gzip.decompress((tmp_path / "model" / program["file"]).read_bytes())
    assert bytecode.startswith(b"ML\xefR")
    # The name of what wrote it follows the magic and a number.
    assert bytecode[5:].startswith(f"StableHLO_v{written}\0".encode())


def test_a_version_that_cannot_express_a_program_is_refused(tmp_path):
    options = SaveOptions(stablehlo_version="0.9.0")
    message = refusal(tmp_path / "model", model(best), options=options)
    assert message.startswith("best cannot be expressed in StableHLO 0.9.0: ")


@pytest.mark.parametrize("version", ["99.0.0", "0.8.0", "newest", ""])
def test_a_version_that_jax_does_not_write_is_refused(tmp_path, version):
    options = SaveOptions(stablehlo_version=version)
    newest = re.escape(stablehlo.get_current_version())
    assert re.fullmatch(
        rf"stablehlo_version='{re.escape(version)}' is not a version that JAX "
        rf"{re.escape(jax.__version__)} writes: '0\.9\.0' to '{newest}', or 'oldest'\.",
        refusal(tmp_path / "model", model(add_one), options=options),
    )


# The same each time.

SOURCE = """
import sys
import jax, jax.numpy as jnp
import exporter
from exporter import Dim, TensorSpec, Variable

class Model:
    def __init__(self):
        self.count = Variable(jnp.int32(0))
        self.kernel = jnp.ones((3, 2))
        self.key = jax.random.key(0)

    @exporter.function(input_signature=[TensorSpec((Dim("n", max=9), 3))])
    def call(self, x):
        self.count.value += 1
        return jax.nn.softmax(x @ self.kernel), jax.random.normal(self.key, (2,))

    @exporter.function(input_signature=[TensorSpec((3, 3))])
    def factor(self, x):
        return jnp.linalg.cholesky(x)

for folder in sys.argv[1:]:
    exporter.save(Model(), folder, {})
"""


def programs(folder: Path) -> dict[str, bytes]:
    files = (folder / "programs").iterdir()
    return {path.name: gzip.decompress(path.read_bytes()) for path in files}


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    unpacked = {n: gzip.decompress(data) for n, data in found.items() if n.endswith(".gz")}
    return found | unpacked


@pytest.fixture(scope="module")
def writers(tmp_path_factory):
    """Two processes in two folders, with the same source, which save the same twice each."""
    folders = []
    running = []
    for name, padding in (("first", ""), ("second-of-them", "\n\n\n")):
        folder = tmp_path_factory.mktemp(name)
        (folder / "source.py").write_text(padding + SOURCE)
        folders += [folder / "one", folder / "two"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, folder / "source.py", folder / "one", folder / "two"]
        running.append(
            subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE)
        )
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    return folders


def test_a_model_has_the_same_programs_whenever_and_wherever_it_is_saved(writers):
    first, *others = map(programs, writers)
    assert sorted(first) == ["call.mlirbc.gz", "factor.mlirbc.gz"]
    assert all(other == first for other in others)


def test_a_model_has_the_same_content_whenever_and_wherever_it_is_saved(writers):
    first, *others = (exporter.load(folder).manifest for folder in writers)
    for other in others:
        assert other.content == first.content
        assert other.programs == first.programs
        assert other.concrete_functions == first.concrete_functions


def test_no_path_of_the_writer_is_in_an_artifact(writers):
    for folder in writers:
        for name, data in contents(folder).items():
            for trace in (str(folder.parent), "source.py", os.path.expanduser("~"), str(ROOT)):  # noqa: PTH111
                assert trace.encode() not in data, (name, trace)


def test_locations_are_kept_when_asked(tmp_path):
    plain = saved(tmp_path / "plain", model(add_one))
    told = saved(tmp_path / "told", model(add_one), options=SaveOptions(debug_info=True))
    (without,) = programs(tmp_path / "plain").values()
    (with_lines,) = programs(tmp_path / "told").values()
    assert Path(__file__).name.encode() not in without
    assert Path(__file__).name.encode() in with_lines
    assert len(with_lines) > len(without)
    assert told["programs"] == plain["programs"]
    np.testing.assert_array_equal(exporter.load(tmp_path / "told").call([1.0, 2.0]), [2, 3])


# Platforms.


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (["cpu"], ["cpu"]),
        (["gpu", "cpu", "cuda"], ["cuda", "cpu"]),
        (("tpu", "rocm", "cpu"), ["tpu", "rocm", "cpu"]),
        ("cpu", ["cpu"]),
    ],
)
def test_platforms_have_the_names_that_programs_know(tmp_path, given, written):
    document = saved(tmp_path / "model", model(add_one), platforms=given)
    assert document["programs"][0]["platforms"] == written
    assert sorted(document["platforms"]) == sorted(written)
    np.testing.assert_array_equal(exporter.load(tmp_path / "model").call([1.0, 2.0]), [2, 3])


def test_every_platform_is_the_default(tmp_path):
    assert saved(tmp_path / "model", model(add_one))["platforms"] == ["cpu", "cuda", "rocm", "tpu"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["cpu", "metal"], "'metal'"),
        (["CPU"], "'CPU'"),
        ("mps", "'mps'"),
        ([], "none"),
    ],
)
def test_platforms_that_nobody_knows_are_refused(tmp_path, given, named):
    assert refusal(tmp_path / "model", model(add_one), platforms=given) == (
        f"platforms= names {named}; the choices are cpu, cuda, rocm, tpu ('gpu' is 'cuda')."
    )


# What cannot be part of a program.


def pure(self, x):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((2,), "float32"), x)


def with_effect(self, x):
    return io_callback(np.sin, jax.ShapeDtypeStruct((2,), "float32"), x)


def inside(self, x):
    def step(carry, row):
        return carry, jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), "float32"), row)

    return jax.lax.scan(step, 0.0, x)[1]


@pytest.mark.parametrize(
    ("function", "primitive", "line"),
    [(pure, "pure_callback", 1), (with_effect, "io_callback", 1), (inside, "pure_callback", 2)],
)
def test_calls_of_python_are_refused_with_their_place(tmp_path, function, primitive, line):
    place = f"{__file__}:{inspect.getsourcelines(function)[1] + line}"
    assert refusal(tmp_path / "model", model(function)) == (
        f"{function.__name__} calls back into Python, which a program without its Python code "
        f"cannot do: {primitive} at {place}. Remove the call, or return the value and use it "
        "outside."
    )


def test_every_call_of_python_is_named(tmp_path):
    def both(self, x):
        return pure(self, x) + with_effect(self, x)

    message = refusal(tmp_path / "model", model(both))
    first, second = message.splitlines()
    assert re.search(r"cannot do: pure_callback at \S+:\d+\.$", first)
    assert re.search(r"cannot do: io_callback at \S+:\d+\. Remove the call, or", second)


def printing(self, x):
    jax.debug.print("x is {}", x)
    return jax.lax.cond(x[0] > 0, lambda y: jax.debug.callback(print, y) or y, jnp.sin, x)


def test_prints_are_left_out_with_a_warning(tmp_path, capfd):
    first = inspect.getsourcelines(printing)[1]
    with pytest.warns(UserWarning, match="without what it prints") as warned:
        saved(tmp_path / "model", model(printing))
    assert [str(one.message) for one in warned] == [
        "printing is saved without what it prints with jax.debug, which needs Python: "
        f"{__file__}:{first + 1}; {__file__}:{first + 2}."
    ]
    result = exporter.load(tmp_path / "model").call([1.0, 2.0])
    np.testing.assert_array_equal(result, [1, 2])
    assert capfd.readouterr().out == ""


LARGE = np.ones((600, 600), np.float32)


def with_large(self, x):
    return x + jnp.asarray(LARGE).sum()


def with_large_inside(self, x):
    return jax.lax.fori_loop(0, 3, lambda _, y: y + jnp.asarray(LARGE).sum(), x)


@pytest.mark.parametrize("function", [with_large, with_large_inside])
def test_large_constants_are_refused_with_their_name_and_place(tmp_path, function):
    place = f"{__file__}:{inspect.getsourcelines(function)[1] + 1}"
    assert refusal(tmp_path / "model", model(function)) == (
        f"{function.__name__} uses the array LARGE, float32[600, 600] of 1,440,000 bytes at "
        f"{place}, which the object does not hold, so it would be written into the program itself. "
        "Assign it to an attribute of the object and read it from there (or raise "
        "SaveOptions(max_constant_bytes=1048576))."
    )


def test_large_constants_are_kept_when_asked_and_small_ones_always(tmp_path):
    options = SaveOptions(max_constant_bytes=LARGE.nbytes)
    document = saved(tmp_path / "large", model(with_large), options=options)
    assert document["variables"] == []
    np.testing.assert_array_equal(
        exporter.load(tmp_path / "large").call([1.0, 2.0]), [360_001, 360_002]
    )
    small = np.array([5, 6], np.float32)
    saved(tmp_path / "small", model(lambda self, x: x * small))
    np.testing.assert_array_equal(exporter.load(tmp_path / "small").call([1.0, 2.0]), [5, 12])
    refusal(
        tmp_path / "none",
        model(lambda self, x: x * small),
        options=SaveOptions(max_constant_bytes=7),
    )


def test_native_functions_that_jax_promises_to_keep_are_listed(tmp_path):
    def factor(self, x):
        return jnp.linalg.cholesky(x)

    document = saved(tmp_path / "model", model(factor, TensorSpec((3, 3))), platforms=["cpu"])
    assert document["programs"][0]["custom_calls"] == ["lapack_spotrf_ffi"]
    assert "lapack_spotrf_ffi" in _export._CUSTOM_CALL_TARGETS_GUARANTEED_STABLE


def native(self, x):
    return jax.ffi.ffi_call("run_anything", jax.ShapeDtypeStruct((2,), "float32"))(x)


def test_native_functions_that_nobody_promises_are_refused(tmp_path):
    place = f"{__file__}:{inspect.getsourcelines(native)[1] + 1}"
    assert refusal(tmp_path / "model", model(native)) == (
        f"native calls run_anything at {place}, of which nobody promises that later releases still "
        "have it. Compute it with other operations, or vouch for it with "
        "SaveOptions(custom_calls=('run_anything',)), as its readers then must: "
        "exporter.load(path, custom_calls=('run_anything',))."
    )


def general_eigenvalues(self, x):
    return jnp.linalg.eig(x)[0].real


def test_an_operation_that_a_platform_lacks_is_named_with_its_place(tmp_path):
    eig = model(general_eigenvalues, TensorSpec((2, 2)))
    place = f"{__file__}:{inspect.getsourcelines(general_eigenvalues)[1] + 1}"
    calls = "('cuhybrid_eig_real', 'hiphybrid_eig_real')"
    assert refusal(tmp_path / "model", eig) == (
        f"general_eigenvalues cannot be lowered for tpu: eig at {place} has no lowering there. "
        "Save it with platforms=('cpu',).\n"
        f"general_eigenvalues calls cuhybrid_eig_real at {place} for cuda, of which nobody "
        "promises that later releases still have it.\n"
        f"general_eigenvalues calls hiphybrid_eig_real at {place} for rocm, of which nobody "
        "promises that later releases still have it. Compute it with other operations, save it "
        f"with platforms=('cpu',), or vouch for it with SaveOptions(custom_calls={calls}), as its "
        f"readers then must: exporter.load(path, custom_calls={calls})."
    )
    assert saved(tmp_path / "model", eig, platforms=["cpu"])["platforms"] == ["cpu"]


# Called as FORMAT.md says, by MLIR and PJRT alone.


class Stateful:
    """A program of every kind of argument."""

    def __init__(self):
        self.total = Variable(jnp.array([10.0, 20.0]))
        self.scale = jnp.array([2.0, 3.0])
        self.key = jax.random.key(1)

    @exporter.function(
        input_signature=[
            TensorSpec((Dim("n", max=8), 2), name="x"),
            TensorSpec((), "int32", name="unused"),
            TensorSpec(("m",), "bfloat16", name="y"),
        ]
    )
    def call(self, x, unused, y):
        self.total.value = self.total.value + x.sum(0)
        key, _ = jax.random.split(self.key)
        return x * self.scale, jax.random.key_data(key), jnp.concatenate([y, y])

    @exporter.function(input_signature=[TensorSpec((2,)), TensorSpec((3,))])
    def partial(self, x, unused):
        return x * self.scale

    @exporter.function(input_signature=[TensorSpec(None, max_rank=2)])
    def any_rank(self, x):
        return x + 1


def run_alone(artifact: Path, program: dict, arguments: list[np.ndarray]) -> list[np.ndarray]:
    """A program by the words of FORMAT.md, under "Programs"."""
    taken = [arguments[position] for position in program["kept_inputs"]]
    if len(program["platforms"]) > 1:
        taken = [np.int32(program["platforms"].index("cpu")), *taken]
    with mlir.make_ir_context():
        stablehlo.register_stablehlo_passes()
        bytecode = gzip.decompress((artifact / program["file"]).read_bytes())
        module = _jax.mlir.deserialize_portable_artifact(bytecode)
        kinds = [
            "x".join([*map(str, array.shape), str(mlir.dtype_to_ir_type(array.dtype))])
            for array in map(np.asarray, taken)
        ]
        types = ",".join(f"tensor<{kind}>" for kind in kinds)
        passes = f"builtin.module(stablehlo-refine-arguments{{types={types}}})"
        if taken:
            passmanager.PassManager.parse(passes).run(module.operation)
        # Inlines, refines, checks the assertions about shapes, and erases them.
        refined = mlir.module_to_string(mlir.refine_polymorphic_shapes(module))
    (device,) = jax.devices("cpu")[:1]
    options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
    executable = device.client.compile_and_load(refined, _jax.DeviceList((device,)), options)
    results = executable.execute_sharded([jax.device_put(np.asarray(a), device) for a in taken])
    return [np.asarray(one[0]) for one in results.disassemble_into_single_device_arrays()]


def stored(artifact: Path, variable: dict) -> np.ndarray:
    """An array of the checkpoint, by the words of FORMAT.md, under "Variables on disk"."""
    where = {"driver": "ocdbt", "base": f"file://{artifact}/variables/"}
    where["path"] = ".".join(variable["key"]) + "/"
    return ts.open({"driver": "zarr", "kvstore": where}, open=True).result().read().result()


@pytest.fixture(scope="module", params=[["cpu"], ["tpu", "cpu"]], ids=["one", "two"])
def stateful(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stateful") / "model"
    return folder, saved(folder, Stateful(), signatures={}, platforms=request.param)


def program_of(document: dict, name: str, ranks: list[int] | None = None) -> dict:
    (concrete,) = (one for one in document["concrete_functions"] if one["name"] == name)
    found = [document["programs"][number] for number in concrete["programs"]]
    return next(program for program in found if program.get("ranks", []) == (ranks or []))


def test_a_program_runs_by_the_calling_convention_of_the_page(stateful):
    artifact, document = stateful
    program = program_of(document, "call")
    variables = [stored(artifact, document["variables"][n]) for n in program["variables"]]
    assert [v.dtype for v in variables] == [np.float32, np.float32, np.uint32]
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    y = np.array([1, -2, 4, 8, 16], jnp.bfloat16)
    total, scaled, words, twice = run_alone(artifact, program, [*variables, x, np.int32(0), y])
    np.testing.assert_array_equal(total, [10 + 6, 20 + 9])  # updates come first
    np.testing.assert_array_equal(scaled, x * [2, 3])
    np.testing.assert_array_equal(
        words, jax.random.key_data(jax.random.split(jax.random.key(1))[0])
    )
    np.testing.assert_array_equal(twice.astype(np.float32), [*y, *y])
    updated = [document["variables"][n]["key"] for n in program["updates"]]
    assert updated == [["total"]]
    assert set(program["updates"]) < set(program["variables"])


def test_arguments_that_are_not_kept_are_not_passed(stateful):
    artifact, document = stateful
    program = program_of(document, "partial")
    scale = stored(artifact, document["variables"][program["variables"][0]])
    arguments = [scale, np.array([5, 7], np.float32), np.zeros(3, np.float32)]
    assert program["kept_inputs"] == [0, 1]
    (result,) = run_alone(artifact, program, arguments)
    np.testing.assert_array_equal(result, [10, 21])


@pytest.mark.parametrize("shape", [(), (3,), (2, 1)])
def test_the_program_for_a_rank_is_the_one_that_says_so(stateful, shape):
    artifact, document = stateful
    program = program_of(document, "any_rank", [len(shape)])
    (result,) = run_alone(artifact, program, [np.full(shape, 4, np.float32)])
    np.testing.assert_array_equal(result, np.full(shape, 5))


def test_a_program_checks_the_sizes_that_it_is_given(stateful):
    artifact, document = stateful
    program = program_of(document, "call")
    variables = [stored(artifact, document["variables"][n]) for n in program["variables"]]
    too_many = np.zeros((9, 2), np.float32)
    y = np.zeros(1, jnp.bfloat16)
    with pytest.raises(ValueError, match="Error refining shapes") as caught:
        run_alone(artifact, program, [*variables, too_many, np.int32(0), y])
    assert "do not match the symbolic shape constraint n <= 8" in str(caught.value.__cause__)


def test_main_has_the_types_that_the_page_says(tmp_path):
    exporter.save(Golden(), tmp_path / "golden")
    document = json.loads((tmp_path / "golden" / "saved_model.json").read_text())
    for program in document["programs"]:
        with mlir.make_ir_context() as context, ir.Location.unknown(context):
            module = _jax.mlir.deserialize_portable_artifact(
                gzip.decompress((tmp_path / "golden" / program["file"]).read_bytes())
            )
            public = [
                function
                for function in module.body.operations
                if str(function.attributes.get("sym_visibility", '"public"')) == '"public"'
            ]
            assert [str(function.name) for function in public] == ['"main"']
            (main,) = public
            first = str(main.arg_attrs[0])
            assert first == '{jax.global_constant = "_platform_index"}'


# The checkpoint is one that users of Flax know.


def test_orbax_alone_restores_the_state_that_a_flax_user_expects(tmp_path):
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed: its layout is not checked")
    import orbax.checkpoint as ocp

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(3, 4, rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)

        def __call__(self, x):
            return self.norm(self.linear(x))

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.blocks = nnx.List([Block(rngs), Block(rngs)])
            self.head = nnx.Sequential(nnx.Linear(4, 2, rngs=rngs), nnx.relu)
            self.scale = nnx.Param(jnp.ones((), jnp.bfloat16))

        @exporter.function(input_signature=[TensorSpec(("batch", 3))])
        def call(self, x):
            return self.head(x[:, :1] * 0 + self.blocks[0](x)) * self.scale[...]

    network = Network(nnx.Rngs(0))
    exporter.save(network, tmp_path / "model", platforms=["cpu"])
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "model" / "variables")
    expected = nnx.to_pure_dict(nnx.state(network))
    assert paths(restored) == {
        tuple(map(str, path)): found for path, found in paths(expected).items()
    }
    state = nnx.restore_int_paths(restored)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    fresh = Network(nnx.Rngs(1))
    nnx.update(fresh, nnx.restore_int_paths(restored))
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(fresh.call(x), network.call(x))


def paths(tree: dict, prefix: tuple = ()) -> dict[tuple, tuple]:
    """Each array's dtype, shape and elements by its path."""
    found = {}
    for key, item in tree.items():
        if isinstance(item, dict):
            found |= paths(item, (*prefix, key))
        else:
            array = np.asarray(item)
            found[*prefix, key] = (array.dtype, array.shape, array.tobytes())
    return found

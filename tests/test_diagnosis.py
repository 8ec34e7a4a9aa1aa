"""`check` tells everything that stands in the way of saving, and tells the truth."""

import copy
import inspect
import json
import re
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

import exporter
from exporter import Dim, LoweringError, Problem, SaveOptions, TensorSpec, TrackingError, Variable

LARGE = np.ones((600, 600), np.float32)
OTHER = jnp.zeros((700, 700))
TABLES = {"first": np.full((800, 800), 2.0, np.float32)}
WEIGHTS = jnp.ones((3, 4))
ROW = TensorSpec(("n", 3), name="x")
SQUARE = TensorSpec((2, 2), name="x")


def attached(python_function, *specs, **others) -> SimpleNamespace:
    function = exporter.function(python_function, input_signature=list(specs))
    return SimpleNamespace(f=function, **others)


def line_in(function, text: str) -> str:
    """The file and line of a function's source in which a text stands first."""
    lines, first = inspect.getsourcelines(function)
    return f"{__file__}:{first + next(i for i, line in enumerate(lines) if text in line)}"


# A table of good models and bad ones, for the laws below.


def double(x):
    return x * 2


def undefined(x):
    return missing(x)  # noqa: F821  # the point


def asks_size(x):
    if x.shape[0] == 1:
        return x
    return x * 2


def adds(x, y):
    return x + y


def projects(x):
    return x @ WEIGHTS


def concretises(x):
    return float(x[0, 0])


def callback(x):
    return jax.pure_callback(np.sin, jax.typeof(x), x)


def captures(x):
    return x + jnp.asarray(LARGE).sum()


def factors(x):
    return jnp.linalg.cholesky(x @ x.T + 2 * jnp.eye(2))


def eigenvalues(x):
    return jnp.linalg.eig(x)[0].real


def native(x):
    return jax.ffi.ffi_call("some_kernel", jax.typeof(x))(x)


def on_mesh(x):
    mesh = AbstractMesh((2,), ("d",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("d")
    return jax.shard_map(lambda y: y * 2, mesh=mesh, in_specs=spec, out_specs=spec)(x)


def on_processes(x):
    return jax.pmap(lambda y: y * 2)(x[None])[0]


def first_row(x):
    return x[0]


def text(x):
    return "text"


class Creates:
    @exporter.function(input_signature=[SQUARE])
    def f(self, x):
        self.fresh = x
        return x


class Stateful:
    def __init__(self):
        self.count = Variable(jnp.int32(0))
        self.flag = True

    @exporter.function(input_signature=[SQUARE])
    def f(self, x):
        self.count.value = self.count.value + 1
        self.flag = False
        return x


class Undecorated:
    def __call__(self, x):
        return x + 1


class Twin:
    """Two methods, each of which could be the default."""

    @exporter.function(input_signature=[SQUARE], default=True)
    def f(self, x):
        return x

    @exporter.function(input_signature=[SQUARE], default=True)
    def g(self, x):
        return x


def deleted():
    array = jnp.ones(3)
    array.delete()
    return attached(double, SQUARE, array=array)


def leaked():
    holder = attached(double, SQUARE)

    @jax.jit
    def trace(x):
        holder.array = x
        return x

    trace(jnp.ones(2))
    return holder


def leaks():
    kept = []
    jax.jit(lambda x: (kept.append(x), x)[1])(jnp.ones((2, 2)))
    return lambda x: x + kept[0]


def stray():
    counter = Variable(jnp.zeros(()))
    return attached(lambda x: x + counter.value, SQUARE)


def loaded_elsewhere():
    return SimpleNamespace(f=exporter.function(double))


GOOD = {
    "mesh": lambda: attached(on_mesh, SQUARE),
    "plain": lambda: attached(double, ROW),
    "stateful": Stateful,
    "factor": lambda: attached(factors, SQUARE),
    "ranks": lambda: attached(first_row, TensorSpec(None, max_rank=2)),
    "tied": lambda: attached(adds, TensorSpec((None, 3)), TensorSpec((None, 3))),
    "bounded": lambda: attached(asks_size, TensorSpec((Dim("n", min=2), 3))),
    "never called": loaded_elsewhere,
    "no functions": lambda: SimpleNamespace(w=jnp.ones(3), key=jax.random.key(0)),
}
BAD = {
    "no object": lambda: 3,
    "code": lambda: attached(undefined, SQUARE),
    "size": lambda: attached(asks_size, ROW),
    "two sizes": lambda: attached(adds, ROW, TensorSpec(("m", 3), name="y")),
    "weights": lambda: attached(projects, TensorSpec((None, None))),
    "no rank": lambda: attached(undefined, TensorSpec(None, max_rank=1)),
    "value": lambda: attached(concretises, SQUARE),
    "callback": lambda: attached(callback, SQUARE),
    "constant": lambda: attached(captures, SQUARE),
    "native": lambda: attached(native, SQUARE),
    "pmap": lambda: attached(on_processes, SQUARE),
    "output": lambda: attached(text, SQUARE),
    "creates": Creates,
    "stray": stray,
    "deleted": deleted,
    "leaked": leaked,
    "leaked closure": lambda: attached(leaks(), SQUARE),
    "two defaults": Twin,
    "keys": lambda: SimpleNamespace(d={1: jnp.ones(1), "1": jnp.ones(1)}),
    "wide": lambda: attached(double, SQUARE, big=np.array([2**40])),
    "reserved": lambda: SimpleNamespace(variables=jnp.ones(1)),
}


def saves(obj, folder, *arguments, **options) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exporter.save(obj, folder, *arguments, **options)
        except Exception:  # the law is about whether, not why
            return False
    return True


@pytest.mark.parametrize("make", [*GOOD.values(), *BAD.values()], ids=[*GOOD, *BAD])
def test_check_says_yes_just_where_save_succeeds(make, request, tmp_path):
    report = exporter.check(make(), platforms=("cpu",))
    assert report.ok == saves(make(), tmp_path / "m", platforms=("cpu",))
    expected = request.node.callspec.id in GOOD
    assert (report.ok, bool(report)) == (expected, expected)
    assert report.ok == all(not problem.is_error for problem in report.problems)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (({"a": 3},), {}),
        (({"": attached(double, ROW).f},), {}),
        (({"a": attached(undefined, ROW).f},), {}),
        (({"a": attached(double, ROW).f},), {}),
        ((), {"platforms": ("metal",)}),
        ((), {"platforms": ()}),
        ((), {"input_signature": [ROW]}),
        ((), {"options": SaveOptions(stablehlo_version="1.0")}),
        ((), {"options": SaveOptions(max_constant_bytes=0)}),
        ((), {"options": SaveOptions(stablehlo_version="1.0.0")}),
    ],
)
def test_it_agrees_about_what_is_asked_of_saving(arguments, options, tmp_path):
    obj = attached(lambda x: x + np.arange(3, dtype=np.float32), ROW)
    options = {"platforms": ("cpu",)} | options
    report = exporter.check(obj, *arguments, **options)
    assert report.ok == saves(obj, tmp_path / "m", *arguments, **options)


@pytest.mark.parametrize(
    ("input_signature", "ok"), [([TensorSpec((3,))], True), ([TensorSpec((3,)), ROW], False)]
)
def test_it_knows_of_undecorated_models(input_signature, ok):
    report = exporter.check(Undecorated(), input_signature=input_signature, platforms=("cpu",))
    assert report.ok is ok
    assert not exporter.check(SimpleNamespace(), input_signature=input_signature).ok


@pytest.mark.parametrize("make", [*GOOD.values(), *BAD.values()], ids=[*GOOD, *BAD])
def test_nothing_is_changed_and_nothing_is_written(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    obj = make()
    before = copy.copy(getattr(obj, "__dict__", None))
    one = exporter.check(obj, platforms=("cpu",))
    assert exporter.check(obj, platforms=("cpu",)) == one
    assert getattr(obj, "__dict__", None) == before
    assert list(tmp_path.iterdir()) == []


def test_a_count_does_not_count_while_it_is_checked():
    model = Stateful()
    report = exporter.check(model, platforms=("cpu",))
    assert int(model.count.value) == 0
    assert model.flag is True
    assert (report.variables, report.variable_bytes) == (1, 4)


# Everything at once.


class Many:
    """Something wrong of each kind."""

    def __init__(self):
        self.gone = jnp.ones(3)
        self.gone.delete()

    undefined = exporter.function(lambda self, x: undefined(x), input_signature=[SQUARE])
    asks = exporter.function(lambda self, x: asks_size(x), input_signature=[ROW])
    good = exporter.function(lambda self, x: double(x), input_signature=[ROW])
    eig = exporter.function(
        lambda self, x: callback(eigenvalues(x)) + captures(x), input_signature=[SQUARE]
    )
    native = exporter.function(lambda self, x: native(x), input_signature=[SQUARE])
    never = exporter.function(lambda self, x: x)


def test_every_function_and_every_platform_is_looked_at():
    report = exporter.check(Many(), {"a": 3}, platforms=("cpu", "tpu"))
    found = [(p.function, p.kind, p.platforms, p.line) for p in report.problems]
    assert found == [
        (None, "object", (), None),
        ("undefined", "code", (), line_in(undefined, "missing(x)")),
        ("asks", "dimension", (), line_in(asks_size, "== 1")),
        ("never", "warning", (), None),
        (None, "signature", (), None),
        ("eig", "callback", (), line_in(callback, "pure_callback")),
        ("eig", "constant", (), line_in(captures, "LARGE")),
        ("eig", "platform", ("tpu",), line_in(eigenvalues, "eig(")),
        ("native", "custom call", (), line_in(native, "ffi_call")),
    ]
    assert [p.is_error for p in report.problems] == [p.kind != "warning" for p in report.problems]
    assert report.functions == ()


def test_the_paths_of_functions_are_those_of_the_object():
    inner = attached(undefined, SQUARE)
    report = exporter.check(SimpleNamespace(blocks=[inner, attached(native, SQUARE)]))
    assert [p.function for p in report.problems if p.is_error] == ["blocks[0].f", "blocks[1].f"]


def test_a_report_is_one_paragraph_for_each_problem_under_its_function():
    obj = SimpleNamespace(
        asks=exporter.function(asks_size, input_signature=[ROW]),
        native=exporter.function(native, input_signature=[SQUARE]),
    )
    report = exporter.check(obj, {}, platforms=("cpu",))
    assert (
        str(report)
        == f"""2 things stand in the way of saving.

asks:

  [dimension] the function asks whether the size n equals 1, which depends on the call: the \
program would be wrong for one of the answers. Give the axis a fixed size or a bound that decides \
it, such as Dim('n', min=2), or do without the question.
  at {line_in(asks_size, "== 1")}
  -> It can be traced with x: TensorSpec(shape=(Dim('n', min=2), 3), dtype='float32').
  with x: float32[n, 3]

native:

  [custom call] native calls some_kernel at {line_in(native, "ffi_call")}, of which nobody \
promises that later releases still have it.
  -> Compute it with other operations, or vouch for it with \
SaveOptions(custom_calls=('some_kernel',)), as its readers then must: \
exporter.load(path, custom_calls=('some_kernel',)).
  with x: float32[2, 2]"""
    )


def test_a_clean_report_says_so_with_what_would_be_written():
    obj = attached(double, ROW, w=jnp.ones((2, 3)), key=jax.random.key(0))
    assert str(exporter.check(obj, platforms="cpu")) == (
        "Nothing stands in the way: f for cpu, with 2 variables of 32 bytes."
    )


def test_numbers_of_axes_that_do_not_trace_and_ties_are_told_without_being_errors():
    ranks = exporter.check(GOOD["ranks"](), platforms=("cpu",))
    (problem,) = ranks.problems
    assert (problem.kind, problem.function, problem.is_error) == ("ranks", "f", False)
    assert problem.message.startswith("first_row has no program for inputs of 0 axes: IndexError")
    (tied,) = exporter.check(GOOD["tied"](), platforms=("cpu",)).problems
    assert tied.message.startswith("the leading axes given as None are one dimension, 'batch'")


def test_a_report_is_plain_data():
    report = exporter.check(Many(), platforms=("cpu", "tpu"))
    document = json.loads(report.to_json())
    assert document["ok"] is False
    assert document["platforms"] == ["cpu", "tpu"]
    listed = [tuple(p) if isinstance(p, list) else p for p in document["problems"]]
    again = [Problem(**one | {"platforms": tuple(one["platforms"])}) for one in listed]
    assert tuple(again) == report.problems


def test_save_raises_what_check_reports(tmp_path):
    obj = SimpleNamespace(
        eig=exporter.function(eigenvalues, input_signature=[SQUARE]),
        mixed=exporter.function(lambda x: callback(captures(x)), input_signature=[SQUARE]),
    )
    with pytest.raises(LoweringError) as caught:
        exporter.save(obj, tmp_path / "m", {})
    assert caught.value.problems == exporter.check(obj, {}).problems
    told = str(caught.value)
    assert all(problem.message in told for problem in caught.value.problems)
    kinds = [problem.kind for problem in caught.value.problems]
    assert kinds == ["platform", "custom call", "custom call", "callback", "constant"]


def test_all_values_that_cannot_be_saved_come_in_one_error(tmp_path):
    obj = SimpleNamespace(a=jnp.ones(2), b=jnp.ones(3), big=np.array([2**40]))
    obj.a.delete()
    obj.b.delete()
    with pytest.raises(TrackingError) as caught:
        exporter.save(obj, tmp_path / "m")
    starts = [re.match(r"\w+ is an? [\w ]+", line)[0] for line in str(caught.value).splitlines()]
    assert starts == [
        "a is an array whose buffer was deleted",
        "b is an array whose buffer was deleted",
        "big is a NumPy array of int64 with values that int32 cannot hold",
    ]


# Shapes.


def windows(x):
    return x.reshape(x.shape[0] // 4, 4) if x.shape[0] % 4 == 0 else x


def needs_three(x):
    if x.shape[0] <= 2:
        raise ValueError("too short")
    return x


def needs_five(x):
    return x * np.ones(5, np.float32)


def outer_then_sum(x, y):
    return (x[:, None] * y[None, :]) + x[None, :] * y[:, None]


@pytest.mark.parametrize(
    ("make", "specs", "remedy"),
    [
        (asks_size, [ROW], "x: TensorSpec(shape=(Dim('n', min=2), 3), dtype='float32')"),
        (
            asks_size,
            [TensorSpec((None, 3))],
            "x: TensorSpec(shape=(Dim('x_0', min=2), 3), dtype='float32')",
        ),
        (
            asks_size,
            [TensorSpec((Dim("n", max=9), 3))],
            "x: TensorSpec(shape=(Dim('n', min=2, max=9), 3), dtype='float32')",
        ),
        (
            needs_three,
            [TensorSpec(("n",))],
            "x: TensorSpec(shape=(Dim('n', min=3),), dtype='float32')",
        ),
        (
            windows,
            [TensorSpec(("n",))],
            "x: TensorSpec(shape=(Dim('n', multiple_of=4),), dtype='float32')",
        ),
        (
            adds,
            [TensorSpec(("n", 3)), TensorSpec(("m", 3))],
            "y: TensorSpec(shape=('n', 3), dtype='float32')",
        ),
        (
            outer_then_sum,
            [TensorSpec(("n",)), TensorSpec(("m",))],
            "y: TensorSpec(shape=('n',), dtype='float32')",
        ),
        (projects, [TensorSpec((None, None))], "x: TensorSpec(shape=(None, 3), dtype='float32')"),
        (needs_five, [TensorSpec(("n",))], "x: TensorSpec(shape=(5,), dtype='float32')"),
    ],
)
def test_a_problem_with_sizes_is_told_with_specs_that_work(make, specs, remedy):
    (problem,) = exporter.check(attached(make, *specs), platforms=("cpu",)).problems
    assert problem.kind == "dimension"
    assert problem.line.startswith(f"{__file__}:")
    assert problem.remedy == f"It can be traced with {remedy}."
    names = {"Dim": Dim, "TensorSpec": TensorSpec}
    found = {
        name: eval(spec, names)  # as users would paste it
        for name, spec in re.findall(r"(\w+): (TensorSpec\(.*?\))(?=, \w+: |$)", remedy)
    }
    parameters = inspect.signature(make).parameters
    tried = [found.get(name, spec) for name, spec in zip(parameters, specs, strict=True)]
    assert exporter.check(attached(make, *tried), platforms=("cpu",)).ok


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (undefined, "f raises NameError at {}: name 'missing' is not defined"),
        (concretises, "f raises ConcretizationTypeError at {}: Abstract tracer value"),
    ],
)
@pytest.mark.parametrize("spec", [SQUARE, TensorSpec(("n", "m"), name="x")])
def test_a_problem_with_code_is_told_as_one_with_its_line(make, message, spec):
    (problem,) = exporter.check(attached(make, spec), platforms=("cpu",)).problems
    assert problem.kind == "code"
    assert problem.message.startswith(message.format(line_in(make, "return")))
    assert problem.inputs == f"x: {spec}"


# Constants.


def two_of_them(x):
    y = x + OTHER.sum()
    return y + jnp.asarray(TABLES["first"]).sum() + jnp.asarray(LARGE).sum()


@jax.jit
def hidden(x):
    return x + OTHER.sum() + jnp.asarray(LARGE).sum()


def in_inner_jit(x):
    return hidden(x)


def in_scan(x):
    return jax.lax.scan(lambda c, _: (hidden(c), None), x, None, length=2)[0]


def in_branch(x):
    return jax.lax.cond(x[0, 0] > 0, lambda y: y + OTHER.sum(), lambda y: y * LARGE[0, 0], x)


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (two_of_them, ["OTHER", "TABLES['first']", "LARGE"]),
        (in_inner_jit, ["OTHER", "LARGE"]),
        (in_scan, ["OTHER", "LARGE"]),
        (in_branch, ["OTHER"]),
    ],
)
def test_every_large_constant_is_named_wherever_it_hides(function, arrays):
    report = exporter.check(attached(function, SQUARE), platforms=("cpu",))
    named = [re.search(r"the array (\S+), float32\[", p.message)[1] for p in report.problems]
    assert sorted(named) == sorted(arrays)
    for problem in report.problems:
        assert problem.kind == "constant"
        file, number = problem.line.rsplit(":", 1)
        assert file == __file__
        text = inspect.getsource(inspect.getmodule(function)).splitlines()[int(number) - 1]
        assert any(array.partition("[")[0] in text for array in arrays)


def test_an_array_of_a_closure_an_attribute_or_an_argument_is_named_if_it_can_be():
    held = SimpleNamespace(weights=jnp.ones((600, 600)))
    local = jnp.ones((600, 601))

    def f(x):
        return x + held.weights.sum() + local.sum() + jnp.asarray(np.ones((601, 600))).sum()

    obj = attached(f, SQUARE)
    report = exporter.check(obj, platforms=("cpu",), options=SaveOptions(max_constant_bytes=10_000))
    named = {re.search(r"uses (.+?) of", problem.message)[1] for problem in report.problems}
    assert named == {
        "the array held.weights, float32[600, 600]",
        "the array local, float32[600, 601]",
        "an array float32[601, 600]",
    }


# What is asked of the machine.


def test_64_bit_specs_without_x64_are_told():
    with jax.enable_x64(True):
        obj = attached(double, TensorSpec((2,), "float64"))
    (problem,) = exporter.check(obj, platforms=("cpu",)).problems
    assert problem.kind == "signature"
    assert "jax.config.update('jax_enable_x64', True)" in problem.message


def test_a_program_for_several_devices_is_told_with_its_line():
    (problem,) = exporter.check(attached(on_mesh, SQUARE), platforms=("cpu",)).problems
    assert problem.kind == "mesh"
    assert not problem.is_error
    assert problem.message == (
        "on_mesh runs on a mesh of (d=2) and on no other: shard_map at "
        f"{line_in(on_mesh, 'shard_map(')}."
    )


def test_every_operation_that_a_platform_lacks_is_named():
    def both(x):
        y = jax.scipy.linalg.schur(x)[0]
        return jax.lax.scan(lambda c, _: (eigenvalues(c)[None] + c, None), y, None, length=2)[0]

    report = exporter.check(attached(both, SQUARE), platforms=("cpu", "tpu", "cuda"))
    found = {(p.kind, p.platforms, p.line) for p in report.problems}
    assert found == {
        ("platform", ("tpu", "cuda"), line_in(both, "schur")),
        ("platform", ("tpu",), line_in(eigenvalues, "eig(")),
        ("custom call", ("cuda",), line_in(eigenvalues, "eig(")),
    }
    assert all("platforms=('cpu',)" in problem.remedy for problem in report.problems)


def test_an_operation_among_mutable_references_is_named():
    def doubled(x):
        cell = jax.new_ref(x)
        cell[...] = cell[...] * 2
        return jnp.linalg.eig(cell[...])[0].real

    (problem,) = exporter.check(attached(doubled, SQUARE), platforms=("cpu", "tpu")).problems
    assert (problem.platforms, problem.line) == (("tpu",), line_in(doubled, "eig("))


def test_an_array_that_outlived_its_trace_is_told_with_its_line():
    function = leaks()
    (problem,) = exporter.check(attached(function, SQUARE)).problems
    assert problem.kind == "code"
    assert problem.message == (
        f"<lambda> uses a traced array without a value at {line_in(leaks, 'x + kept')}: it was "
        "kept under jax.jit, jax.grad or the like and has outlived the trace. Use an array in its "
        "place, or make it an input."
    )
    assert problem.line == line_in(leaks, "x + kept")


def test_platforms_are_told_by_the_names_that_programs_know():
    assert exporter.check(attached(double, ROW), platforms="gpu").platforms == ("cuda",)


def test_a_check_under_a_trace_is_told():
    reports = []
    jax.jit(lambda x: (reports.append(exporter.check(attached(double, SQUARE))), x)[1])(1.0)
    assert not reports[0].ok
    assert "outside of jax.jit" in str(reports[0])

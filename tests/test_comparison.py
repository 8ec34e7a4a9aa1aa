"""Whether one artifact can replace another: the rules, and that a yes is never wrong."""

import json
import random
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import msgspec
import numpy as np
import pytest
from test_cli import fail

import exporter
from exporter import Dim, SaveOptions, TensorSpec, Variable
from exporter.artifact import manifest as manifest_file
from exporter.cli import main
from exporter.runtime.comparison import compare
from exporter.runtime.values import difference
from signatures.binding import bind
from signatures.errors import BindError
from signatures.replacement import changes
from signatures.signature import Signature

GOLDEN = sorted(p.parent for p in (Path(__file__).parent / "golden").glob("*/saved_model.json"))


def sig(inputs: dict, outputs: dict | None = None, **defaults: np.ndarray) -> Signature:
    """One with specs as text, or as they are."""

    def parsed(specs):
        return {
            name: TensorSpec.parse(spec) if isinstance(spec, str) else spec
            for name, spec in specs.items()
        }

    return Signature("f", parsed(inputs), parsed(outputs or {}), defaults)


def bounded(*axes: object, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(axes, dtype)


def bounds_on(text: str, *dims: Dim) -> TensorSpec:
    return TensorSpec.parse(text).with_bounds(dims)


ZERO = np.zeros((), np.float32)
ROW = np.zeros(3, np.float32)
N = "float32[n, 3]"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (sig({"x": "float32[2, 3]"}), sig({"x": N})),
        (sig({"x": N}), sig({"x": "float32[None, 3]"})),
        (sig({"x": N}), sig({"x": "float32[a, b]"})),
        (sig({"x": N}), sig({"x": "float32[...]"})),
        (sig({"x": bounded(Dim("n", max=4))}), sig({"x": bounded(Dim("n", max=8))})),
        (
            sig({"x": bounded(Dim("n", multiple_of=4))}),
            sig({"x": bounded(Dim("m", multiple_of=2))}),
        ),
        (sig({"x": bounded(Dim("n", min=1, multiple_of=4))}), sig({"x": bounded(Dim("m", min=3))})),
        (sig({"x": "int8[4]"}), sig({"x": bounded(Dim("n", max=4), dtype="int8")})),
        (sig({"x": N}), sig({"x": N, "y": "float32[]"}, y=ZERO)),
        (sig({"x": "float32[3]"}), sig({"x": "float32[n]", "y": "float32[n]"}, y=ROW)),
        (sig({"x": N}), sig({"x": N}, x=np.zeros((1, 3), np.float32))),
        (sig({"x": N, "y": N}), sig({"y": "float32[k, 3]", "x": "float32[k, 3]"})),
        (sig({"x": N, "y": "float32[2*n]"}), sig({"x": N, "y": "float32[m]"})),
        (
            sig({"x": "float32[k]", "y": "float32[2*k]"}),
            sig({"x": "float32[n]", "y": "float32[2*n]"}),
        ),
        (
            sig({"x": "float32[3]", "y": "float32[7]"}),
            sig({"x": "float32[n]", "y": "float32[2*n + 1]"}),
        ),
        (sig({"x": "float32[2*n]"}), sig({"x": bounds_on("float32[2*n]", Dim("n", min=0))})),
        (sig({}, {"y": N}), sig({}, {"z": N, "y": N})),
        (
            sig({"x": "float32[2]"}, {"y": "float32[2, 4]"}),
            sig({"x": "float32[b]"}, {"y": "float32[b, 4]"}),
        ),
        (
            sig({"x": "float32[k]"}, {"y": "float32[k + 1]"}),
            sig({"x": "float32[b]"}, {"y": "float32[b + 1]"}),
        ),
        (
            sig({"x": "float32[2]"}, {"y": "float32[2]"}),
            sig({"x": "float32[None]"}, {"y": "float32[None]"}),
        ),
        (
            sig({"x": "float32[k]"}, {"y": "float32[floordiv(k, 2)]"}),
            sig({"x": "float32[b]"}, {"y": "float32[floordiv(b, 2)]"}),
        ),
    ],
)
def test_what_takes_more_or_returns_more_can_replace(old, new):
    found = changes(old, new)
    assert found
    assert not [one for one in found if one.breaks]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            sig({"x": N}),
            sig({"x": "float32[2, 3]"}),
            "input x is float32[2, 3], was float32[n, 3]: its axis 0 is 2 only",
        ),
        (
            sig({"x": N}),
            sig({"x": "float16[n, 3]"}),
            "input x is float16[n, 3], was float32[n, 3]: its dtype is float16",
        ),
        (
            sig({"x": N}),
            sig({"x": "float32[3]"}),
            "input x is float32[3], was float32[n, 3]: it has 1 axes",
        ),
        (
            sig({"x": "float32[None, 3]"}),
            sig({"x": "float32[None, 4]"}),
            "input x is float32[None, 4], was float32[None, 3]: its axis 1 is 4 only",
        ),
        (sig({"x": N}), sig({}), "input x is gone"),
        (sig({"x": N}), sig({"x": N, "y": N}), "input y is new and has no default"),
        (
            sig({"x": N}, x=np.zeros((1, 3), np.float32)),
            sig({"x": N}),
            "input x has no default any more",
        ),
        (
            sig({"x": "float32[a]", "y": "float32[b]"}),
            sig({"x": "float32[a]", "y": "float32[a]"}),
            "input y is float32[a], was float32[b]: its axis 0 must be the a of x",
        ),
        (
            sig({"x": bounded(Dim("n", max=8))}),
            sig({"x": bounded(Dim("n", max=4))}),
            "input x is float32[n] with n at most 4, was float32[n] with n at most "
            "8: n is at most 4 now",
        ),
        (
            sig({"x": "float32[n]"}),
            sig({"x": bounded(Dim("n", min=1))}),
            "input x is float32[n] with n at least 1, was float32[n]: n is at least 1 now",
        ),
        (
            sig({"x": "float32[3]"}),
            sig({"x": bounded(Dim("n", multiple_of=2))}),
            "input x is float32[n] with n a multiple of 2, was float32[3]: n is a "
            "multiple of 2 now",
        ),
        (
            sig({"x": "float32[n]"}),
            sig({"x": "float32[2*n]"}),
            "input x is float32[2*n], was float32[n]: its axis 0 must be 2*n",
        ),
        (
            sig({"x": "float32[n]", "y": "float32[n*n]"}),
            sig({"x": "float32[None]", "y": "float32[n*n]"}),
            "input y is float32[n^2], was float32[n^2]: its axis 0 must be n^2",
        ),
        (
            sig({"x": "float32[...]"}),
            sig({"x": TensorSpec(None, max_rank=3)}),
            "input x is float32[...] with at most 3 axes, was float32[...] with at most 4 axes: it "
            "does not take up to 4 axes",
        ),
        (
            sig({"x": "float32[...]"}),
            sig({"x": N}),
            "input x is float32[n, 3], was float32[...] with at most 4 axes: it "
            "does not take up to 4 axes",
        ),
        (
            sig({"x": "float32[n]"}),
            sig({"x": "float32[n]", "y": "float32[n]"}, y=ROW),
            "input y is new, with a default that does not fit all calls: its axis "
            "0 must be the n of x",
        ),
        (sig({}, {"y": N}), sig({}, {"z": N}), "output y is gone"),
        (
            sig({}, {"y": N}),
            sig({}, {"y": "int32[n, 3]"}),
            "output y is int32[n, 3], was float32[n, 3]: its dtype is int32",
        ),
        (
            sig({"x": N}, {"y": N}),
            sig({"x": N}, {"y": "float32[n, 4]"}),
            "output y is float32[n, 4], was float32[n, 3]: its axis 1 is 4",
        ),
        (
            sig({"x": N}, {"y": "float32[n]"}),
            sig({"x": N}, {"y": "float32[n + 1]"}),
            "output y is float32[n + 1], was float32[n]: its axis 0 is n + 1",
        ),
    ],
)
def test_what_takes_less_or_returns_something_else_cannot_and_says_why(old, new, reason):
    assert [str(one) for one in changes(old, new) if one.breaks] == [reason]


# A yes is never wrong.

AXES = [0, 1, 2, 4, None, "n", "m", "n", "m", "2*n", "n + m", "n*m", "floordiv(n, 2)", "n^2"]


def some_axes(rng: random.Random) -> list | None:
    return None if rng.random() < 0.1 else rng.choices(AXES, k=rng.randrange(3))


def some_signature(rng: random.Random, like: Signature | None = None) -> Signature:
    """A signature, or one in which little differs from another."""
    bounds = {
        name: Dim(name, rng.choice([None, 1, 2]), rng.choice([None, 4, 6]), rng.choice([None, 2]))
        for name in ("n", "m")
        if rng.random() < 0.4
    }
    if like is not None and rng.random() < 0.6:
        bounds = {name: dim for name, dim in like.dims.items() if dim.is_bounded}
    inputs, defaults = {}, {}
    names = rng.sample(["x", "y", "z"], rng.randint(1, 3))
    for name in dict.fromkeys([*(like.inputs if like and rng.random() < 0.8 else ()), *names]):
        axes = some_axes(rng)
        if like is not None and name in like.inputs and rng.random() < 0.8:
            shape = like.inputs[name].shape
            axes = None if shape is None else list(shape)
            if axes and rng.random() < 0.4:
                axes[rng.randrange(len(axes))] = rng.choice(AXES)
        spec = TensorSpec(axes, "bool" if rng.random() < 0.05 else "int8")
        inputs[name] = spec.with_bounds(tuple(bounds[one] for one in spec.names if one in bounds))
        if axes is not None and rng.random() < (
            0.3 if like is None or name in like.inputs else 0.8
        ):
            shape = spec.evaluate({"n": rng.randrange(4), "m": rng.randrange(4)})
            defaults[name] = np.zeros(shape, spec.dtype)
    return Signature("f", inputs, {}, defaults)


def some_call(rng: random.Random, signature: Signature) -> dict[str, np.ndarray]:
    """Arrays that may well fit a signature."""
    sizes = {name: rng.randrange(7) for name in ("n", "m")}
    call = {}
    for name, spec in signature.inputs.items():
        if name in signature.defaults and rng.random() < 0.5:
            continue
        if spec.shape is None:
            shape = [rng.randrange(3) for _ in range(rng.randint(0, spec.max_rank))]
        else:
            pairs = zip(spec.shape, spec.evaluate(sizes), strict=True)
            shape = [rng.randrange(5) if axis is None else size for axis, size in pairs]
        call[name] = np.zeros(shape, spec.dtype)
    return call


def fits(signature: Signature, call: dict[str, np.ndarray]) -> bool:
    try:
        bind(signature, (), call)
    except BindError:
        return False
    return True


def test_a_call_that_fitted_fits_whenever_the_answer_is_yes():
    rng = random.Random(0)
    calls = 0
    for _ in range(4000):
        old = some_signature(rng)
        new = some_signature(rng, like=old)
        assert changes(old, old) == ()
        if any(change.breaks for change in changes(old, new)):
            continue
        for _ in range(6):
            call = some_call(rng, old)
            if fits(old, call):
                calls += new != old
                assert fits(new, call), (str(old), old.dims, str(new), new.dims, call)
    assert calls > 1000


# Artifacts.


class Model:
    def __init__(self, width=4, name="words"):
        self.kernel = jnp.ones((3, width))
        self.count = Variable(jnp.zeros((), jnp.int32), trainable=False)
        self.words = exporter.Asset(name)

    @exporter.function(input_signature=[TensorSpec(("n", 3), "float32", name="x")])
    def apply(self, x):
        return {"y": x @ self.kernel}

    @exporter.function(input_signature=[TensorSpec(("n",), "float32"), TensorSpec((), "float32")])
    def scaled(self, x, by=2.0):
        return x * by


class Other(Model):
    """With a parameter more, a result less, a function less and an option more."""

    scaled = None

    @exporter.function(
        input_signature=[TensorSpec((None, 3), "float32", name="x"), TensorSpec((), "float32")]
    )
    def apply(self, x, bias=0.0):
        return {"y": x @ self.kernel + bias, "bias": bias * 2}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    (folder / "words").write_text("a\n")
    one = Model(name=folder / "words")
    options = SaveOptions(tags=["serve"], metadata={"labels": [1]})
    exporter.save(one, folder / "a", one.apply, platforms=("cpu", "cuda"), options=options)
    one.kernel = one.kernel.at[0, 0].add(0.5)
    exporter.save(one, folder / "trained", one.apply, platforms=("cpu", "cuda"), options=options)
    (folder / "words").write_text("b\n")
    other = Other(name=folder / "words")
    exporter.save(other, folder / "b", other.apply, platforms=("cpu",))
    return folder


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_an_artifact_does_not_differ_from_itself(path, capsys):
    assert main(["diff", str(path), str(path)]) == 0
    assert capsys.readouterr().out == "can B replace A for its callers? yes\n  no differences\n"
    manifest = manifest_file.read(path)
    assert compare(manifest, manifest).differences == ()


def test_the_same_model_of_another_jax_can_replace_it(capsys):
    old, new = (path for path in GOLDEN if path.name.startswith("format_2"))
    assert main(["diff", str(old), str(new), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["can_replace"], found["reasons"], found["values"]) == (True, [], [])
    assert {one["part"] for one in found["differences"]} <= {
        "written by", "saved", "size of", "content id of", "signature", "function",
    }  # fmt: skip


def test_other_values_are_told_and_do_not_bear_on_the_answer(saved, capsys):
    old, new = str(saved / "a"), str(saved / "trained")
    assert main(["diff", old, new]) == 0
    printed = capsys.readouterr().out
    assert "  kernel: 1 of 12 differ, by at most 0.5; L2 norm 0.5, relative 0.144\n" in printed
    assert main(["diff", old, new, "--json"]) == 0
    (value,) = json.loads(capsys.readouterr().out)["values"]
    assert value["relative"] == pytest.approx(0.5 / np.sqrt(12))
    assert main(["diff", old, new, "--no-values"]) == 0
    assert "kernel" not in capsys.readouterr().out


def test_everything_that_callers_would_miss_is_a_reason(saved, capsys):
    assert main(["diff", str(saved / "a"), str(saved / "b"), "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["can_replace"] is False
    assert found["reasons"] == [
        "function apply called with (x): returns {'y': y, 'bias': bias}, returned {'y': y}",
        "function scaled is gone",
        "platforms are without cuda",
        "tag serve is gone, and load(tags=) may ask for it",
    ]
    texts = [f"{one['part']} {one['name']} {one['text']}" for one in found["differences"]]
    for text in (
        "signature serving_default input bias is new, with a default",
        "signature serving_default input x is float32[None, 3], was float32[n, 3]",
        "signature serving_default output bias is new",
        "asset words has other content",
        "metadata labels is null, was [1]",
    ):
        assert text in texts


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"signatures": {}}, "signature serving_default is gone"),
        ({"stablehlo_version": "9.0.0"}, "StableHLO is 9.0.0, was 0.9.0"),
        ({"x64": True}, "64-bit arrays are needed now (JAX_ENABLE_X64=1)"),
        ({"platforms": ["cuda"]}, "platforms are without cpu"),
        ({"tags": []}, "tag serve is gone, and load(tags=) may ask for it"),
    ],
)
def test_what_keeps_it_from_loading_where_the_first_does_is_a_reason(saved, change, reason):
    old = manifest_file.read(saved / "a")
    new = msgspec.structs.replace(old, **change)
    assert [str(one) for one in compare(old, new).reasons] == [reason]
    back = compare(new, old)
    assert back.can_replace
    assert len(back.differences) >= 1


def test_a_native_call_is_a_reason_unless_jax_promises_to_keep_it(saved):
    old = manifest_file.read(saved / "a")
    calls = msgspec.structs.replace(old.programs[0], custom_calls=["mine"])
    new = msgspec.structs.replace(old, programs=[calls, *old.programs[1:]])
    assert [str(one) for one in compare(old, new).reasons] == [
        "native function mine is called, and must be named in load(custom_calls=)"
    ]
    assert compare(old, new, promised=["mine"]).can_replace


def test_an_artifact_that_cannot_be_read_is_named(saved, capsys, tmp_path):
    assert fail(capsys, "diff", str(saved / "a"), str(tmp_path / "gone")).endswith(
        "gone does not exist."
    )
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "saved_model.json").write_bytes((saved / "a/saved_model.json").read_bytes())
    assert "is damaged" in fail(capsys, "diff", str(saved / "a"), str(bare))
    assert main(["diff", str(saved / "a"), str(bare), "--no-values"]) == 0


# Values.


@pytest.mark.parametrize("dtype", ["float32", "complex64", "int32", "bfloat16", "int4", "bool"])
def test_differences_of_values_are_those_of_numpy(dtype):
    rng = np.random.default_rng(0)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    one, other = (rng.integers(0, 2, (3, 5)).astype(kind) for _ in range(2))
    found = difference("x", one, other)
    apart = one.astype(complex) - other.astype(complex)
    assert found.unequal == np.count_nonzero(apart)
    assert found.largest == np.abs(apart).max()
    assert found.l2 == pytest.approx(np.linalg.norm(apart))
    assert found.relative == pytest.approx(
        np.linalg.norm(apart) / np.linalg.norm(one.astype(complex))
    )


def test_numbers_that_are_not_finite_are_equal_to_themselves_only():
    one = np.array([np.nan, np.inf, np.inf, 1.0])
    assert difference("x", one, one).unequal == 0
    found = difference("x", one, np.array([np.nan, np.inf, -np.inf, 1.0]))
    assert (found.unequal, found.largest, found.l2, found.relative) == (1, *[np.inf] * 3)
    assert difference("x", np.zeros(0), np.zeros(0)).largest == 0
    assert difference("x", np.zeros(2), np.ones(2)).relative == np.inf

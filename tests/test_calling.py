"""How loaded signatures and functions are called, and what they refuse before anything runs."""

import gc
import inspect
import weakref
from collections import OrderedDict
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from exporter import (
    BindError,
    IncompatibleRuntimeError,
    StateError,
    TensorSpec,
    UnknownSignatureError,
    Variable,
    function,
)

X = np.array([1, 2], np.float32)
Y = np.array([10, 20], np.float32)


class Pair(NamedTuple):
    left: object
    right: object


class Other(NamedTuple):
    left: object
    right: object


class Swapped(NamedTuple):
    right: object
    left: object


Swapped.__name__ = "Pair"  # another class of the same name


def test_a_function_outlives_its_model_and_shares_its_state(reload):
    class Counter:
        def __init__(self):
            self.n = Variable(jnp.int32(0))

        @function(input_signature=[])
        def inc(self):
            self.n.value += 1
            return self.n.value

    loaded = reload(Counter())
    model, held, inc = weakref.ref(loaded), loaded.n, loaded.inc
    del loaded
    gc.collect()
    assert model() is None
    assert [int(inc()), int(inc()), int(held)] == [1, 2, 2]


def test_a_program_of_64_bits_says_so_where_they_were_switched_off(reload):
    x = np.float64([1, 2])
    with jax.enable_x64(True):

        class Wide:
            def __init__(self):
                self.w = Variable(np.float64(2) / 3)

            @function(input_signature=[TensorSpec((2,), "float64")])
            def f(self, x):
                return x * self.w

        loaded = reload(Wide())
        want = np.asarray(loaded.f(x))
        np.testing.assert_array_equal(want, x * (2 / 3))
    for call in (loaded.f, jax.jit(lambda _: loaded.f(x))):
        with pytest.raises(IncompatibleRuntimeError) as refused:
            call(x)
        assert str(refused.value) == (
            "f has 64-bit arrays, and jax_enable_x64 was switched off since it was loaded. Switch "
            "it on again, or call it under jax.enable_x64(True)."
        )
    with pytest.raises(StateError, match="float64\\[\\], which JAX narrows to 32 bits here; call"):
        loaded.w.value = np.array(0.5)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(loaded.f(x), want)


def test_a_list_that_holds_itself_is_refused(reload):
    loaded = reload(Model(), {})
    circle = []
    circle.append(circle)
    with pytest.raises(BindError, match="an argument holds itself, or is nested too deeply"):
        loaded.one(circle)


class Model:
    @function(input_signature=[TensorSpec((2,), "float32")])
    def one(self, x):
        """Doubles.

        In every element.
        """
        return 2 * x

    @function(input_signature=[TensorSpec(("n", 2), "float32"), TensorSpec(("n",), "float32")])
    def two(self, x, y):
        return {"sum": x.sum(1) + y}

    @function(input_signature=[TensorSpec((), "float32", "y"), TensorSpec((), "float32", "x")])
    def crossed(self, x, y):
        return x - y

    @function(input_signature=[[TensorSpec((2,), "float32")] * 2, TensorSpec((2,), "float32", "z")])
    def listed(self, pair, other):
        return pair[0] - pair[1] + other

    @function(input_signature=[(TensorSpec((2,), "float32"), TensorSpec((2,), "float32"))])
    def tupled(self, pair):
        return pair[0] - pair[1]

    @function(
        input_signature=[{"a": TensorSpec((2,), "float32"), "b": TensorSpec((2,), "float32")}]
    )
    def keyed(self, pair):
        return pair["a"] - pair["b"]

    @function(input_signature=[Pair(TensorSpec((2,), "float32"), TensorSpec((2,), "float32"))])
    def named(self, pair):
        return pair.left - pair.right

    @function(input_signature=[TensorSpec((2,), "float32"), TensorSpec((2,), "float32")])
    def some(self, *values):
        return sum(values)

    @function(input_signature={"x": TensorSpec((2,), "float32"), "rest": {}})
    def rest(self, x, /, *, scale=2, **rest):
        return scale * x


@pytest.fixture(scope="module")
def model(reload):
    original = Model()
    return reload(original, {"one": original.one, "two": original.two, "crossed": original.crossed})


def refusal(call, *args, **kwargs):
    with pytest.raises(TypeError) as refused:
        call(*args, **kwargs)
    assert isinstance(refused.value, BindError)
    return str(refused.value)


ONE = "The signature is one(x: float32[2]) -> (output_0: float32[2])."
TWO = "The signature is two(x: float32[n, 2], y: float32[n]) -> (sum: float32[n])."


class TestSignatures:
    """`model.signatures` and the signatures in it."""

    def test_they_are_a_mapping_that_cannot_be_changed(self, model):
        signatures = model.signatures
        assert list(signatures) == ["one", "two", "crossed"]
        assert len(signatures) == 3
        assert "one" in signatures
        assert "three" not in signatures
        assert signatures.get("three") is None
        assert [one.name for one in signatures.values()] == list(signatures)
        for change in (
            lambda: signatures.__setitem__("one", None),
            lambda: signatures.__delitem__("one"),
            lambda: setattr(model, "signatures", {}),
        ):
            with pytest.raises((TypeError, AttributeError)):
                change()
        with pytest.raises(TypeError, match="does not support item assignment"):
            signatures["one"] = None

    def test_an_unknown_name_lists_the_names(self, model):
        with pytest.raises(KeyError) as missing:
            model.signatures["three"]
        assert isinstance(missing.value, UnknownSignatureError)
        assert str(missing.value) == (
            "no signature 'three'; the signatures are 'one', 'two', 'crossed'."
        )
        assert (missing.value.name, missing.value.known) == ("three", ("one", "two", "crossed"))

    def test_one_input_may_be_given_by_position(self, model):
        for value in (X, jnp.asarray(X), [1, 2], (1.0, 2.0)):
            for result in (model.signatures["one"](value), model.signatures["one"](x=value)):
                np.testing.assert_array_equal(result["output_0"], 2 * X)

    def test_several_inputs_are_given_by_keyword_in_any_order(self, model):
        result = model.signatures["two"](y=[1], x=[[2, 3]])
        np.testing.assert_array_equal(result["sum"], [6])

    @pytest.mark.parametrize(
        ("name", "args", "kwargs", "message"),
        [
            (
                "two",
                ([[1, 2]], [1]),
                {},
                "signature 'two' takes its inputs by keyword, got 2 positional values. Name each "
                f"one, as in (x=..., y=...).\n{TWO}",
            ),
            (
                "two",
                ([[1, 2]],),
                {"y": [1]},
                "signature 'two' takes its inputs by keyword, got 1 positional value. Name each "
                f"one, as in (x=..., y=...).\n{TWO}",
            ),
            (
                "one",
                (X, X),
                {},
                "signature 'one' takes its inputs by keyword, got 2 positional values. Name each "
                f"one, as in (x=...).\n{ONE}",
            ),
            (
                "one",
                (X,),
                {"x": X},
                "arguments do not fit signature 'one':\n"
                f"  x: given twice, by position and by keyword\n{ONE}",
            ),
            (
                "two",
                (),
                {},
                "arguments do not fit signature 'two':\n"
                "  x: missing, expected float32[n, 2]\n"
                f"  y: missing, expected float32[n]\n{TWO}",
            ),
            (
                "two",
                (),
                {"x": [[1, 2]], "y": [1], "z": 1},
                "arguments do not fit signature 'two':\n"
                f"  z: not an input, the inputs are x, y\n{TWO}",
            ),
            (
                "two",
                (),
                {"x": np.ones((4, 3), np.float32), "y": np.ones(5, np.int32)},
                "arguments do not fit signature 'two':\n"
                "  x: expected float32[n, 2] with n=4, got float32[4, 3]\n"
                "  y: expected float32[n] with n=4, got int32[5]; convert it with "
                f".astype('float32') if that is meant\n{TWO}",
            ),
            (
                "two",
                (),
                {"x": np.ones((4, 2), np.float32), "y": np.ones(5, np.float32)},
                "arguments do not fit signature 'two':\n"
                f"  y: expected float32[n] with n=4 from x, got float32[5]\n{TWO}",
            ),
            (
                "crossed",
                (),
                {"x": 1, "y": "a"},
                "arguments do not fit signature 'crossed':\n"
                "  y: expected float32[], got 'a' (str)\n"
                "The signature is crossed(y: float32[], x: float32[]) -> (output_0: float32[]).",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused_naming_every_input(
        self, model, name, args, kwargs, message
    ):
        assert refusal(model.signatures[name], *args, **kwargs) == message

    def test_they_describe_themselves(self, model):
        signature = model.signatures["two"]
        inputs = {
            "x": TensorSpec(("n", 2), "float32", "x"),
            "y": TensorSpec(("n",), "float32", "y"),
        }
        assert signature.name == "two"
        assert dict(signature.signature.inputs) == inputs
        assert signature.structured_input_signature == ((), inputs)
        assert signature.structured_outputs == {"sum": TensorSpec(("n",), "float32", "sum")}
        assert repr(signature) == (
            "<LoadedSignature two(x: float32[n, 2], y: float32[n]) -> (sum: float32[n])>"
        )
        assert repr(model.signatures).splitlines()[1] == (
            "  one(x: float32[2]) -> (output_0: float32[2])"
        )


class TestFunctions:
    """Functions called by attribute, as the original was."""

    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [(([[2, 3]], [1]), {}), (([[2, 3]],), {"y": [1]}), ((), {"y": [1], "x": [[2, 3]]})],
    )
    def test_arguments_are_given_by_position_or_by_python_name(self, model, args, kwargs):
        np.testing.assert_array_equal(model.two(*args, **kwargs)["sum"], [6])
        np.testing.assert_array_equal(Model().two(*args, **kwargs)["sum"], [6])

    def test_python_names_count_whatever_the_specs_are_called(self, model):
        assert float(model.crossed(1, 10)) == -9
        assert float(model.crossed(y=10, x=1)) == -9
        assert float(model.signatures["crossed"](y=1, x=10)["output_0"]) == -9

    @pytest.mark.parametrize("name", ["one", "two", "listed", "some", "rest"])
    def test_name_docstring_and_parameters_are_kept(self, model, name):
        original, loaded = getattr(Model(), name), getattr(model, name)
        assert loaded.__name__ == original.__name__ == name
        assert inspect.getdoc(loaded) == inspect.getdoc(original)
        assert inspect.signature(loaded) == inspect.signature(original)

    def test_structures_are_described_as_the_arguments_are(self, model):
        one = TensorSpec((2,), "float32")
        args, kwargs = model.listed.structured_input_signature
        assert args == ([one.renamed("pair/0"), one.renamed("pair/1")], one.renamed("z"))
        assert kwargs == {}
        assert model.rest.structured_input_signature == ((one.renamed("x"),), {"scale": 2})
        assert model.two.structured_outputs == {"sum": TensorSpec(("n",), "float32", "sum")}

    @pytest.mark.parametrize(
        ("name", "args", "kwargs", "message"),
        [
            ("two", (X,), {}, "two(x, y): missing a required argument: 'y'."),
            ("two", (X, X), {"z": 1}, "two(x, y): got an unexpected keyword argument 'z'."),
            ("two", (X, X, X), {}, "two(x, y): too many positional arguments."),
            (
                "two",
                (X,),
                {"x": X},
                "two(x, y): multiple values for argument 'x'; missing a required argument: 'y'.",
            ),
        ],
    )
    def test_python_s_own_rules_hold_for_arguments(self, model, name, args, kwargs, message):
        for call in (getattr(model, name), getattr(Model(), name)):
            assert refusal(call, *args, **kwargs) == message

    @pytest.mark.parametrize(
        ("name", "args", "kwargs", "problems"),
        [
            (
                "two",
                (np.ones((4, 3), np.float32), np.ones(5, np.int32)),
                {},
                "x: expected float32[n, 2] with n=4, got float32[4, 3]\n"
                "y: expected float32[n] with n=4, got int32[5]; convert it with .astype('float32') "
                "if that is meant",
            ),
            ("crossed", (), {"x": 1, "y": "a"}, "y: expected float32[], got 'a' (str)"),
            ("listed", ([X, "a"], Y), {}, "pair/1: expected float32[2], got 'a' (str)"),
            (
                "listed",
                ((1, 2), [1, 2, 3]),
                {},
                "pair: expected [array, array], got (1, 2) (tuple)\n"
                "other: expected float32[2], got float32[3]",
            ),
            ("listed", ([1], Y), {}, "pair: expected [array, array], got [1] (list)"),
            ("tupled", ([1, 2],), {}, "pair: expected (array, array), got [1, 2] (list)"),
            (
                "tupled",
                (Pair(1, 2),),
                {},
                "pair: expected (array, array), got Pair(left=1, right=2) (Pair)",
            ),
            (
                "keyed",
                ({"a": 1, "c": 2},),
                {},
                "pair: expected {'a': array, 'b': array}, got {'a': 1, 'c': 2} (dict)",
            ),
            (
                "keyed",
                ({"a": 1, "b": 2, "c": 3},),
                {},
                "pair: expected {'a': array, 'b': array}, got {'a': 1, 'b': 2, 'c': 3} (dict)",
            ),
            (
                "named",
                ((1, 2),),
                {},
                "pair: expected Pair(left=array, right=array), got (1, 2) (tuple)",
            ),
            (
                "named",
                (Swapped(1, 2),),
                {},
                "pair: expected Pair(left=array, right=array), got Pair(right=1, left=2) (Pair)",
            ),
            (
                "some",
                (1,),
                {},
                "values: expected (array, array), got (1,) (tuple)",
            ),
            (
                "rest",
                (X,),
                {"scale": 3},
                "scale: the value 2 is part of the saved function, got 3 (int)",
            ),
            ("rest", (X,), {"more": 1}, "rest: expected {}, got {'more': 1} (dict)"),
        ],
    )
    def test_what_does_not_fit_is_refused_in_the_words_of_the_arguments(
        self, model, name, args, kwargs, problems
    ):
        call = getattr(model, name)
        lines = "".join(f"\n  {line}" for line in problems.splitlines())
        head = f"arguments do not fit {name}{inspect.signature(call)}:{lines}\n"
        assert refusal(call, *args, **kwargs) == f"{head}The signature is {call.signature}."
        assert refusal(getattr(Model(), name), *args, **kwargs).startswith(head)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("listed", [X, Y]),
            ("tupled", (X, Y)),
            ("keyed", {"b": Y, "a": X}),
            ("keyed", OrderedDict(b=Y, a=X)),
            ("named", Pair(X, Y)),
            ("named", Other(right=Y, left=X)),
        ],
    )
    def test_containers_fit_by_kind_keys_and_fields(self, model, name, value):
        args = (value, np.zeros(2, np.float32)) if name == "listed" else (value,)
        np.testing.assert_array_equal(getattr(model, name)(*args), X - Y)
        np.testing.assert_array_equal(getattr(Model(), name)(*args), X - Y)


SHORTENED = "160693804425899027554196209234116260252220299378279283530..."
NEVER = object()

# For each dtype: values and what they become, or why they are refused.
CONVERSIONS = {
    "float32": [
        (1, 1.0),
        (2.5, 2.5),
        (0.1, np.float32(0.1)),
        (True, 1.0),
        (2**30, float(2**30)),
        (float("inf"), np.inf),
        (1e-300, 0.0),
        (np.float64(0.1), np.float32(0.1)),
        (np.float16(2), 2.0),
        (np.int64(3), 3.0),
        (np.bool_(True), 1.0),
        (np.zeros((), np.float32), 0.0),
        (1j, "got 1j (complex); float32 takes real numbers only"),
        (2**24 + 1, "got 16777217 (int), which float32 cannot hold exactly"),
        (np.int64(2**24 + 1), "got np.int64(16777217) (int64), which float32 cannot hold exactly"),
        (1e300, "got 1e+300 (float), which is too large for float32"),
        ("s", "got 's' (str)"),
        (b"s", "got b's' (bytes)"),
        (None, "got None (NoneType)"),
        ({}, "got {} (dict)"),
        (NEVER, f"got {NEVER!r} (object)"),
        ([1.0], "got [1.0] (list)"),
        ([], "got [] (list)"),
        (
            np.zeros(()),
            "got float64[]; convert it with .astype('float32') if that is meant",
        ),
        (
            np.zeros((), np.int32),
            "got int32[]; convert it with .astype('float32') if that is meant",
        ),
        (
            jnp.zeros((), jnp.float16),
            "got float16[]; convert it with .astype('float32') if that is meant",
        ),
    ],
    "int32": [
        (1, 1),
        (True, 1),
        (-(2**31), -(2**31)),
        (np.int64(5), 5),
        (np.uint8(5), 5),
        (1.0, "got 1.0 (float); int32 takes ints only"),
        (1.5, "got 1.5 (float); int32 takes ints only"),
        (
            2**31,
            "got 2147483648 (int), which int32 cannot hold: it takes -2147483648 to 2147483647",
        ),
        (
            2**40,
            "got 1099511627776 (int), which int32 cannot hold: it takes -2147483648 to 2147483647",
        ),
        (np.float32(1), "got np.float32(1.0) (float32); int32 takes ints only"),
        (
            jnp.zeros((), jnp.int8),
            "got int8[]; convert it with .astype('int32') if that is meant",
        ),
    ],
    "int8": [
        (127, 127),
        (-128, -128),
        (300, "got 300 (int), which int8 cannot hold: it takes -128 to 127"),
    ],
    "uint8": [(255, 255), (-1, "got -1 (int), which uint8 cannot hold: it takes 0 to 255")],
    "int4": [(-8, -8), (8, "got 8 (int), which int4 cannot hold: it takes -8 to 7")],
    "bool": [
        (True, True),
        (np.bool_(False), False),
        (1, "got 1 (int); bool takes bools only"),
    ],
    "bfloat16": [
        (1, 1.0),
        (0.1, ml_dtypes.bfloat16(0.1)),
        (257, "got 257 (int), which bfloat16 cannot hold exactly"),
        (1e39, "got 1e+39 (float), which is too large for bfloat16"),
    ],
    "float16": [
        (65504, 65504.0),
        (2049, "got 2049 (int), which float16 cannot hold exactly"),
        (1e5, "got 100000.0 (float), which is too large for float16"),
    ],
    "float8_e4m3fn": [
        (448.0, 448.0),
        (480.0, "got 480.0 (float), which is too large for float8_e4m3fn"),
    ],
    "complex64": [
        (1, 1 + 0j),
        (1.5, 1.5 + 0j),
        (2j, 2j),
        (1e39, "got 1e+39 (float), which is too large for complex64"),
    ],
}


@pytest.fixture(scope="module")
def numbers(reload):
    return reload(
        SimpleNamespace(
            **{
                dtype: function(lambda x: x, input_signature=[TensorSpec((), dtype)])
                for dtype in CONVERSIONS
            }
        ),
        {},
    )


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [(dtype, *case) for dtype, cases in CONVERSIONS.items() for case in cases],
)
def test_values_are_converted_where_nothing_is_lost_and_else_refused(
    numbers, dtype, value, expected
):
    call = getattr(numbers, dtype)
    if isinstance(expected, str):
        assert refusal(call, value) == (
            f"arguments do not fit <lambda>(x):\n  x: expected {dtype}[], {expected}\n"
            f"The signature is <lambda>(x: {dtype}[]) -> (output_0: {dtype}[])."
        )
    else:
        result = call(value)
        assert result.dtype == jnp.dtype(dtype)
        assert np.asarray(result).astype("complex64") == np.complex64(expected)


class Model22:
    @function(input_signature=[TensorSpec((2, 2), "float32")])
    def f(self, x):
        return 2 * x


MATRIX = np.array([[1, 2], [3, 4]], np.float32)


@pytest.mark.parametrize(
    "value",
    [
        MATRIX,
        jnp.asarray(MATRIX),
        np.asfortranarray(MATRIX),
        MATRIX[:, ::-1][:, ::-1],
        MATRIX.astype(">f4"),
        memoryview(MATRIX),
        Variable(MATRIX),
        MATRIX.tolist(),
        [(1, 2), [3, 4]],
        [MATRIX[0], MATRIX[1]],
        [jnp.asarray(MATRIX[0]), jnp.asarray(MATRIX[1])],
        [[np.float32(1), 2], [3, np.int64(4)]],
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_holds_the_elements_gives_the_same_answer(reload, value):
    model = reload(Model22())
    for result in (model.f(value), model.signatures["serving_default"](value)["output_0"]):
        np.testing.assert_array_equal(result, 2 * MATRIX)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (MATRIX[0], "got float32[2]"),
        (np.ones((2, 3), np.float32), "got float32[2, 3]"),
        (Variable(np.ones((2, 3), np.float32)), "got float32[2, 3]"),
        ([1, 2, 3, 4], "got float32[4]"),
        (range(2), "got float32[2]"),
        ([[1, None], [2, 3]], "got a list whose item [0][1] is None (NoneType)"),
        ([[1, "a"], [2, 3]], "got a list whose item [0][1] is 'a' (str)"),
        (
            [[2**31 + 1, 0], [0, 0]],
            "got a list whose item [0][0] is 2147483649 (int), which float32 cannot hold exactly",
        ),
        (
            jax.ShapeDtypeStruct((2, 2), "float32"),
            "got ShapeDtypeStruct(shape=(2, 2), dtype=float32) (ShapeDtypeStruct)",
        ),
        (
            TensorSpec((2, 2), "float32"),
            "got TensorSpec(shape=(2, 2), dtype='float32') (TensorSpec)",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_does_not_hold_the_elements_is_refused(reload, value, found):
    message = refusal(reload(Model22()).f, value)
    assert message.splitlines()[1] == f"  x: expected float32[2, 2], {found}"


def test_lists_of_unequal_length_are_refused(reload):
    message = refusal(reload(Model22()).f, [[1, 2], [3]])
    assert message.splitlines()[1] == (
        "  x: expected float32[2, 2], got a ragged list: item [0] is a list of 2 and item [1] is a "
        "list of 1"
    )


@pytest.mark.parametrize(
    "transform",
    [lambda f: f, jax.jit, lambda f: jax.jit(jax.jit(f))],
    ids=["plain", "jit", "jit of jit"],
)
def test_loaded_functions_run_inside_jit(model, transform):
    matrix = np.ones((3, 2), np.float32)
    shift = np.arange(3, dtype=np.float32)

    def by_attribute(x, y):
        return model.two(x, y=y)["sum"] + model.one(x[0]).sum()

    def by_signature(x, y):
        return (
            model.signatures["two"](y=y, x=x)["sum"]
            + model.signatures["one"](x[0])["output_0"].sum()
        )

    for call in (by_attribute, by_signature):
        np.testing.assert_array_equal(transform(call)(matrix, shift), 2 + shift + 4)


def test_wrong_types_are_refused_inside_jit_too(model):
    with pytest.raises(BindError) as refused:
        jax.jit(lambda x: model.one(x + 1))(np.ones(3, np.float32))
    assert refused.value.problems == ("x: expected float32[2], got float32[3]",)
    with pytest.raises(BindError) as refused:
        jax.jit(model.one)(np.ones(2, np.int32))
    assert refused.value.problems == (
        "x: expected float32[2], got int32[2]; convert it with .astype('float32') if that is meant",
    )

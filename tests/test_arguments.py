"""The Python arguments of a function: bound as Python binds them, matched to what was traced."""

import enum
import inspect
from collections import OrderedDict
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signatures import BindError, Signature, TensorSpec
from signatures.arguments import (
    REQUIRED,
    Opaque,
    Parameter,
    bind_arguments,
    bind_call,
    call_arguments,
    match,
    named_by_path,
    python_signature,
    refused,
)
from signatures.binding import ABSENT
from signatures.tree import Constant, Keyed, Leaf, Sequential, Static, flatten

UNHURRIED = settings(deadline=None)  # the time of one example says nothing on a busy machine

SAVED = "is part of the saved function, got"


class Colour(enum.IntEnum):
    RED = 3


class Point(NamedTuple):
    x: object
    y: object


class Other(NamedTuple):
    x: object
    z: object


class Array:
    """What counts as an array in these tests."""


KEPT_AS_TEXT = Opaque("<object>")


def everything(a, /, b, c=3, *args, d, e=KEPT_AS_TEXT, **kwargs):
    return a, b, c, args, d, e, kwargs


def plain(x, größe=2.0):  # noqa: PLC2401  # Python takes such names, and so do we
    return x, größe


def parameters_of(function):
    return [Parameter.of(one) for one in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("function", [everything, plain, lambda: None, lambda *x, **y: None])
def test_the_signature_of_a_function_comes_back_from_its_parameters(function):
    assert python_signature(parameters_of(function)) == inspect.signature(function)


def test_a_parameter_is_plain_data():
    first, *_, last = parameters_of(everything)
    assert first == Parameter("a", "positional_only", REQUIRED)
    assert last == Parameter("kwargs", "var_keyword")
    assert [p.name for p in parameters_of(everything) if p.is_variadic] == ["args", "kwargs"]


def test_a_default_that_cannot_be_kept_is_shown_as_it_was():
    assert str(python_signature(parameters_of(everything))) == (
        "(a, /, b, c=3, *args, d, e=<object>, **kwargs)"
    )


@pytest.mark.parametrize(
    ("args", "kwargs", "values"),
    [
        ((1,), {}, {"x": 1, "größe": 2.0}),
        ((), {"x": 1}, {"x": 1, "größe": 2.0}),
        ((1, 3), {}, {"x": 1, "größe": 3}),
        ((), {"größe": 3, "x": 1}, {"x": 1, "größe": 3}),
    ],
)
def test_arguments_are_bound_with_defaults_in_the_order_of_the_definition(args, kwargs, values):
    bound = bind_arguments(inspect.signature(plain), "plain", args, kwargs)
    assert list(bound.items()) == list(values.items())


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"x": 1}, "multiple values for argument 'x'"),
        ((1,), {"z": 1}, "got an unexpected keyword argument 'z'"),
        (
            (),
            {"z": 1},
            "missing a required argument: 'x'; got an unexpected keyword argument 'z'",
        ),
        (
            (1, 2, 3),
            {"z": 1},
            "too many positional arguments; got an unexpected keyword argument 'z'",
        ),
    ],
)
def test_a_call_that_python_refuses_names_the_function_and_its_parameters(args, kwargs, reason):
    with pytest.raises(BindError) as caught:
        bind_arguments(inspect.signature(plain), "plain", args, kwargs)
    assert str(caught.value) == f"plain(x, größe=2.0): {reason}."
    assert isinstance(caught.value.__cause__, TypeError)


@UNHURRIED
@given(
    st.lists(st.integers(), min_size=2, max_size=5),
    st.fixed_dictionaries(
        {"d": st.integers()},
        optional={"e": st.integers(), "f": st.integers(), "a": st.integers()},
    ),
)
def test_calling_with_bound_arguments_is_calling_as_it_was_written(args, kwargs):
    values = bind_arguments(inspect.signature(everything), "everything", args, kwargs)
    structures, leaves = {}, []
    for name, value in values.items():
        structure, found = flatten(value, lambda one: isinstance(one, int))
        count = len(leaves)
        structures[name] = _shifted(structure, count)
        leaves += found
    again = call_arguments(parameters_of(everything), structures, leaves)
    assert everything(*again[0], **again[1]) == everything(*args, **kwargs)


def _shifted(structure, by):
    match structure:
        case Leaf(index):
            return Leaf(index + by)
        case Sequential(kind, items, fields):
            return Sequential(kind, tuple(_shifted(item, by) for item in items), fields)
        case Keyed(keys, items):
            return Keyed(keys, tuple(_shifted(item, by) for item in items))
    return structure


A, B = Array(), Array()
PAIR = Sequential("list", (Leaf(0), Leaf(1)))


@pytest.mark.parametrize(
    ("structure", "value", "leaves"),
    [
        (Leaf(0), A, [A]),
        (Leaf(0), None, [None]),
        (PAIR, [A, B], [A, B]),
        (Sequential("tuple", (Leaf(1), Leaf(0))), (A, B), [B, A]),
        (Sequential("tuple", ()), (), []),
        (Keyed((), ()), {}, []),
        (Keyed(("a", 1), (Leaf(0), Leaf(1))), {1: B, "a": A}, [A, B]),
        (Keyed(("a",), (Leaf(0),)), OrderedDict(a=A), [A]),
        (Sequential("Point", (Leaf(0), Leaf(1)), ("x", "y")), Point(A, B), [A, B]),
        (Static(3), 3, []),
        (Static(3), Colour.RED, []),
        (Static(None), None, []),
        (Static("a"), "a", []),
        (Static(float("nan")), float("nan"), []),
        (Static("<class 'int'>", opaque=True), int, []),
        (Static("<object>", opaque=True, original=A), Opaque("<object>"), []),
        (Constant(np.ones(2, np.float32)), jnp.ones(2), []),
    ],
)
def test_values_that_are_built_as_those_that_were_traced_give_their_arrays(
    structure, value, leaves
):
    assert match({"x": structure}, {"x": value}, len(leaves)) == (leaves, [])


@pytest.mark.parametrize(
    ("structure", "value", "problem"),
    [
        (PAIR, (1, 2), "x: expected [array, array], got (1, 2) (tuple)"),
        (PAIR, np.ones(2), "x: expected [array, array], got an array float64[2]"),
        (PAIR, [np.ones(2)], "x: expected [array, array], got [float64[2]] (list)"),
        (PAIR, [], "x: expected [array, array], got [] (list)"),
        (PAIR, None, "x: expected [array, array], got None (NoneType)"),
        (Sequential("tuple", (Leaf(0), Leaf(1))), Point(1, 2),
         "x: expected (array, array), got Point(x=1, y=2) (Point)"),
        (Sequential("Point", (Leaf(0), Leaf(1)), ("x", "y")), (1, 2),
         "x: expected Point(x=array, y=array), got (1, 2) (tuple)"),
        (Sequential("Point", (Leaf(0), Leaf(1)), ("x", "y")), Other(1, 2),
         "x: expected Point(x=array, y=array), got Other(x=1, z=2) (Other)"),
        (Keyed(("a",), (Leaf(0),)), {}, "x: expected {'a': array}, got {} (dict)"),
        (Keyed(("a",), (Leaf(0),)), {"a": 1, "b": 2},
         "x: expected {'a': array}, got {'a': 1, 'b': 2} (dict)"),
        (Keyed(("a",), (Leaf(0),)), [1], "x: expected {'a': array}, got [1] (list)"),
        (Keyed(("a",), (Sequential("list", (Leaf(0),)),)), {"a": 1},
         "x/a: expected [array], got 1 (int)"),
        (Static(3), 4, f"x: the value 3 {SAVED} 4 (int)"),
        (Static(3), 3.0, f"x: the value 3 {SAVED} 3.0 (float)"),
        (Static(1), True, f"x: the value 1 {SAVED} True (bool)"),
        (Static(0.0), -0.0, f"x: the value 0.0 {SAVED} -0.0 (float)"),
        (Static("a"), None, f"x: the value 'a' {SAVED} None (NoneType)"),
        (Static(3), np.int32(3), f"x: the value 3 {SAVED} np.int32(3) (int32)"),
        (Static(3), jnp.ones(2), f"x: the value 3 {SAVED} an array float32[2]"),
        (Static(3), [3], f"x: the value 3 {SAVED} [3] (list)"),
        (Static("<class 'int'>", opaque=True), float,
         f"x: the value <class 'int'> {SAVED} <class 'float'> (type)"),
        (Constant(np.ones(2, np.float32)), np.zeros(2, np.float32),
         f"x: the value array([1.0, 1.0], float32) {SAVED} an array float32[2]"),
        (Constant(np.zeros(99)), 1,
         "x: the value array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, ... "
         f"{SAVED} 1 (int)"),
    ],
)  # fmt: skip
def test_values_built_otherwise_are_named_with_their_place(structure, value, problem):
    leaves, problems = match({"x": structure}, {"x": value}, 2)
    assert problems == [problem]
    assert all(leaf is ABSENT for leaf in leaves)


def test_an_object_that_prints_an_array_is_only_matched_by_itself_or_left_out():
    class Holder:
        def __repr__(self):
            return "Holder(Array([0., ..., 0.]))"

    holder = Holder()
    structure, _ = flatten(holder, lambda _: False)
    assert match({"x": structure}, {"x": holder}, 0) == ([], [])
    assert match({"x": structure}, {"x": Opaque(repr(holder))}, 0) == ([], [])
    assert match({"x": structure}, {"x": Holder()}, 0)[1] == [
        f"x: the value Holder(Array([0., ..., 0.])) {SAVED} Holder(Array([0., ..., 0.])) (Holder)"
    ]


def test_every_problem_of_every_argument_is_found_in_one_pass():
    arguments = {"x": PAIR, "n": Static(3), "y": Keyed(("a",), (Leaf(2),))}
    leaves, problems = match(arguments, {"x": 1, "n": 4, "y": {"a": A}}, 3)
    assert leaves == [ABSENT, ABSENT, A]
    assert problems == [
        "x: expected [array, array], got 1 (int)",
        f"n: the value 3 {SAVED} 4 (int)",
    ]


SPECS = Signature(
    "f", {"first": TensorSpec(("n",)), "x/b": TensorSpec(("n", 2)), "y": TensorSpec(())}, {}
)
ARGUMENTS = {"x": Keyed(("a", "b"), (Leaf(0), Leaf(1))), "y": Leaf(2)}


def test_inputs_are_named_by_their_places_in_the_arguments():
    by_path = named_by_path(SPECS, ARGUMENTS)
    assert str(by_path) == "f(x/a: float32[n], x/b: float32[n, 2], y: float32[]) -> ()"


def test_two_places_of_one_path_are_both_kept():
    arguments = {"x": Keyed((1, "1"), (Leaf(0), Leaf(1))), "y": Leaf(2)}
    assert list(named_by_path(SPECS, arguments).inputs) == ["x/1 (0)", "x/1 (1)", "y"]


def test_a_call_is_bound_by_the_places_of_its_arrays():
    by_path = named_by_path(SPECS, ARGUMENTS)
    bound, problems = bind_call(by_path, ARGUMENTS, {"x": {"b": [[1, 2]], "a": [3]}, "y": 1})
    assert (bound.sizes, problems) == ({"n": 1}, [])
    assert [value.tolist() for value in bound.values] == [[3.0], [[1.0, 2.0]], 1.0]


def test_wrong_containers_and_wrong_arrays_are_reported_together():
    by_path = named_by_path(SPECS, ARGUMENTS)
    _, problems = bind_call(by_path, ARGUMENTS, {"x": [1], "y": "a"})
    assert problems == [
        "x: expected {'a': array, 'b': array}, got [1] (list)",
        "y: expected float32[], got 'a' (str)",
    ]
    _, problems = bind_call(by_path, ARGUMENTS, {"x": {"a": [1], "b": [[1]]}, "y": 1})
    assert problems == ["x/b: expected float32[n, 2] with n=1, got float32[1, 1]"]


def test_the_error_for_a_call_names_the_function_as_it_was_defined():
    error = refused("f", inspect.signature(plain), "The inputs are (x).", ["x: missing", "y: bad"])
    assert str(error) == (
        "arguments do not fit f(x, größe=2.0):\n  x: missing\n  y: bad\nThe inputs are (x)."
    )
    assert error.problems == ("x: missing", "y: bad")

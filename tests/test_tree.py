"""Nested dicts, lists and tuples as plain data: taken apart, put together, described."""

import enum
import math
from collections import OrderedDict
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signatures.tree import (
    Constant,
    Keyed,
    Leaf,
    Sequential,
    Static,
    children,
    describe,
    flatten,
    leaf_paths,
    make_record,
    map_leaves,
    parts,
    plain,
    same,
    unflatten,
)

UNHURRIED = settings(deadline=None)  # the time of one example says nothing on a busy machine


class Point(NamedTuple):
    x: object
    y: object


class Renamed(NamedTuple):
    größe: object  # noqa: PLC2401  # Python takes such names, and so do we


class Array:
    """What counts as an array in these tests."""


class Colour(enum.IntEnum):
    RED = 3


class Mode(str, enum.Enum):  # noqa: UP042  # the older way, whose str() is not its text
    FAST = "fast"


def is_leaf(value):
    return isinstance(value, Array)


A, B, C = Array(), Array(), Array()

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()
)
keys = st.one_of(st.text(max_size=5), st.integers(-3, 3), st.none())
trees = st.recursive(
    st.one_of(scalars, st.builds(Array)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.builds(Point, inner, inner),
    ),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("value", "structure", "leaves"),
    [
        (A, Leaf(0), [A]),
        (None, Static(None), []),
        ((), Sequential("tuple", ()), []),
        ([], Sequential("list", ()), []),
        ({}, Keyed((), ()), []),
        ((A, 3), Sequential("tuple", (Leaf(0), Static(3))), [A]),
        ([A, [B]], Sequential("list", (Leaf(0), Sequential("list", (Leaf(1),)))), [A, B]),
        ([A, A], Sequential("list", (Leaf(0), Leaf(1))), [A, A]),
        ({"b": A, "a": B}, Keyed(("b", "a"), (Leaf(0), Leaf(1))), [A, B]),
        ({1: A, None: "x"}, Keyed((1, None), (Leaf(0), Static("x"))), [A]),
        (OrderedDict(a=A), Keyed(("a",), (Leaf(0),)), [A]),
        (MappingProxyType({"a": A}), Keyed(("a",), (Leaf(0),)), [A]),
        (Point(A, 2), Sequential("Point", (Leaf(0), Static(2)), ("x", "y")), [A]),
        (Renamed(A), Sequential("Renamed", (Leaf(0),), ("größe",)), [A]),
        (Colour.RED, Static(3), []),
        (Mode.FAST, Static("fast"), []),
        (math.inf, Static(math.inf), []),
        (1 + 2j, Static(1 + 2j), []),
        (b"ab", Static(b"ab"), []),
        (int, Static("<class 'int'>", opaque=True), []),
        (frozenset({1}), Static("frozenset({1})", opaque=True), []),
    ],
)
def test_a_value_is_taken_apart_into_a_structure_and_its_leaves(value, structure, leaves):
    assert flatten(value, is_leaf) == (structure, leaves)


@UNHURRIED
@given(trees)
def test_putting_together_undoes_taking_apart(value):
    structure, leaves = flatten(value, is_leaf)
    made = unflatten(structure, leaves)
    assert made == value
    assert repr(made) == repr(value)  # which tells lists from tuples, and 1 from True


@UNHURRIED
@given(trees)
def test_every_leaf_has_one_path_and_the_paths_are_in_order(value):
    structure, leaves = flatten(value, is_leaf)
    assert [index for _, index in leaf_paths(structure)] == list(range(len(leaves)))


@UNHURRIED
@given(trees)
def test_leaves_can_be_counted_anew_without_changing_what_is_around_them(value):
    structure, leaves = flatten(value, is_leaf)
    shifted = map_leaves(structure, lambda index: Leaf(index + 2))
    assert unflatten(shifted, [None, None, *leaves]) == value


@UNHURRIED
@given(trees)
def test_structures_of_equal_values_are_equal_and_one_key(value):
    structure, _ = flatten(value, is_leaf)
    again, _ = flatten(value, is_leaf)
    assert structure == again
    assert hash(structure) == hash(again)


@UNHURRIED
@given(trees)
def test_a_structure_is_described_as_python_prints_the_value(value):
    structure, leaves = flatten(value, is_leaf)
    assert describe(structure, lambda index: repr(leaves[index])) == repr(value)


@UNHURRIED
@given(trees)
def test_the_parts_of_a_value_are_what_no_container_is(value):
    found = list(parts(value))
    assert [part for part in found if is_leaf(part)] == flatten(value, is_leaf)[1]
    assert not any(isinstance(part, dict | list | tuple) for part in found)


@pytest.mark.parametrize(
    ("value", "prefix", "paths"),
    [
        (A, "", [""]),
        (A, "x", ["x"]),
        ([A, {"mask": B, 3: C}], "x", ["x/0", "x/1/mask", "x/1/3"]),
        (Point(A, [B]), "", ["x", "y/0"]),
        ({"a/b": A, "a": {"b": B}}, "", ["a/b", "a/b"]),
        ({b"k": A, None: B, 1.5: C}, "", ["b'k'", "None", "1.5"]),
        ({"größe": A}, "x", ["x/größe"]),
        ([], "x", []),
    ],
)
def test_the_path_of_a_leaf_joins_keys_and_positions(value, prefix, paths):
    structure, _ = flatten(value, is_leaf)
    assert [path for path, _ in leaf_paths(structure, prefix)] == paths


def test_the_children_of_a_container_have_its_keys_fields_or_positions():
    def keys_of(value):
        return [key for key, _ in children(flatten(value, is_leaf)[0])]

    assert keys_of([A, B]) == [0, 1]
    assert keys_of(Point(A, B)) == ["x", "y"]
    assert keys_of({"b": A, 1: B}) == ["b", 1]


@pytest.mark.parametrize(
    ("left", "right", "are_same"),
    [
        (3, 3, True),
        (3, 3.0, False),
        (1, True, False),
        (0, False, False),
        (None, None, True),
        ("a", "a", True),
        ("a", b"a", False),
        (math.nan, math.nan, True),
        (complex(0, math.nan), complex(0, math.nan), True),
        (0.0, -0.0, False),
        (math.inf, -math.inf, False),
        (10**30, 10**30, True),
    ],
)
def test_python_values_are_the_same_if_they_are_of_one_type_and_written_the_same(
    left, right, are_same
):
    assert same(left, right) is are_same
    assert (Static(left) == Static(right)) is are_same
    if are_same:
        assert hash(Static(left)) == hash(Static(right))


def test_a_value_that_prints_an_array_is_only_equal_to_itself():
    class Holder:
        def __repr__(self):
            return "Holder(Array([0., ..., 0.]))"

    holder = Holder()
    (left, _), (right, _), (other, _) = (
        flatten(value, is_leaf) for value in (holder, holder, Holder())
    )
    assert left == right
    assert left != other


@pytest.mark.parametrize(
    ("value", "base"),
    [(Colour.RED, 3), (Mode.FAST, "fast"), (True, True), (2.5, 2.5), (np.str_("a"), "a"),
     (np.float64(1.5), 1.5), (None, None), (b"a", b"a"), (1j, 1j)],
)  # fmt: skip
def test_a_member_of_an_enum_is_kept_as_its_plain_value(value, base):
    assert plain(value) == base
    assert type(plain(value)) is type(base)


def test_the_process_that_traced_gets_its_own_values_back():
    value = [Colour.RED, Mode.FAST, int, Point(1, 2)]
    made = unflatten(*flatten(value, is_leaf))
    assert made == value
    assert made[0] is Colour.RED
    assert made[1] is Mode.FAST
    assert made[2] is int
    assert type(made[3]) is Point


def test_without_the_class_a_namedtuple_is_made_with_its_name_and_fields():
    point = unflatten(Sequential("Point", (Leaf(0), Leaf(1)), ("x", "y")), [1, 2])
    assert (point, repr(point), point._fields) == ((1, 2), "Point(x=1, y=2)", ("x", "y"))
    assert type(point) is make_record("Point", ("x", "y"))


@pytest.mark.parametrize("fields", [("a", "a"), ("class",), ("_x",), ("not a name",)])
def test_a_record_is_made_whatever_a_file_says_its_fields_are_called(fields):
    assert len(make_record("R", fields)(*fields)) == len(fields)


@pytest.mark.parametrize(
    ("array", "value", "equals"),
    [
        (np.ones(2, np.float32), np.ones(2, np.float32), True),
        (np.ones(2, np.float32), jnp.ones(2), True),
        (np.ones(2, np.float32), np.ones(2), False),
        (np.ones(2, np.float32), np.ones((2, 1), np.float32), False),
        (np.ones(2, np.float32), np.zeros(2, np.float32), False),
        (np.array([math.nan]), np.array([math.nan]), True),
        (np.array([0.0]), np.array([-0.0]), False),
        (np.zeros(0, np.int8), np.zeros(0, np.int8), True),
        (np.ones(()), 1.0, False),
        (np.ones(2), [1.0, 1.0], False),
        (np.ones(2, jnp.bfloat16), jnp.ones(2, jnp.bfloat16), True),
    ],
)
def test_an_array_that_is_no_input_is_known_by_dtype_shape_and_elements(array, value, equals):
    assert Constant(array).equals(value) is equals
    if isinstance(value, np.ndarray):
        assert (Constant(array) == Constant(value)) is equals


def test_a_traced_array_is_not_taken_for_a_known_one():
    found = []
    jax.jit(lambda x: found.append(Constant(np.ones(2, np.float32)).equals(x)))(jnp.ones(2))
    assert found == [False]


def test_an_array_that_is_no_input_is_given_back_as_it_was():
    original = jnp.ones(2)
    kept = Constant(np.ones(2, np.float32), original)
    assert unflatten(kept, []) is original
    assert map_leaves(kept, Leaf) is kept
    assert describe(kept, str) == "array([1.0, 1.0], float32)"
    assert hash(kept) == hash(Constant(np.ones(2, np.float32)))

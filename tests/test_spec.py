"""One array as a callable promises it: what can be written, how it prints, what it compares to."""

import enum

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export

from signatures.dtypes import KeyType, as_dtype
from signatures.errors import SpecError
from signatures.spec import Dim, TensorSpec, storage_shape

UNHURRIED = settings(deadline=None)  # the time of one example says nothing on a busy machine

AXIS_HELP = (
    "An axis is a size (64), None, a name ('batch') or arithmetic over names ('2*n + 1', with "
    "+ - * // % ^ and max, min, mod, floordiv)."
)

names = st.sampled_from(["n", "m", "batch", "größe", "_1"])
axes = st.one_of(
    st.none(),
    st.integers(0, 2**40),
    names,
    st.builds("{}*{} + {}".format, st.integers(2, 9), names, st.integers(0, 9)),
    st.builds("floordiv({}, {})".format, names, st.integers(1, 9)),
    st.builds("max({}, {})".format, names, names),
)
dtypes = st.sampled_from(
    ["float32", "bool", "int4", "bfloat16", "float8_e4m3fn", "complex64", "key<fry>"]
)
labels = st.none() | st.text(min_size=1, max_size=8)
specs = st.builds(TensorSpec, st.none() | st.lists(axes, max_size=5), dtypes, labels)


class Small(enum.IntEnum):
    THREE = 3


@pytest.mark.parametrize(
    ("spec", "printed"),
    [
        (TensorSpec(()), "float32[]"),
        (TensorSpec((0,)), "float32[0]"),
        (TensorSpec(("batch", 64), jnp.float32), "float32[batch, 64]"),
        (TensorSpec([None, 3], np.int32), "int32[None, 3]"),
        (TensorSpec(None, bool), "bool[...]"),
        (TensorSpec((2,), jnp.bfloat16), "bfloat16[2]"),
        (TensorSpec((2,), "float8_e4m3fn"), "float8_e4m3fn[2]"),
        (TensorSpec((2,), jnp.int4), "int4[2]"),
        (TensorSpec((), "key<fry>"), "key<fry>[]"),
        (TensorSpec(("n", "n")), "float32[n, n]"),
        (TensorSpec((" n ", "2 * n")), "float32[n, 2*n]"),
        (TensorSpec(("n // 2", "max(n, 3)")), "float32[floordiv(n, 2), max(n, 3)]"),
        (TensorSpec(("2*3", "n - n")), "float32[6, 0]"),
        (TensorSpec((Dim("n", max=4), 3)), "float32[n, 3]"),
        (TensorSpec((np.int64(2), Small.THREE)), "float32[2, 3]"),
        (TensorSpec(np.array([2, 3])), "float32[2, 3]"),
        (TensorSpec(axis for axis in (1, 2)), "float32[1, 2]"),
        (TensorSpec(("größe",)), "float32[größe]"),
        (TensorSpec((2**63 - 1,)), "float32[9223372036854775807]"),
        (TensorSpec((1,) * 64), f"float32[{', '.join('1' * 64)}]"),
    ],
)
def test_a_spec_prints_as_a_dtype_and_axes(spec, printed):
    assert str(spec) == printed
    assert str(TensorSpec.parse(printed)) == printed


@UNHURRIED
@given(specs)
def test_parsing_undoes_printing(spec):
    assert TensorSpec.parse(str(spec), spec.name) == spec


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("float32[]", "float32[]"),
        (" float32 [] ", None),
        (" float32[ batch,64 ] ", "float32[batch, 64]"),
        ("float32[ ... ]", "float32[...]"),
        ("int32[None]", "int32[None]"),
        ("key<fry>[n]", "key<fry>[n]"),
        ("float32[floordiv(n, 2), mod(n, 2)]", "float32[floordiv(n, 2), mod(n, 2)]"),
        ("float32[max(n, max(m, 2)), 1]", "float32[max(n, max(m, 2)), 1]"),
    ],
)
def test_spaces_around_axes_do_not_matter(text, printed):
    if printed is None:
        with pytest.raises(SpecError):
            TensorSpec.parse(text)
    else:
        assert str(TensorSpec.parse(text)) == printed


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec(()),
        TensorSpec(("batch", None, 3), "int4", name="größe/0"),
        TensorSpec(None, "bfloat16", max_rank=2),
        TensorSpec((Dim("n", min=2, max=8, multiple_of=2), "n", "2*n")),
        TensorSpec(("2*n", 3)).with_bounds((Dim("n", max=4),)),
        TensorSpec((Dim("m", max=3), "2*n")).with_bounds((Dim("m", max=3), Dim("n", min=4))),
        TensorSpec((), "key<rbg>", name='"'),
    ],
)
def test_the_repr_of_a_spec_makes_it_again(spec):
    assert eval(repr(spec)) == spec


@UNHURRIED
@given(specs)
def test_the_repr_of_any_spec_makes_it_again(spec):
    assert eval(repr(spec)) == spec


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            TensorSpec(("batch", 64), jnp.float32, name="image"),
            "TensorSpec(shape=('batch', 64), dtype='float32', name='image')",
        ),
        (TensorSpec(None), "TensorSpec(shape=None, dtype='float32')"),
        (TensorSpec((), max_rank=9), "TensorSpec(shape=(), dtype='float32')"),
        (
            TensorSpec((Dim("n", max=4),)),
            "TensorSpec(shape=(Dim('n', max=4),), dtype='float32')",
        ),
        (
            TensorSpec(("2*n",)).with_bounds((Dim("n", min=1),)),
            "TensorSpec(shape=('2*n',), dtype='float32').with_bounds((Dim('n', min=1),))",
        ),
    ],
)
def test_the_repr_of_a_spec_says_no_more_than_was_given(spec, text):
    assert repr(spec) == text


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (TensorSpec((2, 3)), TensorSpec([2, 3], "float32")),
        (TensorSpec(("n",), jnp.bfloat16), TensorSpec(("n",), "bfloat16")),
        (TensorSpec((Dim("n"),)), TensorSpec(("n",))),
        (TensorSpec(("2*n",)), TensorSpec(("n + n",))),
        (TensorSpec((), np.dtype(">f4")), TensorSpec((), "float32")),
        (TensorSpec((), name=""), TensorSpec(())),
        (TensorSpec((2,), max_rank=7), TensorSpec((2,))),
        (TensorSpec((Dim("n", max=4), Dim("n"))), TensorSpec(("n", Dim("n", max=4)))),
    ],
)
def test_specs_that_promise_the_same_are_equal(left, right):
    assert left == right
    assert hash(left) == hash(right)


@pytest.mark.parametrize(
    "other",
    [
        TensorSpec((2, 3)),
        TensorSpec(("n",)),
        TensorSpec((None,)),
        TensorSpec(None),
        TensorSpec((2,), "float16"),
        TensorSpec((2,), name="x"),
        TensorSpec((Dim("n", max=2),)),
        "float32[2]",
        None,
    ],
)
def test_specs_that_promise_something_else_are_not_equal(other):
    assert TensorSpec((2,)) != other


def test_specs_cannot_be_changed():
    with pytest.raises(AttributeError):
        TensorSpec(()).name = "x"


@pytest.mark.parametrize(
    ("array", "printed"),
    [
        (np.zeros((2, 3), np.int8), "int8[2, 3]"),
        (np.zeros((2,), ">f4"), "float32[2]"),
        (np.float64(3), "float64[]"),
        (np.zeros((0, 2), bool), "bool[0, 2]"),
        (jnp.zeros((), jnp.bfloat16), "bfloat16[]"),
        (jnp.zeros(2, jnp.float8_e5m2), "float8_e5m2[2]"),
        (jnp.zeros(3, jnp.int4), "int4[3]"),
        (jax.random.key(0), "key<fry>[]"),
        (jax.random.split(jax.random.key(0, impl="rbg"), 3), "key<rbg>[3]"),
        (jax.ShapeDtypeStruct((2, 3), jnp.float16), "float16[2, 3]"),
        (jax.ShapeDtypeStruct(export.symbolic_shape("n, 2*n + 1, 3"), "int32"), None),
        (TensorSpec(("n", None), "int32"), "int32[n, None]"),
        (TensorSpec(None), "float32[...]"),
    ],
)
def test_a_spec_describes_arrays_and_what_looks_like_them(array, printed):
    assert str(TensorSpec.of(array)) == (printed or "int32[n, 2*n + 1, 3]")
    assert TensorSpec.of(array, "x").name == "x"


def test_a_spec_describes_traced_arrays():
    found = []
    jax.jit(lambda x: found.append(TensorSpec.of(x)))(jnp.zeros((2, 3)))
    assert found == [TensorSpec((2, 3))]


def test_a_spec_of_a_spec_keeps_its_name_unless_given_another():
    spec = TensorSpec((Dim("n", max=3),), name="x")
    assert TensorSpec.of(spec) == spec
    assert TensorSpec.of(spec, "y") == spec.renamed("y")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3.0, "a float has no shape and dtype to describe."),
        ([1, 2], "a list has no shape and dtype to describe."),
        (None, "a NoneType has no shape and dtype to describe."),
        (np.array(["a"]), "'str32' is not a dtype name. "),
        (np.array([object()]), "'object' is not a dtype name. "),
    ],
)
def test_what_is_no_array_cannot_be_described(value, message):
    with pytest.raises(SpecError) as caught:
        TensorSpec.of(value)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("float32[-1]", "axis 0 of float32[-1] has size -1. Sizes are from 0 to 2**63 - 1; for any "
         "size, write None."),
        ("float33[2]", "'float33' is not a dtype name. "),
        ("float32", "'float32' is not a spec. Write a dtype and axes: 'float32[batch, 3]'."),
        ("", "'' is not a spec. "),
        ("[2]", "'[2]' is not a spec. "),
        ("float32[2", "'float32[2' is not a spec. "),
        ("float32(2)", "'float32(2)' is not a spec. "),
        ("float32[,]", "axis 0 of float32[, ]: '' is not an axis. "),
        ("float32[2,]", "axis 1 of float32[2, ]: '' is not an axis. "),
        ("float32[n, 2n]", f"axis 1 of float32[n, 2n]: '2n' is not an axis. {AXIS_HELP}"),
        ("float32[2.5]", "axis 0 of float32[2.5]: '2.5' is not an axis. "),
        ("float32[..., 3]", "axis 0 of float32[..., 3]: '...' is not an axis. "),
        ("float32[9**9**9]", "axis 0 of float32[9**9**9]: '9**9**9' is not an axis. "),
        ("float32[3 - 5]", "axis 0 of float32[3 - 5] has size -2. "),
        (f"float32[{2**63}]", f"axis 0 of float32[{2**63}]: '{2**63}' is not an axis. "),
    ],
)  # fmt: skip
def test_a_malformed_spec_is_named_in_the_error(text, message):
    with pytest.raises(SpecError) as caught:
        TensorSpec.parse(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (2, -1)}, "axis 1 of float32[2, -1] has size -1. Sizes are from 0 to 2**63 - 1; "
         "for any size, write None."),
        ({"shape": (2**63,)}, f"axis 0 of float32[{2**63}] has size {2**63}. Sizes are from 0 to "
         "2**63 - 1; for any size, write None."),
        ({"shape": (2, 1.0)}, "axis 1 of float32[2, 1.0]: 1.0 is not an axis. An axis is a size "
         "(64), None, a name ('batch'), an expression ('2*n') or a Dim."),
        ({"shape": (True,)}, "axis 0 of float32[True]: True is not an axis. "),
        ({"shape": (..., 3)}, "axis 0 of float32[Ellipsis, 3]: Ellipsis is not an axis. "),
        ({"shape": ((2, 3),)}, "axis 0 of float32[(2, 3)]: (2, 3) is not an axis. "),
        ({"shape": ("a b",), "dtype": bool}, "axis 0 of bool[a b]: 'a b' is not an axis. "
         + AXIS_HELP),
        ({"shape": ("n" * 99, "a b")}, "axis 1 of float32[...]: 'a b' is not an axis. "),
        ({"shape": "batch"}, "a shape is a tuple of axes, such as ('batch', 64), not 'batch'."),
        ({"shape": 3}, "a shape is a tuple of axes, such as ('batch', 64), not 3."),
        ({"shape": np.float32}, "a shape is a tuple of axes, such as ('batch', 64), not <class "
         "'numpy.float32'>."),
        ({"shape": {"n": 3}}, "a shape is a tuple of axes, such as ('batch', 64), not {'n': 3}."),
        ({"shape": {3}}, "a shape is a tuple of axes, such as ('batch', 64), not {3}."),
        ({"shape": (1,) * 65}, "a shape has 65 axes; arrays have at most 64."),
        ({"shape": (), "dtype": "f4"}, "'f4' is not a dtype name. "),
        ({"shape": (), "dtype": None}, "'None' is not a dtype name. "),
        ({"shape": (), "name": 3}, "the name of a TensorSpec is text, not 3."),
        ({"shape": None, "max_rank": -1}, "max_rank is a whole number from 0 to 64, not -1."),
        ({"shape": None, "max_rank": 65}, "max_rank is a whole number from 0 to 64, not 65."),
        ({"shape": None, "max_rank": 2.0}, "max_rank is a whole number from 0 to 64, not 2.0."),
        ({"shape": None, "max_rank": True}, "max_rank is a whole number from 0 to 64, not True."),
        (
            {"shape": (Dim("n", max=4), Dim("n", max=5))},
            "two bounds for one dimension: Dim('n', max=4) and Dim('n', max=5).",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_a_spec_says_why(arguments, message):
    with pytest.raises(SpecError) as caught:
        TensorSpec(**arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("given_axes", "dims"),
    [
        (("n",), ()),
        ((Dim("n"),), ()),
        ((Dim("n", max=4), 3), (Dim("n", max=4),)),
        ((Dim("n", max=4), Dim("n", max=4)), (Dim("n", max=4),)),
        ((Dim("n", max=4), "n", Dim("n")), (Dim("n", max=4),)),
        ((Dim("m", min=2), Dim("n", max=4)), (Dim("m", min=2), Dim("n", max=4))),
    ],
)
def test_bounds_of_axes_are_kept_once(given_axes, dims):
    assert TensorSpec(given_axes).dims == dims


def test_bounds_stay_with_a_spec_that_is_renamed_or_given_other_axes():
    spec = TensorSpec((Dim("n", max=4), None), name="x")
    assert spec.renamed("y").dims == spec.dims
    assert spec.with_shape(("n", "_1")) == TensorSpec((Dim("n", max=4), "_1"), name="x")


def test_bounds_may_be_given_to_a_name_within_an_expression():
    spec = TensorSpec(("2*n",)).with_bounds((Dim("n", max=4), Dim("m")))
    assert spec.dims == (Dim("n", max=4),)
    with pytest.raises(SpecError, match=r"two bounds for one dimension: Dim\('n', max=4\) and"):
        spec.with_bounds((Dim("n", max=4), Dim("n", max=5)))


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (TensorSpec(()), ()),
        (TensorSpec(None), ()),
        (TensorSpec((2, None)), ()),
        (TensorSpec(("n", "n", "m")), ("n", "m")),
        (TensorSpec(("2*b + a", "c")), ("a", "b", "c")),
    ],
)
def test_the_names_of_a_spec_are_those_of_its_axes(spec, found):
    assert spec.names == found


@pytest.mark.parametrize(
    ("spec", "sizes", "shape"),
    [
        (TensorSpec(()), {}, ()),
        (TensorSpec((2, "n", "2*n + m")), {"n": 3, "m": 0}, (2, 3, 6)),
        (TensorSpec(("n",)), {"n": 0, "m": 1}, (0,)),
        (TensorSpec(("n - 3",)), {"n": 1}, (-2,)),
    ],
)
def test_a_spec_has_a_shape_for_given_sizes(spec, sizes, shape):
    assert spec.evaluate(sizes) == shape


@pytest.mark.parametrize(
    ("spec", "other", "admitted"),
    [
        (TensorSpec((2,)), np.zeros(2, np.float32), True),
        (TensorSpec((2,)), np.zeros(3, np.float32), False),
        (TensorSpec((2,)), np.zeros(2), False),
        (TensorSpec((2,)), np.zeros((2, 1), np.float32), False),
        (TensorSpec(("n",)), TensorSpec((None,)), True),
        (TensorSpec((2,)), TensorSpec(("n",)), False),
        (TensorSpec(None, max_rank=1), np.zeros((1, 1), np.float32), False),
        (TensorSpec(None), TensorSpec(None), True),
        (TensorSpec((2,)), TensorSpec(None), False),
        (TensorSpec(()), 3.0, False),
        (TensorSpec((1,)), np.array(["a"]), False),
    ],
)
def test_a_spec_admits_what_is_one_of_its_arrays(spec, other, admitted):
    assert spec.admits(other) is admitted


def test_a_random_key_is_stored_as_a_row_of_words():
    assert storage_shape((3,), as_dtype("key<fry>")) == (3, 2)
    assert storage_shape((), KeyType("key<rbg>")) == (4,)
    assert storage_shape((3,), as_dtype("float32")) == (3,)


@pytest.mark.parametrize(
    ("dim", "text", "is_bounded"),
    [
        (Dim("batch"), "Dim('batch')", False),
        (Dim("n", min=0), "Dim('n', min=0)", True),
        (Dim("n", max=np.int64(512)), "Dim('n', max=512)", True),
        (Dim("n", 1, 8, 4), "Dim('n', min=1, max=8, multiple_of=4)", True),
        (Dim(" größe "), "Dim('größe')", False),
        (Dim("_1", multiple_of=1), "Dim('_1', multiple_of=1)", True),
    ],
)
def test_a_dim_prints_as_it_is_written(dim, text, is_bounded):
    assert repr(dim) == str(dim) == text
    assert eval(text) == dim
    assert dim.is_bounded is is_bounded


@pytest.mark.parametrize(
    ("dim", "size", "problem"),
    [
        (Dim("n"), 0, None),
        (Dim("n", min=2), 1, "n is at least 2"),
        (Dim("n", min=2), 2, None),
        (Dim("n", max=2), 2, None),
        (Dim("n", max=2), 3, "n is at most 2"),
        (Dim("n", multiple_of=4), 0, None),
        (Dim("n", multiple_of=4), 6, "n is a multiple of 4"),
        (Dim("n", min=4, multiple_of=4), 2, "n is at least 4 and a multiple of 4"),
        (Dim("n", min=4, max=8, multiple_of=4), 9, "n is at most 8 and a multiple of 4"),
    ],
)
def test_a_size_out_of_bounds_is_told_every_bound_it_breaks(dim, size, problem):
    assert dim.problem(size) == problem


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ((name,), f"{name!r} is not a name for an axis: a letter comes first, then letters, "
             "digits and underscores, and it is not a word of Python's own.")
            for name in ("", "2n", "a b", "2*n", "a-b", "class", "None", "7", None, 3, "n" * 5000)
        ),
        (("n", -1), "Dim('n', min=-1): a whole number of at least 0 was expected."),
        (("n", 1.5), "Dim('n', min=1.5): a whole number of at least 0 was expected."),
        (("n", True), "Dim('n', min=True): a whole number of at least 0 was expected."),
        (("n", None, 0), "Dim('n', max=0): a whole number of at least 1 was expected."),
        (("n", None, 2**63), f"Dim('n', max={2**63}): a whole number of at least 1 was expected."),
        (("n", None, None, 0), "Dim('n', multiple_of=0): a whole number of at least 1 was "
         "expected."),
        (("n", 5, 4), "Dim('n', min=5, max=4) allows no size but 0, or none at all."),
        (("n", 5, 7, 4), "Dim('n', min=5, max=7, multiple_of=4) allows no size but 0, or none at "
         "all."),
        (("n", None, 3, 4), "Dim('n', max=3, multiple_of=4) allows no size but 0, or none at "
         "all."),
    ],
)  # fmt: skip
def test_what_cannot_be_a_dim_says_why(arguments, message):
    with pytest.raises(SpecError) as caught:
        Dim(*arguments)
    assert str(caught.value) == message


@UNHURRIED
@given(names, st.integers(0, 40), st.integers(1, 40), st.integers(1, 5), st.integers(0, 60))
def test_a_dim_allows_exactly_the_sizes_within_its_bounds(name, least, most, step, size):
    try:
        dim = Dim(name, least, most, step)
    except SpecError:
        assert not [n for n in range(1, most + 1) if least <= n and n % step == 0]
        return
    assert (dim.problem(size) is None) == (least <= size <= most and size % step == 0)

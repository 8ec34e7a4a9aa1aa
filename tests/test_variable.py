"""Variables: mutable arrays that can be used wherever an array can."""

import copy
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exporter import OptionError, StateError, Variable

VALUES = np.array([1, 2, 4], np.float32)
WHOLE = np.array([1, 2, 4], np.int32)


def box(values=VALUES):
    return Variable(jnp.asarray(values))


@pytest.mark.parametrize(
    ("value", "shape", "dtype"),
    [
        (1.5, (), "float32"),
        (3, (), "int32"),
        (True, (), "bool"),
        (1j, (), "complex64"),
        ([1, 2], (2,), "int32"),
        ([[1.0]], (1, 1), "float32"),
        (np.zeros((0, 3), np.float16), (0, 3), "float16"),
        (jnp.zeros(2, jnp.bfloat16), (2,), "bfloat16"),
        (Variable(jnp.zeros(4)), (4,), "float32"),
    ],
)
def test_a_variable_has_the_shape_and_dtype_of_its_first_value(value, shape, dtype):
    variable = Variable(value)
    assert isinstance(variable.value, jax.Array)
    assert (variable.shape, variable.dtype, variable.ndim) == (shape, jnp.dtype(dtype), len(shape))
    assert variable.size == int(np.prod(shape))
    assert (variable.trainable, variable.name) == (True, None)


def test_a_variable_may_be_frozen_and_named():
    variable = Variable(VALUES, False, "scale")
    assert (variable.trainable, variable.name) == (False, "scale")
    assert repr(variable) == (
        "Variable(Array([1., 2., 4.], dtype=float32), trainable=False, name='scale')"
    )
    assert repr(box()) == "Variable(Array([1., 2., 4.], dtype=float32))"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x", "is what jax.numpy.asarray makes an array of; got 'x' (str), of which it says: "),
        (None, "is what jax.numpy.asarray makes an array of; got None (NoneType), of which it"),
        ({"a": 1}, "is what jax.numpy.asarray makes an array of; got {'a': 1} (dict), of which "),
        (np.ones(2, object), "is what jax.numpy.asarray makes an array of; got object[2], of "),
        (np.array(2**40), "is int64[], of which JAX would make int32, which does not have its "),
        (np.array(1e300), "is float64[], of which JAX would make float32, which does not have "),
    ],
)
def test_what_is_no_array_or_would_be_another_is_no_first_value(value, message):
    with pytest.raises(OptionError) as refused:
        Variable(value)
    assert str(refused.value).startswith(f"the value of a Variable {message}")


def test_the_order_of_bytes_does_not_matter():
    variable = Variable(VALUES.astype(">f4"))
    variable.value = (VALUES + 1).astype(">f4")
    assert variable.dtype == np.float32
    np.testing.assert_array_equal(variable, VALUES + 1)


BINARY = [
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "lt",
    "le",
    "gt",
    "ge",
    "eq",
    "ne",
]
BITS = ["and_", "or_", "xor", "lshift", "rshift"]


@pytest.mark.parametrize(
    ("name", "values"),
    [*((name, VALUES) for name in BINARY), *((name, WHOLE) for name in (*BITS, *BINARY[:-6]))],
)
def test_arithmetic_is_that_of_the_array(name, values):
    operation = getattr(operator, name)
    other = values[::-1].copy()
    array = jnp.asarray(values)
    expected, reflected = operation(array, other), operation(other, array)
    for left, right, wanted in (
        (box(values), other, expected),
        (box(values), jnp.asarray(other), expected),
        (box(values), box(other), expected),
        (other, box(values), reflected),
        (jnp.asarray(other), box(values), reflected),
        (box(values), 2, operation(array, 2)),
        (2, box(values), operation(2, array)),
    ):
        result = operation(left, right)
        assert isinstance(result, jax.Array)
        assert result.dtype == wanted.dtype
        np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize(
    ("call", "values"),
    [
        (operator.neg, VALUES),
        (operator.pos, VALUES),
        (abs, -VALUES),
        (operator.invert, WHOLE),
        (lambda v: divmod(v, 3), WHOLE),
        (lambda v: v @ v, VALUES),
        (lambda v: v @ VALUES, VALUES),
        (lambda v: VALUES @ v, VALUES),
        (lambda v: v[0], VALUES),
        (lambda v: v[1:], VALUES),
        (lambda v: v[jnp.array([0, 2])], VALUES),
        (lambda v: v[None, ...], VALUES),
        (lambda v: v.T, VALUES.reshape(1, 3)),
        (len, VALUES),
        (list, VALUES),
        (sum, VALUES),
        (max, VALUES),
    ],
)
def test_python_s_other_operations_are_those_of_the_array(call, values):
    for found, wanted in zip(
        jax.tree.leaves(call(box(values))), jax.tree.leaves(call(jnp.asarray(values))), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "call",
    [
        jnp.asarray,
        jnp.array,
        jnp.sin,
        jnp.sum,
        lambda v: jnp.add(v, v),
        lambda v: jnp.stack([v, v]),
        lambda v: jnp.where(v > 1, v, 0),
        lambda v: jnp.dot(VALUES, v),
        jax.nn.softmax,
        jax.jit(jnp.cos),
        jax.grad(lambda x: (x**2).sum()),
        jax.vmap(lambda x: x + 1),
        lambda v: v.sum(),
        lambda v: v.mean(axis=0),
        lambda v: v.reshape(3, 1),
        lambda v: v.astype(jnp.int32),
        lambda v: v.at[0].set(9),
    ],
)
def test_jax_takes_a_variable_for_its_array(call):
    found, wanted = call(box()), call(jnp.asarray(VALUES))
    assert isinstance(found, jax.Array)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "call",
    [
        np.asarray,
        np.array,
        lambda v: np.asarray(v, np.float16),
        np.sin,
        np.sum,
        lambda v: np.add(v, 1),
        lambda v: np.stack([v, v]),
    ],
)
def test_numpy_takes_a_variable_for_its_array(call):
    # JAX and NumPy may round the last bit of a sine differently.
    np.testing.assert_array_max_ulp(np.asarray(call(box())), np.asarray(call(VALUES)), 1)


def test_an_array_taken_from_a_variable_does_not_change_with_it():
    variable = box()
    before, copied = variable.value, np.array(variable)
    variable.value = variable + 1
    np.testing.assert_array_equal(before, VALUES)
    np.testing.assert_array_equal(copied, VALUES)
    np.testing.assert_array_equal(variable, VALUES + 1)


def test_a_scalar_variable_is_a_python_number_where_one_is_needed():
    assert float(Variable(2.5)) == 2.5
    assert int(Variable(2)) == 2
    assert complex(Variable(2.5)) == 2.5
    assert bool(Variable(True))
    assert not Variable(0)
    assert ["a", "b", "c"][Variable(1)] == "b"
    assert round(float(Variable(2.6))) == 3
    assert f"{Variable(2.5):.2f}" == "2.50"
    assert Variable(2.5).item() == 2.5


def test_variables_are_told_apart_by_identity_in_sets_and_dicts():
    first, second = box(), box()
    assert len({first, second}) == 2
    assert {first: 1}[first] == 1
    assert second not in {first: 1}


def test_a_copy_has_a_value_of_its_own():
    variable = Variable(VALUES, trainable=False, name="v")
    for other in (copy.copy(variable), copy.deepcopy(variable)):
        other.value = other + 1
        np.testing.assert_array_equal(variable, VALUES)
        np.testing.assert_array_equal(other, VALUES + 1)
        assert (other.trainable, other.name) == (False, "v")


@pytest.mark.parametrize(
    ("start", "new", "expected"),
    [
        (VALUES, VALUES + 1, VALUES + 1),
        (VALUES, jnp.zeros(3), np.zeros(3)),
        (VALUES, [1, 2, 3], np.array([1, 2, 3])),
        (VALUES, [1.5, 2, 3], np.array([1.5, 2, 3])),
        (VALUES, Variable(jnp.zeros(3)), np.zeros(3)),
        (np.float32(1), 2, 2.0),
        (np.float32(1), 0.1, np.float32(0.1)),
        (np.int32(1), 2, 2),
        (np.int32(1), True, 1),
        (np.int32(1), np.int64(3), 3),
    ],
)
def test_a_value_of_the_same_shape_and_dtype_can_be_assigned(start, new, expected):
    variable = Variable(start)
    dtype = variable.dtype
    variable.value = new
    assert variable.dtype == dtype
    np.testing.assert_array_equal(variable, expected)


@pytest.mark.parametrize(
    ("start", "new", "message"),
    [
        (VALUES, np.ones(4, np.float32), "holds float32[3] and cannot be assigned float32[4]."),
        (VALUES, np.float32(2), "holds float32[3] and cannot be assigned float32[]."),
        (VALUES, [1, 2], "holds float32[3] and cannot be assigned float32[2]."),
        (
            VALUES,
            jnp.ones(3, jnp.int32),
            "holds float32[3] and cannot be assigned int32[3]; convert it with .astype('float32') "
            "if that is meant.",
        ),
        (VALUES, Variable(1.0), "holds float32[3] and cannot be assigned float32[]."),
        (
            np.int32(1),
            np.array(2),
            "holds int32[] and cannot be assigned int64[]; convert it with .astype('int32') if "
            "that is meant.",
        ),
        (
            VALUES,
            np.array([1, 2, 3], object),
            "holds float32[3] and cannot be assigned object[3]; convert it with "
            ".astype('float32') if that is meant.",
        ),
        (
            VALUES,
            np.ma.masked_array(VALUES, mask=[1, 0, 0]),
            "holds float32[3] and cannot be assigned a masked array; fill it with .filled() first.",
        ),
    ],
)
def test_a_value_of_another_shape_or_dtype_is_refused(start, new, message):
    variable, named = Variable(start), Variable(start, name="w")
    kind = f"{variable.dtype}[{', '.join(map(str, variable.shape))}]"
    for one, title in ((variable, f"a Variable of {kind}"), (named, "Variable 'w'")):
        with pytest.raises(StateError) as refused:
            one.value = new
        assert str(refused.value) == f"{title} {message}"
        np.testing.assert_array_equal(one, start)


@pytest.mark.parametrize(
    ("start", "new"),
    [
        (np.int32(1), 1.5),
        (np.int32(1), 2**40),
        (np.int32(1), "a"),
        (np.int8(1), 300),
        (VALUES, None),
        (VALUES, "x"),
        (VALUES, [1, 2j, 3]),
        (VALUES, jax.ShapeDtypeStruct((3,), jnp.float32)),
    ],
)
def test_a_value_that_would_be_changed_or_is_no_array_is_refused(start, new):
    variable = Variable(start, name="w")
    with pytest.raises(StateError, match="^Variable 'w' .*cannot be assigned"):
        variable.value = new
    np.testing.assert_array_equal(variable, start)


def test_a_traced_value_that_would_outlive_its_trace_is_refused():
    variable = box()
    with pytest.raises(StateError) as refused:
        jax.jit(lambda x: setattr(variable, "value", x))(VALUES + 1)
    assert str(refused.value) == (
        "a Variable of float32[3] cannot be assigned under jax.jit or another transformation of "
        "JAX: the traced value would outlive its trace. Assign it in an @exporter.function, or "
        "return the value and assign it outside."
    )
    np.testing.assert_array_equal(variable, VALUES)


def test_a_variable_made_within_a_trace_is_the_trace_s_own():
    def total(x):
        running = Variable(x)
        for _ in range(3):
            running.value = running + 1
        return running.value

    np.testing.assert_array_equal(jax.jit(total)(VALUES), VALUES + 3)


def test_reading_inside_a_trace_takes_the_value_of_that_moment():
    variable = box()
    np.testing.assert_array_equal(jax.jit(lambda x: x * variable)(VALUES), VALUES**2)


def test_adding_in_place_changes_the_variable():
    variable = other = box()
    variable.value += 1
    np.testing.assert_array_equal(other, VALUES + 1)
    variable += 1
    assert variable is other
    np.testing.assert_array_equal(other, VALUES + 2)
    with pytest.raises(StateError, match="cannot be assigned"):
        variable += jnp.ones((2, 3))
    np.testing.assert_array_equal(other, VALUES + 2)


def test_elements_cannot_be_assigned():
    with pytest.raises(TypeError, match="does not support item assignment"):
        box()[0] = 1

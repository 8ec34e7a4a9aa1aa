"""Sizes written as arithmetic: what is read, how it is printed, and that it computes as Python."""

import re
import sys

import jax
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import export

from signatures.errors import SpecError
from signatures.expression import MAX_CHARACTERS, Expression, parse

UNHURRIED = settings(deadline=None)  # the time of one example says nothing on a busy machine

NAMES = ("n", "m", "größe", "_1")

# What Python needs to evaluate the texts itself.
PYTHON = {
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "non_negative": lambda a: max(a, 0),
    "max": max,
    "min": min,
}


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    divisor = st.integers(1, 9).map(str)
    return st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*"]), inner),
        st.builds("({} {} {})".format, inner, st.sampled_from(["//", "%"]), divisor),
        st.builds("{}({}, {})".format, st.sampled_from(["floordiv", "mod"]), inner, divisor),
        st.builds("{}({}, {})".format, st.sampled_from(["max", "min"]), inner, inner),
        st.builds("non_negative({})".format, inner),
        st.builds("({})**{}".format, inner, st.integers(0, 3)),
        st.builds("-({})".format, inner),
    )


texts = st.recursive(
    st.one_of(st.sampled_from(NAMES), st.integers(0, 40).map(str)), grown, max_leaves=6
)
sizes = st.fixed_dictionaries({name: st.integers(1, 50) for name in NAMES})


def parsed(text: str) -> Expression:
    """The expression, if it is not one of the few that are too large to be read."""
    try:
        return parse(text)
    except SpecError:
        assume(False)
        raise


@pytest.mark.parametrize(
    ("text", "printed", "names"),
    [
        ("n", "n", ("n",)),
        (" n ", "n", ("n",)),
        ("2*n + 1", "2*n + 1", ("n",)),
        ("1 + n*2", "2*n + 1", ("n",)),
        ("2*(n + 1)", "2*n + 2", ("n",)),
        ("n//2", "floordiv(n, 2)", ("n",)),
        ("n % m", "mod(n, m)", ("n", "m")),
        ("n**2*m", "m*n^2", ("m", "n")),
        ("n^2", "n^2", ("n",)),
        ("-n^2", "-n^2", ("n",)),
        ("5 - n", "5 - n", ("n",)),
        ("a - (b - c)", "a - b + c", ("a", "b", "c")),
        ("- c - b + a", "a - b - c", ("a", "b", "c")),
        ("-n - m", "-m - n", ("m", "n")),
        ("+n", "n", ("n",)),
        ("max(a, b, c)", "max(max(a, b), c)", ("a", "b", "c")),
        ("non_negative(n - 3)", "max(0, n - 3)", ("n",)),
        ("floordiv(n, 2)*floordiv(n, 2)", "floordiv(n, 2)^2", ("n",)),
        ("größe + 变量", "größe + 变量", ("größe", "变量")),
        ("n^0", "1", ()),
        ("n - n", "0", ()),
        ("7 // 2 + 2^3", "11", ()),
        ("mod(-7, 3)", "2", ()),
    ],
)
def test_an_expression_is_printed_as_a_sum_of_products(text, printed, names):
    expression = parse(text)
    assert str(expression) == expression.text == printed
    assert expression.names == names


@pytest.mark.parametrize(
    ("text", "is_name"), [("n", True), (" n", True), ("n*1", True), ("2*n", False), ("3", False)]
)
def test_a_name_alone_is_told_from_arithmetic(text, is_name):
    assert parse(text).is_name is is_name


@UNHURRIED
@given(texts)
def test_parsing_undoes_printing(text):
    expression = parsed(text)
    assert parse(expression.text) == expression


@UNHURRIED
@given(texts, sizes)
def test_an_expression_has_the_value_that_python_gives_it(text, known):
    assert parsed(text).evaluate(known) == eval(text, PYTHON, known)


@given(texts, sizes)
@settings(UNHURRIED, max_examples=50)  # JAX takes its time over long expressions
def test_jax_reads_every_expression_and_means_the_same(text, known):
    expression = parsed(text)
    assume(expression.names)
    (dimension,) = export.symbolic_shape(expression.text)
    assert parse(str(dimension)).evaluate(known) == expression.evaluate(known)


@pytest.mark.parametrize(
    "compute",
    [
        lambda n, _: 2 * n + 1,
        lambda n, m: n * m - m + 3,
        lambda n, m: (n + m) * (n - m),
        lambda n, _: (n + 1) // 2,
        lambda n, _: ((n + 1) // 2 + 1) // 2 - 3,
        lambda n, m: (n * n) % (m + 1),
        lambda n, _: -n + 100,
        lambda n, m: (n // 2) * (m % 3) * n**3,
    ],
)
def test_what_jax_prints_for_a_size_is_read_back(compute):
    n, m = export.symbolic_shape("n, m")
    expression = parse(str(compute(n, m)))
    for known in ({"n": 1, "m": 1}, {"n": 7, "m": 3}, {"n": 64, "m": 65}):
        assert expression.evaluate(known) == compute(known["n"], known["m"])


def test_what_jax_prints_for_the_output_of_a_convolution_is_read_back():
    def convolved(x):
        kernel = jax.numpy.ones((1, 1, 3))
        for _ in range(3):
            x = jax.lax.conv_general_dilated(x, kernel, (2,), "VALID")
        return x

    n = export.symbolic_shape("n", constraints=["n >= 31"])[0]
    traced = jax.eval_shape(convolved, jax.ShapeDtypeStruct((1, 1, n), "float32"))
    expression = parse(str(traced.shape[2]))
    for size in (31, 32, 57, 100):
        real = jax.eval_shape(convolved, jax.ShapeDtypeStruct((1, 1, size), "float32"))
        assert expression.evaluate({"n": size}) == real.shape[2]


@UNHURRIED
@given(texts, sizes, st.sampled_from(NAMES))
def test_what_is_solved_is_the_only_answer(text, known, name):
    expression = parsed(text)
    others = {key: size for key, size in known.items() if key != name}
    size = expression.evaluate(known)
    found = expression.solve(name, size, others)
    assert found in (None, known[name])
    if found is not None:
        answers = [n for n in range(100) if expression.evaluate({**others, name: n}) == size]
        assert answers == [known[name]]


@UNHURRIED
@given(st.integers(-9, 9).filter(bool), st.integers(-99, 99), st.integers(0, 99), sizes)
def test_solving_undoes_evaluating_a_linear_expression(slope, rest, size, known):
    expression = parse(f"{slope}*n + {rest} + m*(n + 2)")
    assume(slope + known["m"])
    value = expression.evaluate(known | {"n": size})
    assert expression.solve("n", value, {"m": known["m"]}) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2*n", 7),  # no whole number
        ("n + 5", 3),  # a negative number
        ("n^2", 9),  # not linear, though here there is one answer
        ("mod(n, 5)", 3),  # many answers
        ("min(n, 100)", 100),
        ("floordiv(n, 2)", 4),
        ("n*floordiv(n, 2)", 4),
        ("m + 1", 2),  # without the name
        ("0*n + 3", 3),
    ],
)
def test_what_has_no_answer_or_several_is_not_solved(text, size):
    assert parse(text).solve("n", size, {"m": 1}) is None


@pytest.mark.parametrize("known", [{"n": 0}, {"n": 0, "m": 3}])
def test_a_division_by_zero_is_named_with_the_sizes_that_made_it(known):
    with pytest.raises(SpecError) as caught:
        parse("m + floordiv(3, 2*n)" if "m" in known else "floordiv(3, 2*n)").evaluate(known)
    assert str(caught.value) == "floordiv(3, 2*n) divides by zero for n=0."


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "n m",
        "2n",
        "1.5",
        "'n'",
        "True",
        "None",
        "...",
        "class",
        "n.size",
        "n[0]",
        "(n,)",
        "[n]",
        "n < 2",
        "n and m",
        "~n",
        "n / 2",
        "n << 1",
        "n if n else 1",
        "lambda: n",
        "(n := 3)",
        "f(n)",
        "max()",
        "max(n)",
        "mod(1)",
        "floordiv(n)",
        "mod(n, m, 2)",
        "non_negative(n, m)",
        "max(*n)",
        "max(n, m, key=n)",
        "2**n",
        "2**-1",
        "n**65",
        "floordiv(1, 0)",
        "n\nm",
        "\0",
        "n; m",
        "__import__('os')",
    ],
)
def test_what_is_no_arithmetic_over_names_is_refused(text):
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert str(caught.value) == (
        f"{text!r} is not an axis. An axis is a size (64), None, a name ('batch') or arithmetic "
        "over names ('2*n + 1', with + - * // % ^ and max, min, mod, floordiv)."
    )


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "n**n**n",
        "(9**9)**9",
        "2**63",
        "*".join(["99999999"] * 20),
        "*".join(["n"] * 65),
        "(a + b + c + d + e + f + g)**30",
        "*".join(f"(a{i} + b{i} + c + d)" for i in range(100)),
        "n" + "+n" * 2000,
        "-" * 4000 + "n",
        "(" * 1000 + "n" + ")" * 1000,
        "max(" * 500 + "n" + ", n)" * 500,
        "+".join(f"{'x' * 60}{i}" for i in range(10, 74)),  # with spaces it is too long to read
    ],
)
def test_what_would_take_forever_to_compute_is_refused(text, raised_limit):
    assert raised_limit > 5000
    with pytest.raises(SpecError, match=re.escape(text[:57])):
        parse(text)


@pytest.fixture
def raised_limit():
    """Python's limit of nested calls, as some libraries change it."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    yield sys.getrecursionlimit()
    sys.setrecursionlimit(limit)


def test_an_expression_too_long_to_be_meant_is_refused_without_reading_it():
    with pytest.raises(SpecError) as caught:
        parse("n" * (MAX_CHARACTERS + 1))
    assert str(caught.value) == f"the axis {'n' * 40!r}... has 4097 characters, too many to read."


@UNHURRIED
@given(st.text(max_size=20) | st.text("nm01+-*/%^(), ", max_size=20))
def test_any_text_is_an_expression_or_a_spec_error(text):
    try:
        expression = parse(text)
    except SpecError:
        return
    assert parse(expression.text) == expression


def test_equal_arithmetic_is_equal():
    assert parse("2*(n + 1)") == parse("n + 2 + n")
    assert hash(parse("n*m")) == hash(parse("m*n"))
    assert parse("n") != parse("m")

"""How objects show themselves: on one screen of text, and as small tables in notebooks."""

import re
from html.parser import HTMLParser
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import TensorSpec, Variable
from exporter.artifact.manifest import read
from exporter.display import MAX_LINES, cut
from exporter.markup import Markup, element, fragment

GOLDEN = Path(__file__).parent / "golden" / "format_2_jax_0_12"
EVIL = "<script>alert(1)</script>"


class Wide:
    """More functions and variables than a screen has lines."""

    def __init__(self):
        self.arrays = [jnp.full((), n, jnp.float32) for n in range(200)]
        for number in range(50):
            spec = TensorSpec(("n",), "float32", name=f"input_{number}")
            vars(self)[f"function_{number}"] = exporter.function(
                lambda x: x, input_signature=[spec]
            )


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    subject = Wide()
    folder = tmp_path_factory.mktemp("wide") / "model"
    signatures = {n: f for n, f in vars(subject).items() if n != "arrays"}
    exporter.save(subject, folder, signatures, platforms=("cpu",))
    return exporter.load(folder)


@pytest.fixture(scope="module")
def golden():
    return exporter.load(GOLDEN)


def shown(golden, wide):
    """One of everything that is public, and what its text begins with."""
    traced = exporter.function(lambda x: x * 2, input_signature=[TensorSpec((2,), "float32")])
    options = {"input_signature": [TensorSpec((2,), "float32")]}
    good = exporter.check((lambda p, x: x + p["w"], {"w": jnp.ones(2)}), **options)
    bad = exporter.check(
        (lambda p, x: jax.pure_callback(np.sin, x, x), {"w": jnp.ones(2)}), **options
    )
    return [
        (golden, "<LoadedModel Golden: "),
        (golden.layers[0], "<LoadedObject "),
        (golden.signatures, "<Signatures\n  "),
        (next(iter(golden.signatures.values())), "<LoadedSignature "),
        (golden.add, "<LoadedFunction add("),
        (golden.manifest, "<Manifest of Golden"),
        (golden.count, "Variable(Array("),
        (wide, "<LoadedModel Wide: arrays, function_0, "),
        (wide.signatures, "<Signatures\n  function_0(input_0: float32[n])"),
        (wide.manifest, "<Manifest of Wide"),
        (traced, "<exporter.function <lambda>(x)>"),
        (traced.get_concrete_function(), "<ConcreteFunction <lambda>(x: float32[2]) -> "),
        (exporter.verify(GOLDEN), "<VerificationReport: "),
        (good, "<Report: Nothing stands in the way: "),
        (bad, "<Report: "),
        (exporter.Checkpoint(golden, step=Variable(0)), "<Checkpoint of LoadedModel, step>"),
        (Variable(jnp.zeros((1000, 500))), "Variable(Array("),
        (Variable(jnp.zeros((3,) * 9), name="w"), "Variable(float32[3, 3, 3, 3, 3, 3, 3, 3, 3]"),
        (Variable(jax.random.key(0)), "Variable(Array((), dtype=key<fry>)"),
    ]


def test_everything_public_shows_itself_on_one_screen_and_in_a_notebook(golden, wide):
    for one, beginning in shown(golden, wide):
        text = repr(one)
        assert text.startswith(beginning), text
        assert text.count("\n") <= MAX_LINES + 2
        assert max(map(len, text.splitlines())) < 2100
        if isinstance(one, exporter.Checkpoint):
            continue
        card = one._repr_html_()
        assert _is_balanced(card), card
        assert len(card) < 40_000
        assert not re.search(r"<script|https?:|url\(|background:(?!none)|color:(?!inherit)", card)
    assert "and 31 more" in repr(wide.signatures)
    assert "and 31 more" in wide.signatures._repr_html_()


def _is_balanced(card):
    """Whether every element of a card is closed where it was opened."""
    opened = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Reader().feed(card)
    return not opened


def test_a_variable_shows_its_distribution_in_a_notebook():
    card = Variable(jnp.array([-1.0, 0, 0, 3]), name="bias", trainable=False)._repr_html_()
    assert 'class="histogram"' in card
    assert "bias, Variable, not trainable" in card
    assert "min −1, max 3, mean 0.5, std 1.5, zeros 50%" in card


def test_showing_a_thing_never_raises(golden):
    deleted = Variable(jnp.ones(3))
    deleted.value.delete()
    assert repr(deleted) == "Variable(float32[3], deleted)"
    assert deleted._repr_html_() is None  # then a notebook shows the text
    for kind in (exporter.LoadedModel, exporter.LoadedSignature, exporter.Variable):
        empty = kind.__new__(kind)
        assert repr(empty) == f"<{kind.__name__}>"
        assert empty._repr_html_() is None
    bare = exporter.load(GOLDEN, skip_variables=True)
    assert repr(bare).startswith("<LoadedModel Golden")
    assert repr(bare.count).startswith("Variable(ShapeDtypeStruct(")
    assert "int32[]" in bare.count._repr_html_()
    seen = []

    @jax.jit
    def traced(x):
        seen.append((repr(Variable(x)), Variable(x)._repr_html_()))
        return x

    traced(jnp.ones(2))
    assert seen[0][0].startswith("Variable(")
    assert "float32[2]" in seen[0][1]


def test_names_from_an_artifact_are_text_in_a_card(golden):
    variable = Variable(jnp.ones(2), name=EVIL)
    assert "<script" not in variable._repr_html_()
    assert "&lt;script&gt;" in variable._repr_html_()
    manifest = read(GOLDEN)
    node = type(manifest.nodes[0])("object", f"{EVIL}\x1b[31m\u202e")
    altered = type(manifest)(
        **{n: getattr(manifest, n) for n in manifest.__struct_fields__} | {"nodes": [node]}
    )
    assert "<script" not in altered._repr_html_()
    assert "\x1b" not in repr(altered) + altered._repr_html_()


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (element("p", "<&>", Markup("<b>x</b>"), None), "<p>&lt;&amp;&gt;<b>x</b></p>"),
        (element("p", title="\"'<\n"), '<p title="&quot;&#x27;&lt;\\u000a"></p>'),
        (element("input", hidden=True, id=None, disabled=False), "<input hidden>"),
        (fragment("a\x00b", 3), "a\\u0000b3"),
    ],
)
def test_whatever_is_not_markup_is_escaped(made, expected):
    assert made == expected
    assert isinstance(made, Markup)


def test_a_long_line_is_cut():
    assert cut("x" * 50, 10) == "xxxxxxx..."
    assert cut("\x1b[31m", 30) == "\\u001b[31m"


def test_pipelines_show_what_they_take_and_give(tmp_path):
    class Half:
        @exporter.function(input_signature=[exporter.TensorSpec(("n",), "int32", name="ids")])
        def half(self, ids):
            return {"half": ids / 2}

    words = exporter.stages.Vocabulary(["a", "b"])
    exporter.save(Half(), tmp_path / "half", stages={"serving_default": [words]})
    model = exporter.load(tmp_path / "half")
    assert "with stages serving_default(words: words)" in model._repr_html_()
    pipelines = model.pipelines
    assert "words" in pipelines._repr_html_()
    assert "half" in pipelines["serving_default"]._repr_html_()
    assert "0 variables" in repr(model)

"""The options of a save: aliases, tags, metadata, progress, and values that cannot be."""

import enum
import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import OptionError, PlacementError, SaveOptions, TensorSpec, Variable, function

PAIR = TensorSpec((2,), "float32", name="x")
X = np.float32([1, 2])


class Model:
    def __init__(self):
        self.w = Variable(jnp.full(2, 3.0))
        self.child = SimpleNamespace(free=free)

    @function(input_signature=[PAIR])
    def f(self, x):
        return self.w * x

    @function(input_signature=[PAIR])
    def g(self, x):
        return self.w + x


@function(input_signature=[PAIR])
def free(x):
    return 7 * x


@function
def open_to_all(x):
    """Any type."""
    return x + x


def test_aliases_lead_to_functions_attached_or_not(reload):
    model = Model()
    trace = open_to_all.get_concrete_function(PAIR)
    loaded = reload(
        model,
        model.f,
        options=SaveOptions(
            function_aliases={
                "mine": model.f,
                "the same": model.f,
                "c/d e": model.child.free,
                "loose": open_to_all,
                "trace": trace,
                "__call__": model.g,
            }
        ),
    )
    for _ in range(2):
        aliases = loaded.function_aliases
        assert list(aliases) == ["mine", "the same", "c/d e", "loose", "trace", "__call__"]
        assert aliases["mine"] is aliases["the same"] is loaded.f
        assert aliases["c/d e"] is loaded.child.free
        np.testing.assert_array_equal(aliases["mine"](X), 3 * X)
        np.testing.assert_array_equal(aliases["loose"](X), 2 * X)
        np.testing.assert_array_equal(aliases["trace"](X), 2 * X)
        assert aliases["loose"].__doc__ == "Any type."
        with pytest.raises(TypeError):
            aliases["new"] = None
        loaded = reload(loaded)
    assert dict(reload(loaded, options=SaveOptions(function_aliases={})).function_aliases) == {}
    fewer = reload(loaded, options=SaveOptions(function_aliases={"one": loaded.g}))
    assert list(fewer.function_aliases) == ["one"]


def test_an_alias_of_a_function_with_untracked_state_is_refused(tmp_path):
    other = Model()
    with pytest.raises(exporter.TrackingError, match="which is not part of the saved object"):
        exporter.save(
            Model(),
            tmp_path / "m",
            {},
            platforms=("cpu",),
            options=SaveOptions(function_aliases={"f": other.f}),
        )


@pytest.mark.parametrize(
    ("aliased", "message"),
    [
        (
            len,
            "function_aliases has <built-in function len> (builtin_function_or_method) for 'a'. ",
        ),
        (
            None,
            "function_aliases has None (NoneType) for 'a'. Expected a method or function decora",
        ),
        (
            Model.f,
            "function_aliases has the method f for 'a', taken from its class and not from an",
        ),
    ],
)
def test_an_alias_stands_for_a_function(aliased, message, tmp_path):
    with pytest.raises(OptionError) as refused:
        exporter.save(
            Model(),
            tmp_path / "m",
            {},
            platforms=("cpu",),
            options=SaveOptions(function_aliases={"a": aliased}),
        )
    assert str(refused.value).startswith(message)


METADATA = {
    "": None,
    "labels": ["zero", "eins", "\u4e8c", "\U0001f600"],
    "deep": {"a": {"b": [[], {}, [True, False]]}},
    "numbers": [0, -1, 2**70, 0.1, 1e300, -0.0],
}


def test_tags_and_metadata_are_given_back_and_kept(reload):
    loaded = reload(
        Model(), {}, options=SaveOptions(tags=["serve", "gpu", "serve"], metadata=METADATA)
    )
    for model in (loaded, reload(loaded), reload(reload(loaded))):
        assert model.metadata == METADATA
        assert model.manifest.tags == ["serve", "gpu"]
    model.metadata["labels"].append("not kept")
    assert model.metadata == METADATA
    other = reload(loaded, options=SaveOptions(tags=(), metadata={}))
    assert (other.metadata, other.manifest.tags) == ({}, [])
    assert reload(loaded, options=SaveOptions(tags="one")).manifest.tags == ["one"]
    assert reload(Model(), {}).metadata == {}


def test_a_model_inside_another_leaves_its_labels_behind(reload):
    inner = reload(Model(), {}, options=SaveOptions(metadata={"a": 1}, tags=["t"]))
    outer = reload(SimpleNamespace(inner=inner), {}, options=SaveOptions(metadata={"b": 2}))
    assert outer.metadata == {"b": 2}
    assert outer.inner.metadata == {}
    assert dict(outer.inner.function_aliases) == {}
    alone = reload(outer.inner)
    assert (alone.metadata, alone.manifest.tags) == ({}, [])


@pytest.mark.parametrize("tags", [None, "serve", ["serve"], ("gpu", "serve"), {"gpu"}, []])
def test_an_artifact_is_loaded_by_some_of_its_tags(saved, tags):
    assert exporter.load(saved, tags=tags).manifest.tags == ["serve", "gpu"]


@pytest.mark.parametrize(
    ("tags", "found"), [("eval", "'eval'"), (["serve", "eval", "tpu"], "'eval', 'tpu'")]
)
def test_tags_that_it_lacks_are_named(saved, tags, found):
    with pytest.raises(exporter.ArtifactError) as refused:
        exporter.load(saved, tags=tags)
    assert str(refused.value) == (
        f"{saved} was not saved with the tag {found}; its tags are 'serve', 'gpu'. Leave out "
        "tags=, or pass some of these."
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tags") / "m"
    exporter.save(
        Model(), folder, {}, platforms=("cpu",), options=SaveOptions(tags=["serve", "gpu"])
    )
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tags": 3}, "tags is a list of texts; got 3."),
        ({"tags": [None]}, "tags has None; tags are text and not empty."),
        ({"only": 3}, "only is an attribute path as text, or a list of them; got 3."),
        ({"only": ["f", 3]}, "only is an attribute path as text, or a list of them; got ['f', 3]."),
        ({"verify": "no"}, "verify is True or False; got 'no'."),
        ({"skip_variables": 1}, "skip_variables is True or False; got 1."),
        *(
            (
                {"custom_calls": wrong},
                f"custom_calls is the name of a native function, or a list of them; got {wrong!r}.",
            )
            for wrong in (5, None, [1], b"call")
        ),
    ],
)
def test_options_of_a_load_are_refused_likewise(saved, options, message):
    with pytest.raises(OptionError) as refused:
        exporter.load(saved, **options)
    assert str(refused.value) == message


def test_a_device_that_is_none_is_refused(saved):
    with pytest.raises(PlacementError) as refused:
        exporter.load(saved, device=7)
    assert str(refused.value) == (
        "device= is 7 (int). Expected a device of jax.devices(), or the name of a platform, such "
        "as 'cpu'."
    )


@pytest.mark.parametrize("path", [None, 5, b"m", "", "a\0b", ["m"]])
@pytest.mark.parametrize("function", [exporter.load, exporter.verify, exporter.is_artifact])
def test_a_path_that_is_none_is_refused(function, path):
    with pytest.raises(OptionError) as refused:
        function(path)
    assert str(refused.value) == (
        f"path is the path of a file or folder, such as 'models/digits/1'; got {path!r}."
    )


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda m, p: exporter.save(m, p, overwrite="no"), "overwrite is True or False; got 'no'."),
        (lambda m, _: exporter.check(m, options=5), "options is a SaveOptions; got 5."),
        (lambda _, p: exporter.verify(p, rtol="x"), "rtol is a number, 0 or more; got 'x'."),
        (
            lambda _, p: exporter.verify(p, atol=float("nan")),
            "atol is a number, 0 or more; got nan.",
        ),
        (
            lambda _, p: exporter.verify(p, progress=5),
            "progress is a function of a stage, how much is done, and how much there is; got 5.",
        ),
        (
            lambda *_: SaveOptions(custom_calls=5),
            "custom_calls is the name of a native function, or a list of them; got 5.",
        ),
        (lambda *_: function(5), "exporter.function takes a function; got 5 (int)."),
        (lambda *_: function(free, default="x"), "default is True or False; got 'x'."),
        (lambda *_: Variable(1, trainable="x"), "trainable is True or False; got 'x'."),
        (lambda *_: Variable(1, name=5), "the name of a Variable is text; got 5."),
    ],
)
def test_other_options_are_refused_likewise(saved, attempt, message):
    with pytest.raises(OptionError) as refused:
        attempt(Model(), saved)
    assert str(refused.value) == message


def test_what_is_no_list_of_platforms_is_among_the_problems():
    report = exporter.check(Model(), platforms=5)
    assert [problem.message for problem in report.problems if problem.is_error] == [
        "platforms= names 5; the choices are cpu, cuda, rocm, tpu ('gpu' is 'cuda')."
    ]


class Colour(enum.Enum):
    RED = 1


holds_itself: dict[str, object] = {}
holds_itself["me"] = [holds_itself]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("max_constant_bytes", -1, "max_constant_bytes is a number of bytes, 0 or more; got -1."),
        ("max_constant_bytes", 1.5, "max_constant_bytes is a number of bytes, 0 or more; got 1.5."),
        ("max_constant_bytes", True, "max_constant_bytes is a number of bytes, 0 or more; got Tru"),
        ("stablehlo_version", 1.0, "stablehlo_version is text; got 1.0."),
        ("debug_info", "yes", "debug_info is True or False; got 'yes'."),
        ("function_aliases", [free], "function_aliases is a dict by name; got ["),
        ("function_aliases", {"": free}, "function_aliases has the name ''; names are text and no"),
        ("function_aliases", {1: free}, "function_aliases has the name 1; names are text and not"),
        ("tags", 3, "tags is a list of texts; got 3."),
        ("tags", ["a", 3], "tags has 3; tags are text and not empty."),
        ("tags", [""], "tags has ''; tags are text and not empty."),
        ("metadata", [1], "metadata is a dict; got [1]."),
        ("metadata", {"a": {1: 2}}, "metadata['a'] has the key 1; the keys of JSON are text."),
        ("metadata", {"a": [float("nan")]}, "metadata['a'][0] is nan, which JSON does not have. W"),
        ("metadata", {"a": -float("inf")}, "metadata['a'] is -inf, which JSON does not have. Writ"),
        ("metadata", {"a": X}, "metadata['a'] is array([1., 2.], dtype=float32) (ndarray), which "),
        ("metadata", {"a": {1, 2}}, "metadata['a'] is {1, 2} (set), which JSON does not have."),
        ("metadata", {"a": Colour.RED}, "metadata['a'] is <Colour.RED: 1> (Colour), which JSON"),
        ("metadata", holds_itself, "metadata holds itself, or is nested too deeply for JSON."),
    ],
)
def test_a_value_that_cannot_be_is_refused_where_it_is_given(option, value, message):
    with pytest.raises(OptionError) as refused:
        SaveOptions(**{option: value})
    assert isinstance(refused.value, ValueError)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("name", ["function_aliases", "metadata", "pipelines"])
def test_names_that_a_loaded_model_has_for_itself_are_refused(name, tmp_path):
    model = Model()
    setattr(model, name, Variable(1.0))
    with pytest.raises(exporter.TrackingError) as refused:
        exporter.save(model, tmp_path / "m", {})
    assert str(refused.value) == (
        f"the object has an attribute {name!r}, which a loaded model has for itself. Rename it "
        "before saving."
    )


def test_progress_is_told_step_by_step(tmp_path):
    told = []
    model = Model()
    exporter.save(
        model,
        tmp_path / "m",
        {"f": model.f},
        platforms=("cpu",),
        samples={"f": [{"x": X}]},
        progress=lambda *step: told.append(step),
    )
    assert told == [
        *(("tracing", done, 3) for done in range(4)),
        *(("lowering", done, 3) for done in range(4)),
        *(("sampling", done, 1) for done in range(2)),
        *(("writing", done, 5) for done in range(6)),
    ]


def test_a_save_that_is_stopped_from_its_progress_leaves_nothing(tmp_path):
    def stop(stage, done, total):
        if (stage, done) == ("writing", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exporter.save(Model(), tmp_path / "m", {}, platforms=("cpu",), progress=stop)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OptionError, match="^progress is a function of a stage, how much is done"):
        exporter.save(Model(), tmp_path / "m", {}, progress="bar")


def test_what_is_beside_programs_and_arrays_is_shown(tmp_path, capsys):
    from exporter.cli import main

    (tmp_path / "vocab.txt").write_text("a b")
    model = Model()
    model.vocab = exporter.Asset(tmp_path / "vocab.txt")
    exporter.save(
        model,
        tmp_path / "m",
        {"f": model.f},
        platforms=("cpu",),
        samples={"f": [{"x": X}, {"x": X}], "g": [{"x": X}]},
        options=SaveOptions(tags=["serve"], metadata={"a": 1}, function_aliases={"best": model.g}),
    )
    assert main(["show", str(tmp_path / "m")]) == 0
    shown = capsys.readouterr().out
    assert (
        "  assets      vocab in assets/vocab.txt, 3 bytes\n"
        "  aliases     best of g\n"
        "  samples     2 of f, 1 of g\n"
        "  tags        serve\n"
        '  metadata    {"a": 1}\n'
    ) in shown
    assert main(["show", str(tmp_path / "m"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert {
        name: summary[name]
        for name in ("assets", "function_aliases", "samples", "tags", "metadata")
    } == {
        "assets": [{"paths": ["vocab"], "file": "assets/vocab.txt", "bytes": 3}],
        "function_aliases": {"best": "g"},
        "samples": {"f": 2, "g": 1},
        "tags": ["serve"],
        "metadata": {"a": 1},
    }


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"options": None}, exporter.OptionError, "options is a SaveOptions; got None."),
        ({"platforms": 5}, exporter.LoweringError, "platforms= names 5; the choices are cpu, "),
    ],
)
def test_options_of_another_kind_are_named(wrong, error, message, tmp_path):
    with pytest.raises(error) as caught:
        exporter.save(SimpleNamespace(v=exporter.Variable(1.0)), tmp_path / "m", {}, **wrong)
    assert str(caught.value).startswith(message)

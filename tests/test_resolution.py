"""Which functions become the signatures of an artifact, and what is said when none does."""

import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import ResolveError, TensorSpec, TracingError, TrackingError, Variable, function

PAIR = TensorSpec((2,), "float32")
X = np.array([1, 2], np.float32)

ADVICE = "A signature returns an array, or a flat list, tuple or dict of arrays."
NOT_A_FUNCTION = (
    "Expected a method or function decorated with @exporter.function(input_signature=[...]), what "
    "its get_concrete_function(...) returns, or a loaded signature."
)
NONE_FOUND = (
    "no method could be the default signature. Decorate one with "
    "@exporter.function(input_signature=[...]), or pass signatures= to save."
)
NEVER_CALLED = (
    "f has no input_signature and was never called, so it will not be callable when loaded. "
    "Decorate it with @exporter.function(input_signature=[...]), or call it before saving."
)


@function(input_signature=[PAIR])
def double(x):
    return 2 * x


class One:
    @function(input_signature=[PAIR])
    def f(self, x):
        return 2 * x


class Two(One):
    @function(input_signature=[PAIR])
    def g(self, x):
        return 3 * x


class Inherited(One):
    pass


class Overridden(Two):
    def g(self, x):
        return x


class Private:
    @function(input_signature=[PAIR])
    def _f(self, x):
        return 2 * x


class Static:
    @staticmethod
    @function(input_signature=[PAIR])
    def f(x):
        return 2 * x


class StaticWithin:
    @function(input_signature=[PAIR])
    @staticmethod
    def f(x):
        return 2 * x


class ClassMethod:
    factor = 2

    @classmethod
    @function(input_signature=[PAIR])
    def f(cls, x):
        return cls.factor * x


class ClassMethodWithin:
    factor = 2

    @function(input_signature=[PAIR])
    @classmethod
    def f(cls, x):
        return cls.factor * x


class Callable:
    @function(input_signature=[PAIR])
    def __call__(self, x):
        return 2 * x


class TwoNames:
    @function(input_signature=[PAIR])
    def f(self, x):
        return 2 * x

    g = f


class Marked(Two):
    @function(input_signature=[PAIR], default=True)
    def h(self, x):
        return 2 * x

    @function(input_signature=[PAIR])
    def f(self, x):
        return x


class MarkedTwice(Marked):
    @function(input_signature=[PAIR], default=True)
    def i(self, x):
        return x


class MarkedWithoutSpec:
    @function(default=True)
    def f(self, x):
        return x


class MarkedWithNone:
    @function(input_signature=[PAIR], default=True)
    def f(self, x):
        return [x, None]


class Unsuitable:
    @function(input_signature=[PAIR])
    def nested(self, x):
        return {"a": {"b": x}}

    @function(input_signature=[PAIR])
    def none(self, x):
        return None

    @function(input_signature=[PAIR])
    def holds_none(self, x):
        return [x, None]

    @function(input_signature=[PAIR])
    def inner(self, x):
        return (x, (x,))

    @function(input_signature=[PAIR])
    def numbered(self, x):
        return {1: x}

    @function(input_signature=[PAIR])
    def empty_dict(self, x):
        return {}

    @function(input_signature=[PAIR])
    def empty_list(self, x):
        return []


class OneSuitable(Unsuitable, One):
    pass


class WithoutSpec:
    @function
    def f(self, x):
        return 2 * x


class Stateful:
    def __init__(self):
        self.scale = Variable(jnp.array([2.0, 2.0]))

    @function(input_signature=[PAIR])
    def f(self, x):
        return self.scale * x

    @function
    def poly(self, x):
        return self.scale * x


def loaded_and_told(obj, path, *signatures):
    """The loaded object, and the text of the warnings of saving it, all about this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exporter.save(obj, path, *signatures, platforms=("cpu",))
    assert {(one.category, one.filename) for one in caught} <= {(UserWarning, __file__)}
    return exporter.load(path), [str(one.message) for one in caught]


@pytest.mark.parametrize(
    "make",
    [
        One,
        Inherited,
        Overridden,
        Private,
        Static,
        StaticWithin,
        ClassMethod,
        ClassMethodWithin,
        Callable,
        TwoNames,
        Marked,
        OneSuitable,
        lambda: SimpleNamespace(f=double),
        lambda: SimpleNamespace(f=double.get_concrete_function()),
        lambda: SimpleNamespace(f=double, g=double),
        lambda: SimpleNamespace(f=double, child=Two(), parts=[Two()], by_name={"g": Two()}),
        lambda: SimpleNamespace(f=double, g=lambda x: x, h=jnp.sin),
    ],
)
def test_the_one_function_of_the_root_that_can_be_is_serving_default(make, reload):
    model = reload(make())
    assert list(model.signatures) == ["serving_default"]
    answer = model.signatures["serving_default"](x=X)
    assert list(answer) == ["output_0"]
    np.testing.assert_array_equal(answer["output_0"], 2 * X)


@pytest.mark.parametrize(
    ("make", "note"),
    [
        (SimpleNamespace, NONE_FOUND),
        (lambda: SimpleNamespace(child=One(), parts=[One()], by_name={"f": One()}), NONE_FOUND),
        (
            Two,
            "several methods could be the default signature: f, g. Mark one with "
            "@exporter.function(default=True), or pass signatures={'f': model.f} to save.",
        ),
        (
            lambda: SimpleNamespace(z=double, a=Static.f),
            "several methods could be the default signature: z, a. Mark one with "
            "@exporter.function(default=True), or pass signatures={'z': model.z} to save.",
        ),
        (
            Unsuitable,
            f"{NONE_FOUND} Looked at:\n"
            f"  nested: its output 'a' is a dict. {ADVICE}\n"
            f"  none: it returns None. {ADVICE}\n"
            f"  holds_none: its output 'output_1' is None. {ADVICE}\n"
            f"  inner: its output 'output_1' is a tuple. {ADVICE}\n"
            f"  numbered: it returns a dict with the key 1, which is not text. {ADVICE}\n"
            "  empty_dict: it returns nothing.\n"
            "  empty_list: it returns nothing.",
        ),
    ],
)
def test_with_several_or_no_candidates_nothing_is_a_signature_and_a_warning_says_why(
    make, note, tmp_path
):
    model, told = loaded_and_told(make(), tmp_path / "m")
    assert told == [f"saved without a signature: {note}"]
    assert dict(model.signatures) == {}
    with pytest.raises(KeyError) as missing:
        model.signatures["serving_default"]
    assert str(missing.value) == (
        f"no signature 'serving_default', the artifact has none: when it was saved, {note}"
    )


def test_a_function_without_a_spec_is_no_candidate_however_often_it_was_called(tmp_path):
    model = WithoutSpec()
    model.f(X)
    loaded, told = loaded_and_told(model, tmp_path / "m")
    assert told == [
        f"saved without a signature: {NONE_FOUND} Looked at:\n  f: it has no input_signature."
    ]
    np.testing.assert_array_equal(loaded.f(X), 2 * X)


def test_a_function_that_was_never_traced_is_saved_with_a_warning_and_says_so_when_called(tmp_path):
    model, told = loaded_and_told(WithoutSpec(), tmp_path / "m", {})
    assert told == [NEVER_CALLED]
    with pytest.raises(TypeError) as refused:
        model.f(X)
    assert str(refused.value) == (
        "f(x) cannot be called: when the model was saved, it had no input_signature and had never "
        "been called, so there is no program for it."
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            MarkedTwice,
            "h and i are all marked default=True; mark one, or pass signatures= to save.",
        ),
        (
            MarkedWithoutSpec,
            "f is marked default=True but cannot be a signature: it has no input_signature.",
        ),
        (
            MarkedWithNone,
            "f is marked default=True but cannot be a signature: its output 'output_1' is None. "
            + ADVICE,
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*was never called")
def test_a_default_that_cannot_be_is_refused(make, message, tmp_path):
    with pytest.raises(ResolveError) as refused:
        exporter.save(make(), tmp_path / "m", platforms=("cpu",))
    assert str(refused.value) == message
    assert not (tmp_path / "m").exists()


def test_a_default_of_a_child_does_not_matter(reload):
    model = reload(SimpleNamespace(f=double, child=Marked()))
    np.testing.assert_array_equal(model.signatures["serving_default"](x=X)["output_0"], 2 * X)


def named(model):
    return {
        "none": ({}, []),
        "a method": (model.f, ["serving_default"]),
        "a free function": (double, ["serving_default"]),
        "a concrete function": (model.f.get_concrete_function(), ["serving_default"]),
        "a trace of a function without a spec": (
            {"p": model.poly.get_concrete_function(PAIR)},
            ["p"],
        ),
        "names in their order": (
            {"z": model.f, "a": double, "c/d e": model.f, "é": Static().f, "A": One().f},
            ["z", "a", "c/d e", "é", "A"],
        ),
    }


@pytest.mark.parametrize("what", list(named(Stateful())))
@pytest.mark.filterwarnings("ignore:.*was never called")
def test_signatures_are_those_asked_for_in_the_order_asked_for(what, reload):
    model = Stateful()
    asked, names = named(model)[what]
    loaded = reload(model, asked)
    assert list(loaded.signatures) == names
    for signature in loaded.signatures.values():
        np.testing.assert_array_equal(signature(x=X)["output_0"], 2 * X)
    np.testing.assert_array_equal(loaded.f(X), 2 * X)


def test_signatures_asked_for_win_over_a_marked_default(reload):
    model = Marked()
    assert list(reload(model, {"other": model.g}).signatures) == ["other"]


@pytest.mark.parametrize("name", ["empty_dict", "empty_list"])
def test_an_empty_result_is_a_signature_when_asked_for(name, tmp_path):
    model = Unsuitable()
    loaded, _ = loaded_and_told(model, tmp_path / "m", {"s": getattr(model, name)})
    assert loaded.signatures["s"](x=X) == {}
    assert loaded.signatures["s"].structured_outputs == {}


def test_loaded_signatures_and_functions_can_be_asked_for_again(reload):
    model = Two()
    loaded = reload(model, {"f": model.f})
    again = reload(loaded, {"first": loaded.signatures["f"], "second": loaded.g})
    assert list(again.signatures) == ["first", "second"]
    np.testing.assert_array_equal(again.signatures["second"](X)["output_0"], 3 * X)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "3 (int)"),
        ("f", "'f' (str)"),
        (None, "None (NoneType)"),
        ([double], "[<exporter.function double(x)>] (list)"),
        (One, f"{One!r} (type)"),
        (loaded_and_told, f"{loaded_and_told!r} (function)"),
    ],
)
def test_what_is_no_function_is_refused_as_a_signature(value, shown, tmp_path):
    with pytest.raises(ResolveError) as refused:
        exporter.save(One(), tmp_path / "m", {"s": value})
    assert isinstance(refused.value, ValueError)
    assert str(refused.value) == f"signatures= has {shown} for 's'. {NOT_A_FUNCTION}"
    if value is not None:
        with pytest.raises(ResolveError) as refused:
            exporter.save(One(), tmp_path / "m", value)
        assert str(refused.value) == (
            f"signatures= has {shown} for 'serving_default'. {NOT_A_FUNCTION}"
        )


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nested", f"its output 'a' is a dict. {ADVICE}"),
        ("none", f"it returns None. {ADVICE}"),
        ("holds_none", f"its output 'output_1' is None. {ADVICE}"),
        ("inner", f"its output 'output_1' is a tuple. {ADVICE}"),
        ("numbered", f"it returns a dict with the key 1, which is not text. {ADVICE}"),
    ],
)
def test_outputs_that_a_signature_cannot_have_are_named(name, problem, tmp_path):
    model = Unsuitable()
    with pytest.raises(ResolveError) as refused:
        exporter.save(model, tmp_path / "m", {"s": getattr(model, name)}, platforms=("cpu",))
    assert str(refused.value) == f"{name} cannot be the signature 's': {problem}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda model: {"s": model.f},
            "f cannot be the signature 's': it has no input_signature. Decorate it with "
            "@exporter.function(input_signature=[...]), or pass what its "
            "get_concrete_function(...) returns.",
        ),
        (
            lambda model: {"s": One.f},
            "signatures= has the method f for 's', taken from its class and not from an object. "
            "Pass model.f.",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*was never called")
def test_a_function_that_is_not_ready_to_be_a_signature_is_refused(make, message, tmp_path):
    model = WithoutSpec()
    with pytest.raises(ResolveError) as refused:
        exporter.save(model, tmp_path / "m", make(model), platforms=("cpu",))
    assert str(refused.value) == message


def test_a_loaded_function_of_several_types_is_refused_as_a_signature(tmp_path):
    model = WithoutSpec()
    model.f(X)
    model.f(np.ones(3, np.float32))
    loaded, _ = loaded_and_told(model, tmp_path / "m")
    with pytest.raises(ResolveError) as refused:
        exporter.save(loaded, tmp_path / "n", loaded.f, platforms=("cpu",))
    assert str(refused.value).startswith(
        "f cannot be the signature 'serving_default': it was saved for 2 types of arguments."
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (3, "signatures= has the key 3 of type int; the names of signatures are text."),
        (None, "signatures= has the key None of type NoneType; the names of signatures are text."),
        (b"f", "signatures= has the key b'f' of type bytes; the names of signatures are text."),
    ],
)
def test_a_name_that_is_not_text_is_a_type_error(key, message, tmp_path):
    model = One()
    with pytest.raises(TypeError) as refused:
        exporter.save(model, tmp_path / "m", {key: model.f})
    assert str(refused.value) == message
    assert isinstance(refused.value, ResolveError)


@pytest.mark.parametrize("key", ["", "__f", "__saved_model_init_op"])
def test_reserved_names_are_refused(key, tmp_path):
    model = One()
    with pytest.raises(ResolveError) as refused:
        exporter.save(model, tmp_path / "m", {key: model.f})
    assert str(refused.value) == (
        f"{key!r} cannot name a signature: the empty name and names that start with '__' are "
        "reserved."
    )


@pytest.mark.parametrize(
    ("way", "variable"),
    [
        (lambda other: {"s": other.f}, "self.scale"),
        (lambda other: {"s": other.f.get_concrete_function()}, "self.scale"),
    ],
)
def test_a_signature_of_another_object_with_state_is_refused(way, variable, tmp_path):
    with pytest.raises(TrackingError) as refused:
        exporter.save(One(), tmp_path / "m", way(Stateful()), platforms=("cpu",))
    assert str(refused.value) == (
        f"f uses {variable}, which is not part of the saved object, so its value would be lost. "
        "Assign what holds it to an attribute of the object."
    )


@pytest.mark.filterwarnings("ignore:.*was never called")
def test_a_loaded_signature_of_an_object_that_is_not_saved_is_refused(reload, tmp_path):
    other = Stateful()
    loaded = reload(other, {"s": other.f.get_concrete_function()})
    with pytest.raises(TrackingError) as refused:
        exporter.save(One(), tmp_path / "m", loaded.signatures["s"], platforms=("cpu",))
    assert str(refused.value) == (
        "f uses scale, which is not part of the saved object, so its value would be lost. Assign "
        "what holds it to an attribute of the object."
    )
    holder = reload(SimpleNamespace(inner=loaded), loaded.signatures["s"])
    np.testing.assert_array_equal(holder.signatures["serving_default"](X)["output_0"], 2 * X)


def test_functions_of_children_lists_tuples_and_dicts_come_back_at_their_paths(reload):
    model = reload(
        SimpleNamespace(
            child=SimpleNamespace(deep=One()),
            parts=[Two(), 1, double],
            pair=(double, None, One()),
            by_name={"f": double, 3: One()},
        ),
        {},
    )
    assert type(model.pair) is tuple
    assert model.parts[1] == 1
    assert model.pair[1] is None
    assert model.parts[2] is model.pair[0] is model.by_name["f"]
    for call in (
        model.child.deep.f,
        model.parts[0].f,
        model.parts[2],
        model.pair[2].f,
        model.by_name[3].f,
    ):
        np.testing.assert_array_equal(call(X), 2 * X)
    np.testing.assert_array_equal(model.parts[0].g(X), 3 * X)


@pytest.mark.parametrize(
    ("root", "shown"),
    [
        (3, "3 (int)"),
        ("model", "'model' (str)"),
        (None, "None (NoneType)"),
        ({}, "{} (dict)"),
        ([One], f"[{One!r}] (list)"),
        (len, "<built-in function len> (builtin_function_or_method)"),
        (np.zeros(1), "array([0.]) (ndarray)"),
        (double, "<exporter.function double(x)> (Function)"),
        (
            double.get_concrete_function(),
            "<ConcreteFunction double(x: float32[2]) -> (output_0: flo... (ConcreteFunction)",
        ),
        (Variable(np.zeros(1)), "Variable(Array([0.], dtype=float32)) (Variable)"),
    ],
)
def test_what_has_no_attributes_of_its_own_cannot_be_saved(root, shown, tmp_path):
    with pytest.raises(TrackingError) as refused:
        exporter.save(root, tmp_path / "m")
    assert isinstance(refused.value, ValueError)
    assert str(refused.value) == (
        f"{shown} cannot be saved: an object with attributes was expected, such as an instance of "
        "your class or a Flax module. To save functions or arrays, assign them to the attributes "
        "of one."
    )


def test_a_loaded_function_cannot_be_the_saved_object(reload, tmp_path):
    loaded = reload(One())
    for root in (loaded.f, loaded.signatures["serving_default"]):
        with pytest.raises(TrackingError, match="cannot be saved: an object with attributes"):
            exporter.save(root, tmp_path / "m")


def test_a_function_that_fails_to_trace_raises_its_own_error_and_nothing_is_written(tmp_path):
    class Failing:
        @function(input_signature=[PAIR])
        def f(self, x):
            raise RuntimeError("no answer")

    with pytest.raises(RuntimeError, match="^no answer") as raised:
        exporter.save(Failing(), tmp_path / "m", platforms=("cpu",))
    assert "This happened while tracing f(x: float32[2])." in raised.value.__notes__
    assert list(tmp_path.iterdir()) == []


def test_each_function_is_traced_once_at_save_with_the_attributes_of_that_moment(reload):
    class Counted:
        def __init__(self):
            self.factor = 1
            self.seen = []

        @function(input_signature=[PAIR])
        def f(self, x):
            self.seen.append(self.factor)
            return self.factor * x

    model = Counted()
    before = model.f.get_concrete_function()
    model.factor = 5
    count = len(model.seen)
    loaded = reload(model, {"then": before, "now": model.f, "also": model.f})
    assert len(model.seen) <= count + 1
    np.testing.assert_array_equal(loaded.signatures["then"](X)["output_0"], X)
    np.testing.assert_array_equal(loaded.signatures["now"](X)["output_0"], 5 * X)
    np.testing.assert_array_equal(loaded.f(X), 5 * X)


def test_saving_in_a_trace_is_refused(tmp_path):
    class Saves:
        @function(input_signature=[PAIR])
        def f(self, x):
            exporter.save(One(), tmp_path / "m")
            return x

    for attempt in (
        lambda: jax.jit(lambda x: exporter.save(One(), tmp_path / "m") or x)(X),
        lambda: Saves().f(X),
        lambda: exporter.save(Saves(), tmp_path / "n", platforms=("cpu",)),
    ):
        with pytest.raises(TracingError) as refused:
            attempt()
        assert str(refused.value) == (
            "save was called while JAX traces a function, where arrays have no values. Call it "
            "outside of jax.jit and of decorated functions."
        )
    assert list(tmp_path.iterdir()) == []

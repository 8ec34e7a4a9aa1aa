"""What of an object is saved, and how it comes back: aliases, containers, what is left out."""

import dataclasses
import functools
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import TensorSpec, TrackingError, Variable, function

PAIR = TensorSpec((2,), "float32")
X = np.array([1, 2], np.float32)
ONES = np.ones(2, np.float32)


class Point(NamedTuple):
    x: object
    y: object


HINT = "Only variables, decorated functions and the objects that hold them are saved."


class Tree:
    """Every kind of holder, with aliases and circles."""

    def __init__(self):
        self.v = Variable(jnp.ones(2))
        self.same = self.v
        self.a = jnp.arange(2.0)
        self.also_a = self.a
        self.numpy = np.arange(3, dtype=np.float32)
        self.also_numpy = self.numpy
        self.child = SimpleNamespace(root=self, v=self.v, itself=None)
        self.child.itself = self.child
        self.items = [self.v, 1, "text", None, jnp.zeros(1), True, 2.5]
        self.same_items = self.items
        self.fixed = (1, self.v, (jnp.ones(1), "inner"), ())
        self.point = Point(jnp.zeros(2), [self.v])
        self.by_key = {"v": self.v, 3: jnp.ones(3), True: None, 2.5: "half", None: 1, "é/.": 2}
        self.circle = [self.items]
        self.circle.append(self.circle)
        self.plain_list = [1, [2, {"k": None}], ()]
        self.plain_dict = {"a": 1, 2: (3,)}
        self.empty_list = []
        self.empty_dict = {}
        self.number = 5
        self.text = "text"
        self.nothing = None
        self.anything = object()
        self.set = {1, 2}
        self.python_function = len
        self.method = self.plain
        self.cls = Tree
        self.scalar = np.float32(3)

    def plain(self):
        return 1

    @function(input_signature=[PAIR])
    def add(self, x):
        self.v.value = self.v + x
        return self.v + self.a + self.child.v + self.items[0]


@pytest.fixture(scope="module")
def tree(reload):
    return reload(Tree())


def test_two_ways_to_one_thing_lead_to_one_thing(tree):
    assert tree.v is tree.same is tree.child.v is tree.items[0] is tree.fixed[1]
    assert tree.v is tree.by_key["v"] is tree.point.y[0]
    assert tree.a is tree.also_a
    assert tree.numpy is tree.also_numpy
    assert tree.items is tree.same_items is tree.circle[0]
    assert tree.numpy is not tree.a


def test_circles_close(tree):
    assert tree.child.root is tree
    assert tree.child.itself is tree.child
    assert tree.circle[1] is tree.circle


def test_one_array_in_several_places_is_stored_once_under_its_first_path(tree):
    assert set(tree.variables) == {"v", "a", "numpy", "items", "fixed", "point", "by_key"}
    assert set(tree.variables["items"]) == {"4"}
    assert set(tree.variables["by_key"]) == {"3"}
    assert len(tree.manifest.variables) == 7


def test_lists_tuples_and_dicts_keep_kind_length_order_keys_and_plain_values(tree):
    assert type(tree.items) is list
    assert [type(item) for item in tree.items] == [
        Variable,
        int,
        str,
        type(None),
        Variable,
        bool,
        float,
    ]
    assert tree.items[1:4] == [1, "text", None]
    assert tree.items[5:] == [True, 2.5]
    assert type(tree.fixed) is tuple
    assert (tree.fixed[0], tree.fixed[2][1], tree.fixed[3]) == (1, "inner", ())
    assert type(tree.fixed[2]) is tuple
    assert [(type(key), key) for key in tree.by_key] == [
        (str, "v"),
        (int, 3),
        (bool, True),
        (float, 2.5),
        (type(None), None),
        (str, "é/."),
    ]
    assert [tree.by_key[key] for key in (True, 2.5, None, "é/.")] == [None, "half", 1, 2]
    assert (type(tree.point).__name__, tree.point._fields) == ("Point", ("x", "y"))
    np.testing.assert_array_equal(tree.point.x, [0, 0])


def test_containers_of_plain_values_come_back_however_they_are_nested(tree):
    assert tree.plain_list == [1, [2, {"k": None}], ()]
    assert tree.plain_dict == {"a": 1, 2: (3,)}
    assert tree.empty_list == []
    assert tree.empty_dict == {}


@pytest.mark.parametrize(
    "name",
    ["number", "text", "nothing", "anything", "set", "python_function", "method", "cls", "plain"],
)
def test_plain_attributes_are_not_saved_and_the_error_says_what_is(name, reload):
    class Small:
        @function(input_signature=[PAIR])
        def f(self, x):
            return x

    small, source = Small(), Tree()
    small.v = source.v
    setattr(small, name, getattr(source, name))
    loaded = reload(small)
    assert not hasattr(loaded, name)
    assert getattr(loaded, name, 7) == 7
    with pytest.raises(AttributeError) as missing:
        getattr(loaded, name)
    assert str(missing.value) == f"this Small has no attribute {name!r}. It has v, f. {HINT}"


def test_an_error_names_the_object_that_lacks_the_attribute(tree, reload):
    with pytest.raises(AttributeError) as missing:
        tree.child.nope  # noqa: B018  # looking it up is the test
    assert str(missing.value) == (
        f"this SimpleNamespace has no attribute 'nope'. It has root, v, itself. {HINT}"
    )
    with pytest.warns(UserWarning, match="saved without a signature"):
        bare = reload(SimpleNamespace())
    with pytest.raises(AttributeError) as missing:
        bare.nope  # noqa: B018
    assert (
        str(missing.value) == f"this SimpleNamespace has no attribute 'nope'. It has none. {HINT}"
    )


def test_calling_an_object_without_call_says_what_it_has(tree):
    with pytest.raises(TypeError) as refused:
        tree.child(X)
    assert str(refused.value) == (
        "this SimpleNamespace cannot be called: its __call__ was not decorated when it was saved. "
        "It has root, v, itself."
    )


def test_the_model_says_what_it_has(tree):
    lines = repr(tree).splitlines()
    assert lines[0].startswith("<LoadedModel Tree: v, same, a, also_a, ")
    assert lines[1] == "  serving_default(x: float32[2]) -> (output_0: float32[2])"
    assert lines[2] == "  7 variables, 14 elements>"
    assert repr(tree.child) == "<LoadedObject SimpleNamespace: root, v, itself>"
    assert {"v", "add", "signatures"} <= set(dir(tree))


def test_functions_see_state_through_every_alias(reload):
    original = Tree()
    loaded = reload(original)
    expected = 3 * (ONES + X) + np.arange(2)
    for model in (loaded, original):
        np.testing.assert_array_equal(model.add(X), expected)
        np.testing.assert_array_equal(model.items[0], ONES + X)


def test_an_array_in_two_places_of_which_one_is_assigned_becomes_two(reload):
    class Aliased:
        def __init__(self):
            self.a = jnp.zeros(2)
            self.b = self.a
            self.items = [self.a]

        @function(input_signature=[PAIR])
        def add(self, x):
            self.a = self.a + x
            return {"a": self.a, "b": self.b, "item": self.items[0]}

        @function(input_signature=[PAIR])
        def look(self, x):
            return {"a": self.a + x, "b": self.b + x, "item": self.items[0] + x}

    original = Aliased()
    loaded = reload(original, {})
    for model in (loaded, original):
        for times in (1, 2):
            result = model.add(X)
            np.testing.assert_array_equal(result["a"], times * X)
            np.testing.assert_array_equal(result["b"], 0 * X)
            np.testing.assert_array_equal(result["item"], 0 * X)
        np.testing.assert_array_equal(model.look(X)["a"], 3 * X)
        np.testing.assert_array_equal(model.look(X)["b"], X)
    np.testing.assert_array_equal(loaded.items[0], 0 * X)


def test_a_shared_variable_that_is_assigned_changes_everywhere(reload):
    class Shared:
        def __init__(self):
            self.v = Variable(jnp.zeros(2))
            self.parts = [SimpleNamespace(v=self.v)]

        @function(input_signature=[PAIR])
        def add(self, x):
            self.parts[0].v.value = self.v + x
            return self.v

    original = Shared()
    loaded = reload(original)
    for model in (loaded, original):
        model.add(X)
        np.testing.assert_array_equal(model.v, X)
        np.testing.assert_array_equal(model.parts[0].v, X)


def test_a_list_is_saved_as_it_is_at_that_moment(reload):
    parts = [Variable(jnp.float32(n)) for n in range(4)]
    model = SimpleNamespace(parts=list(parts), by_key={"a": parts[0], "b": parts[1]})
    model.parts.insert(0, Variable(jnp.float32(9)))
    del model.parts[2]
    model.parts.reverse()
    model.parts.pop()
    del model.by_key["a"]
    loaded = reload(model, {})
    assert [float(part) for part in loaded.parts] == [3, 2, 0]
    assert list(loaded.by_key) == ["b"]


def test_overwritten_and_deleted_attributes_are_gone(reload):
    model = SimpleNamespace(
        kept=Variable(1.0), over=Variable(2.0), deleted=Variable(3.0), to_none=Variable(4.0)
    )
    model.over = Variable(jnp.ones(2))
    del model.deleted
    model.to_none = None
    loaded = reload(model, {})
    assert set(loaded.variables) == {"kept", "over"}
    assert loaded.over.shape == (2,)
    assert not hasattr(loaded, "deleted")
    assert not hasattr(loaded, "to_none")


def test_dataclasses_frozen_ones_and_slots_hold_state(reload):
    @dataclasses.dataclass
    class Open:
        v: object
        n: int = 3

    @dataclasses.dataclass(frozen=True)
    class Frozen:
        a: object

    class Slots:
        __slots__ = ("a", "unset")

        def __init__(self):
            self.a = jnp.ones(2)

    class Model:
        def __init__(self):
            self.open = Open(Variable(jnp.zeros(2)))
            self.frozen = Frozen(jnp.full(2, 5.0))
            self.slots = Slots()

        @function(input_signature=[PAIR])
        def f(self, x):
            self.open.v.value = self.open.v + x
            return self.open.v + self.frozen.a + self.slots.a

    original = Model()
    loaded = reload(original)
    for model in (loaded, original):
        np.testing.assert_array_equal(model.f(X), X + 6)
        np.testing.assert_array_equal(model.f(X), 2 * X + 6)
    assert set(loaded.variables) == {"open", "frozen", "slots"}


def test_trainable_marks_collections_and_names_are_kept(reload):
    loaded = reload(
        SimpleNamespace(
            weight=Variable(jnp.ones(2)),
            frozen=Variable(jnp.ones(3), trainable=False, name="mine"),
            steps=np.int32(0) + np.zeros((), np.int32),
            count=jnp.int32(0),
            array=jnp.ones(1),
            mean=Variable(jnp.zeros(4), trainable=False, collection="BatchStat"),
        ),
        {},
    )
    assert set(loaded.trainable_variables) == {"weight", "array"}
    assert not loaded.frozen.trainable
    assert loaded.frozen.name == "mine"
    assert loaded.mean.collection == "BatchStat"


def test_duplicate_names_of_variables_do_not_matter(reload):
    loaded = reload(SimpleNamespace(a=Variable(1.0, name="v"), b=[Variable(2.0, name="v")]), {})
    assert (float(loaded.a), float(loaded.b[0])) == (1, 2)


@pytest.mark.parametrize(
    "dtype", ["bool", "int4", "uint8", "float16", "bfloat16", "float8_e5m2", "complex64"]
)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 3)])
def test_variables_of_every_dtype_and_shape_come_back(dtype, shape, reload):
    value = jnp.ones(shape, dtype)
    loaded = reload(SimpleNamespace(v=Variable(value)), {})
    assert (loaded.v.dtype, loaded.v.shape) == (value.dtype, shape)
    np.testing.assert_array_equal(loaded.v.value.astype("complex64"), np.ones(shape))


def test_odd_attribute_names_and_keys_come_back(reload):
    model = SimpleNamespace()
    vars(model).update({"a/b": Variable(1.0), "c.d": Variable(2.0), "é": Variable(3.0)})
    model.a = SimpleNamespace(b=Variable(4.0))
    model.c = {"d": Variable(5.0), "": Variable(6.0), "..": Variable(7.0), "/": Variable(8.0)}
    loaded = reload(model, {})
    found = [getattr(loaded, name) for name in ("a/b", "c.d", "é")]
    found += [loaded.a.b, *(loaded.c[key] for key in ("d", "", "..", "/"))]
    assert [float(v) for v in found] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: {"k": {frozenset([1]): Variable(1.0)}},
            "k has the key frozenset({1}) (frozenset); the keys of a dict that is saved are text "
            "or numbers.",
        ),
        (
            lambda: {"k": [{(1, 2): Variable(1.0)}]},
            "k[0] has the key (1, 2) (tuple); the keys of a dict that is saved are text or "
            "numbers.",
        ),
    ],
)
def test_keys_that_cannot_be_written_are_refused(make, message, tmp_path):
    with pytest.raises(TrackingError) as refused:
        exporter.save(SimpleNamespace(**make()), tmp_path / "m", {}, platforms=("cpu",))
    assert str(refused.value) == message


def test_variables_under_keys_alike_once_written_are_refused(tmp_path):
    model = SimpleNamespace(k={1: Variable(1.0), "1": Variable(2.0)})
    with pytest.raises(TrackingError) as refused:
        exporter.save(model, tmp_path / "m", {}, platforms=("cpu",))
    assert str(refused.value) == (
        "two variables have the path k/1 in a checkpoint: keys of a dict that differ only in their "
        "type, such as 1 and '1'. Rename one."
    )


class Counter:
    def __init__(self, value=None):
        self.n = Variable(jnp.int32(0))

    @function(input_signature=[])
    def inc(self):
        self.n.value = self.n + 1
        return self.n


RESERVED = (
    "the object has an attribute 'signatures', which a loaded model has for itself. Rename it "
    "before saving."
)


@pytest.mark.parametrize(
    "value",
    [Variable(1.0), {}, [], Counter().inc, lambda: 1, 3, "text", None],
    ids=lambda value: type(value).__name__,
)
def test_an_attribute_called_signatures_is_refused_on_the_root(value, tmp_path):
    model = Counter()
    model.signatures = value
    with pytest.raises(TrackingError) as refused:
        exporter.save(model, tmp_path / "m", {}, platforms=("cpu",))
    assert isinstance(refused.value, ValueError)
    assert str(refused.value) == RESERVED


def test_a_method_called_signatures_is_refused_on_the_root(tmp_path):
    class WithMethod(Counter):
        def signatures(self):
            return {}

    with pytest.raises(TrackingError) as refused:
        exporter.save(WithMethod(), tmp_path / "m", {}, platforms=("cpu",))
    assert str(refused.value) == RESERVED


def test_an_attribute_called_signatures_is_allowed_on_a_child(reload):
    model = Counter()
    model.child = SimpleNamespace(signatures=Variable(1.0), variables=[Variable(2.0)])
    loaded = reload(model)
    assert float(loaded.child.signatures) == 1
    assert float(loaded.child.variables[0]) == 2
    assert list(loaded.signatures) == ["serving_default"]


class TestUntracked:
    """State that a function uses and the object does not hold."""

    MESSAGE = (
        "f uses {}, which is not part of the saved object, so its value would be lost. Assign "
        "what holds it to an attribute of the object."
    )

    @staticmethod
    def refusal(model, tmp_path):
        with pytest.raises(TrackingError) as refused:
            exporter.save(model, tmp_path / "m", platforms=("cpu",))
        assert isinstance(refused.value, ValueError)
        assert list(tmp_path.iterdir()) == []
        return str(refused.value)

    def test_a_closure_s_variable_is_named(self, tmp_path, reload):
        counter = Variable(jnp.zeros(2))

        class Model:
            @function(input_signature=[PAIR])
            def f(self, x):
                counter.value = counter + x
                return counter

        model = Model()
        assert self.refusal(model, tmp_path) == self.MESSAGE.format("counter")
        np.testing.assert_array_equal(model.f(X), X)
        model.counter = counter
        loaded = reload(model)
        np.testing.assert_array_equal(loaded.f(X), 2 * X)
        np.testing.assert_array_equal(loaded.counter, 2 * X)
        np.testing.assert_array_equal(counter, X)

    def test_a_global_variable_is_named(self, tmp_path):
        class Model:
            @function(input_signature=[PAIR])
            def f(self, x):
                return x + GLOBAL

        assert self.refusal(Model(), tmp_path) == self.MESSAGE.format("GLOBAL")

    def test_a_variable_inside_another_object_is_named_by_the_way_to_it(self, tmp_path):
        other = SimpleNamespace(parts=[Variable(jnp.zeros(2))])

        class Model:
            @function(input_signature=[PAIR])
            def f(self, x):
                return x + other.parts[0]

        assert self.refusal(Model(), tmp_path) == self.MESSAGE.format("other.parts[0]")

    def test_a_variable_of_the_class_is_followed(self, reload):
        class Model:
            v = Variable(jnp.zeros(2))

            @function(input_signature=[PAIR])
            def f(self, x):
                return x + self.v

        loaded = reload(Model())
        loaded.v.value = jnp.array([1.0, 2.0])
        assert loaded.f(jnp.ones(2)).tolist() == [2.0, 3.0]

    def test_a_variable_in_a_set_is_told_by_its_name(self, tmp_path):
        class Model:
            def __init__(self):
                self.s = {Variable(jnp.zeros(2), name="hidden")}

            @function(input_signature=[PAIR])
            def f(self, x):
                return x + next(iter(self.s))

        assert self.refusal(Model(), tmp_path) == self.MESSAGE.format("hidden")


GLOBAL = Variable(jnp.zeros(2))
LARGE = jnp.ones((600, 600))


class TestConstants:
    """Arrays that a function uses and the object does not hold."""

    @pytest.mark.parametrize(
        "array", [LARGE, np.ones((600, 600), np.float32)], ids=["jax", "numpy"]
    )
    def test_a_large_one_is_refused_with_its_shape(self, array, tmp_path):
        class Model:
            @function(input_signature=[PAIR])
            def f(self, x):
                return x + jnp.sum(jnp.asarray(array))

        with pytest.raises(exporter.LoweringError) as refused:
            exporter.save(Model(), tmp_path / "m", platforms=("cpu",))
        line = Model.f.python_function.__code__.co_firstlineno + 2
        assert str(refused.value) == (
            "f uses the array array, float32[600, 600] of 1,440,000 bytes at "
            f"{__file__}:{line}, which the object does not hold, so it would be written into the "
            "program itself. Assign it to an attribute of the object and read it from there (or "
            "raise SaveOptions(max_constant_bytes=1048576))."
        )
        assert list(tmp_path.iterdir()) == []

    def test_a_small_one_stays(self, reload):
        small = jnp.array([3.0, 4.0])

        class Model:
            @function(input_signature=[PAIR])
            def f(self, x):
                return x * small

        loaded = reload(Model())
        np.testing.assert_array_equal(loaded.f(X), X * np.array([3, 4]))
        assert loaded.variables == {}

    def test_the_limit_can_be_raised_or_the_array_assigned(self, reload):
        class Model:
            @function(input_signature=[PAIR])
            def f(self, x):
                return x + LARGE.sum()

        model = Model()
        options = exporter.SaveOptions(max_constant_bytes=2**21)
        np.testing.assert_array_equal(reload(model, options=options).f(X), X + 360000)

        class Holder:
            def __init__(self):
                self.large = LARGE

            @function(input_signature=[PAIR])
            def f(self, x):
                return x + self.large.sum()

        loaded = reload(Holder())
        np.testing.assert_array_equal(loaded.f(X), X + 360000)
        assert loaded.large.shape == (600, 600)


@pytest.mark.parametrize("change", ["attribute", "flags", "list"])
def test_saving_leaves_the_object_as_it_was(change, reload):
    class Model:
        def __init__(self):
            self.mode = "train"
            self.log = []
            self.v = Variable(jnp.zeros(2))

        @function(input_signature=[PAIR])
        def f(self, x):
            if change == "attribute":
                self.mode = "eval"
            elif change == "flags":
                self.new_flag = True
            else:
                self.log.append("called")
            self.v.value = self.v + x
            return self.v

    model = Model()
    before = dict(vars(model), log=list(model.log))
    reload(model)
    assert {**vars(model), "log": list(model.log)} == before
    np.testing.assert_array_equal(model.v, [0, 0])


def test_what_holds_nothing_but_a_way_back_is_kept(reload):
    child, root = SimpleNamespace(), SimpleNamespace(v=Variable(1.0))
    child.parent, root.child, root.listed, root.keyed = root, child, [root], {"me": root}
    root.other = SimpleNamespace(number=3)  # leads nowhere
    loaded = reload(root, {})
    assert loaded.child.parent is loaded
    assert loaded.listed[0] is loaded
    assert loaded.keyed["me"] is loaded
    assert not hasattr(loaded, "other")


def test_a_function_that_another_decorator_hides_is_refused(tmp_path):
    class Hidden:
        @jax.jit
        @exporter.function(input_signature=[exporter.TensorSpec((3,), "float32")])
        def double(self, x):
            return 2 * x

    with pytest.raises(exporter.TrackingError, match=r"Hidden\.double .* the outermost one"):
        exporter.save(Hidden(), tmp_path / "hidden")
    report = exporter.check(Hidden())
    assert not report
    assert "outermost" in str(report)


def test_what_wraps_a_function_that_is_there_too_hides_nothing(tmp_path):
    class Both:
        @exporter.function(input_signature=[exporter.TensorSpec((3,), "float32")])
        def double(self, x):
            return 2 * x

        quick = functools.wraps(double)(lambda self, x: self.double(x))

    exporter.save(Both(), tmp_path / "both")


def test_a_class_in_place_of_an_object_is_told(tmp_path):
    class Thing:
        pass

    with pytest.raises(TrackingError, match=r"Thing is a class.* as in Thing\(\.\.\.\)"):
        exporter.save(Thing, tmp_path / "thing")

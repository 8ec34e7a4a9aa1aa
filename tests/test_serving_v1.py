"""TensorFlow Serving's REST as bytes: rows and columns, what is refused and how, any bytes."""

import base64
import json

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter import TensorSpec
from exporter.runtime.datatypes import DATATYPES
from exporter.serving import v1
from exporter.serving.errors import RequestError
from exporter.serving.messages import Answer
from signatures.dtypes import as_dtype

IMAGE = {"image": TensorSpec(("batch", 2), "float32")}
PAIR = {"a": TensorSpec(("n",), "int32"), "b": TensorSpec(("n", 2), "bool")}
KINDS = {"picture": "image", "size": TensorSpec(("n",), "uint8")}


def asked(specs, /, **body):
    return v1.parse(orjson.dumps(body)).request(specs).inputs


def told(outputs, *, rows=None):
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    answer = Answer("m", 1, "s", arrays)
    return v1.encode(answer, is_row=rows is not None, rows=rows)


def same(left, right):
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and left.tobytes() == right.tobytes()
    )


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[1, 2], [3, 4.5]]},
        {"instances": [{"image": [1, 2]}, {"image": [3, 4.5]}]},
        {"inputs": [[1, 2], [3, 4.5]]},
        {"inputs": {"image": [[1, 2], [3, 4.5]]}},
    ],
)
def test_a_single_input_is_given_with_or_without_its_name(body):
    found = asked(IMAGE, **body)
    assert list(found) == ["image"]
    assert same(found["image"], np.array([[1, 2], [3, 4.5]], np.float32))


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [{"a": 1, "b": [True, False]}, {"b": [False, False], "a": 2}]},
        {"inputs": {"b": [[True, False], [False, False]], "a": [1, 2]}},
    ],
)
def test_several_inputs_are_given_by_name(body):
    found = asked(PAIR, **body)
    assert same(found["a"], np.array([1, 2], np.int32))
    assert same(found["b"], np.array([[True, False], [False, False]]))


def test_the_signature_is_chosen_by_name_and_the_form_is_kept():
    found = v1.parse(b'{"signature_name": "embed", "instances": [1, 2, 3], "other": 1}')
    assert (found.signature, found.is_row, found.rows) == ("embed", True, 3)
    assert found.request({"x": TensorSpec(("n",))}).signature == "embed"
    found = v1.parse(b'{"inputs": 1}')
    assert (found.signature, found.is_row, found.rows) == (None, False, None)
    assert v1.parse(b'{"inputs": 1, "signature_name": ""}').signature is None


def test_tokens_that_are_no_json_are_numbers():
    found = v1.parse(b'{"instances": [[NaN, Infinity], [-Infinity, 1]]}').request(IMAGE).inputs
    expected = np.array([[np.nan, np.inf], [-np.inf, 1]], np.float32)
    np.testing.assert_array_equal(found["image"], expected)


@pytest.mark.parametrize("name", [one for one in DATATYPES if not one.startswith("complex")])
def test_every_real_type_comes_back(name):
    array = np.array([[0, 1], [1, 0]]).astype(as_dtype(name))
    if name == "float8_e8m0fnu":  # it has no zero
        array = np.array([[2, 1], [1, 0.5]]).astype(as_dtype(name))
    found = json.loads(told({"y": array}, rows=2))["predictions"]
    spec = {"x": TensorSpec(("n", 2), name)}
    assert same(asked(spec, instances=found)["x"], array)
    found = json.loads(told({"y": array}))["outputs"]
    assert same(asked(spec, inputs=found)["x"], array)


def test_complex_inputs_are_given_as_real_numbers_and_complex_outputs_refused():
    found = asked({"x": TensorSpec(("n",), "complex64")}, inputs=[1, 0.5])
    assert same(found["x"], np.array([1, 0.5], np.complex64))
    with pytest.raises(RequestError, match=r"^output 'y' is complex64, which JSON has no numbers"):
        told({"y": np.zeros(2, np.complex64)})


def test_random_keys_are_given_as_their_words():
    found = asked({"key": TensorSpec((), "key<fry>")}, inputs=[0, 2**32 - 1])
    assert same(found["key"], np.array([0, 2**32 - 1], np.uint32))


def test_objects_with_b64_are_bytes_for_what_stages_take():
    coded = {"b64": base64.b64encode(b"\xff\0").decode()}
    for body in (
        {"instances": [{"picture": coded, "size": 1}, {"picture": "é", "size": 2}]},
        {"inputs": {"picture": [coded, "é"], "size": [1, 2]}},
    ):
        found = asked(KINDS, **body)
        assert found["picture"] == [b"\xff\0", "é"]
        assert same(found["size"], np.array([1, 2], np.uint8))
    assert asked({"picture": "image"}, instances=[coded]) == {"picture": [b"\xff\0"]}
    assert asked({"picture": "image"}, inputs=coded) == {"picture": b"\xff\0"}
    assert asked({"words": "words"}, inputs=[["a", "b"], ["c"]]) == {"words": [["a", "b"], ["c"]]}


def test_an_input_may_be_called_b64():
    assert asked({"b64": "text"}, instances=[{"b64": "hello"}]) == {"b64": ["hello"]}
    assert asked({"b64": "text"}, inputs={"b64": ["hello"]}) == {"b64": ["hello"]}


def test_what_is_no_input_is_passed_on_as_it_is():
    found = asked({"text": "text"}, inputs={"ids": [[1, 2], [3]], "mask": [1]})
    assert found == {"ids": [[1, 2], [3]], "mask": [1]}


REFUSED = [
    (IMAGE, b"", r"^the body is not JSON: .*\(char 0\)\.$"),
    (IMAGE, b"[1]", r"^the body is \[1\] \(list\); an object was expected\.$"),
    (
        IMAGE,
        b"{}",
        r"^the request has either 'instances', a list of rows, or 'inputs', whole arrays by name; "
        r"it has neither\.$",
    ),
    (IMAGE, b'{"instances": [], "inputs": 1}', r"; it has both of them\.$"),
    (IMAGE, b'{"instances": []}', r"^'instances' is \[\] \(list\); a list of rows was expected\.$"),
    (IMAGE, b'{"instances": {"image": 1}}', r"^'instances' is .*; a list of rows was expected\.$"),
    (
        IMAGE,
        b'{"signature_name": 1, "inputs": 1}',
        r"^the request: 'signature_name' is 1 \(int\); text was expected\.$",
    ),
    (
        PAIR,
        b'{"instances": [1, 2]}',
        r"""^values have no names, and the inputs are a, b; a row is {"NAME": value, \.\.\.} was """
        r"expected in 'instances'\.$",
    ),
    (PAIR, b'{"inputs": [1, 2]}', r"the inputs are a, b; {.*} was expected in 'inputs'\.$"),
    ({}, b'{"inputs": [1, 2]}', r"^values have no names, and the inputs are none; "),
    (
        PAIR,
        b'{"instances": [{"a": 1, "b": 2}, 3]}',
        r"^instances\[0\] has names, and instances\[1\] has not\.$",
    ),
    (
        PAIR,
        b'{"instances": [3, {"a": 1, "b": 2}]}',
        r"^instances\[1\] has names, and instances\[0\] has not\.$",
    ),
    (
        PAIR,
        b'{"instances": [{"a": 1, "b": 2}, {"a": 1}]}',
        r"^instances\[0\] has \['a', 'b'\], and instances\[1\] has \['a'\]; all rows must have the "
        r"same\.$",
    ),
    (
        IMAGE,
        b'{"instances": [[1, 2], [1, 2, 3]]}',
        r"^input 'image' is ragged: item \[0\] is a list of 2, and item \[1\] is a list of 3\.$",
    ),
    (
        IMAGE,
        b'{"instances": [[1, 2], 3]}',
        r"^input 'image' is ragged: item \[0\] is a list of 2, and item \[1\] is 3 \(int\)\.$",
    ),
    (
        IMAGE,
        b'{"instances": [[1, 2], [3, "4"]]}',
        r"^input 'image': item \[1\]\[1\] is '4' \(str\); float32 was expected\.$",
    ),
    (
        PAIR,
        b'{"inputs": {"a": [1, 2147483648], "b": []}}',
        r"^input 'a': item \[1\] is 2147483648 \(int\), which int32 cannot hold: it takes ",
    ),
    (PAIR, b'{"inputs": {"a": 1.5}}', r"^input 'a': the value is 1\.5 \(float\); int32 takes ints"),
    (
        PAIR,
        b'{"inputs": {"b": [0]}}',
        r"^input 'b': item \[0\] is 0 \(int\); bool takes bools only",
    ),
    (PAIR, b'{"inputs": {"a": {"b64": "AA=="}}}', r"^input 'a': the value is {'b64': 'AA=='} "),
    (
        KINDS,
        b'{"inputs": {"picture": {"b64": "a"}}}',
        r"^input 'picture' has 'a' \(str\), which is no base64: ",
    ),
    (
        KINDS,
        b'{"inputs": {"picture": [{"b64": 5}]}}',
        r"^input 'picture' has 5 \(int\); text in base64 was expected\.$",
    ),
    (
        KINDS,
        b'{"inputs": {"picture": ' + b"[" * 900 + b"]" * 900 + b"}}",
        r"^input 'picture' is nested more than 64 deep\.$",
    ),
    (
        IMAGE,
        b'{"inputs": ' + b"[" * 900 + b"1" + b"]" * 900 + b"}",
        r"^input 'image' is nested more than 64 deep\.$",
    ),
]


@pytest.mark.parametrize(("inputs", "data", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_call_is_refused_by_name(inputs, data, message):
    with pytest.raises(RequestError, match=message):
        v1.parse(data).request(inputs)


LABELS = np.array([["cat", b"\xff"], ["é", "\ud800"]], object)


@pytest.mark.parametrize(
    ("outputs", "rows", "expected"),
    [
        ({"y": [[1.5, 2], [3, 4]]}, 2, {"predictions": [[1.5, 2.0], [3.0, 4.0]]}),
        ({"y": [[1.5, 2], [3, 4]]}, None, {"outputs": [[1.5, 2.0], [3.0, 4.0]]}),
        ({"y": np.array([True, False])}, 2, {"predictions": [True, False]}),
        ({"y": np.float32(0.1)}, None, {"outputs": 0.1}),
        ({"y": np.array("cat", object)}, None, {"outputs": "cat"}),
        (
            {"y": [1, 2], "z": [[3], [4]], "t": np.array(["a", b"b"], object)},
            2,
            {
                "predictions": [
                    {"y": 1, "z": [3], "t": "a"},
                    {"y": 2, "z": [4], "t": {"b64": "Yg=="}},
                ]
            },
        ),
        ({"y": [1, 2], "z": [[3]]}, None, {"outputs": {"y": [1, 2], "z": [[3]]}}),
        ({"y": LABELS}, 2, {"predictions": [["cat", {"b64": "/w=="}], ["é", "?"]]}),
        ({"y": LABELS.T}, None, {"outputs": [["cat", "é"], [{"b64": "/w=="}, "?"]]}),
        ({"y": np.empty((2, 0))}, 2, {"predictions": [[], []]}),
        ({"y": np.empty((0, 2))}, None, {"outputs": []}),
        ({"y": np.arange(6).reshape(2, 3).T}, 3, {"predictions": [[0, 3], [1, 4], [2, 5]]}),
        ({}, None, {"outputs": {}}),
    ],
)
def test_answers_are_written_by_rows_or_as_wholes(outputs, rows, expected):
    assert json.loads(told(outputs, rows=rows)) == expected


def test_numbers_that_are_not_finite_are_tokens():
    array = np.array([np.nan, np.inf, -np.inf, 0.5], np.float32)
    assert told({"y": array}, rows=4) == b'{"predictions":[NaN,Infinity,-Infinity,0.5]}'
    assert told({"y": array[:1].reshape(())}) == b'{"outputs":NaN}'
    assert told({"y": array, "z": array.reshape(4, 1)}, rows=4) == (
        b'{"predictions":[{"y":NaN,"z":[NaN]},{"y":Infinity,"z":[Infinity]},'
        b'{"y":-Infinity,"z":[-Infinity]},{"y":0.5,"z":[0.5]}]}'
    )


@pytest.mark.parametrize("shape", [(), (1, 3), (4,)])
def test_an_answer_that_has_no_rows_is_refused_by_rows(shape):
    message = (
        rf"^output 'y' has shape {list(shape)}, which is no row for each of the 3 instances; give "
        "'inputs' in place of 'instances' to get whole outputs."
    ).replace("[", r"\[")
    with pytest.raises(RequestError, match=message):
        told({"x": np.zeros(3), "y": np.zeros(shape)}, rows=3)


def test_the_state_of_a_version_has_its_error():
    assert v1.status([(2, "AVAILABLE", ""), (1, "END", "it is damaged")]) == {
        "model_version_status": [
            {
                "version": "2",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            },
            {
                "version": "1",
                "state": "END",
                "status": {"error_code": "UNKNOWN", "error_message": "it is damaged"},
            },
        ]
    }


def test_metadata_has_the_types_and_axes_of_tensorflow():
    inputs = {
        "x": TensorSpec(("batch", 3, None, "2*batch"), "bfloat16"),
        "key": TensorSpec((), "key<fry>"),
        "text": "text",
    }
    outputs = {"y": TensorSpec(None, "float8_e5m2")}
    found = v1.metadata("m", 3, {"f": (inputs, outputs)})
    assert found == json.loads(json.dumps(found))
    assert found["model_spec"] == {"name": "m", "signature_name": "", "version": "3"}
    definition = found["metadata"]["signature_def"]["signature_def"]["f"]
    assert definition["method_name"] == "tensorflow/serving/predict"
    axes = [("-1", "batch"), ("3", ""), ("-1", ""), ("-1", "2*batch")]
    assert definition["inputs"]["x"] == {
        "dtype": "DT_BFLOAT16",
        "tensor_shape": {
            "dim": [{"size": size, "name": name} for size, name in axes],
            "unknown_rank": False,
        },
        "name": "x",
    }
    assert definition["inputs"]["key"]["dtype"] == "DT_UINT32"
    assert definition["inputs"]["text"]["dtype"] == "DT_STRING"
    assert definition["outputs"]["y"]["tensor_shape"] == {"dim": [], "unknown_rank": True}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("float32", "DT_FLOAT"),
        ("float64", "DT_DOUBLE"),
        ("float16", "DT_HALF"),
        ("bool", "DT_BOOL"),
        ("int64", "DT_INT64"),
        ("uint4", "DT_UINT4"),
        ("complex64", "DT_COMPLEX64"),
        ("float8_e4m3fn", "DT_FLOAT8_E4M3FN"),
    ],
)
def test_types_have_the_names_of_tensorflow(name, expected):
    found = v1.metadata("m", 1, {"f": ({"x": TensorSpec((), name)}, {})})
    inputs = found["metadata"]["signature_def"]["signature_def"]["f"]["inputs"]
    assert inputs["x"]["dtype"] == expected


def judged(data, inputs):
    """A request, or `None` if it was refused in words."""
    try:
        return v1.parse(data).request(inputs)
    except RequestError as error:
        text = str(error)
    assert text.endswith(".")
    assert len(text) < 1000
    return None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.builds(lambda data: {"b64": data}, st.sampled_from(["", "YQ==", "a", 3])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "b", "image", "picture", "b64"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=300)
@given(
    st.fixed_dictionaries(
        {}, optional={"instances": JSON | st.lists(JSON), "inputs": JSON, "signature_name": JSON}
    ),
    st.sampled_from([IMAGE, PAIR, KINDS, {}, {"b64": "words"}]),
)
def test_any_json_is_a_call_or_refused(document, inputs):
    judged(json.dumps(document).encode(), inputs)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_call_or_refused(data):
    judged(data, IMAGE)
    judged(b'{"instances":' + data + b"}", IMAGE)


@settings(max_examples=300)
@given(st.data())
def test_a_call_with_other_bytes_is_a_call_or_refused(data):
    whole = bytearray(
        b'{"signature_name": "s", "instances": [{"picture": {"b64": "YQ=="}, "size": 2},'
        b' {"picture": "text", "size": 1e2}]}'
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole)))
        end = at + data.draw(st.integers(0, 3))
        whole[at:end] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"NaN", b"[", b"}", b"-"])
        )
    judged(bytes(whole), KINDS)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_floats_come_back_to_the_last_bit(values):
    array = np.array(values, np.float32)
    outputs = {"y": array, "z": array}
    found = v1.parse(told(outputs, rows=len(array)).replace(b"predictions", b"instances", 1))
    inputs = found.request({name: TensorSpec(("n",)) for name in outputs}).inputs
    for name in outputs:
        np.testing.assert_array_equal(inputs[name], array)

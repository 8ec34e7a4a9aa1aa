"""The protocol V2 over HTTP as bytes: round trips, what is refused and how, any bytes at all."""

import base64
import json
import math

import ml_dtypes
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter import TensorSpec
from exporter.runtime.datatypes import DATATYPES, bytes_of, datatype_of
from exporter.serving import v2
from exporter.serving.errors import NotOfferedError, RequestError
from exporter.serving.messages import Answer, Request
from signatures.dtypes import as_dtype

TYPES = list(DATATYPES)
REAL = [name for name in TYPES if not name.startswith("complex")]


def body(*inputs, **rest):
    return orjson.dumps({"inputs": list(inputs), **rest})


def tensor(name="x", shape=(2,), datatype="FP32", **rest):
    return {"name": name, "shape": list(shape), "datatype": datatype, **rest}


def binary(*pairs, **rest):
    """A body with tensors as bytes, and the length of its JSON."""
    inputs = [
        {**one, "parameters": {**one.get("parameters", {}), "binary_data_size": len(raw)}}
        for one, raw in pairs
    ]
    header = body(*inputs, **rest)
    return header + b"".join(raw for _, raw in pairs), len(header)


def extremes(name):
    """Elements of a type that are at its ends, as far as it has them."""
    dtype = as_dtype(name)
    if name == "bool":
        return np.array([True, False], dtype)
    if "int" in name:
        info = ml_dtypes.iinfo(dtype)
        return np.array([info.min, info.max, 0], dtype)
    if name.startswith("complex"):
        return np.array([1 - 2j, complex(np.nan, -np.inf), 0], dtype)
    info = ml_dtypes.finfo(dtype)
    with np.errstate(all="ignore"):
        return np.array([info.min, info.max, info.tiny, np.nan, np.inf, -np.inf, 1], float).astype(
            dtype
        )


def same(left, right):
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and left.tobytes() == right.tobytes()
    )


def back(data, length):
    """An answer that was encoded, as the request that has the same tensors."""
    header = json.loads(data if length is None else data[:length])
    tail = b"" if length is None else data[length:]
    again = json.dumps({"inputs": header["outputs"]}).encode()
    return header, v2.decode(again + tail, len(again)).inputs


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("form", ["whole", "empty", "scalar", "strided"])
def test_arrays_of_every_type_come_back_from_bytes(name, form):
    values = extremes(name)
    array = {
        "whole": values,
        "empty": np.empty((2, 0, 3), values.dtype),
        "scalar": values[0].reshape(()),
        "strided": np.stack([values, values], 1)[::-1, ::-1].T,
    }[form]
    answer = Answer("m", 1, "s", {"y": array, "z": array})
    data, length = v2.encode(answer, Request({}, binary=True))
    header, inputs = back(data, length)
    assert header["outputs"][0]["datatype"] == DATATYPES[name]
    assert same(inputs["y"], array)
    assert same(inputs["z"], array)
    assert not inputs["y"].flags.writeable or not inputs["y"].size


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("form", ["whole", "empty", "scalar", "strided"])
def test_arrays_of_every_real_type_come_back_from_json(name, form):
    values = extremes(name)
    values = values[~np.isnan(values.astype(np.float64))]  # the bits of not-a-number are not kept
    array = {
        "whole": values,
        "empty": np.empty((2, 0, 3), values.dtype),
        "scalar": values[0].reshape(()),
        "strided": np.stack([values, values], 1)[::-1, ::-1].T,
    }[form]
    data, length = v2.encode(Answer("m", 1, "s", {"y": array}), Request({}))
    assert length is None
    header, inputs = back(data, None)
    assert len(header["outputs"][0]["data"]) == array.size
    assert same(inputs["y"], array)


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "bfloat16", "float8_e5m2"])
def test_numbers_that_are_not_finite_are_tokens(name):
    array = np.array([[np.nan, np.inf], [-np.inf, 0.5]]).astype(as_dtype(name))
    data, _ = v2.encode(Answer("m", 1, "s", {"y": array}), Request({}))
    assert b'"data":[NaN,Infinity,-Infinity,0.5]' in data
    _, inputs = back(data, None)
    np.testing.assert_array_equal(inputs["y"].astype(float), array.astype(float))


def test_bools_are_true_and_false():
    data, _ = v2.encode(Answer("m", 1, "s", {"y": np.array([True, False])}), Request({}))
    assert b'"data":[true,false]' in data


def test_an_answer_names_its_model_version_signature_and_request():
    answer = Answer("mnist", 3, "classify", {"y": np.zeros((1, 2), np.float32)})
    data, _ = v2.encode(answer, Request({}, id="call 7"))
    assert json.loads(data) == {
        "model_name": "mnist",
        "model_version": "3",
        "id": "call 7",
        "parameters": {"signature_name": "classify"},
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [0.0, 0.0]}],
    }
    assert "id" not in json.loads(v2.encode(answer, Request({}))[0])


def test_outputs_are_bytes_where_that_was_asked_for():
    arrays = {"a": np.array([1, 2], np.int16), "b": np.array([3.0]), "c": np.array(["é"], object)}
    request = Request({}, binary=frozenset({"a", "c"}))
    data, length = v2.encode(Answer("m", 1, "s", arrays), request)
    a, b, c = json.loads(data[:length])["outputs"]
    assert a["parameters"] == {"binary_data_size": 4}
    assert b["data"] == [3.0]
    assert c["datatype"] == "BYTES"
    assert data[length:] == b"\1\0\2\0" + b"\2\0\0\0\xc3\xa9"


def test_an_empty_output_as_bytes_has_a_header_length_too():
    data, length = v2.encode(Answer("m", 1, "s", {"y": np.empty((0, 3))}), Request({}, binary=True))
    assert length == len(data)


def test_texts_are_written_as_they_are_and_bytes_in_base64():
    texts = np.array([["cat", "é\u2028"], ["", "\ud800"]], object)
    data, _ = v2.encode(Answer("m", 1, "s", {"y": texts}), Request({}))
    (found,) = json.loads(data)["outputs"]
    assert found == {
        "name": "y",
        "datatype": "BYTES",
        "shape": [2, 2],
        "data": ["cat", "é\u2028", "", "?"],
    }
    mixed = np.array([b"\xff", "é"], object)
    _, inputs = back(*v2.encode(Answer("m", 1, "s", {"y": mixed}), Request({})))
    assert inputs["y"].tolist() == [b"\xff", "é".encode()]
    _, inputs = back(*v2.encode(Answer("m", 1, "s", {"y": mixed}), Request({}, binary=True)))
    assert inputs["y"].tolist() == [b"\xff", "é".encode()]


def test_an_output_that_json_cannot_have_is_refused_unless_it_is_bytes():
    answer = Answer("m", 1, "s", {"y": np.array([1j])})
    with pytest.raises(RequestError, match=r"^output 'y' is complex128, which JSON has no numbers"):
        v2.encode(answer, Request({}))
    assert v2.encode(answer, Request({}, binary=True))[1] is not None
    dates = Answer("m", 1, "s", {"y": np.array(["2020"], "M8[Y]")})
    with pytest.raises(
        NotOfferedError, match=r"^output 'y' is datetime64\[Y\], which the protocol"
    ):
        v2.encode(dates, Request({}))


@pytest.mark.parametrize("data", [[1, 2.5, 3, 4, 5, 6], [[1, 2.5, 3], [4, 5, 6]]])
def test_data_is_flat_or_nested_as_the_shape(data):
    found = v2.decode(body(tensor(shape=(2, 3), data=data)), None).inputs["x"]
    assert same(found, np.array([[1, 2.5, 3], [4, 5, 6]], np.float32))


def test_a_number_alone_has_no_axes():
    for data in (5, [5]):
        found = v2.decode(body(tensor(shape=(), datatype="INT8", data=data))).inputs["x"]
        assert same(found, np.array(5, np.int8))


@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [
        ("FP32", [16777217, 0.1], [16777216.0, np.float32(0.1)]),  # JSON has one kind of number
        ("FP64", [2**53 + 1, 1], [2.0**53, 1.0]),
        ("FP16", [0.1, 2049], [np.float16(0.1), 2048.0]),
        ("BF16", [0.1, 257], [0.10009765625, 256.0]),
        ("FP8_E4M3FN", [0.1, 448], [0.1015625, 448.0]),
        ("FP4_E2M1FN", [0.5, 6], [0.5, 6.0]),
        ("INT4", [-8, 7], [-8, 7]),
        ("UINT64", [2**64 - 1, 0], [2**64 - 1, 0]),
        ("INT64", [2**63 - 1, -(2**63)], [2**63 - 1, -(2**63)]),
        ("COMPLEX64", [1, 0.5], [1 + 0j, 0.5 + 0j]),
        ("BOOL", [True, False], [True, False]),
    ],
)
def test_numbers_of_json_become_every_type(datatype, data, expected):
    found = v2.decode(body(tensor(datatype=datatype, data=data)), None).inputs["x"]
    assert datatype_of(found.dtype) == datatype
    assert found.tolist() == expected


def test_tokens_that_are_no_json_are_numbers():
    raw = b'{"inputs":[{"name":"x","shape":[3],"datatype":"FP32","data":[NaN,Infinity,-Infinity]}]}'
    found = v2.decode(raw, None).inputs["x"]
    np.testing.assert_array_equal(found, np.array([np.nan, np.inf, -np.inf], np.float32))


def test_bytes_are_views_of_the_body_and_stand_after_the_json_in_order():
    first, second = np.arange(6, dtype=np.float32), np.array([7], np.uint8)
    data, length = binary(
        (tensor("a", (2, 3)), first.tobytes()), (tensor("b", (1,), "UINT8"), second.tobytes())
    )
    inputs = v2.decode(data, length).inputs
    assert same(inputs["a"], first.reshape(2, 3))
    assert same(inputs["b"], second)
    whole = np.frombuffer(data, np.uint8)
    assert np.shares_memory(whole, inputs["a"])


def test_some_inputs_may_be_json_and_others_bytes():
    header = body(
        tensor("a", (1,), data=[1]),
        tensor("b", (2,), "INT8", parameters={"binary_data_size": 2}),
        tensor("c", (1,), "BYTES", data=["é"]),
    )
    inputs = v2.decode(header + b"\1\2", len(header)).inputs
    assert [value.tolist() for value in inputs.values()] == [[1.0], [1, 2], ["é"]]


def test_texts_are_str_in_json_and_bytes_otherwise():
    plain = tensor("a", (2, 1), "BYTES", data=[["é"], [""]])
    coded = tensor(
        "b", (1,), "BYTES", data=["/w=="], parameters={"content_type": "base64", "other": [1]}
    )
    inputs = v2.decode(body(plain, coded), None).inputs
    assert inputs["a"].tolist() == [["é"], [""]]
    assert inputs["b"].tolist() == [b"\xff"]
    data, length = binary((tensor("c", (2,), "BYTES"), bytes_of([b"\xff", b""])))
    assert v2.decode(data, length).inputs["c"].tolist() == [b"\xff", b""]


def test_the_options_of_a_request_are_read():
    found = v2.decode(
        body(
            id="7",
            parameters={"signature_name": "embed", "timeout": 2_500_000, "unknown": {"a": []}},
            outputs=[
                {"name": "a", "parameters": {"binary_data": True}},
                {"name": "b", "parameters": {"binary_data": False}},
                {"name": "c"},
            ],
        ),
        None,
    )
    assert found == Request({}, ["a", "b", "c"], "embed", "7", 2.5, frozenset({"a"}))


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ({}, Request({})),
        ({"id": None, "parameters": None, "outputs": None}, Request({})),
        ({"outputs": [], "parameters": {}}, Request({})),
        ({"parameters": {"timeout": 0, "signature_name": ""}}, Request({})),
        ({"parameters": {"signature": "s"}}, Request({}, signature="s")),
        ({"parameters": {"signature": "s", "signature_name": "s"}}, Request({}, signature="s")),
        ({"parameters": {"binary_data_output": True}}, Request({}, binary=True)),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}],
            },
            Request({}, ["a", "b"], binary=frozenset({"a"})),
        ),
        ({"parameters": {"sequence_id": 0}}, Request({})),
    ],
)
def test_what_is_left_out_has_its_default(rest, expected):
    assert v2.decode(body(**rest), None) == expected


HUGE = [2**62] * 64

REFUSED = [
    (b"", r"^the body is not JSON: .*\(char 0\)\.$"),
    (b"{", r"^the body is not JSON: .*char 1"),
    (b'{"inputs": [1, 2,,]}', r"^the body is not JSON: .*line 1 column 18 \(char 17\)\.$"),
    (b'{"inputs": [NaN, 2,,]}', r"^the body is not JSON: .*line 1 column 20 \(char 19\)\.$"),
    (b"\xff", r"^the body is not JSON: .*UTF-8"),
    (b'"NaN \xff"', r"^the body is not JSON: its text is no Unicode: 'utf-8' codec can't decode"),
    (b'[NaN, "\\ud800"]', r"^the body is not JSON: its text is no Unicode: .*surrogates"),
    (b"[NaN, 1e999]", r"^the body is not JSON: 1e999 is too large for a number of 64 bits\.$"),
    (b"[NaN, " + b"1" * 5000 + b"]", r"^the body is not JSON: Exceeds the limit"),
    (b"[" * 5000, r"^the body is not JSON: depth limit exceeded"),
    (b"[NaN," + b"[" * 100_000, r"^the body is not JSON: it is nested too deep\.$"),
    (b"[]", r"^the body is \[\] \(list\); an object was expected\.$"),
    (b"NaN", r"^the body is nan \(float\); an object was expected\.$"),
    (b"{}", r"^the request has no 'inputs'\.$"),
    (
        orjson.dumps({"inputs": {}}),
        r"^the request: 'inputs' is {} \(dict\); a list was expected\.$",
    ),
    (body(1), r"^inputs\[0\] is 1 \(int\); an object was expected\.$"),
    (body({}), r"^inputs\[0\] has no 'name'\.$"),
    (body({"name": 3}), r"^inputs\[0\]: 'name' is 3 \(int\); text was expected\.$"),
    (body(id=3), r"^the request: 'id' is 3 \(int\); text was expected\.$"),
    (
        body(parameters=[]),
        r"^the request: 'parameters' is \[\] \(list\); an object was expected\.$",
    ),
    (
        body(parameters={"timeout": True}),
        r"^the parameters of the request: 'timeout' is True \(bool\); a whole number was expected",
    ),
    (
        body(parameters={"timeout": -1}),
        r"^the parameters of the request: 'timeout' is -1 \(int\); microseconds were expected\.$",
    ),
    (
        body(parameters={"signature_name": "a", "signature": "b"}),
        r"^the parameters of the request name two signatures, 'a' and 'b'\.$",
    ),
    (body(parameters={"signature": 1}), r"'signature' is 1 \(int\); text was expected"),
    (
        body(parameters={"binary_data_output": 1}),
        r"'binary_data_output' is 1 \(int\); true or false was expected",
    ),
    (body(outputs={}), r"^the request: 'outputs' is {} \(dict\); a list was expected\.$"),
    (body(outputs=["y"]), r"^outputs\[0\] is 'y' \(str\); an object was expected\.$"),
    (body(outputs=[{}]), r"^outputs\[0\] has no 'name'\.$"),
    (body(outputs=[{"name": "y"}] * 2), r"^output 'y' is asked for twice\.$"),
    (
        body(outputs=[{"name": "y", "parameters": {"binary_data": "yes"}}]),
        r"^output 'y': 'binary_data' is 'yes' \(str\); true or false was expected\.$",
    ),
    (body(tensor(data=[1, 2]), tensor(data=[1, 2])), r"^input 'x' is given twice\.$"),
    (body({"name": "x"}), r"^input 'x' has None \(NoneType\) as 'shape'; a list was expected\.$"),
    (body(tensor(shape=[-1], data=[])), r"^input 'x' has -1 \(int\) in its shape; sizes were"),
    (body(tensor(shape=[2.0], data=[])), r"^input 'x' has 2\.0 \(float\) in its shape; sizes"),
    (body(tensor(shape=[True], data=[])), r"^input 'x' has True \(bool\) in its shape; sizes"),
    (body(tensor(shape=[1] * 65, data=[1])), r"^input 'x' has 65 axes; there are at most 64\.$"),
    (body(tensor(shape=HUGE, data=[1])), r"^input 'x' has shape \[4611.*and its 'data' \[1\]; "),
    (body(tensor(shape=[0, 2**62], data=[])), r"^input 'x' has shape \[0, 4611.*\]: "),
    (body(tensor(shape=[0, *HUGE[1:]], data=[])), r"^input 'x' has shape \[0, 4611.*\]: "),
    (body(tensor(datatype="FP33", data=[1, 2])), r"^input 'x' has 'FP33' \(str\) as 'datatype'"),
    (body(tensor(datatype=[], data=[1, 2])), r"^input 'x' has \[\] \(list\) as 'datatype'"),
    (body(tensor()), r"^input 'x' has neither 'data' nor the parameter 'binary_data_size'\.$"),
    (
        body(tensor(data=[1, 2], parameters={"binary_data_size": 8})),
        r"^input 'x' has 'data' and the parameter 'binary_data_size'\.$",
    ),
    (body(tensor(parameters=3)), r"^input 'x': 'parameters' is 3 \(int\); an object was expected"),
    (
        body(tensor(parameters={"binary_data_size": "8"})),
        r"^input 'x': 'binary_data_size' is '8' \(str\); a whole number was expected\.$",
    ),
    (
        body(tensor(parameters={"binary_data_size": 8})),
        r"^input 'x' should have 8 bytes, and the body has 0 left after the JSON, whose length "
        r"stands in Inference-Header-Content-Length, and the inputs before it\.$",
    ),
    (body(tensor(parameters={"binary_data_size": -8})), r"^input 'x' should have -8 bytes"),
    (
        body(tensor(data=[1])),
        r"^input 'x' has shape \[2\], and its 'data' \[1\]; nested lists of that shape or a flat "
        r"list of 2 was expected\.$",
    ),
    (body(tensor(data=[[1, 2]])), r"^input 'x' has shape \[2\], and its 'data' \[1, 2\]; nested"),
    (body(tensor(data={})), r"^input 'x' has shape \[2\], and its 'data' \[\]; "),
    (
        body(tensor(data=[[1], [2, 3]])),
        r"^input 'x' is ragged: item \[0\] is a list of 1, and item \[1\] is a list of 2\.$",
    ),
    (
        body(tensor(data=[[1], 2])),
        r"^input 'x' is ragged: item \[0\] is a list of 1, and item \[1\] is 2 \(int\)\.$",
    ),
    (
        body(tensor(data=[1, [2]])),
        r"^input 'x': item \[1\] is \[2\] \(list\); float32 was expected",
    ),
    (
        body(tensor(data=[1, "2"])),
        r"^input 'x': item \[1\] is '2' \(str\); float32 was expected\.$",
    ),
    (body(tensor(data=[1, None])), r"^input 'x': item \[1\] is None \(NoneType\); float32 was"),
    (
        body(tensor(data=[1, 1e39])),
        r"^input 'x': item \[1\] is 1e\+39 \(float\), which is too large for float32\.$",
    ),
    (
        body(tensor(shape=(2, 2), datatype="INT8", data=[[1, 2], [3, 128]])),
        r"^input 'x': item \[1\]\[1\] is 128 \(int\), which int8 cannot hold: it takes -128 to 127"
        r"\.$",
    ),
    (body(tensor(datatype="UINT8", data=[1, -1])), r"item \[1\] is -1 \(int\), which uint8 cannot"),
    (body(tensor(datatype="INT64", data=[0, 2**63])), r"item \[1\] is 9223.* which int64 cannot"),
    (
        body(tensor(datatype="INT32", data=[1.0, 1.5])),
        r"^input 'x': item \[0\] is 1\.0 \(float\); int32 takes ints only\.$",
    ),
    (body(tensor(datatype="INT4", data=[7, 8])), r"item \[1\] is 8 \(int\), which int4 cannot"),
    (body(tensor(datatype="BOOL", data=[True, 1])), r"item \[1\] is 1 \(int\); bool takes bools"),
    (body(tensor(datatype="FP16", data=[1, 70000])), r"item \[1\] is 70000 \(int\), which "),
    (body(tensor(datatype="FP8_E4M3FN", data=[1, 500])), r"item \[1\] is 500 \(int\), which "),
    (
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP4_E2M1FN","data":[NaN]}]}',
        r"^input 'x': item \[0\] is nan \(float\), which float4_e2m1fn cannot hold\.$",
    ),
    (
        b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[NaN,' + b"9" * 400 + b"]}]}",
        r"^input 'x': item \[1\] is 9999",
    ),
    (
        body(tensor(datatype="BYTES", data=["a", 1])),
        r"^input 'x' has 1 \(int\); texts were expected for BYTES\.$",
    ),
    (
        body(tensor("p", (1,), "BYTES", data=["a"], parameters={"content_type": "base64"})),
        r"^input 'p' has 'a' \(str\), which is no base64: ",
    ),
    (
        body(tensor("p", (1,), "BYTES", data=["é"], parameters={"content_type": "base64"})),
        r"^input 'p' has 'é' \(str\), which is no base64: ",
    ),
    (
        body(tensor("p", (1,), "BYTES", data=[1], parameters={"content_type": "base64"})),
        r"^input 'p' has 1 \(int\); text in base64 was expected\.$",
    ),
    (
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":'
        + b"[" * 70
        + b"1"
        + b"]" * 70
        + b"}]}",
        r"^input 'x' is nested more than 64 deep\.$",
    ),
    (body(tensor("x" * 500, data=[1])), r"^input 'x{80}'\.\.\. has shape"),
    (body(tensor("\x1b[31m", data=[1])), r"^input '\\x1b\[31m' has shape"),
]


@pytest.mark.parametrize(("data", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_request_is_refused_by_name(data, message):
    with pytest.raises(RequestError, match=message):
        v2.decode(data, None)
    with pytest.raises(RequestError, match=message):
        v2.decode(data, len(data))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (
            [(tensor(), b"\0" * 4)],
            r"^input 'x' is FP32 of shape \[2\], which takes 8 bytes, and has 4\.$",
        ),
        ([(tensor(shape=HUGE), b"\0" * 4)], r"^input 'x' is FP32 of shape .* and has 4\.$"),
        ([(tensor(shape=(0, 2**62)), b"")], r"^input 'x' has shape \[0, 4611"),
        (
            [(tensor(datatype="BOOL"), b"\1\2")],
            r"^input 'x' has bytes that are no elements of BOOL\.$",
        ),
        (
            [(tensor(datatype="INT4"), b"\1\x10")],
            r"^input 'x' has bytes that are no elements of INT4\.$",
        ),
        (
            [(tensor(datatype="BYTES"), b"\1\0\0\0aabc")],
            r"^input 'x' has 1 elements, and 2 by its shape\.$",
        ),
        (
            [(tensor(datatype="BYTES", shape=HUGE), b"\1\0\0\0a")],
            r"^input 'x' has 5 bytes, too few for \d+ elements\.$",
        ),
        (
            [(tensor(datatype="BYTES", shape=(1,)), b"\2\0\0\0a")],
            r"^input 'x' ends within element 0, which has 2 bytes\.$",
        ),
        (
            [(tensor(datatype="BYTES", shape=(1,)), b"\0\0\0\0a")],
            r"^input 'x' has 1 bytes after the 1 elements of its shape\.$",
        ),
    ],
)
def test_bytes_that_are_no_tensors_are_refused_by_name(pairs, message):
    data, length = binary(*pairs)
    with pytest.raises(RequestError, match=message):
        v2.decode(data, length)


def test_bytes_that_do_not_add_up_are_refused():
    data, length = binary((tensor(), b"\0" * 8))
    with pytest.raises(RequestError, match=r"^the body has 3 bytes after the last tensor\.$"):
        v2.decode(data + b"abc", length)
    with pytest.raises(RequestError, match=r"^input 'x' should have 8 bytes, and the body has 7"):
        v2.decode(data[:-1], length)
    for wrong in (-1, len(data) + 1):
        with pytest.raises(RequestError, match=rf"^the JSON should have {wrong} bytes, and the"):
            v2.decode(data, wrong)
    with pytest.raises(RequestError, match=r"^the body is not JSON"):
        v2.decode(data, 0)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (
            {"parameters": {"sequence_id": 5}},
            r"^the request has parameter 'sequence_id': this server offers no sequences\.$",
        ),
        (
            {"outputs": [{"name": "y", "parameters": {"classification": 2}}]},
            r"^output 'y' has parameter 'classification': this server offers no classification",
        ),
        (
            {"inputs": [tensor(parameters={"shared_memory_region": "r"})]},
            r"^input 'x' has parameter 'shared_memory_region': this server offers no shared memory",
        ),
    ],
)
def test_extensions_that_would_change_the_answer_are_not_ignored(rest, message):
    with pytest.raises(NotOfferedError, match=message):
        v2.decode(orjson.dumps({"inputs": [], **rest}), None)


def test_metadata_has_the_shapes_and_the_words_of_all_signatures():
    spec = TensorSpec(("batch", 3, None), "bfloat16")
    found = v2.model_metadata(
        "m",
        [1, 12],
        {"text": "text", "x": spec},
        {
            "label": "label",
            "y": TensorSpec(None, "float8_e5m2"),
            "key": TensorSpec((2,), "key<fry>"),
        },
        signature="f",
        signatures={"f": "f(x) -> (y)", "g": "g() -> ()"},
    )
    assert found == json.loads(json.dumps(found))
    assert found == {
        "name": "m",
        "versions": ["1", "12"],
        "platform": "jax_exporter",
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [-1], "parameters": {"kind": "text"}},
            {
                "name": "x",
                "datatype": "BF16",
                "shape": [-1, 3, -1],
                "parameters": {"spec": "bfloat16[batch, 3, None]"},
            },
        ],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1], "parameters": {"kind": "label"}},
            {
                "name": "y",
                "datatype": "FP8_E5M2",
                "shape": [-1],
                "parameters": {"spec": "float8_e5m2[...]", "max_rank": 4},
            },
            {
                "name": "key",
                "datatype": "UINT32",
                "shape": [2, 2],
                "parameters": {"spec": "key<fry>[2]"},
            },
        ],
        "parameters": {
            "signature_name": "f",
            "signatures/f": "f(x) -> (y)",
            "signatures/g": "g() -> ()",
        },
    }


def judged(data, length):
    """A request, or `None` if it was refused in words."""
    try:
        found = v2.decode(data, length)
    except (RequestError, NotOfferedError) as error:
        text = str(error)
    else:
        assert all(isinstance(value, np.ndarray) for value in found.inputs.values())
        return found
    assert text.endswith(".")
    assert len(text) < 3000
    return None


@given(st.binary(max_size=200), st.none() | st.integers(-5, 250))
def test_any_bytes_are_a_request_or_refused(data, length):
    judged(data, length)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["x", "FP32", "INT8", "BYTES", "BOOL", "base64", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
VALID = {
    "id": "1",
    "parameters": {"signature_name": "s", "timeout": 5, "binary_data_output": True},
    "inputs": [
        {"name": "a", "shape": [2, 1], "datatype": "FP32", "data": [1.5, 2]},
        {
            "name": "b",
            "shape": [1],
            "datatype": "BYTES",
            "data": ["YQ=="],
            "parameters": {"content_type": "base64"},
        },
        {"name": "c", "shape": [2], "datatype": "INT16", "parameters": {"binary_data_size": 4}},
        {"name": "d", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}},
    ],
    "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
}
TAIL = b"\1\0\2\0" + bytes_of([b"z"])


def places(value, place=()):
    """Where in a document something may be put instead of what is there."""
    yield place
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*place, key))


PLACES = list(places(VALID))


@settings(max_examples=400)
@given(st.lists(st.tuples(st.sampled_from(PLACES), JSON), max_size=3), st.booleans())
def test_a_request_with_anything_in_any_place_is_a_request_or_refused(changes, is_binary):
    document = json.loads(json.dumps(VALID))
    for place, value in changes:
        holder = document
        try:
            for key in place[:-1]:
                holder = holder[key]
            if place:
                holder[place[-1]] = value
            else:
                document = value
        except (KeyError, IndexError, TypeError):  # an earlier change took the place away
            continue
    header = json.dumps(document).encode()
    found = judged(header + TAIL * is_binary, len(header) if is_binary else None)
    assert changes or not is_binary or list(found.inputs) == ["a", "b", "c", "d"]


def test_requests_with_the_same_json_have_their_own_arrays():
    head = json.dumps(
        {
            "id": "a",
            "inputs": [
                {"name": n, "shape": [2, k], "datatype": t, "parameters": {"binary_data_size": b}}
                for n, k, t, b in (("x", 1, "FP32", 8), ("y", 2, "INT16", 8))
            ],
            "outputs": [{"name": "z", "parameters": {"binary_data": True}}],
            "parameters": {"timeout": 5, "signature_name": "f"},
        }
    ).encode()
    for number in range(3):
        x = np.full((2, 1), number, np.float32)
        y = np.arange(4, dtype=np.int16).reshape(2, 2) + np.int16(number)
        found = v2.decode(head + x.tobytes() + y.tobytes(), len(head))
        assert same(found.inputs["x"], x)
        assert same(found.inputs["y"], y)
        assert (found.id, found.outputs, found.signature) == ("a", ["z"], "f")
        assert (found.timeout, found.binary) == (5e-6, frozenset({"z"}))
        found.timeout = 1.0  # as of whoever has less patience
    for size in (0, 15, 17):
        with pytest.raises(RequestError):
            v2.decode(head + bytes(size), len(head))


def test_json_that_many_send_does_not_let_bytes_be_bools_that_are_none():
    tensor = {"name": "x", "shape": [2], "datatype": "BOOL"}
    body = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 2}}]}).encode()
    for _ in range(2):
        assert v2.decode(body + b"\0\1", len(body)).inputs["x"].tolist() == [False, True]
        with pytest.raises(RequestError):
            v2.decode(body + b"\0\2", len(body))


@settings(max_examples=300)
@given(st.data())
def test_a_request_with_other_bytes_is_a_request_or_refused(data):
    header = json.dumps(VALID).encode()
    whole = bytearray(header + TAIL)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole)))
        end = at + data.draw(st.integers(0, 3))
        whole[at:end] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"NaN", b"[", b"}", b"-"])
        )
    judged(bytes(whole), len(header) + data.draw(st.integers(-2, 2)))


@given(
    st.lists(st.floats(width=32), max_size=20),
    st.sampled_from([1, 2, 4]),
)
def test_floats_come_back_from_json_to_the_last_bit(values, width):
    array = np.array(values[: len(values) // width * width], np.float32).reshape(-1, width)
    _, inputs = back(*v2.encode(Answer("m", 1, "s", {"y": array}), Request({})))
    np.testing.assert_array_equal(inputs["y"], array)
    is_number = ~np.isnan(array)
    assert (np.signbit(inputs["y"]) == np.signbit(array))[is_number].all()


@given(st.lists(st.binary(max_size=9), max_size=9))
def test_bytes_come_back_in_both_forms(texts):
    array = np.empty(len(texts), object)
    array[:] = texts
    for request in (Request({}), Request({}, binary=True)):
        _, inputs = back(*v2.encode(Answer("m", 1, "s", {"y": array}), request))
        assert inputs["y"].tolist() == texts


def test_base64_is_that_of_the_standard():
    data = base64.b64encode(bytes(range(256))).decode()
    given_ = tensor("p", (1,), "BYTES", data=[data], parameters={"content_type": "base64"})
    assert v2.decode(body(given_)).inputs["p"][0] == bytes(range(256))


def test_a_shape_alone_allocates_nothing():
    for shape in ([2**40], [2**20, 2**20, 2**20], HUGE):
        assert math.prod(shape) >= 2**40
        for datatype in ("FP32", "BOOL", "BYTES", "INT4"):
            with pytest.raises(RequestError, match=r"^input 'x' "):
                v2.decode(body(tensor(shape=shape, datatype=datatype, data=[])), None)

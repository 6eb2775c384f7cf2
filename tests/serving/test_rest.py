"""The JSON cases of TF Serving's REST documentation, as documented."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tltf.serving import rest
from tltf.serving.rest import RestError

STRING = {"keys": tf.TensorSpec([None], tf.string)}
FLOAT = {"x": tf.TensorSpec([None], tf.float32)}
MANY = {
    "tag": tf.TensorSpec([None], tf.string),
    "signal": tf.TensorSpec([None, 5], tf.float32),
    "sensor": tf.TensorSpec([None, 2, 2], tf.int32),
}
FOO = {"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]}
BAR = {"tag": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]}


def lists(found: dict[str, np.ndarray]) -> dict[str, Any]:
    return {key: value.tolist() for key, value in found.items()}


def test_rows_of_one_input() -> None:
    found, rows = rest.predict_inputs({"instances": ["foo", "bar", "baz"]}, STRING)
    assert (lists(found), rows) == ({"keys": [b"foo", b"bar", b"baz"]}, True)
    found, _ = rest.predict_inputs(
        {"instances": [[[1, 2]], [[3, 4]]]}, {"x": tf.TensorSpec([None, 1, 2], tf.float32)}
    )
    assert found["x"].shape == (2, 1, 2)
    assert found["x"].dtype == np.float32


def test_rows_and_columns_of_several_inputs_are_the_same() -> None:
    rows, is_rows = rest.predict_inputs({"instances": [FOO, BAR]}, MANY)
    columns, is_columns = rest.predict_inputs(
        {"inputs": {key: [FOO[key], BAR[key]] for key in FOO}}, MANY
    )
    assert (is_rows, is_columns) == (True, False)
    assert lists(rows) == lists(columns)
    assert rows["sensor"].dtype == np.int32


def test_base64_stands_for_bytes_whatever_the_name() -> None:
    coded = {"b64": base64.b64encode(b"\xff\x00raw").decode()}
    for request in (
        {"instances": [coded]},
        {"instances": [{"keys": coded}]},
        {"inputs": [coded]},
        {"inputs": {"keys": [coded]}},
    ):
        assert rest.predict_inputs(request, STRING)[0]["keys"].tolist() == [b"\xff\x00raw"]


@pytest.mark.parametrize(
    ("request_", "specs", "text"),
    [
        ({}, STRING, "Missing 'inputs' or 'instances' key"),
        ({"instances": ["a"], "inputs": ["a"]}, STRING, "both 'instances' and 'inputs'"),
        ({"instances": "a"}, STRING, "Expecting 'instances' to be an list/array"),
        ({"instances": []}, STRING, "empty list"),
        ({"instances": [1.0]}, STRING, "1.0 is not of expected type: string"),
        ({"instances": ["a"]}, FLOAT, "not of expected type: float32"),
        ({"instances": [True]}, FLOAT, "not of expected type: float32"),
        ({"instances": [[1, 2], [3]]}, FLOAT, "unexpected size"),
        ({"instances": [[1], [2]]}, FLOAT, "Expecting shape"),
        ({"instances": [{"b64": "%"}]}, STRING, "Unable to base64 decode"),
        ({"instances": [{"keys": {"b65": ""}}]}, STRING, "not formatted correctly for base64"),
        ({"instances": [1, 2]}, MANY, "instances is a plain list, but expecting list of objects"),
        ({"instances": [FOO, 1]}, MANY, "Expecting object but got list at item 1"),
        ({"instances": ["a", {"keys": "b"}]}, STRING, "Expecting value/list but got object"),
        ({"instances": [{"tag": "a"}]}, MANY, "must only have keys: sensor,signal,tag"),
        ({"inputs": [1]}, MANY, "inputs is a plain value/list, but expecting an object"),
        ({"inputs": {"tag": ["a"]}}, MANY, "Missing named input: signal in 'inputs' object"),
    ],
)
def test_what_is_wrong_is_said(request_: dict[str, Any], specs: Any, text: str) -> None:
    with pytest.raises(RestError, match=text) as error:
        rest.predict_inputs(request_, specs)
    assert error.value.status == 400


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "The document is empty"),
        (b"{", "JSON Parse error"),
        (b"[1]", "Is not object"),
        (b"[" * 100_000, "JSON Parse error"),
    ],
)
def test_a_body_that_is_no_object(body: bytes, text: str) -> None:
    with pytest.raises(RestError, match=text):
        rest.parse(body)


def test_responses() -> None:
    one = {"y": np.array([3.5, 4.0, 5.5])}
    assert rest.predict_response(one, rows=True) == {"predictions": [3.5, 4.0, 5.5]}
    assert rest.predict_response(one, rows=False) == {"outputs": [3.5, 4.0, 5.5]}
    two = {
        "label": np.array([b"a", b"\xc3\xb6"], object),
        "raw_bytes": np.array([b"\xff", b""], object),
        "good": np.array([True, False]),
    }
    assert rest.predict_response(two, rows=True) == {
        "predictions": [
            {"label": "a", "raw_bytes": {"b64": "/w=="}, "good": True},
            {"label": "ö", "raw_bytes": {"b64": ""}, "good": False},
        ]
    }
    assert rest.predict_response(two, rows=False)["outputs"]["label"] == ["a", "ö"]
    scores = {"classes": np.array([[b"car", b"bike"]], object), "scores": np.array([[0.25, 0.75]])}
    assert rest.classify_response(scores) == {"results": [[["car", 0.25], ["bike", 0.75]]]}
    assert rest.regress_response({"outputs": np.array([[3.5], [4.0]])}) == {"results": [3.5, 4.0]}


def test_examples_have_types_and_a_context() -> None:
    request = {
        "context": {"caption": "seaside"},
        "examples": [{"image": {"b64": "aW1hZ2UgYnl0ZXM="}, "n": [1, 2], "x": 0.5}],
    }
    found = tf.train.Example.FromString(rest.examples(request)[0]).features.feature
    assert found["image"].bytes_list.value == [b"image bytes"]
    assert found["caption"].bytes_list.value == [b"seaside"]
    assert found["n"].int64_list.value == [1, 2]
    assert found["x"].float_list.value == [0.5]
    for wrong, text in (
        ({}, "key 'examples' is expected"),
        ({"examples": [1]}, "Example must be JSON object"),
        ({"examples": [{"a": 1}], "context": {"a": 2}}, "must not be in examples and context: a"),
        ({"examples": [{"a": [1, "b"]}]}, "mixed or unsupported types"),
    ):
        with pytest.raises(RestError, match=text):
            rest.examples(wrong)


def test_the_name_of_the_signature() -> None:
    assert rest.signature_name({}) == "serving_default"
    assert rest.signature_name({"signature_name": "classify"}) == "classify"
    with pytest.raises(RestError, match="'signature_name' key must be a string"):
        rest.signature_name({"signature_name": 1})

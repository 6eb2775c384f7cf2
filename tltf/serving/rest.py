"""TF Serving's REST interface as pure functions: JSON to arrays and back.

After https://www.tensorflow.org/tfx/serving/api_rest, with the server's own error texts where a
client may look for them. No web server here.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tltf.data.textbytes import text_bytes

Arrays = dict[str, np.ndarray]
Specs = Mapping[str, tf.TensorSpec]


class RestError(Exception):
    """An answer with ``{"error": ...}`` and a status."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a request; NaN and Infinity are allowed, as in TF Serving.

    Raises:
      RestError: 400, not a JSON object.
    """
    if not body:
        raise RestError(400, "JSON Parse error: The document is empty")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RestError(400, f"JSON Parse error: {error}") from error
    if not isinstance(found, dict):
        raise RestError(400, f"JSON Value: {_short(found)} Is not object")
    return found


def signature_name(request: Mapping[str, Any], default: str = "serving_default") -> str:
    """The signature that is asked for.

    Raises:
      RestError: 400, not a string.
    """
    name = request.get("signature_name", default)
    if not isinstance(name, str):
        raise RestError(400, "'signature_name' key must be a string value.")
    return name or default


def predict_inputs(request: Mapping[str, Any], specs: Specs) -> tuple[Arrays, bool]:
    """The inputs of a predict call, and whether it is in row format.

    Args:
      request: with ``instances`` (rows) or ``inputs`` (columns).
      specs: the signature's inputs by name.

    Raises:
      RestError: 400, with what is wrong.
    """
    rows, columns = "instances" in request, "inputs" in request
    if rows and columns:
        raise RestError(400, "Not formatted correctly: both 'instances' and 'inputs' are given")
    if rows:
        return _from_rows(request["instances"], specs), True
    if columns:
        return _from_columns(request["inputs"], specs), False
    raise RestError(400, "Missing 'inputs' or 'instances' key")


def predict_response(found: Arrays, *, rows: bool) -> dict[str, Any]:
    """``predictions`` for row format, ``outputs`` for columns; a single output has no name."""
    values = {name: _plain(name, array) for name, array in found.items()}
    if not rows:
        return {"outputs": values if len(values) > 1 else next(iter(values.values()))}
    if len(values) == 1:
        return {"predictions": next(iter(values.values()))}
    count = min(len(array) for array in found.values())
    return {"predictions": [{k: column[i] for k, column in values.items()} for i in range(count)]}


def examples(request: Mapping[str, Any]) -> list[bytes]:
    """The ``tf.train.Example`` messages, serialized, of a classify or regress call.

    Raises:
      RestError: 400, with what is wrong.
    """
    listed = request.get("examples")
    if not isinstance(listed, list) or not listed:
        raise RestError(400, "When method is classify or regress, key 'examples' is expected"
                             " and must be a list of at least one object")  # fmt: skip
    context = request.get("context", {})
    if not isinstance(context, dict):
        raise RestError(400, "Example context must be JSON object")
    return [_example(item, context) for item in listed]


def classify_response(found: Arrays) -> dict[str, Any]:
    """One list of ``[label, score]`` for each example."""
    names, scores = _plain("classes", found["classes"]), found["scores"].tolist()
    return {
        "results": [
            [[name, score] for name, score in zip(labels, row, strict=True)]
            for labels, row in zip(names, scores, strict=True)
        ]
    }


def regress_response(found: Arrays) -> dict[str, Any]:
    """One number for each example."""
    return {"results": found["outputs"].reshape(-1).tolist()}


def _from_rows(instances: Any, specs: Specs) -> Arrays:
    if not isinstance(instances, list):
        raise RestError(400, f"Expecting 'instances' to be an list/array, got {_short(instances)}")
    if not instances:
        raise RestError(400, "'instances' is an empty list, expected at least one element")
    objects = _is_named(instances[0])
    if not objects and len(specs) > 1:
        raise RestError(400, "instances is a plain list, but expecting list of objects as multiple"
                             " input tensors required as per tensorinfo_map")  # fmt: skip
    for i, item in enumerate(instances):
        if objects != _is_named(item):
            kinds = ("object", "list") if objects else ("value/list", "object")
            raise RestError(
                400, "Expecting {} but got {} at item {} of input list".format(*kinds, i)
            )
        if objects and set(item) != set(specs):
            raise RestError(400, f"Failed to process element: {i} of 'instances' list. JSON object:"
                                 f" {_short(item)} must only have keys: {','.join(sorted(specs))}"
                            )  # fmt: skip
    if not objects:
        name, spec = next(iter(specs.items()))
        return {name: tensor(instances, spec)}
    return {name: tensor([x[name] for x in instances], spec) for name, spec in specs.items()}


def _from_columns(inputs: Any, specs: Specs) -> Arrays:
    if not _is_named(inputs):
        if len(specs) > 1:
            raise RestError(400, "inputs is a plain value/list, but expecting an object as multiple"
                                 " input tensors required as per tensorinfo_map")  # fmt: skip
        name, spec = next(iter(specs.items()))
        return {name: tensor(inputs, spec)}
    for name in specs:
        if name not in inputs:
            raise RestError(400, f"Missing named input: {name} in 'inputs' object.")
    return {name: tensor(inputs[name], spec) for name, spec in specs.items()}


def tensor(value: Any, spec: tf.TensorSpec) -> np.ndarray:
    """JSON as an array of the signature's dtype and rank.

    Raises:
      RestError: 400 for another type, a ragged list, another shape, or bad base64.
    """
    dtype = spec.dtype.as_numpy_dtype
    if spec.dtype == tf.string:
        array = np.array(_strings(value), dtype=object)
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise RestError(400, "Encountered list at unexpected size: it is ragged") from error
        wanted = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[np.dtype(dtype).kind]
        if array.size and array.dtype.kind not in wanted:
            raise RestError(400, f"JSON Value: {_short(value)} is not of expected type:"
                                 f" {spec.dtype.name}")  # fmt: skip
        array = array.astype(dtype)
    if not spec.shape.is_compatible_with(array.shape):
        raise RestError(400, f"Expecting shape {spec.shape} but got: {list(array.shape)}")
    return array


def _strings(value: Any) -> Any:
    if isinstance(value, list):
        return [_strings(item) for item in value]
    if isinstance(value, str):
        return text_bytes(value)
    if isinstance(value, dict):
        return _base64(value)
    raise RestError(400, f"JSON Value: {_short(value)} is not of expected type: string")


def _base64(value: dict[str, Any]) -> bytes:
    if set(value) != {"b64"} or not isinstance(value["b64"], str):
        raise RestError(400, f"JSON Value: {_short(value)} not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise RestError(400, "Unable to base64 decode") from error


def _is_named(value: Any) -> bool:
    """An object of named tensors, and not one that stands for bytes."""
    return isinstance(value, dict) and not (set(value) == {"b64"} and isinstance(value["b64"], str))


def _example(item: Any, context: Mapping[str, Any]) -> bytes:
    if not isinstance(item, dict):
        raise RestError(400, f"Example must be JSON object but got JSON Value: {_short(item)}")
    twice = sorted(set(item) & set(context))
    if twice:
        raise RestError(400, f"Features must not be in examples and context: {', '.join(twice)}")
    feature = {key: _feature(key, value) for key, value in {**context, **item}.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def _feature(name: str, value: Any) -> tf.train.Feature:
    values: Sequence[Any] = value if isinstance(value, list) else [value]
    if all(isinstance(x, str | dict) for x in values):
        strings = [_strings(x) for x in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=strings))
    if any(isinstance(x, bool) or not isinstance(x, int | float) for x in values):
        raise RestError(400, f"Feature {name} has values of mixed or unsupported types")
    if all(isinstance(x, int) for x in values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def _plain(name: str, array: np.ndarray) -> Any:
    """Nested lists; strings as text, or as base64 where the name ends in ``_bytes``."""
    if array.dtype != object:
        return array.tolist()
    if name.endswith("_bytes"):
        return _mapped(array.tolist(), lambda x: {"b64": base64.b64encode(x).decode()})
    return _mapped(array.tolist(), lambda x: x.decode("utf-8", "replace"))


def _mapped(value: Any, function: Any) -> Any:
    if isinstance(value, list):
        return [_mapped(item, function) for item in value]
    return function(value)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 128 else f"{text[:128]}..."

"""Requests that TF Serving replays when it loads a version, so that the first user does not wait.

``assets.extra/tf_serving_warmup_requests`` is a TFRecord file of ``PredictionLog`` messages. The
few of their fields that are used are encoded here by hand; the official package
``tensorflow-serving-api`` writes the same bytes, which a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf

FOLDER = "assets.extra"
FILE = "tf_serving_warmup_requests"
MAX_BYTES = 200_000

# Field numbers of the messages, https://github.com/tensorflow/serving, tensorflow_serving/apis.
_LOG_PREDICT, _LOG_REQUEST = 6, 1
_REQUEST_SPEC, _REQUEST_INPUTS = 1, 2
_SPEC_NAME, _SPEC_SIGNATURE = 1, 3
_MAP_KEY, _MAP_VALUE = 1, 2


def write_warmup(servable: Path, *, name: str, key: str, rows: Sequence[bytes]) -> Path:
    """Writes one request of one row, and one of all of them, for ``serving_default``.

    Args:
      servable: the version folder that is being made.
      name: of the model, as the server will know it.
      key: of the string input.
      rows: real inputs; see :func:`small_rows`.
    """
    folder = servable / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / FILE
    batches = [rows[:1], rows] if len(rows) > 1 else [rows]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch in batches:
            writer.write(predict_log(name, {key: tf.constant(list(batch))}))
    return path


def small_rows(rows: Sequence[bytes], *, most: int = 8, max_bytes: int = MAX_BYTES) -> list[bytes]:
    """The smallest inputs, in all at most ``max_bytes``; at least one."""
    by_size = sorted(rows, key=len)[:most]
    while len(by_size) > 1 and sum(map(len, by_size)) > max_bytes:
        by_size.pop()
    return by_size


def predict_log(
    name: str, inputs: Mapping[str, tf.Tensor], *, signature: str = "serving_default"
) -> bytes:
    """A ``PredictionLog`` with a ``PredictRequest``, serialized.

    Args:
      name: of the model.
      inputs: by name; written in the order of their names, as a deterministic encoder does.
    """
    return _field(
        _LOG_PREDICT, _field(_LOG_REQUEST, predict_request(name, inputs, signature=signature))
    )


def predict_request(
    name: str, inputs: Mapping[str, tf.Tensor], *, signature: str = "serving_default"
) -> bytes:
    """A ``PredictRequest``, serialized; what a gRPC client sends."""
    spec = _field(_SPEC_NAME, name.encode()) + _field(_SPEC_SIGNATURE, signature.encode())
    request = _field(_REQUEST_SPEC, spec)
    for key in sorted(inputs):
        tensor = tf.make_tensor_proto(inputs[key]).SerializeToString(deterministic=True)
        entry = _field(_MAP_KEY, key.encode()) + _field(_MAP_VALUE, tensor)
        request += _field(_REQUEST_INPUTS, entry)
    return request


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field: tag, length, bytes."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes((*found, value))

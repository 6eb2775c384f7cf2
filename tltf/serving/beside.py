"""What a serving team finds in a version folder: requests to copy, and settings to start from."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from tltf.serving.signatures import Signatures

REST_REQUEST = "sample_request.json"
GRPC_CLIENT = "grpc_client.py"
MODELS_CONFIG = "models.config"
BATCHING = "batching_parameters.txt"

# Requests of a laptop's size: what waits two milliseconds for company is answered together.
_BATCHING = """\
max_batch_size { value: 32 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 100 }
num_batch_threads { value: 2 }
"""

_MODELS_CONFIG = """\
model_config_list {{
  config {{
    name: {name}
    base_path: {path}
    model_platform: "tensorflow"
  }}
}}
"""

_GRPC_CLIENT = '''\
"""Asks TF Serving over gRPC: python grpc_client.py FILE [HOST:PORT].

Needs `pip install tensorflow-serving-api`. A file is {what}.
"""

import sys
from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

MODEL, SIGNATURE, INPUT = {name}, "serving_default", {key}


def request_of(rows):
    """A PredictRequest for these rows of bytes."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.model_spec.signature_name = SIGNATURE
    request.inputs[INPUT].CopyFrom(tf.make_tensor_proto(rows, shape=[len(rows)]))
    return request


def ask(address, rows, seconds=60.0):
    """The outputs by name, as arrays."""
    with grpc.insecure_channel(address) as channel:
        service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        outputs = service.Predict(request_of(rows), timeout=seconds).outputs
    return {{name: tf.make_ndarray(value) for name, value in outputs.items()}}


if __name__ == "__main__":
    address = sys.argv[2] if sys.argv[2:] else "localhost:8500"
    for name, value in sorted(ask(address, [Path(sys.argv[1]).read_bytes()]).items()):
        print(name, value)
'''


def files(name: str, served: Signatures, rows: Sequence[bytes]) -> dict[str, bytes]:
    """The files by name, relative to the version folder.

    Args:
      name: of the model, as the server will know it.
      rows: real inputs, the first of which is in the sample request.
    """
    key = served.intake.key
    what = "an image" if key == "image_bytes" else "a UTF-8 text"
    grpc = _GRPC_CLIENT.format(name=json.dumps(name), key=json.dumps(key), what=what)
    config = _MODELS_CONFIG.format(name=json.dumps(name), path=json.dumps(f"/models/{name}"))
    return {
        REST_REQUEST: rest_request(key, rows[0]),
        GRPC_CLIENT: grpc.encode(),
        MODELS_CONFIG: config.encode(),
        BATCHING: _BATCHING.encode(),
    }


def rest_request(key: str, row: bytes) -> bytes:
    """The body of a REST predict call: an image as base64, a text as it is."""
    value: object = {"b64": base64.b64encode(row).decode()}
    if not key.endswith("_bytes"):
        value = row.decode("utf-8", "replace")
    return (json.dumps({"instances": [{key: value}]}) + "\n").encode()

"""What stands beside a servable works: the official protos read it, a gRPC server answers it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import tiny

from tltf.serving import beside
from tltf.serving.card import model_card
from tltf.serving.decision import Decision
from tltf.serving.intake import ImageIntake
from tltf.serving.signatures import Signatures, signatures

pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api")

import grpc
from google.protobuf import text_format
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

NAME = 'pets "of" ours'


@pytest.fixture(scope="module")
def served() -> Signatures:
    decision = Decision(task="single_label", classes=("cat", "dog"))
    return signatures(tiny.classifier(), decision, intake=ImageIntake(image_size=tiny.SIDE))


@pytest.fixture(scope="module")
def files(served: Signatures) -> dict[str, bytes]:
    return beside.files(NAME, served, served.intake.invented(1))


def test_models_config_is_what_the_server_reads(files: dict[str, bytes]) -> None:
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse(files["models.config"].decode(), config)
    entry = config.model_config_list.config[0]
    assert (entry.name, entry.model_platform) == (NAME, "tensorflow")
    assert entry.base_path == f"/models/{NAME}"


def test_batching_parameters_have_the_servers_names(files: dict[str, bytes]) -> None:
    # The message (session_bundle_config.proto) is not in the package: the documented names.
    names = [line.split()[0] for line in files["batching_parameters.txt"].decode().splitlines()]
    assert names == [
        *("max_batch_size", "batch_timeout_micros"),
        *("max_enqueued_batches", "num_batch_threads"),
    ]


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    """TF Serving's Predict over the live functions."""

    def __init__(self, served: Signatures) -> None:
        self.served = served

    def Predict(self, request: Any, context: Any) -> Any:
        assert request.model_spec.name == NAME
        function = self.served.functions[request.model_spec.signature_name]
        values = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        found = function(tf.constant(values["image_bytes"]))
        response = predict_pb2.PredictResponse()
        for key, value in found.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response


def test_the_grpc_client_is_answered(
    served: Signatures, files: dict[str, bytes], tmp_path: Path
) -> None:
    """Over a real gRPC server in this process, run as its first lines say."""
    (tmp_path / "grpc_client.py").write_bytes(files["grpc_client.py"])
    (tmp_path / "photo.png").write_bytes(served.intake.invented(1)[0])
    # Traced before the clock of the client runs.
    served.functions["serving_default"](tf.constant(served.intake.invented(1)))
    server = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(served), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        done = subprocess.run(
            [sys.executable, "grpc_client.py", "photo.png", f"127.0.0.1:{port}"],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip
    finally:
        server.stop(None)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split()[0] for line in done.stdout.splitlines() if line[0] != " "][:2] == [
        "accepted",
        "confidence",
    ]


def test_a_text_is_sent_as_it_is() -> None:
    assert json.loads(beside.rest_request("text", "größe".encode())) == {
        "instances": [{"text": "größe"}]
    }


REPORT = {
    "task": "single_label",
    "n": 45,
    "classes": ["cat", "<script>|x"],
    "summary": "accuracy 97.8 % on 45 test examples",
    "metrics": {"accuracy": {"value": 0.978, "low": 0.882, "high": 0.996, "n": 45}},
    "per_class": {"cat": {"precision": 1.0, "recall": 0.95, "f1": 0.97, "support": 20}},
    "calibration": {"temperature": 1.3, "ece_before": 0.04, "ece_after": 0.02},
    "reject": {"threshold": 0.7, "coverage": 0.95, "accuracy_accepted": None},
    "baselines": {"majority": {"metrics": {"accuracy": {"value": 0.5}}}},
    "verdict": {"sentence": "no difference is detectable"},
    "data": {"totals": {"train": 210, "test": 45}, "n_excluded": 2, "notes": ["1 file is turned"]},
    "provenance": {
        "spec": {"backbone": {"name": "MobileNetV2", "weights": "imagenet"}},
        "versions": {"keras": "3.15"},
        "hashes": {"data": "abc"},
    },
}


def test_the_model_card_has_numbers_with_intervals_and_escapes_names() -> None:
    card = model_card(REPORT, name="pets")
    assert "| accuracy | 97.8 % | 88.2 to 99.6 | 45 |" in card
    assert "mind the intervals" in card
    assert "ImageNet" in card
    assert "<script>" not in card
    assert r"\<script\>\|x" in card
    titles = [line for line in card.splitlines() if line.startswith("## ")]
    assert titles == [
        *("## What it does", "## Data", "## Metrics on the test split", "## Per class"),
        *("## Confidence", "## Against simpler models", "## Limits"),
        *("## Licence of the weights", "## Where it comes from"),
    ]
    regression = {"task": "regression", "n": 5, "metrics": REPORT["metrics"]}
    assert "one number" in model_card(regression, name="x")

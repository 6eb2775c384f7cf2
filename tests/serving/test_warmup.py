"""The official protos are the oracle of what is encoded by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from tltf.serving import warmup

apis = pytest.importorskip("tensorflow_serving.apis", reason="needs tensorflow-serving-api")

from tensorflow_serving.apis import predict_pb2, prediction_log_pb2  # noqa: E402

ROWS = [b"\xff\xd8 not quite a jpeg " * 40, b"", b"short"]


def official(rows: list[bytes]) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "pets"
    request.model_spec.signature_name = "serving_default"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(rows, shape=[len(rows)]))
    return request


@pytest.mark.parametrize("count", [1, 3])
def test_the_bytes_are_those_of_the_official_protos(count: int) -> None:
    rows = ROWS[:count]
    request = official(rows)
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request)
    inputs = {"image_bytes": tf.constant(rows)}
    assert warmup.predict_request("pets", inputs) == request.SerializeToString(deterministic=True)
    assert warmup.predict_log("pets", inputs) == log.SerializeToString(deterministic=True)


def test_several_inputs_are_in_the_order_of_their_names() -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.model_spec.signature_name = "predict"
    inputs = {name: tf.constant([[1, 2]], tf.int32) for name in ("word_ids", "mask", "types")}
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    ours = warmup.predict_request("m", inputs, signature="predict")
    assert ours == request.SerializeToString(deterministic=True)


def test_the_file_is_what_a_server_replays(tmp_path: Path) -> None:
    path = warmup.write_warmup(tmp_path, name="pets", key="image_bytes", rows=ROWS)
    assert path == tmp_path / "assets.extra" / "tf_serving_warmup_requests"
    records = [item.numpy() for item in tf.data.TFRecordDataset(str(path))]
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    sent = [tf.make_ndarray(x.predict_log.request.inputs["image_bytes"]).tolist() for x in logs]
    assert sent == [ROWS[:1], ROWS]


def test_small_inputs_are_chosen() -> None:
    rows = [bytes(size) for size in (500, 10, 300, 90)]
    assert [len(row) for row in warmup.small_rows(rows, most=3, max_bytes=150)] == [10, 90]
    assert len(warmup.small_rows([bytes(1000)], max_bytes=1)) == 1

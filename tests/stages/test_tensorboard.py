"""``--tensorboard``: curves per phase, settings and metrics, and a table of features."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tensorflow as tf
from commands import tltf
from pictures import write_digit_folder


def test_what_tensorboard_reads(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = write_digit_folder(tmp_path / "digits", (0, 1, 2), 16)
    run = tmp_path / "run"
    done = tltf(
        "train", data=data, backbone="small_cnn:blocks=1", weights="none", image_size=8,
        head_epochs=1, tune_epochs=2, export="none", tensorboard=True, workdir=run,
    )  # fmt: skip
    assert done.code == 0, done.err
    logs = {}
    for name in ("head", "tune", "test"):
        logs[name] = EventAccumulator(str(run / "tensorboard" / name)).Reload()
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    losses = [float(tf.make_ndarray(x.tensor_proto)) for x in logs["tune"].Tensors("val_loss")]
    assert losses == pytest.approx([r["val_loss"] for r in history if r["phase"] == "tune"])
    report = json.loads((run / "report/report.json").read_text())
    [shown] = logs["test"].Tensors("test/accuracy")
    accuracy = report["metrics"]["accuracy"]["value"]
    assert float(tf.make_ndarray(shown.tensor_proto)) == pytest.approx(accuracy)
    tags = logs["test"].summary_metadata
    settings = tags["_hparams_/session_start_info"].plugin_data.content
    assert b"phases.0.learning_rate" in settings
    rows = (run / "tensorboard/features.tsv").read_text().splitlines()
    names = (run / "tensorboard/metadata.tsv").read_text().splitlines()
    assert len(names) == len(rows) + 1 > 10

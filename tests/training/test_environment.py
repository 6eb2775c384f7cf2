"""What a run runs on, and how it shows its progress."""

from __future__ import annotations

import io
import json

import keras
import pytest
import tensorflow as tf
import tiny

from tltf.errors import ArgumentError
from tltf.terminal import bar_text, clock
from tltf.training import environment, objectives
from tltf.training.progress import Progress


def test_the_environment_is_json() -> None:
    found = json.loads(json.dumps(environment.describe()))
    assert found["tensorflow"] == tf.__version__
    assert {"python", "keras", "cpu_count", "onednn", "intra_op_threads"} <= found.keys()


def test_precision_and_jit_are_choices_with_a_reason() -> None:
    assert environment.choose_precision("bfloat16").value == "bfloat16"
    chosen = environment.choose_precision("auto")
    assert chosen.value in ("float32", "bfloat16", "float16")
    assert chosen.reason
    assert environment.choose_jit("on", tiny.classifier()).value == "on"
    assert environment.choose_jit("auto", tiny.classifier()).value in ("on", "off")


def test_the_policy_ends_with_its_block() -> None:
    before = keras.config.dtype_policy().name
    with environment.precision_policy("float16"):
        assert keras.config.dtype_policy().name == "mixed_float16"
    assert keras.config.dtype_policy().name == before
    with (
        pytest.raises(ArgumentError, match="precision='half'"),
        environment.precision_policy("half"),
    ):
        pass


def test_objectives_by_task() -> None:
    one_hot = tf.constant([[1.0, 0.0]])
    logits = tf.constant([[2.0, 0.0]])
    single = float(objectives.loss_for("single_label")(one_hot, logits))
    assert single == pytest.approx(float(-tf.nn.log_softmax(logits)[0, 0]))
    multi = float(objectives.loss_for("multi_label")(one_hot, logits))
    losses = tf.nn.sigmoid_cross_entropy_with_logits(one_hot, logits)
    assert multi == pytest.approx(float(tf.reduce_mean(losses)))
    assert float(objectives.loss_for("regression")([[1.0]], [[3.0]])) == 4.0
    smooth = float(objectives.loss_for("single_label", label_smoothing=0.2)(one_hot, logits))
    assert smooth > single
    names = [objectives.metrics_for(task)[0].name for task in objectives.TASKS]
    assert names == ["accuracy", "accuracy", "mae"]
    with pytest.raises(ArgumentError, match="did you mean 'multi_label'"):
        objectives.loss_for("multilabel")
    with pytest.raises(ArgumentError, match=r"label_smoothing=0\.1 with task=regression"):
        objectives.loss_for("regression", label_smoothing=0.1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO) -> str:
    progress = Progress("head", epochs=2, steps=2, batch_size=4, stream=stream)
    progress.on_train_begin()
    for epoch in range(2):
        progress.on_epoch_begin(epoch)
        for batch in range(2):
            progress._drawn = 0.0
            progress.on_train_batch_end(batch, {"loss": 0.5})
        progress.on_epoch_end(epoch, {"loss": 0.5, "val_loss": 0.25})
    return stream.getvalue()


def test_one_line_for_each_epoch_without_a_terminal() -> None:
    lines = shown(io.StringIO()).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("head 1/2  loss 0.5000  val_loss 0.2500")
    assert "examples/s" in lines[1]


def test_a_bar_with_rate_and_time_left_on_a_terminal() -> None:
    text = shown(Terminal())
    assert text.count("\n") == 2
    assert "\r\x1b[K" in text
    assert "[####################]" in text
    assert "left" in text
    assert bar_text(0.5, 4) == "[##..]"
    assert [clock(s) for s in (-1, 9.4, 125, 3725)] == ["0 s", "9 s", "2:05", "1:02:05"]

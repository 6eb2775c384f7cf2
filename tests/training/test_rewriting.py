"""TensorFlow's graph rewriting is off for encoders of texts, while they train, and only then."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tltf
from tltf.training import fit
from tltf.training.rewriting import OFF, rewriting_for

BERT = Path(__file__).parents[1] / "backbones" / "golden_encoders" / "bert"


def off() -> bool:
    return bool(tf.config.optimizer.get_experimental_options().get(OFF, False))


def encoder() -> keras.Model:
    """Without dropout, so that two of them learn the same."""
    model = tltf.classifier(tltf.backbone(f"bert:{BERT}"), tltf.head(2))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return model


def test_only_for_texts_and_only_within() -> None:
    assert not off()
    with rewriting_for(encoder()):
        assert off()
    assert not off()
    with rewriting_for(tiny.classifier()):
        assert not off()


def test_what_was_set_comes_back_after_an_error() -> None:
    tf.config.optimizer.set_experimental_options({OFF: True})
    try:
        with pytest.raises(RuntimeError), rewriting_for(encoder()):
            raise RuntimeError
        assert off()
    finally:
        tf.config.optimizer.set_experimental_options({OFF: False})


def test_a_training_runs_without_it_and_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(0).integers(5, 20, (8, 6)).astype("int32")
    data = tf.data.Dataset.from_tensor_slices((ids, np.eye(2, dtype="float32")[ids[:, 0] % 2]))
    phase = tltf.Phase("tune", 3, 1e-3, unfreeze="all", optimizer="adamw")
    seen: list[bool] = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append(off())

    def losses(start: list[np.ndarray] | None = None) -> tuple[list[np.ndarray], list[float]]:
        model = encoder()
        model.set_weights(start or model.get_weights())
        start = model.get_weights()
        found = tltf.fit_phases(model, [phase], data.batch(4), callbacks=[Look()], progress=False)
        return start, [row["loss"] for row in found.history]

    start, without = losses()
    assert seen == [True] * 6
    monkeypatch.setattr(fit, "rewriting_for", lambda model: contextlib.nullcontext())
    _, with_it = losses(start)
    assert seen[6:] == [False] * 6
    np.testing.assert_allclose(without, with_it, rtol=1e-4)

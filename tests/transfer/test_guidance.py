"""Terms beside the labels: the starting network as anchor, a teacher's features to learn from."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from oracles import transfer as oracle

import tltf
from tltf.errors import ArgumentError, InterruptedRun
from tltf.models.classifier import feature_model
from tltf.spec import Phase
from tltf.training import boundary, freezing, loop
from tltf.transfer.guidance import Guidance

TUNE = Phase("tune", 2, 1e-2, unfreeze="last:2", batch_norm="adapt")


def batch(n: int = 6, d: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = tiny.arrays(n)
    return x, y, np.random.default_rng(1).normal(size=(n, d)).astype("float32")


def set_flags(model: keras.Model, unfreeze: str = "last:2") -> None:
    freezing.set_trainable(model, unfreeze, batch_norm="frozen")


def test_the_anchor_is_the_papers_sum_and_zero_at_the_start() -> None:
    model, (x, _, _) = tiny.classifier(), batch()
    body = model.get_layer("body")
    f0 = np.asarray(body(x, training=False), np.float64)
    guidance = Guidance(model, anchor=0.1)
    set_flags(model)
    part = guidance.compose(model, None)
    part(x, training=True)
    assert float(sum(part.losses)) == 0
    kernel = next(v for v in model.trainable_variables if v.path.endswith("top_3_conv/kernel"))
    kernel.assign(kernel.numpy() + 0.1)
    part(x, training=True)
    f = np.asarray(body(x, training=False), np.float64)
    expected = 0.1 * np.sum((f - f0) ** 2) / len(x)
    assert expected > 1e-3
    assert float(sum(part.losses)) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(part(x), model(x), atol=1e-6)
    part(x, training=False)
    assert part.losses == []


def test_the_anchor_is_that_of_the_start_though_it_is_composed_later() -> None:
    """A resumed run composes when the weights of a saved state are in the model."""
    model, (x, _, _) = tiny.classifier(), batch()
    guidance = Guidance(model, anchor=1.0)
    for variable in model.variables:
        if variable.path.endswith("kernel"):
            variable.assign(variable.numpy() * 1.5)
    set_flags(model)
    part = guidance.compose(model, None)
    part(x, training=True)
    assert float(sum(part.losses)) > 1e-3


def test_the_anchor_above_stored_features_is_the_same() -> None:
    model, (x, _, _) = tiny.classifier(), batch()
    guidance = Guidance(model, anchor=0.1)
    set_flags(model)
    cut = boundary.split(model)
    whole, tail = guidance.compose(model, None), guidance.compose(model, cut)
    for variable in model.trainable_variables:
        variable.assign(variable.numpy() + 0.05)
    whole(x, training=True)
    tail(keras.tree.flatten(cut.prefix(x)), training=True)
    assert float(sum(tail.losses)) == pytest.approx(float(sum(whole.losses)), rel=1e-4)
    assert float(sum(tail.losses)) > 0


def test_nothing_is_composed_where_the_features_are_fixed() -> None:
    model = tiny.classifier()
    guidance = Guidance(model, anchor=0.1, terms=[("distances", 1.0)], columns=5)
    set_flags(model, "none")
    assert guidance.compose(model, None) is None
    assert guidance.compose(model, boundary.split(model)) is None


def test_a_strong_anchor_holds_the_features() -> None:
    x, moved = batch(12)[0], {}
    for weight in (1e-9, 100.0):
        model = tiny.classifier()
        features, count = feature_model(model), len(model.variables)
        before = np.asarray(features(x))
        guidance = Guidance(model, anchor=weight, terms=[("features", 0.0)], columns=5)
        plan = [Phase("tune", 10, 0.03, unfreeze="last:2", optimizer="sgd")]
        tltf.fit_phases(model, plan, Wide(12), guidance=guidance, progress=False)
        moved[weight] = np.abs(np.asarray(features(x)) - before).mean()
        assert len(model.variables) == count
    assert moved[100.0] < 0.2 * moved[1e-9]


class Wide(loop.DatasetEpochs):
    """The tiny data with what a teacher says of each example behind its target."""

    def __init__(self, n: int = 12, size: int = 4) -> None:
        x, y, said = batch(n)
        weight = np.ones(n, "float32")
        rows = (x, np.concatenate([y, said], axis=1), weight)
        super().__init__(tf.data.Dataset.from_tensor_slices(rows).batch(size))


@pytest.mark.parametrize("kind", ["features", "distances", "angles", "similarity"])
def test_a_student_comes_nearer_to_its_teacher(kind: str) -> None:
    """In what the term measures, against the same training with a weight of zero."""
    x, _, said = batch(12)
    gaps = {}
    for weight in (0.0, 1000.0):
        model = tiny.classifier()
        guidance = Guidance(model, terms=[(kind, weight)], columns=5)
        plan = [Phase("tune", 8, 1e-2, unfreeze="all", batch_norm="adapt")]
        tltf.fit_phases(model, plan, Wide(12, 12), guidance=guidance, progress=False)
        gaps[weight] = gap(kind, np.asarray(feature_model(model)(x)), said)
    assert gaps[1000.0] < 0.9 * gaps[0.0]


def gap(kind: str, student: np.ndarray, teacher: np.ndarray) -> float:
    """How far the student is away, by NumPy: for features after the best linear map."""
    s, t = student.astype(np.float64), teacher.astype(np.float64)
    if kind == "features":
        return float(np.linalg.lstsq(s, t, rcond=None)[1].sum() if len(s) > s.shape[1] else 0)
    named = {"distances": oracle.relational_distance, "angles": oracle.relational_angle,
             "similarity": oracle.similarity_preserving}  # fmt: skip
    return float(named[kind](s, t))


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C in the second epoch of the second phase."""

    phase = -1

    def on_train_begin(self, logs: Any = None) -> None:
        self.phase += 1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if (self.phase, epoch) == (1, 1):
            os.kill(os.getpid(), signal.SIGINT)


def test_interrupted_and_resumed_gives_the_same_bits(tmp_path: Path) -> None:
    """Both the anchor, which is of the start, and what a term has learned itself."""

    def run(folder: Path, *callbacks: keras.callbacks.Callback) -> list[bytes]:
        model = tiny.classifier(head_dropout=0.2)
        guidance = Guidance(model, anchor=0.5, terms=[("features", 10.0)], columns=5)
        plan = [Phase("head", 1, 1e-2, unfreeze="none"), TUNE]
        tltf.fit_phases(model, plan, Wide(), validation=tiny.dataset(6, seed=1), folder=folder,
                        guidance=guidance, callbacks=callbacks, progress=False)  # fmt: skip
        return [v.numpy().tobytes() for v in model.variables]

    whole = run(tmp_path / "whole")
    with pytest.raises(InterruptedRun):
        run(tmp_path / "parts", Interrupt())
    assert run(tmp_path / "parts") == whole


def test_a_model_without_a_backbone_is_said() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ArgumentError, match="no Backbone layer"):
        Guidance(model, anchor=1.0)

"""Heads, classifiers, and a model on disk."""

from __future__ import annotations

import random
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny

import tltf
from tltf.errors import ArgumentError, DataError, InputMissingError, StorageError
from tltf.models import saved
from tltf.models.classifier import backbone_of, feature_model
from tltf.models.heads import Pool
from tltf.models.initial import seeded_initializers


@pytest.mark.parametrize(("pooling", "units"), [("avg", 4), ("max", 4), ("flatten", 24)])
def test_pooling(pooling: str, units: int) -> None:
    maps = np.random.default_rng(0).random((5, 2, 3, 4)).astype("float32")
    pooled = np.asarray(Pool(pooling)(maps))
    expected = {
        "avg": maps.mean((1, 2)),
        "max": maps.max((1, 2)),
        "flatten": maps.reshape(5, 24),
    }[pooling]
    np.testing.assert_allclose(pooled, expected, rtol=1e-6)
    assert pooled.shape == (5, units)
    vectors = maps[:, 0, 0]
    np.testing.assert_array_equal(np.asarray(Pool(pooling)(vectors)), vectors)
    assert Pool.from_config(Pool(pooling).get_config()).pooling == pooling


def test_a_head_with_everything() -> None:
    head = tltf.head(3, hidden=(7, 5), dropout=0.5, l2=0.1, activation="tanh", seed=4)
    head.build((None, 4, 4, 6))
    assert [layer.name for layer in head.layers] == [
        *("pool", "dropout_1", "hidden_1", "dropout_2", "hidden_2", "dropout", "logits"),
    ]
    kernels = [v.numpy() for v in head.variables if v.path.endswith("kernel")]
    assert [kernel.shape for kernel in kernels] == [(6, 7), (7, 5), (5, 3)]
    penalty = sum(float(loss) for loss in head.losses)
    assert penalty == pytest.approx(0.1 * sum((k**2).sum() for k in kernels), rel=1e-5)
    again = tltf.head(3, hidden=(7, 5), dropout=0.5, l2=0.1, activation="tanh", seed=4)
    again.build((None, 4, 4, 6))
    np.testing.assert_array_equal(again.get_weights()[0], head.get_weights()[0])


def test_what_a_head_refuses() -> None:
    with pytest.raises(ArgumentError, match="outputs=0"):
        tltf.head(0)
    with pytest.raises(ArgumentError, match="pooling='mean'"):
        tltf.head(2, pooling="mean")


def test_logits_are_float32_under_half_precision() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = tiny.classifier()
    finally:
        keras.config.set_dtype_policy(before)
    logits = model(tiny.arrays()[0])
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert all(v.dtype in ("float32", "uint32", "int64") for v in model.variables)


def test_the_layers_are_shared_not_copied() -> None:
    body = tiny.body()
    model = tltf.classifier(body, tltf.head(2))
    assert {id(v) for v in body.variables} < {id(v) for v in model.variables}
    assert backbone_of(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])) is None
    features = feature_model(model)
    x, _ = tiny.arrays()
    pooled = body(x, training=False).numpy().mean((1, 2))
    np.testing.assert_allclose(features(x, training=False), pooled, rtol=1e-5, atol=1e-6)


def test_a_model_comes_back_from_disk(tmp_path: Path) -> None:
    model = tiny.classifier(dropout=0.3, head_dropout=0.3)
    saved.save_model(tmp_path / "w", model)
    again = saved.load_model(tmp_path / "w")
    x, _ = tiny.arrays()
    np.testing.assert_array_equal(
        np.asarray(again(x, training=False)), np.asarray(model(x, training=False))
    )
    assert backbone_of(again).blocks.keys() == backbone_of(model).blocks.keys()


def test_weights_on_disk_are_checked(tmp_path: Path) -> None:
    model = tiny.classifier()
    model.layers[1].get_layer("low_1_conv").kernel.assign(np.full((3, 3, 3, 4), np.nan))
    saved.save_model(tmp_path, model)
    with pytest.raises(DataError, match="NaN or infinity in 'backbone/00000:low_1_conv/kernel'"):
        saved.load_model(tmp_path)
    saved.save_model(tmp_path, tiny.classifier(norm=False))
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(StorageError, match="damaged file"):
        saved.load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    (tmp_path / "model.json").write_text(tiny.classifier().to_json())
    with pytest.raises(DataError, match="do not fit the model"):
        saved.load_model(tmp_path)
    with pytest.raises(InputMissingError, match="no trained model here"):
        saved.load_model(tmp_path / "none")


def test_initial_weights_follow_from_the_seed_and_nothing_else_does() -> None:
    def weights(seed: int) -> np.ndarray:
        with seeded_initializers(seed):
            layer = keras.layers.Dense(3)
            layer.build((2, 4))
        return layer.kernel.numpy()

    np.testing.assert_array_equal(weights(1), weights(1))
    assert (weights(1) != weights(2)).any()
    random.seed(5)
    expected = random.random()
    random.seed(5)
    weights(3)
    assert random.random() == expected


def test_a_compiled_model_is_saved_and_read(tmp_path: Path) -> None:
    """How it was compiled is left behind: a metric in the file is no reason to refuse it."""
    from tltf.models.saved import load_model, save_model

    model = tiny.classifier()
    model.compile(
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    save_model(tmp_path, model)
    again = load_model(tmp_path)
    for ours, theirs in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)

"""Grad-CAM: its equation, on nested and reloaded models, and it points at what decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tiny

import tltf
from tltf.errors import ArgumentError
from tltf.models.saved import load_model, save_model


def test_it_is_the_papers_equation() -> None:
    model = tiny.classifier()
    images = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 3)).astype("float32")
    found = tltf.grad_cam(model, images, np.array([0, 1, 1]))
    backbone, head = model.layers[1], model.layers[2]
    for i, c in enumerate((0, 1, 1)):
        maps = tf.Variable(backbone(images[i : i + 1], training=False))
        with tf.GradientTape() as tape:
            logit = head(maps, training=False)[0, c]
        slope = tape.gradient(logit, maps).numpy()[0]
        heat = np.maximum(sum(slope[..., k].mean() * maps.numpy()[0, ..., k] for k in range(4)), 0)
        heat = heat / heat.max() if heat.max() > 0 else heat
        np.testing.assert_allclose(found[i], heat, atol=1e-5)


def test_a_reloaded_model_is_explained_alike(tmp_path: Path) -> None:
    model = tiny.classifier()
    images = np.random.default_rng(1).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    save_model(tmp_path, model)
    again = load_model(tmp_path)
    ids = np.array([1, 0])
    np.testing.assert_array_equal(
        tltf.grad_cam(model, images, ids), tltf.grad_cam(again, images, ids)
    )


def test_it_points_at_what_decides() -> None:
    """A network that counts bright pixels looks at the bright corner."""
    import keras

    inputs = keras.Input((32, 32, 3))
    x = keras.layers.AveragePooling2D(4, name="low_pool")(inputs)
    x = keras.layers.Conv2D(1, 1, name="top_conv", kernel_initializer="ones")(x)
    model = tltf.classifier(keras.Model(inputs, x), tltf.head(2, dropout=0.0))
    kernel = model.layers[2].weights[0]
    kernel.assign([[0.0, 1.0]])
    image = np.zeros((1, 32, 32, 3), "float32")
    image[0, 20:28, 4:12] = 255
    (heat,) = tltf.grad_cam(model, image, np.array([1]))
    assert heat.shape == (8, 8)
    assert heat[5:7, 1:3].min() == 1.0
    assert heat.sum() == pytest.approx(4.0)
    assert tltf.grad_cam(model, image, np.array([0])).max() == 0.0


def test_a_model_without_a_backbone_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no Backbone"):
        tltf.grad_cam(tiny.body(), np.zeros((1, 8, 8, 3)), np.array([0]))

"""What every family keeps through a training: frozen stays, unfrozen moves, saving loses nothing.

VGG16 has no BatchNorm, MobileNetV2 has depthwise convolutions. The full matrix over all families,
EfficientNetB0 with weights in its preprocessing among them, is slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tltf
from tltf.backbones.catalog import TABLE
from tltf.models import saved
from tltf.training import environment
from tltf.training.fit import FitResult

FAST = ("VGG16", "MobileNetV2")
SMALLEST = {
    min((e for e in TABLE.values() if e.family == family), key=lambda e: e.params_millions).name
    for family in {entry.family for entry in TABLE.values()}
}
"""One of each family: they share their layers, and the large ones only take longer."""
HEAD = tltf.Phase("head", 1, 1e-3, unfreeze="none")
TUNE = tltf.Phase("tune", 1, 1e-3, unfreeze="last:1")


@pytest.fixture(autouse=True)
def _free_memory() -> Iterator[None]:
    yield
    keras.backend.clear_session()


def batches(side: int) -> tf.data.Dataset:
    """Two steps of four; unbalanced, so that the bias of the head has a gradient."""
    images = np.random.default_rng(0).integers(0, 256, (8, side, side, 3)).astype("float32")
    labels = np.eye(2, dtype="float32")[[0, 0, 1, 0, 1, 0, 0, 0]]
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)


def trained(model: keras.Model, *plan: tltf.Phase, jit_compile: bool = False) -> FitResult:
    data = batches(model.input_shape[1])
    return tltf.fit_phases(model, plan, data, jit_compile=jit_compile, progress=False)


def expected_to_move(model: keras.Model) -> set[str]:
    """Kernels and biases of the topmost block and of the head."""
    blocks = model.layers[1].blocks
    top = next(layers for layers in reversed(blocks.values()) if any(x.weights for x in layers))
    return {
        v.path
        for layer in top
        if not isinstance(layer, keras.layers.BatchNormalization)
        for v in layer.trainable_variables
    } | {v.path for v in model.get_layer("head").trainable_variables}


def amplify(model: keras.Model) -> None:
    """A random MobileNet answers with features of 1e-10, whose gradients would move nothing."""
    for layer in model.layers[1].layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            layer.kernel.assign(layer.kernel * 4.0)


def check_fit(name: str, folder: Path) -> None:
    side = max(32, TABLE[name].minimum)
    model = tltf.classifier(tltf.backbone(name, weights="none", input_size=side), tltf.head(2))
    if name == "MobileNet":
        amplify(model)
    before = tiny.values(model)
    trained(model, HEAD)
    after_head = tiny.values(model)
    assert tiny.moved(before, after_head) == {"head/logits/kernel", "head/logits/bias"}
    result = trained(model, TUNE)
    moved = tiny.moved(after_head, tiny.values(model))
    assert moved == expected_to_move(model) - set(result.movements["tune"].without_gradient)
    assert any(not path.startswith("head/") for path in moved)
    saved.save_model(folder / "weights", model)
    again = saved.load_model(folder / "weights")
    images = next(iter(batches(side)))[0]
    np.testing.assert_array_equal(again(images, training=False), model(images, training=False))


@pytest.mark.parametrize("name", FAST)
def test_fit(name: str, tmp_path: Path) -> None:
    check_fit(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALLEST - set(FAST)))
def test_fit_of_every_family(name: str, tmp_path: Path) -> None:
    check_fit(name, tmp_path)


def small(precision: str = "float32") -> keras.Model:
    with environment.precision_policy(precision):
        base = tltf.backbone("small_cnn", weights="none", input_size=8)
        return tltf.classifier(base, tltf.head(2, hidden=(4,), dropout=0.1))


def check_modes(model: keras.Model, *, jit_compile: bool) -> None:
    before = tiny.values(model)
    tune = tltf.Phase("tune", 2, 1e-2, unfreeze="last:1", batch_norm="adapt", block_lr_decay=0.5)
    result = trained(model, HEAD, tune, jit_compile=jit_compile)
    assert all(np.isfinite(row["loss"]) for row in result.history)
    moved = tiny.moved(before, tiny.values(model))
    assert {"block3_conv1/kernel", "head/logits/kernel"} <= moved
    assert not {path for path in moved if path.startswith(("block1", "block2"))}
    images = next(iter(batches(8)))[0]
    logits = model(images, training=False)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert np.isfinite(logits).all()


@pytest.mark.slow
def test_under_xla() -> None:
    check_modes(small(), jit_compile=True)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_under_half_precision(precision: str) -> None:
    model = small(precision)
    assert model.layers[1].get_layer("block3_conv1").compute_dtype == precision
    assert model.get_layer("head").get_layer("hidden_1").compute_dtype == "float32"
    check_modes(model, jit_compile=False)


@pytest.mark.parametrize(
    ("precision", "jit_compile"), [("float32", True), ("bfloat16", False), ("float16", False)]
)
def test_a_real_network_under_xla_and_half_precision(precision: str, jit_compile: bool) -> None:
    with environment.precision_policy(precision):
        base = tltf.backbone("VGG16", weights="none", input_size=32)
        model = tltf.classifier(base, tltf.head(2))
    assert base.get_layer("block5_conv3").compute_dtype == precision
    result = trained(model, HEAD, TUNE, jit_compile=jit_compile)
    assert all(np.isfinite(row["loss"]) for row in result.history)
    logits = model(next(iter(batches(32)))[0], training=False)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert result.movements["tune"].moved


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["MobileNetV2", "EfficientNetB0", "ResNet50"])
def test_the_large_ones_under_xla_and_half_precision(name: str, precision: str) -> None:
    with environment.precision_policy(precision):
        base = tltf.backbone(name, weights="none", input_size=32)
        model = tltf.classifier(base, tltf.head(2))
    result = trained(model, HEAD, TUNE, jit_compile=True)
    assert all(np.isfinite(row["loss"]) for row in result.history)

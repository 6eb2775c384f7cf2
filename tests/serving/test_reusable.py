"""``export --reusable``: what we produce is what the published interface asks for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tltf
from tltf.backbones.network import as_backbone
from tltf.errors import ArgumentError
from tltf.serving.reusable import export_reusable
from tltf.training.freezing import set_trainable

IMAGES = np.random.default_rng(0).random((4, tiny.SIDE, tiny.SIDE, 3), "float32")


def penalised() -> tltf.Backbone:
    body = tiny.body(dropout=0.5)
    body.get_layer("top_3_conv").kernel_regularizer = None
    body.get_layer("top_3_conv").kernel.regularizer = keras.regularizers.L2(0.01)
    for variable in body.variables:
        if variable.path.endswith("moving_mean"):
            variable.assign(variable + 0.1)
    return as_backbone(body)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[tltf.Backbone, Path]:
    base = penalised()
    return base, export_reusable(base, to=tmp_path_factory.mktemp("reusable") / "module")


def test_the_interface(exported: tuple[tltf.Backbone, Path]) -> None:
    base, folder = exported
    loaded = tf.saved_model.load(str(folder))
    assert len(loaded.variables) == len(base.variables)
    assert len(loaded.trainable_variables) == 12
    kernel = base.get_layer("top_3_conv").kernel.numpy()
    losses = [float(loss()) for loss in loaded.regularization_losses]
    np.testing.assert_allclose(losses, [0.01 * (kernel**2).sum()], rtol=1e-5)
    before = [v.numpy() for v in loaded.variables]
    quiet = loaded(IMAGES)
    np.testing.assert_array_equal(loaded(IMAGES, training=False), quiet)
    assert all(np.array_equal(v, b) for v, b in zip(loaded.variables, before, strict=True))
    assert np.abs(np.asarray(loaded(IMAGES, training=True)) - quiet).max() > 0
    assert not all(np.array_equal(v, b) for v, b in zip(loaded.variables, before, strict=True))


def test_it_comes_back_as_the_backbone_it_was(exported: tuple[tltf.Backbone, Path]) -> None:
    base, folder = exported
    again = tltf.backbone(f"hub:{folder}")
    pooled = np.mean(base(255 * IMAGES), axis=(1, 2))
    np.testing.assert_allclose(again(255 * IMAGES)[:, 0, 0], pooled, rtol=1e-4, atol=1e-5)
    assert list(again.blocks) == list(base.blocks)
    names = [v.path.split("/")[-2:] for v in again.trainable_variables]
    assert names == [v.path.split("/")[-2:] for v in base.trainable_variables]


def test_weights_are_stored_once(exported: tuple[tltf.Backbone, Path]) -> None:
    base, folder = exported
    stored = tf.train.list_variables(str(folder / "variables" / "variables"))
    shapes = [shape for _, shape in stored]
    assert shapes.count(list(base.get_layer("low_1_conv").kernel.shape)) == 1


@pytest.mark.slow
def test_flags_are_put_back(tmp_path: Path) -> None:
    model = tiny.classifier()
    set_trainable(model, "last:1")
    model.layers[1].inference_mode = True
    before = [v.path for v in model.trainable_variables]
    export_reusable(model.layers[1], to=tmp_path / "module")
    assert [v.path for v in model.trainable_variables] == before
    assert model.layers[1].inference_mode


def test_only_images(tmp_path: Path) -> None:
    inputs = keras.Input((3,))
    base = as_backbone(keras.Model(inputs, keras.layers.Dense(2)(inputs)))
    with pytest.raises(ArgumentError, match="only backbones of images and encoders"):
        export_reusable(base, to=tmp_path / "module")


GOLDEN = Path(__file__).parents[1] / "backbones" / "golden_encoders" / "bert"


@pytest.mark.slow
def test_an_encoder_of_texts(tmp_path: Path) -> None:
    base = tltf.backbone(f"bert:{GOLDEN}")
    folder = export_reusable(base, to=tmp_path / "module")
    again = tltf.backbone(f"hub:{folder}")
    assert again.tokenizer.vocabulary == base.tokenizer.vocabulary
    assert again.tokenizer.lowercase == base.tokenizer.lowercase
    ids = np.random.default_rng(0).integers(0, 20, (3, 7)).astype("int32")
    np.testing.assert_allclose(again(ids), base(ids), rtol=1e-4, atol=1e-6)
    assert list(again.blocks) == list(base.blocks)


KERAS_LAYER = """
import sys
import numpy as np, tensorflow_hub as hub, tf_keras
layer = hub.KerasLayer(sys.argv[1], trainable=True)
model = tf_keras.Sequential([tf_keras.Input((8, 8, 3)), layer, tf_keras.layers.Dense(2)])
model.compile("sgd", "mse")
x = np.random.default_rng(0).random((8, 8, 8, 3), "float32")
before = [v.numpy() for v in layer.variables]
assert len(layer.trainable_variables) == 12, len(layer.trainable_variables)
assert len(layer.losses) == 1
model.fit(x, np.ones((8, 2)), verbose=0)
assert all((v.numpy() != b).any() for v, b in zip(layer.variables, before) if "seed" not in v.name)
assert layer.compute_output_shape((None, 8, 8, 3)).as_list() == [None, 4]
print("accepted")
"""


@pytest.mark.slow
def test_tf_hubs_own_layer_trains_it(exported: tuple[tltf.Backbone, Path]) -> None:
    """``hub.KerasLayer`` checks the interface when it loads, and fine-tunes under Keras 2."""
    done = subprocess.run(
        [sys.executable, "-c", KERAS_LAYER, str(exported[1])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert "accepted" in done.stdout, done.stderr[-2000:]
    assert not {"tensorflow_hub", "tf_keras"} & set(sys.modules)

"""Taps: what they are, that they compute what their names say, and that a model keeps them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tltf
from tltf.errors import ArgumentError
from tltf.models import depths, gradcam, heads, saved
from tltf.models.classifier import backbone_of, feature_model
from tltf.models.tappool import DEVIATION, MEAN, QUADRANTS, TapPool, tap_layer
from tltf.models.taps import candidates, tapped
from tltf.training import boundary, freezing


@pytest.fixture(scope="module")
def mobile() -> keras.Model:
    with tf.device("cpu"):
        return tltf.backbone("MobileNetV2:alpha=0.35", weights="none", input_size=64)


def test_every_named_block_has_taps_and_the_last_means_come_last(mobile) -> None:
    found = candidates(mobile)
    weighted = [n for n, layers in mobile.blocks.items() if any(x.weights for x in layers)]
    assert list(dict.fromkeys(tap.block for tap in found)) == weighted
    last = found[-1]
    assert (last.block, last.inner, last.statistic) == ("Conv_1", False, MEAN)
    assert last.width == mobile.output_shape[-1]
    # The expanded layers of inverted bottlenecks are wider than what the block gives.
    assert {tap.layer for tap in found if tap.inner} >= {"block_6_depthwise_relu"}


@pytest.mark.parametrize("name", ["VGG16", "ResNet50", "EfficientNetB0", "DenseNet121"])
def test_other_families_have_depths_too(name: str) -> None:
    network = tltf.backbone(name, weights="none", input_size=32)
    found = candidates(network)
    assert len({tap.block for tap in found}) >= 5
    assert {group.name for group in depths.groups(found)} >= {"last", "top", "upper"}


def test_the_statistics_are_those_of_their_names() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype("float32")
    layer = TapPool([MEAN, DEVIATION, QUADRANTS])
    found = np.asarray(layer([x, x, x]))
    parts = [x[:, :2, :2], x[:, :2, 2:], x[:, 2:, :2], x[:, 2:, 2:]]
    slow = [x.mean((1, 2)), x.std((1, 2)), *(part.mean((1, 2)) for part in parts)]
    np.testing.assert_allclose(found, np.concatenate(slow, axis=1), atol=1e-5)


def test_padding_is_no_token() -> None:
    x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype("float32")
    present = np.array([[1, 1, 1, 0, 0, 0], [1] * 6], "float32")
    found = np.asarray(TapPool([MEAN, DEVIATION], masked=True)([present, x, x]))
    np.testing.assert_allclose(found[0, :3], x[0, :3].mean(0), atol=1e-6)
    np.testing.assert_allclose(found[0, 3:], x[0, :3].std(0), atol=1e-5)


def test_an_unknown_statistic_is_named() -> None:
    with pytest.raises(ArgumentError, match="'median', expected one of mean"):
        TapPool(["median"])


def model_of(network, *, outputs: int = 3) -> keras.Model:
    chosen = candidates(network)
    model = tltf.classifier(tapped(network, chosen), tltf.head(outputs))
    random = np.random.default_rng(0)
    layer = model.get_layer(heads.HEAD).get_layer(heads.LOGITS)
    layer.kernel.assign(random.normal(size=layer.kernel.shape) * 0.1)
    return model


def test_a_tapped_network_shares_its_weights_and_keeps_its_blocks() -> None:
    network = tiny.backbone()
    model = model_of(network)
    inner = backbone_of(model)
    assert {id(v) for v in inner.variables} == {id(v) for v in network.variables}
    assert [n for n in inner.blocks if n in network.blocks] == list(network.blocks)


def test_a_saved_model_gives_the_same_answers(tmp_path) -> None:
    model = model_of(tiny.backbone())
    images = tiny.arrays(4)[0]
    saved.save_model(tmp_path / "m", model)
    again = saved.load_model(tmp_path / "m")
    np.testing.assert_allclose(again(images), model(images), atol=1e-6)
    assert tap_layer(backbone_of(again)).statistics == tap_layer(backbone_of(model)).statistics


def test_the_features_of_such_a_model_are_its_last_tap() -> None:
    network = tiny.backbone()
    images = tiny.arrays(4)[0]
    found = feature_model(model_of(network))(images)
    plain = tf.reduce_mean(network(images), axis=(1, 2))
    np.testing.assert_allclose(found, plain, atol=1e-6)


def test_heat_maps_of_several_taps_add_up_to_the_logit() -> None:
    network = tiny.backbone()
    model = model_of(network)
    images = tf.constant(tiny.arrays(4)[0])
    ids = tf.constant([0, 1, 2, 0])
    inner, head = backbone_of(model), model.get_layer(heads.HEAD)
    shares = gradcam.tap_shares(inner, tap_layer(inner), head, images, ids)
    bias = head.get_layer(heads.LOGITS).bias.numpy()
    logits = tf.gather(model(images, training=False), ids, batch_dims=1) - bias[ids.numpy()]
    summed = sum(tf.reduce_sum(share, axis=(1, 2)) for share in shares)
    np.testing.assert_allclose(summed, logits, atol=1e-4)
    grid = gradcam.sum_on_grid(shares)
    np.testing.assert_allclose(tf.reduce_sum(grid, axis=(1, 2)), logits, atol=1e-4)
    heat = gradcam.grad_cam(model, images.numpy(), ids.numpy())
    assert heat.min() >= 0
    assert heat.max() == pytest.approx(1.0)


def test_above_a_boundary_the_taps_below_it_are_kept_with_the_map() -> None:
    """Tuning the top of a tapped network reads stored features, the pooled taps among them."""
    model = model_of(tiny.backbone())
    images = tiny.arrays(4)[0]
    freezing.set_trainable(model, "last:1")
    cut = boundary.split(model)
    crossing = cut.prefix(images)
    assert len(crossing) > 1
    np.testing.assert_allclose(cut.tail(crossing), model(images), atol=1e-5)


def test_a_budget_thins_from_below_and_keeps_the_top(mobile) -> None:
    found = candidates(mobile)
    whole = depths.within_budget(found, examples=100)
    few = depths.within_budget(found, examples=depths.MEMORY // 3000)
    assert sum(tap.width for tap in few) <= 3000 < sum(tap.width for tap in whole)
    assert few[-1] == whole[-1] == found[-1]
    assert not any(tap.inner for tap in few)
    least = depths.within_budget(found, examples=depths.MEMORY)
    assert least == (found[-1],)

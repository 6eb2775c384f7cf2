"""The cut: prefix and tail together are the whole model, bit for bit, in every family."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tltf
from tltf.training import boundary, freezing

SIDES = {
    "VGG16": 32,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
}
SLOW_SIDES = {
    "ResNet50": 32,
    "ResNet50V2": 32,
    "MobileNetV3Small": 32,
    "EfficientNetV2B0": 32,
    "ConvNeXtTiny": 32,
    "NASNetMobile": 32,
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
    "Xception": 71,
}


def check(name: str, side: int) -> None:
    model = tltf.classifier(
        tltf.backbone(name, weights="none", input_size=side), tltf.head(3, dropout=0.2)
    )
    images = np.random.default_rng(0).uniform(0, 255, (2, side, side, 3)).astype("float32")
    whole = model(images).numpy()
    sizes = []
    for unfreeze in ("none", "last:1", "last:2"):
        trains = freezing.set_trainable(model, unfreeze)
        cut = boundary.split(model)
        assert cut is not None
        crossing = keras.tree.flatten(cut.prefix(images))
        np.testing.assert_array_equal(cut.tail(crossing).numpy(), whole)
        assert {v.path for v in cut.tail.trainable_variables} == set(trains.trainable)
        assert not cut.prefix.trainable_variables
        inside = {id(v) for v in (*cut.prefix.variables, *cut.tail.variables)}
        assert inside >= {id(v) for v in model.variables}
        sizes.append(len(cut.prefix.variables))
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", SIDES)
def test_prefix_and_tail_are_the_whole(name: str) -> None:
    check(name, SIDES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_SIDES)
def test_prefix_and_tail_are_the_whole_in_every_family(name: str) -> None:
    check(name, SLOW_SIDES[name])


def test_nothing_to_keep_when_everything_trains() -> None:
    model = tltf.classifier(tltf.backbone("small_cnn", weights="none", input_size=8), tltf.head(2))
    freezing.set_trainable(model, "all")
    assert boundary.split(model) is None
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    assert boundary.split(plain) is None


def test_frozen_normalisation_on_top_is_not_stored_twice() -> None:
    """DenseNet's unfrozen block begins with a frozen BatchNorm beside its own input."""
    model = tltf.classifier(
        tltf.backbone("DenseNet121", weights="none", input_size=32), tltf.head(2)
    )
    freezing.set_trainable(model, "last:1")
    cut = boundary.split(model)
    assert cut is not None
    assert cut.names == ("pool4_pool",)


def test_a_lower_cut_is_taken_where_it_is_much_smaller() -> None:
    """A frozen expansion at the top would store eight times as much to save a little work."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(32, 3, padding="same", name="a_conv")(inputs)
    x = keras.layers.Conv2D(4, 1, name="b_project")(x)
    x = keras.layers.Conv2D(32, 1, name="c_expand")(x)
    x = keras.layers.Conv2D(8, 3, padding="same", name="d_conv")(x)
    model = tltf.classifier(keras.Model(inputs, x), tltf.head(2))
    freezing.set_trainable(model, "blocks:d_conv")
    cut = boundary.split(model)
    assert cut is not None
    assert cut.names == ("b_project",)
    assert 0.2 < cut.share < 0.4
    assert cut.values == 16 * 16 * 4


def test_several_tensors_cross_where_the_network_branches() -> None:
    inputs = keras.Input((8, 8, 3))
    left = keras.layers.Conv2D(4, 3, padding="same", name="a_left")(inputs)
    right = keras.layers.Conv2D(4, 5, padding="same", name="a_right")(inputs)
    top = keras.layers.Conv2D(4, 3, padding="same", name="b_top")(left)
    x = keras.layers.Add(name="c_add")([top, right])
    model = tltf.classifier(keras.Model(inputs, x), tltf.head(2))
    freezing.set_trainable(model, "blocks:b_top")
    cut = boundary.split(model)
    assert cut is not None
    assert set(cut.names) == {"a_left", "a_right"}
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(cut.tail(cut.prefix(images)).numpy(), model(images).numpy())


def test_arithmetic_is_counted_as_published() -> None:
    """VGG16 at 224 px: 15.3 G multiply-additions in its convolutions, twice as many operations."""
    from tltf.training import cost

    network = tltf.backbone("VGG16", weights="none", input_size=224)
    assert cost.graph_flops(network) == pytest.approx(2 * 15.35e9, rel=0.02)

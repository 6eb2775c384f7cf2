"""Official weight files in the cache: their names, what is there, and the classifier on top."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tltf
from tltf.backbones import applications, catalog, official
from tltf.backbones.weights import official_files
from tltf.selection.candidates import candidates

QUICK = ("MobileNet:alpha=0.5", "MobileNetV2:alpha=0.35", "MobileNetV3Small", "VGG16")
OPTIONS = ("MobileNetV3Large:alpha=0.75", "MobileNetV3Small:minimalistic=true", "MobileNetV2")


class _Asked(Exception):
    pass


@pytest.mark.filterwarnings("ignore:.*is undefined or non-square")
@pytest.mark.parametrize("top", [False, True])
@pytest.mark.parametrize(
    "name",
    [*QUICK, *OPTIONS,
     *(pytest.param(n, marks=pytest.mark.slow) for n in catalog.names() if n not in QUICK)],
)  # fmt: skip
def test_the_name_is_what_keras_asks_for(
    name: str, top: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = catalog.lookup(name)
    if choice.entry is None or not choice.entry.pretrained:
        pytest.skip("no official weights")

    def get_file(fname: str, *_: object, **__: object) -> str:
        raise _Asked(fname)

    monkeypatch.setattr(sys.modules[keras.utils.get_file.__module__], "get_file", get_file)
    with pytest.raises(_Asked) as asked:
        applications.constructor(choice.entry)(
            include_top=top, weights="imagenet", **choice.options
        )
    assert official.file_name(choice, top=top) == str(asked.value)


def test_what_is_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert official.cached() == []
    with pytest.raises(tltf.TltfError, match="no official weights are in"):
        candidates("all-cached")
    (tmp_path / "models").mkdir()
    for name in ("ResNet50", "MobileNet:alpha=0.25", "ConvNeXtTiny"):
        (tmp_path / "models" / official.file_name(catalog.lookup(name))).touch()
    assert official.cached() == ["MobileNet:alpha=0.25", "ResNet50", "ConvNeXtTiny"]
    assert [c.name for c in candidates("all-cached,VGG16")] == [*official.cached(), "VGG16"]


@pytest.mark.usefixtures("keras_home")
def test_the_classifier_that_came_with_a_network() -> None:
    """Its answers through the Backbone are those of Keras' own whole model."""
    choice = catalog.lookup("MobileNet:alpha=0.25")
    network = tltf.backbone("MobileNet:alpha=0.25")
    top = applications.classifier_of(network, choice)
    images = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype("float32")
    with official_files():
        whole = keras.applications.MobileNet(alpha=0.25, input_shape=(224, 224, 3))
    expected = whole(keras.applications.mobilenet.preprocess_input(tf.constant(images)))
    np.testing.assert_allclose(top(network(images)).numpy(), expected.numpy(), atol=1e-6)
    # of this one only the part without the classifier is in the cache
    other = catalog.lookup("MobileNetV2:alpha=0.35")
    assert applications.classifier_of(tltf.backbone(other.text), other) is None
    smaller = tltf.backbone("MobileNet:alpha=0.25", input_size=96)
    assert applications.classifier_of(smaller, choice) is None

"""``tltf.export`` and ``PublishBest`` on a model of texts: the servable takes strings."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tltf
from tltf.backbones.tokens import tokens_layer
from tltf.errors import ArgumentError
from tltf.serving.predicting import open_servable

pytestmark = pytest.mark.usefixtures("gate_in_this_process")

LABELS = ["low", "high"]


@pytest.fixture
def model(tmp_path: Path) -> keras.Model:
    path = tmp_path / "letters.txt"
    path.write_text("".join(f"{w} {' '.join(map(str, row))}\n"
                            for w, row in zip("abgh", np.eye(4), strict=True)))  # fmt: skip
    return tltf.classifier(tltf.backbone(f"vectors:{path}"), tltf.head(2, seed=0))


def ids(model: keras.Model, texts: list[str]) -> np.ndarray:
    tokens = tokens_layer(model).tokenizer
    return tokens.padded(tokens.encode(texts, max_length=16)).numpy()


def test_strings_in_answers_out(model: keras.Model, tmp_path: Path) -> None:
    texts = ["a b a", "g h", "", "a g \ud800"]
    folder = tltf.export(model, labels=LABELS, to=tmp_path / "new" / "served", examples=texts)
    served = open_servable(folder)
    assert served.key == "text"
    found = served.answer([b"a b a", b"g h"])["probabilities"]
    expected = tf.nn.softmax(model(ids(model, texts[:2]))).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    short = tltf.export(model, labels=LABELS, to=tmp_path / "short", max_length=4)
    cut = open_servable(short).answer([b"a b g h", b"a b"])["probabilities"]
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)


def test_the_size_of_the_other_modality_is_refused(model: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="image_size=32 for a model of texts"):
        tltf.export(model, labels=LABELS, to=tmp_path / "served", image_size=32)
    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    images = keras.Sequential(layers)
    with pytest.raises(ArgumentError, match="max_length=9 for a model of images"):
        tltf.export(images, labels=LABELS, to=tmp_path / "served", max_length=9)


def test_the_best_epoch_is_published(model: keras.Model, tmp_path: Path) -> None:
    texts = ["a b", "b a a", "g h", "h h g"]
    y = np.eye(2, dtype="float32")[[0, 0, 1, 1]]
    best = tltf.PublishBest(tmp_path / "served", labels=LABELS, monitor="loss", mode="min",
                            examples=texts)  # fmt: skip
    model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True))
    model.fit(ids(model, texts), y, epochs=1, verbose=0, callbacks=[best])
    assert best.published is not None
    assert open_servable(best.published).key == "text"

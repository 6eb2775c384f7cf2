"""A servable is verified elsewhere before anyone sees it, or it is never seen."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from pictures import encoded, pixels
from PIL import Image
from same_process import in_this_process

import tltf
from tltf.errors import ArgumentError, DataError, InputMissingError, OutputError
from tltf.serving import candidate, elsewhere
from tltf.serving.predicting import open_servable
from tltf.serving.signatures import Signatures, signatures

LABELS = ("cat", "dog")


def photos(folder: Path, n: int = 3) -> list[Path]:
    paths = [folder / f"{i}.png" for i in range(n)]
    for i, path in enumerate(paths):
        path.write_bytes(encoded(Image.fromarray(pixels(i)), "PNG"))
    return paths


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_servable_for_anybodys_model(tmp_path: Path) -> None:
    """With real files for the comparison; each weight is stored once; nothing of training."""
    image = keras.Input((tiny.SIDE, tiny.SIDE, 3))
    x = keras.layers.RandomFlip()(image)
    x = keras.layers.Dense(1500, activation="relu")(keras.layers.Flatten()(x))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Dropout(0.5)(x)))
    model.compile("adam", "mse")
    model.fit(*tiny.arrays(), verbose=0)
    examples = photos(tmp_path)
    folder = tltf.export(
        model, labels=LABELS, to=tmp_path / "served", temperature=1.5, threshold=0.5,
        examples=examples,
    )  # fmt: skip
    assert folder == tmp_path / "served" / "1"
    weights = sum(v.numpy().nbytes for v in model.weights)
    assert weights <= bytes_below(folder / "variables") <= 1.1 * weights
    assets = json.loads((folder / "assets" / "tltf.json").read_text())
    assert (assets["classes"], assets["temperature"], assets["threshold"]) == (
        list(LABELS),
        1.5,
        0.5,
    )
    request = json.loads((folder / "sample_request.json").read_text())
    sent = base64.b64decode(request["instances"][0]["image_bytes"]["b64"])
    assert sent == examples[0].read_bytes()
    opened = open_servable(tmp_path / "served")
    assert opened.classes == LABELS
    answer = opened.answer([sent])
    probabilities = tf.nn.softmax(model(resized(sent), training=False) / 1.5)
    np.testing.assert_allclose(answer["probabilities"], probabilities, atol=1e-6)
    found = set(tf.saved_model.load(str(folder)).signatures)
    assert found == {"serving_default", "predict", "classify"}
    assert (folder / "assets" / "labels.txt").read_text() == "cat\ndog\n"


def resized(data: bytes) -> tf.Tensor:
    from tltf.data import decoding

    return decoding.resize(decoding.decode(tf.constant(data)), tiny.SIDE)[None]


def test_another_answer_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever means the file differs from the model: here it holds another network."""
    original = candidate.write_saved_model

    def write(folder: Path, live: Signatures, **kept: str) -> None:
        other = signatures(tiny.classifier(norm=False), live.decision, intake=live.intake)
        original(folder, other, **kept)

    monkeypatch.setattr(candidate, "write_saved_model", write)
    model = tiny.classifier()
    model.layers[-1].layers[-1].bias.assign([0.0, 40.0])
    with pytest.raises(DataError, match="answers differently: ") as error:
        tltf.export(model, labels=LABELS, to=tmp_path / "served")
    kept = tmp_path / "served" / ".mismatch"
    assert error.value.kept == f"nothing was published; inputs and both outputs in {kept}"
    assert [item.name for item in (tmp_path / "served").iterdir()] == [".mismatch"]
    assert {"expected.npz", "first_call.npz", "C++_loader.npz"} <= {x.name for x in kept.iterdir()}
    monkeypatch.undo()
    monkeypatch.setattr(candidate, "loaders", in_this_process)
    tltf.export(model, labels=LABELS, to=tmp_path / "served")
    assert [item.name for item in (tmp_path / "served").iterdir()] == ["1"]


def test_a_servable_that_cannot_be_loaded_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"nothing")
    with elsewhere.loaders() as answers, pytest.raises(DataError, match="in a fresh process"):
        answers(tmp_path / "broken", "image_bytes", [b""])


def test_arguments(tmp_path: Path) -> None:
    model = tiny.classifier()
    with pytest.raises(ArgumentError, match="3 labels for a model with 2 logits"):
        tltf.export(model, labels="abc", to=tmp_path / "served")
    with pytest.raises(OutputError, match=r"model\.tflite is the name of a file"):
        tltf.export(model, labels="ab", to=tmp_path / "model.tflite")
    free = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalMaxPooling2D()])
    with pytest.raises(ArgumentError, match="the model takes any size"):
        tltf.export(free, labels="abc", to=tmp_path / "served")
    with pytest.raises(ArgumentError, match="keep=0, expected at least 1"):
        tltf.export(model, labels="ab", to=tmp_path / "served", keep=0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputMissingError, match="neither a run folder nor a servable"):
        open_servable(tmp_path)

"""A servable is verified elsewhere before anyone sees it, or it is never seen."""

from __future__ import annotations

import base64
import json
import os
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from pictures import encoded, pixels
from PIL import Image

import tltf
from tltf.errors import ArgumentError, DataError, InputMissingError, OutputError
from tltf.serving import export as export_module
from tltf.serving import parity, publish
from tltf.serving.predicting import open_servable

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
    answer = opened.answer(image_bytes=tf.constant([sent]))
    probabilities = tf.nn.softmax(model(resized(sent), training=False) / 1.5)
    np.testing.assert_allclose(answer["probabilities"], probabilities, atol=1e-6)
    assert list(tf.saved_model.load(str(folder)).signatures) == ["serving_default", "predict"]


def resized(data: bytes) -> tf.Tensor:
    from tltf.data import decoding

    return decoding.resize(decoding.decode(tf.constant(data)), tiny.SIDE)[None]


class Sabotage:
    """What is written is not what was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        original = export_module._write

        def write(folder: Path, live: Any, decision: Any, spec_json: str) -> None:
            changed = export_module.Decision(
                **{"task": decision.task, "classes": decision.classes, **changes}
            )
            model = tiny.classifier(norm=False)
            original(
                folder,
                export_module.functions(model, changed, image_size=tiny.SIDE),
                changed,
                spec_json,
            )

        monkeypatch.setattr(export_module, "_write", write)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"temperature": 9.0}, "probabilities by|confidence by|accepted"),
        ({"classes": LABELS[::-1]}, "label"),
    ],
)
def test_another_answer_is_not_published(
    changes: dict[str, Any], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Sabotage(monkeypatch, **changes)
    keras.utils.set_random_seed(0)
    model = tiny.classifier(norm=False)
    with pytest.raises(DataError, match=f"answers differently: .*({text})") as error:
        tltf.export(model, labels=LABELS, to=tmp_path / "served")
    assert error.value.kept == "nothing was published"
    assert list((tmp_path / "served").iterdir()) == []


def test_a_servable_that_cannot_be_loaded_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be used in a fresh process"):
        parity.fresh_answers(tmp_path / "broken", [b""])


def test_arguments(tmp_path: Path) -> None:
    model = tiny.classifier()
    with pytest.raises(ArgumentError, match="3 labels for a model with 2 logits"):
        tltf.export(model, labels="abc", to=tmp_path / "served")
    with pytest.raises(OutputError, match="create its parent first"):
        tltf.export(model, labels="ab", to=tmp_path / "no" / "served")
    free = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalMaxPooling2D()])
    with pytest.raises(ArgumentError, match="the model takes any size"):
        tltf.export(free, labels="abc", to=tmp_path / "served")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputMissingError, match="neither a run folder nor a servable"):
        open_servable(tmp_path)


def prepared(folder: Path, name: str) -> Path:
    temporary = folder / f".tmp-{name}"
    temporary.mkdir()
    (temporary / "saved_model.pb").write_text(name)
    return temporary


def test_versions_are_the_largest_plus_one(tmp_path: Path) -> None:
    assert publish.newest(tmp_path / "none") is None
    assert publish.commit(prepared(tmp_path, "a"), tmp_path).name == "1"
    (tmp_path / "41").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / ".tmp-99").mkdir()
    assert publish.commit(prepared(tmp_path, "b"), tmp_path).name == "42"
    assert publish.versions(tmp_path) == [1, 41, 42]
    assert publish.newest(tmp_path) == tmp_path / "42"


def test_two_publishers_get_two_numbers(tmp_path: Path) -> None:
    names = [f"p{i}" for i in range(8)]
    folders = [prepared(tmp_path, name) for name in names]
    barrier, done = threading.Barrier(len(folders)), []

    def publish_one(folder: Path) -> None:
        barrier.wait()
        done.append(publish.commit(folder, tmp_path))

    threads = [threading.Thread(target=publish_one, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert publish.versions(tmp_path) == list(range(1, 9))
    assert sorted((folder / "saved_model.pb").read_text() for folder in done) == names
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".tmp")]  # noqa: PTH208

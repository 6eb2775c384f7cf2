"""When features are kept, and how it is said; what precision a probe takes."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tltf
from tltf.training import boundary, environment, freezing, gain, probing


def cut() -> boundary.Boundary:
    model = tiny.classifier()
    freezing.set_trainable(model, "last:1")
    found = boundary.split(model)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("epochs", "views", "pays"), [(30, 4, True), (30, 1, True), (1, 4, False), (4, 4, False)]
)
def test_keeping_pays_from_more_epochs_than_views(epochs: int, views: int, pays: bool) -> None:
    found = gain.decide([(tltf.Phase("tune", epochs, 1e-3, unfreeze="last:1"), cut())], views=views)
    assert found.pays == pays
    assert f"{epochs} epoch" in found.reason


def test_nothing_frozen_nothing_kept() -> None:
    phase = tltf.Phase("tune", 9, 1e-3, unfreeze="all")
    assert not gain.decide([(phase, None)], views=1).pays


def build() -> keras.Model:
    keras.utils.set_random_seed(0)
    return tiny.backbone()


def test_a_probe_is_made_once_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "SHORT", 0.0)
    images = tf.random.stateless_uniform((4, tiny.SIDE, tiny.SIDE, 3), (0, 1), 0.0, 255.0)
    made = []

    def counted() -> keras.Model:
        made.append(keras.config.dtype_policy().name)
        return build()

    memory = tmp_path / "probes.json"
    what = {"backbone": "tiny", "batch": 4}
    first = probing.probed_precision(counted, images, what=what, remembered=memory)
    assert made == ["float32", "mixed_bfloat16"]
    assert "times as fast" in first.reason
    again = probing.probed_precision(counted, images, what=what, remembered=memory)
    assert (again.value, len(made)) == (first.value, 2)
    assert again.reason == f"{first.reason} (measured before)"
    probing.probed_precision(counted, images, what=what | {"batch": 8}, remembered=memory)
    assert len(made) == 4
    assert len(json.loads(memory.read_text())) == 2
    memory.write_text("{")
    assert probing.probed_precision(counted, images, what=what, remembered=memory).reason


@pytest.mark.parametrize(
    ("times", "cosine", "value"),
    [(2.0, 0.9999, "bfloat16"), (2.0, 0.99, "float32"), (1.05, 1.0, "float32")],
)
def test_bfloat16_only_where_faster_and_alike(
    times: float, cosine: float, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    durations = iter([times] * probing.REPEATS + [1.0] * probing.REPEATS)
    monkeypatch.setattr(probing, "_seconds", lambda *_: next(durations))
    monkeypatch.setattr(probing, "least_cosine", lambda *_: cosine)
    images = tf.zeros((1, tiny.SIDE, tiny.SIDE, 3))
    assert probing.probed_precision(build, images, what={}, remembered=None).value == value


def test_a_pass_too_short_to_time_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_seconds", lambda *_: probing.SHORT / 2)
    images = tf.zeros((1, tiny.SIDE, tiny.SIDE, 3))
    found = probing.probed_precision(build, images, what={}, remembered=None)
    assert (found.value, "nothing to gain" in found.reason) == ("float32", True)


def test_the_cosine_is_of_the_least_alike_example() -> None:
    a = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert probing.least_cosine(a, np.array([[2.0, 0.0], [1.0, 0.0]])) == pytest.approx(0.5**0.5)


def test_without_native_bfloat16_and_when_deterministic_nothing_is_measured() -> None:
    assert not environment.may_probe(native=False)
    assert environment.choose_precision("auto", deterministic=True).value == "float32"
    assert environment.choose_precision("bfloat16", deterministic=True).value == "bfloat16"

"""Each way in which a servable goes wrong in this field is stopped by the gate (FAULTS C6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf
import tiny
from same_process import in_this_process

import tltf
from tltf.errors import DataError
from tltf.serving import candidate, decision, intake, parity, signatures, writing

LABELS = ("cat", "dog")


def training_left_on(patch: pytest.MonkeyPatch) -> None:
    """Dropout fires in every answer."""
    original = signatures.with_features

    def noisy(model: keras.Model) -> Callable[..., Any]:
        whole = original(model)
        return lambda x, training: whole(x, training=True)

    patch.setattr(signatures, "with_features", noisy)


def augmentation_left_on(patch: pytest.MonkeyPatch) -> None:
    """A flip in the reading, the same one every time: repeatable, and still wrong."""
    original = intake.ImageIntake._decoded

    def flipped(self: intake.ImageIntake, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, good = original(self, data)
        return tf.image.flip_left_right(image), good

    trainers = parity.trainer_logits

    def unharmed(*arguments: Any, **options: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(intake.ImageIntake, "_decoded", original)
            return trainers(*arguments, **options)

    patch.setattr(intake.ImageIntake, "_decoded", flipped)
    patch.setattr(parity, "trainer_logits", unharmed)


def another_temperature(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        signatures,
        "answers",
        lambda logits, rule: decision.answers(logits, dataclasses.replace(rule, temperature=9.0)),
    )


def permuted_labels(patch: pytest.MonkeyPatch) -> None:
    """The graph names the classes in another order."""
    patch.setattr(
        signatures,
        "answers",
        lambda logits, rule: decision.answers(
            logits, dataclasses.replace(rule, classes=LABELS[::-1])
        ),
    )


def permuted_label_file(patch: pytest.MonkeyPatch) -> None:
    """The graph is right, the file that clients read is not."""
    patch.setattr(writing, "labels_text", lambda served: "dog\ncat\n")


def no_reject_rule(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        signatures,
        "answers",
        lambda logits, rule: decision.answers(logits, dataclasses.replace(rule, threshold=0.0)),
    )


@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("sabotage", "text"),
    [
        (training_left_on, "(probabilities by|label in)"),
        (augmentation_left_on, "(probabilities by|label in)"),
        (another_temperature, "probabilities by"),
        (permuted_labels, "label in 4 of 4 rows"),
        (permuted_label_file, "labels.txt is not in the order"),
        (no_reject_rule, "accepted in 4 of 4 rows"),
    ],
)
def test_the_gate_refuses(
    sabotage: Callable[[pytest.MonkeyPatch], None],
    text: str,
    fresh: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keras.utils.set_random_seed(0)
    model = tiny.classifier(dropout=0.5, norm=False)
    kernel = model.layers[-1].layers[-1].kernel
    kernel.assign(kernel / 20)  # probabilities far from 0 and 1
    sabotage(monkeypatch)
    if not fresh:
        monkeypatch.setattr(candidate, "loaders", in_this_process)
    with pytest.raises(DataError, match=f"answers differently: {text}") as error:
        tltf.export(model, labels=LABELS, to=tmp_path / "served", threshold=0.99)
    assert error.value.exit_code == 65
    assert {item.name for item in (tmp_path / "served").iterdir()} <= {".mismatch"}


def test_without_sabotage_it_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the tests above would show nothing."""
    monkeypatch.setattr(candidate, "loaders", in_this_process)
    model = tiny.classifier(dropout=0.5)
    assert tltf.export(model, labels=LABELS, to=tmp_path / "served").name == "1"

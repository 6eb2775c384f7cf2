"""ExactResume in a plain ``model.fit``: stopped anywhere, the same bits in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tltf
from tltf.errors import ArgumentError, MismatchError

EPOCHS = 3


class Stop(Exception):
    """The process ends here."""


class StopAt(keras.callbacks.Callback):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stop


def shuffled(epoch: tf.Tensor) -> tf.data.Dataset:
    x, y = tiny.arrays(12)
    data = tf.data.Dataset.from_tensor_slices((x, y))
    return data.shuffle(12, seed=epoch, reshuffle_each_iteration=False).batch(4)


def made() -> keras.Model:
    model = keras.Sequential([
        keras.Input((tiny.SIDE, tiny.SIDE, 3)),
        keras.layers.Flatten(),
        keras.layers.Dense(4, kernel_initializer=keras.initializers.GlorotNormal(seed=1)),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3, seed=2),
        keras.layers.Dense(2, kernel_initializer=keras.initializers.GlorotNormal(seed=3)),
    ])  # fmt: skip
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-2), loss, metrics=["accuracy"])
    return model


def fitted(folder: Path, stop: int = 0) -> tuple[list[bytes], dict[str, Any], Any]:
    plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=10.0)
    resume = tltf.ExactResume(folder, save_every="1steps", others=[plateau])
    model = made()
    history = model.fit(
        resume.data(shuffled),
        epochs=EPOCHS,
        initial_epoch=resume.initial_epoch,
        validation_data=tiny.dataset(8, seed=1),
        callbacks=[plateau, resume, *([StopAt(stop)] if stop else [])],
        verbose=0,
    ).history
    held = [*model.variables, *model.optimizer.variables]
    return [v.numpy().tobytes() for v in held], {k: v[-1:] for k, v in history.items()}, resume


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], dict[str, Any]]:
    return fitted(tmp_path_factory.mktemp("whole"))[:2]


@pytest.mark.parametrize(
    "stop", [pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow), 7]
)
def test_the_same_bits_and_the_same_last_epoch(whole: Any, tmp_path: Path, stop: int) -> None:
    with pytest.raises(Stop):
        fitted(tmp_path, stop)
    bits, last, resume = fitted(tmp_path)
    assert resume.resumed_from == {"epoch": (stop - 1) // 3, "step": (stop - 1) % 3 + 1}
    assert resume.steps_done == 3 * EPOCHS
    assert last == whole[1]
    assert bits == whole[0]


def test_a_finished_fit_trains_nothing_and_has_its_weights(whole: Any, tmp_path: Path) -> None:
    fitted(tmp_path)
    resume = tltf.ExactResume(tmp_path)
    assert resume.initial_epoch == EPOCHS


def test_what_it_needs(tmp_path: Path) -> None:
    model = made()
    with pytest.raises(ArgumentError, match=r"resume\.data\(train\)"):
        model.fit(tiny.dataset(), callbacks=[tltf.ExactResume(tmp_path)], verbose=0)
    with pytest.raises(ArgumentError, match="save_every='often'"):
        tltf.ExactResume(tmp_path, save_every="often")
    with pytest.raises(Stop):
        fitted(tmp_path, 1)
    other = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(),
                              keras.layers.Dense(2)])  # fmt: skip
    other.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    resume = tltf.ExactResume(tmp_path)
    with pytest.raises(MismatchError, match="of another model"):
        other.fit(resume.data(shuffled), epochs=1, callbacks=[resume], verbose=0)


def test_arrays_are_not_needed_for_a_plain_dataset(tmp_path: Path) -> None:
    resume = tltf.ExactResume(tmp_path)
    batches = [x for x, _ in resume.data(tiny.dataset())]
    np.testing.assert_array_equal(np.concatenate(batches), tiny.arrays()[0])

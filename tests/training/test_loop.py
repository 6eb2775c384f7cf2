"""tltf's loop gives what ``model.fit`` gives, and refuses what ``fit`` passes over."""

from __future__ import annotations

import math
import os
import signal
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tltf
from tltf.errors import DataError, DivergenceError, InterruptedRun
from tltf.training import loop, phases
from tltf.training.interrupts import stop_requests

PHASE = tltf.Phase("tune", 3, 1e-2, unfreeze="last:2", batch_norm="adapt")


def entered() -> keras.Model:
    model = tiny.classifier(dropout=0.3, head_dropout=0.3)
    phases.enter_phase(model, PHASE, steps_per_epoch=3)
    return model


class Calls(keras.callbacks.Callback):
    """Which hooks were called, in order, with their numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.seen.append(("train_begin",))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.seen.append(("epoch_begin", epoch))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.seen.append(("batch_begin", batch))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(("batch_end", batch, sorted(logs or {})))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen.append(("epoch_end", epoch, sorted(logs or {})))

    def on_train_end(self, logs: Any = None) -> None:
        self.seen.append(("train_end",))


def test_the_same_losses_weights_and_calls_as_fit() -> None:
    """With Dropout, whose seeds advance alike, and with validation."""
    train, validation = tiny.dataset(10), tiny.dataset(6, seed=1)
    ours, theirs = entered(), entered()
    our_calls, their_calls = Calls(), Calls()
    history = theirs.fit(
        train, epochs=3, validation_data=validation, verbose=0, callbacks=[their_calls]
    ).history
    recorded = keras.callbacks.CallbackList([our_calls], add_history=True, model=ours)
    loop.run_epochs(
        ours,
        loop.DatasetEpochs(train),
        epochs=3,
        validation=validation,
        callbacks=recorded,
    )
    assert ours.history.history.keys() == history.keys()
    for key, values in history.items():
        np.testing.assert_allclose(ours.history.history[key], values, rtol=1e-6, err_msg=key)
    for mine, other in zip(ours.variables, theirs.variables, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-6, atol=1e-8)
    assert our_calls.seen == their_calls.seen


def run(model: keras.Model, data: loop.EpochData, **options: Any) -> None:
    own = keras.callbacks.CallbackList(options.pop("own", []), model=model)
    loop.run_epochs(model, data, callbacks=own, **{"epochs": 2, **options})


def test_a_callback_can_end_the_training() -> None:
    class Enough(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = True

    calls = Calls()
    run(entered(), loop.DatasetEpochs(tiny.dataset()), own=[Enough(), calls], epochs=9)
    assert [call[0] for call in calls.seen].count("epoch_end") == 1
    assert calls.seen[-1] == ("train_end",)


def broken(labels: Any) -> tf.data.Dataset:
    x, y = tiny.arrays()
    y = np.where(np.isfinite(labels), y, labels).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(value: float) -> None:
    with pytest.raises(DivergenceError, match=r"the loss is (nan|inf|-inf) \(epoch 1, batch 1\)"):
        run(entered(), loop.DatasetEpochs(broken(np.float32(value))))
    # Between two looks the mean of the epoch still carries it.
    late = np.ones((12, 1), "float32")
    late[-1] = value
    with pytest.raises(DivergenceError, match=r"epoch 1, batch 3") as error:
        run(entered(), loop.DatasetEpochs(broken(late)))
    assert error.value.exit_code == 80
    assert "lower the learning rate" in error.value.next_action


class Promised:
    """Says that it has more batches than it gives."""

    steps_per_epoch = 4

    def train_dataset(self, epoch: int, start_step: int = 0, *, epochs: int = 1) -> tf.data.Dataset:
        return tiny.dataset().skip(start_step)


def test_an_epoch_that_ends_early_is_an_error() -> None:
    """FACTS 6.3: ``fit`` warns and goes on."""
    with pytest.raises(DataError, match="epoch 1 ended after 3 of 4 batches"):
        run(entered(), Promised())


def test_a_dataset_says_how_many_steps() -> None:
    data = tiny.dataset(10)
    assert loop.DatasetEpochs(data).steps_per_epoch == 3
    counted = data.filter(lambda x, y: True)
    assert loop.DatasetEpochs(counted).steps_per_epoch == 3
    rest = loop.DatasetEpochs(data).train_dataset(0, 2, epochs=2)
    assert [len(x) for x, _ in rest] == [2, 4, 4, 2]


def test_a_signal_stops_after_the_batch_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests() as stop:
        assert not stop

        class Kill(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
                if batch == 1:
                    os.kill(os.getpid(), signal.SIGTERM)

        positions: list[tuple[int, int]] = []
        with pytest.raises(InterruptedRun, match="epoch 1, batch 2") as error:
            run(
                entered(),
                loop.DatasetEpochs(tiny.dataset()),
                own=[Kill()],
                stop=stop,
                after_step=lambda *position: positions.append(position),
            )
    assert error.value.exit_code == 143
    assert positions == [(0, 1), (0, 2)]
    assert signal.getsignal(signal.SIGTERM) is before

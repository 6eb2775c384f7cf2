"""Averages of the weights: by a slow transcription, judged and kept, exact when resumed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tiny

import tltf
from tltf.errors import ArgumentError, InterruptedRun
from tltf.methods import average
from tltf.recipes import averaged

EPOCHS, STEPS = 3, 3


def phase(how: str, **options: Any) -> tltf.Phase:
    return tltf.Phase("tune", EPOCHS, 3e-2, unfreeze="last:2", average=how, **options)


class Recorder(keras.callbacks.Callback):
    """Weights that train, after each step, and what the end of each epoch shows."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[list[np.ndarray]] = []
        self.shown: list[list[np.ndarray]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps.append([v.numpy() for v in self.model.trainable_variables])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.shown.append([v.numpy() for v in self.model.trainable_variables])


def means(steps: list[list[np.ndarray]], how: str) -> list[list[np.ndarray]]:
    """The mean after each step: equation by equation, in float64."""
    kind, number = average(how)
    found, mean, n = [], [w.astype(np.float64) for w in steps[0]], 0
    start = len(steps) - int(np.ceil(number * len(steps)))
    for t, weights in enumerate(steps):
        if kind == "ema" and t:
            mean = [number * m + (1 - number) * w for m, w in zip(mean, weights, strict=True)]
        elif kind == "swa":
            if t < start:
                mean = weights
            else:
                n += 1
                first = len(steps[:t]) + 1 - n
                mean = [np.mean([s[i] for s in steps[first : t + 1]], axis=0)
                        for i in range(len(weights))]  # fmt: skip
        found.append(mean)
    return found


def run(how: str, folder: Path | None = None, *callbacks: Any, restore: bool = False,
        **settings: Any) -> tuple[keras.Model, Any]:  # fmt: skip
    options = settings.pop("options", {})
    model = tiny.classifier(norm=False)
    result = tltf.fit_phases(
        model, [phase(how, **options)], tiny.dataset(), validation=tiny.dataset(8, seed=1),
        progress=False, callbacks=callbacks, restore_best=restore, folder=folder,
        **settings,
    )  # fmt: skip
    return model, result


@pytest.mark.parametrize("how", ["ema:0.8", "swa:0.5", "swa:1"])
@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "sgd", "block_lr_decay": 0.5}], ids=["adam", "rates by block"]
)
def test_what_is_kept_and_judged_is_the_mean(how: str, options: dict[str, Any]) -> None:
    recorder = Recorder()
    model, result = run(how, None, recorder, options=options)
    expected = means(recorder.steps, how)
    assert len(expected) == EPOCHS * STEPS
    kept = [v.numpy() for v in model.trainable_variables]
    for one, other in zip(kept, expected[-1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert max(np.abs(a - b).max() for a, b in zip(kept, recorder.steps[-1], strict=True)) > 1e-4
    for epoch, shown in enumerate(recorder.shown):
        for one, other in zip(shown, expected[STEPS * (epoch + 1) - 1], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
    loss = model.evaluate(tiny.dataset(8, seed=1), verbose=0)[0]
    assert result.history[-1]["val_loss"] == pytest.approx(loss, abs=1e-6)


def test_averaging_does_not_disturb_what_trains() -> None:
    plain, watched = Recorder(), Recorder()
    run("none", None, plain)
    run("ema:0.9", None, watched)
    for one, other in zip(plain.steps, watched.steps, strict=True):
        assert [a.tobytes() for a in one] == [b.tobytes() for b in other]


def test_the_best_epoch_is_that_of_the_means() -> None:
    recorder = Recorder()
    options = {"optimizer": "sgd", "schedule": "constant", "warmup": 0.0}
    model, result = run("ema:0.5", None, recorder, restore=True, options=options)
    losses = [row["val_loss"] for row in result.history]
    best = recorder.shown[int(np.argmin(losses))]
    for variable, value in zip(model.trainable_variables, best, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


class Stop(keras.callbacks.Callback):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)


class StopValidating(keras.callbacks.Callback):
    """Ctrl-C at the end of an epoch, when the means stand in the model."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.wanted = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.wanted:
            os.kill(os.getpid(), signal.SIGINT)


# Behind the last epoch nothing is left to train, and the means are still to be put in place.
@pytest.mark.parametrize(
    ("how", "kind", "at"),
    [
        ("ema:0.8", Stop, 5), ("swa:0.7", Stop, 9), ("ema:0.8", StopValidating, 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [
            ("swa:0.7", Stop, 5), ("ema:0.8", Stop, 6), ("swa:0.7", Stop, 6), ("ema:0.8", Stop, 9),
            ("ema:0.8", StopValidating, 1), ("swa:0.7", StopValidating, 1),
            ("swa:0.7", StopValidating, 2),
        ]),
    ],
)  # fmt: skip
def test_interrupted_and_resumed_gives_the_same_bits(
    how: str, kind: type[keras.callbacks.Callback], at: int, tmp_path: Path
) -> None:
    def bits(model: keras.Model) -> list[bytes]:
        return [np.asarray(v.numpy()).tobytes() for v in model.variables]

    whole, found = run(how, tmp_path / "whole")
    with pytest.raises(InterruptedRun):
        run(how, tmp_path / "cut", kind(at))
    again, resumed = run(how, tmp_path / "cut")
    assert bits(again) == bits(whole)
    rows = [[{k: v for k, v in row.items() if "second" not in k} for row in x.history]
            for x in (found, resumed)]  # fmt: skip
    assert rows[0] == rows[1]


@pytest.mark.parametrize("how", ["ema:0.8", "swa:0.5"])
def test_a_batch_in_parts_has_the_same_means(how: str) -> None:
    whole, _ = run(how)
    parts, _ = run(how, micro_batch=2)
    for one, other in zip(whole.variables, parts.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-5)


def test_a_plain_fit_keeps_the_exponential_one_and_cannot_count_for_the_other() -> None:
    model, recorder = tiny.classifier(norm=False), Recorder()
    tltf.enter_phase(model, phase("ema:0.8"), steps_per_epoch=STEPS)
    model.fit(tiny.dataset(), epochs=EPOCHS, verbose=0, callbacks=[recorder])
    expected = means(recorder.steps, "ema:0.8")[-1]
    for variable, mean in zip(model.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), mean, atol=1e-6)
    with pytest.raises(ArgumentError, match=r"only tltf\.fit_phases counts") as error:
        tltf.enter_phase(model, phase("swa"), steps_per_epoch=STEPS)
    assert "ema:0.99" in error.value.next_action


def test_a_phase_without_epochs_stays_as_it_is() -> None:
    model = tiny.classifier(norm=False)
    before = tiny.values(model)
    plan = [tltf.Phase("tune", 0, 1e-2, unfreeze="last:1", average="ema:0.9")]
    tltf.fit_phases(model, plan, tiny.dataset(), progress=False)
    assert not tiny.moved(before, tiny.values(model))


@pytest.mark.parametrize(
    "text", ["ema", "ema:1", "ema:-0.1", "ema:x", "swa:2", "swa:x", "none:1", "emma:0.9", ""]
)
def test_a_wrong_average_is_said(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"expected none, ema:MOMENTUM in \[0, 1\), or swa"):
        phase(text)


def test_statistics_are_of_no_average() -> None:
    with pytest.raises(ArgumentError, match="statistics are of each step's weights") as error:
        phase("swa", batch_norm="adapt")
    assert "batch_norm=frozen" in error.value.next_action


def test_the_plan_says_what_a_mean_looks_back_on() -> None:
    assert averaged(phase("none"), 3) is None
    assert "9 steps; the weights after the first still count 92.3%, which is much" in str(
        averaged(phase("ema:0.99"), 3)
    )
    assert "after the first still count 0.4%" in str(averaged(phase("ema:0.5"), 3))
    assert "the last 3 of 9 steps" in str(averaged(phase("swa"), 3))
    empty = tltf.Phase("tune", 0, 1e-2, unfreeze="last:1", average="swa")
    assert "changes nothing" in str(averaged(empty, 3))
    head = tltf.Phase("head", 1, 1e-2, unfreeze="none", average="swa")
    assert "changes nothing" in str(averaged(head, 3, "lbfgs"))
    assert "the last 1 of 3 steps" in str(averaged(head, 3))

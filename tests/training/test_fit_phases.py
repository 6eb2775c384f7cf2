"""All phases of a model, and the promise: killed anywhere, the same bits in the end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tiny
from pictures import write_digit_folder

import tltf
from tltf.data.batches import Batches
from tltf.data.manifest import Manifest
from tltf.data.scan import scan
from tltf.data.sources import load
from tltf.errors import DivergenceError, InterruptedRun, TrainabilityError
from tltf.training import states

PLAN = (
    tltf.Phase("head", 2, 1e-2, unfreeze="none"),
    tltf.Phase("tune", 3, 3e-3, unfreeze="last:2", batch_norm="adapt", optimizer="adamw",
               weight_decay=1e-3, block_lr_decay=0.5),
)  # fmt: skip


def without_seconds(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if not k.endswith(("_seconds", "_per_second"))}
        for row in rows
    ]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_phases_on_a_dataset_and_their_history(tmp_path: Path) -> None:
    model = tiny.classifier(head_dropout=0.2)
    before = tiny.values(model)
    folder = tmp_path / "not" / "yet"
    result = tltf.fit_phases(
        model,
        PLAN,
        tiny.dataset(),
        validation=tiny.dataset(6, seed=1),
        folder=folder,
        progress=False,
    )
    assert [(row["phase"], row["epoch"]) for row in result.history] == [
        *(("head", 1), ("head", 2)),
        *(("tune", 1), ("tune", 2), ("tune", 3)),
    ]
    assert rows_of(folder) == json.loads(json.dumps(result.history))
    keys = {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "epoch_seconds"}
    assert all(keys <= row.keys() for row in result.history)
    assert set(result.movements["head"].moved) == {"head/logits/kernel", "head/logits/bias"}
    frozen = {path for path in before if path.startswith("low_1")}
    assert not frozen & tiny.moved(before, tiny.values(model))
    assert result.resumed_from is None


def test_it_learns() -> None:
    """One separable batch is learned by heart."""
    model = tiny.classifier()
    plan = [tltf.Phase("all", 40, 1e-2, unfreeze="all", batch_norm="adapt")]
    result = tltf.fit_phases(model, plan, tiny.dataset(12, batch=12), progress=False)
    assert result.history[-1]["loss"] < 0.2 < result.history[0]["loss"]
    assert result.history[-1]["accuracy"] == 1.0


def test_the_best_epoch_is_what_stays() -> None:
    """A rate that ruins the model after a good start."""
    model = tiny.classifier(norm=False)
    validation = tiny.dataset(12, seed=1)
    plan = [tltf.Phase("p", 6, 2.0, unfreeze="all", optimizer="sgd", schedule="constant", warmup=0)]
    result = tltf.fit_phases(
        model, plan, tiny.dataset(), validation=validation, progress=False, early_stop=3
    )
    losses = [row["val_loss"] for row in result.history]
    assert model.evaluate(validation, verbose=0)[0] == pytest.approx(min(losses), rel=1e-5)


def test_a_phase_of_no_epochs_changes_nothing() -> None:
    model = tiny.classifier()
    before = tiny.values(model)
    plan = [tltf.Phase("head", 0, 1e-2, unfreeze="none")]
    result = tltf.fit_phases(model, plan, tiny.dataset(), progress=False)
    assert (result.history, tiny.moved(before, tiny.values(model))) == ([], set())


def test_a_phase_that_breaks_the_freeze_does_not_end_well() -> None:
    class Meddling(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            kernel = self.model.get_layer("body").get_layer("low_1_conv").kernel
            kernel.assign(kernel + 1e-6)

    with pytest.raises(TrainabilityError, match="low_1_conv/kernel"):
        tltf.fit_phases(
            tiny.classifier(), PLAN, tiny.dataset(), callbacks=[Meddling()], progress=False
        )


def test_divergence_names_the_phase_and_what_is_kept(tmp_path: Path) -> None:
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if "mid_2" in str([v.path for v in self.model.trainable_variables]):
                bias = self.model.get_layer("head").get_layer("logits").bias
                bias.assign(keras.ops.full(bias.shape, np.nan))

    with pytest.raises(DivergenceError, match="phase tune, epoch 1, batch 1") as error:
        tltf.fit_phases(
            tiny.classifier(),
            PLAN,
            tiny.dataset(),
            folder=tmp_path,
            callbacks=[Poison()],
            progress=False,
        )
    assert error.value.kept == "state of step 6"


def test_own_losses_and_metrics() -> None:
    model = tiny.classifier()
    result = tltf.fit_phases(
        model,
        PLAN[:1],
        tiny.dataset().map(lambda x, y: (x, keras.ops.argmax(y, axis=-1))),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=lambda: [keras.metrics.SparseCategoricalAccuracy(name="right")],
        progress=False,
    )
    assert "right" in result.history[-1]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = write_digit_folder(tmp_path_factory.mktemp("digits") / "d", (0, 1), 14)
    return scan(load(str(folder)), max_image_pixels=10**6)


class Fitting:
    """The same training every time: augmentation, mixing, dropout, early stopping."""

    def __init__(self, manifest: Manifest) -> None:
        train = [r for i, r in enumerate(manifest.records) if i % 3]
        held_out = [r for i, r in enumerate(manifest.records) if not i % 3]
        options = {
            "classes": manifest.classes,
            "task": "single_label",
            "image_size": tiny.SIDE,
            "batch_size": 6,
        }
        self.train = Batches(train, augment="medium", mix="mixup", seed=3, **options)
        self.validation = Batches(held_out, **options)

    def __call__(
        self,
        folder: Path,
        *callbacks: keras.callbacks.Callback,
        early_stop: int = 2,
        save_every: str = "1000000s",
    ) -> tuple[keras.Model, tltf.training.fit.FitResult]:
        model = tiny.classifier(dropout=0.2, head_dropout=0.2)
        rest = model.get_layer("head").get_layer("logits").kernel
        rest.assign(np.random.default_rng(0).normal(0, 0.1, rest.shape))
        result = tltf.fit_phases(
            model,
            PLAN,
            self.train,
            validation=self.validation.eval_dataset(),
            early_stop=early_stop,
            callbacks=callbacks,
            folder=folder,
            save_every=save_every,
            progress=False,
        )
        return model, result


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C in the given phase, epoch and batch (all from 0), as the terminal sends it."""

    def __init__(self, phase: int, epoch: int, batch: int) -> None:
        super().__init__()
        self.wanted, self.phase = (phase, epoch, batch), -1

    def on_train_begin(self, logs: Any = None) -> None:
        self.phase += 1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if (self.phase, self.epoch, batch) == self.wanted:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def fitting(digits: Manifest) -> Fitting:
    return Fitting(digits)


Outcome = tuple[list[bytes], list[dict[str, Any]]]


def outcome(model: keras.Model, folder: Path) -> Outcome:
    return [np.asarray(v.numpy()).tobytes() for v in model.variables], without_seconds(
        rows_of(folder)
    )


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def uninterrupted(fitting: Fitting, whole_folder: Path) -> Outcome:
    model, _ = fitting(whole_folder)
    return outcome(model, whole_folder)


# An epoch has three batches; position is (phase, epoch, batch), counted from 0.
@pytest.mark.parametrize(
    ("where", "kept"),
    [
        pytest.param((0, 0, 1), ("head", 0, 2), id="first phase", marks=pytest.mark.slow),
        pytest.param((0, 1, 2), ("head", 1, 3), id="last batch of a phase", marks=pytest.mark.slow),
        pytest.param((1, 0, 0), ("tune", 0, 1), id="first step of the second phase"),
        pytest.param((1, 1, 1), ("tune", 1, 2), id="second phase", marks=pytest.mark.slow),
        pytest.param(
            (1, 1, 2), ("tune", 1, 3), id="last batch of an epoch", marks=pytest.mark.slow
        ),
    ],
)
def test_interrupted_and_resumed_gives_the_same_bits(
    fitting: Fitting,
    uninterrupted: Outcome,
    tmp_path: Path,
    where: tuple[int, int, int],
    kept: tuple[str, int, int],
) -> None:
    with pytest.raises(InterruptedRun, match="interrupted") as error:
        fitting(tmp_path, Interrupt(*where))
    assert error.value.exit_code == 130
    assert error.value.kept.startswith("state of step ")
    assert "same command again" in error.value.next_action
    model, result = fitting(tmp_path)
    assert result.resumed_from is not None
    weights, history = outcome(model, tmp_path)
    assert history == uninterrupted[1]
    assert weights == uninterrupted[0]
    assert tuple(result.resumed_from.values()) == kept


def test_saving_after_every_step_changes_nothing(
    fitting: Fitting, uninterrupted: Outcome, tmp_path: Path
) -> None:
    model, _ = fitting(tmp_path, save_every="0s")
    assert outcome(model, tmp_path) == uninterrupted
    assert len(list((tmp_path / "state").iterdir())) == states.KEEP


def test_a_finished_training_is_not_trained_again(
    fitting: Fitting, uninterrupted: Outcome, whole_folder: Path
) -> None:
    model, result = fitting(whole_folder, Forbidden())
    assert outcome(model, whole_folder) == uninterrupted
    assert result.resumed_from == {"phase": "tune", "epoch": 3, "step": 0}


class Forbidden(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        raise AssertionError("a step was trained")


@pytest.mark.slow
def test_early_stopping_survives_the_interruption(fitting: Fitting, tmp_path: Path) -> None:
    """The waiting epochs are part of the state."""

    class Worse(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["val_loss"] = 1.0 + epoch

    with pytest.raises(InterruptedRun):
        fitting(tmp_path, Worse(), Interrupt(1, 1, 1), early_stop=1)
    fitting(tmp_path, Worse(), early_stop=1)
    epochs = [(row["phase"], row["epoch"]) for row in rows_of(tmp_path)]
    assert epochs == [("head", 1), ("head", 2), ("tune", 1), ("tune", 2)]

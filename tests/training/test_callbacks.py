"""The callbacks in plain ``model.fit``, as anyone uses them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny

import tltf
from tltf.errors import ArgumentError, TrainabilityError
from tltf.training import freezing

HEAD = tltf.Phase("head", 2, 1e-2, unfreeze="none")


def guide_model() -> keras.Model:
    """The usual way, whose ``training=False`` Keras ignores inside ``fit`` (keras#20285)."""
    base = tiny.body(dropout=0.2)
    base.trainable = True
    for layer in base.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    image = keras.Input((tiny.SIDE, tiny.SIDE, 3))
    x = keras.layers.GlobalAveragePooling2D()(base(image, training=False))
    model = keras.Model(image, keras.layers.Dense(tiny.CLASSES)(x))
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    return model


class TestTrainabilityGuard:
    def test_a_stale_compile_raises(self) -> None:
        """FACTS 5.2: plain Keras trains on the old list and says nothing."""
        model = tiny.classifier()
        tltf.enter_phase(model, HEAD)
        model.get_layer("body").trainable = True
        with pytest.raises(TrainabilityError, match="changed after `compile`"):
            model.fit(tiny.dataset(), verbose=0, callbacks=[tltf.TrainabilityGuard()])

    def test_a_stale_compile_of_anybodys_model_raises(self) -> None:
        model = guide_model()
        model.fit(tiny.dataset(), verbose=0, callbacks=[tltf.TrainabilityGuard()])
        model.layers[1].trainable = False
        with pytest.raises(TrainabilityError, match="changed after `compile`"):
            model.fit(tiny.dataset(), verbose=0, callbacks=[tltf.TrainabilityGuard()])

    def test_a_change_between_epochs_raises(self) -> None:
        model = tiny.classifier()
        intended = tltf.enter_phase(model, HEAD)

        class Meddling(keras.callbacks.Callback):
            def on_epoch_end(self, epoch: int, logs: object = None) -> None:
                self.model.get_layer("head").trainable = False

        guard = tltf.TrainabilityGuard(intended)
        with pytest.raises(TrainabilityError, match="the trainable set changed"):
            model.fit(tiny.dataset(), epochs=2, verbose=0, callbacks=[Meddling(), guard])

    def test_a_right_compile_passes(self) -> None:
        model = tiny.classifier()
        guard = tltf.TrainabilityGuard(tltf.enter_phase(model, HEAD))
        model.fit(tiny.dataset(), verbose=0, callbacks=[guard])


class TestFrozenCheck:
    def test_the_keras_guides_trap_is_found(self) -> None:
        """Unfrozen for fine-tuning, BatchNorm held still by ``training=False``: it is not."""
        image = keras.Input((tiny.SIDE, tiny.SIDE, 3))
        x = keras.layers.GlobalAveragePooling2D()(tiny.body()(image, training=False))
        model = keras.Model(image, keras.layers.Dense(tiny.CLASSES)(x))
        model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
        model.fit(tiny.dataset(), verbose=0, callbacks=[tltf.FrozenCheck()])
        check = tltf.FrozenCheck(batch_norm="frozen")
        with pytest.raises(TrainabilityError, match=r"during epoch 1: .*moving_mean.*next: build"):
            model.fit(tiny.dataset(), verbose=0, callbacks=[check])
        tltf.enter_phase(model, tltf.Phase("tune", 1, 1e-3, unfreeze="all"))
        model.fit(tiny.dataset(), verbose=0, callbacks=[tltf.FrozenCheck(batch_norm="frozen")])
        with pytest.raises(ArgumentError, match="batch_norm='thaw'"):
            tltf.FrozenCheck(batch_norm="thaw")

    def test_a_frozen_variable_that_something_writes_to_is_found(self) -> None:
        model = tiny.classifier()
        tltf.enter_phase(model, HEAD)

        class Meddling(keras.callbacks.Callback):
            def on_train_batch_end(self, batch: int, logs: object = None) -> None:
                mean = self.model.get_layer("body").get_layer("mid_2_bn").moving_mean
                mean.assign(mean * 1.001 + 0.001)

        with pytest.raises(TrainabilityError, match="during epoch 1: mid_2_bn/moving_mean"):
            model.fit(tiny.dataset(), verbose=0, callbacks=[Meddling(), tltf.FrozenCheck()])

    @pytest.mark.parametrize("unfreeze", ["none", "last:1"])
    def test_tltfs_classifier_passes(self, unfreeze: str) -> None:
        model = tiny.classifier(dropout=0.3, head_dropout=0.3)
        tltf.enter_phase(model, tltf.Phase("p", 2, 1e-2, unfreeze=unfreeze, batch_norm="adapt"))
        model.fit(tiny.dataset(), epochs=2, verbose=0, callbacks=[tltf.FrozenCheck()])


class TestHistoryJsonl:
    def test_one_line_for_each_epoch(self, tmp_path: Path) -> None:
        model = tiny.classifier()
        tltf.enter_phase(model, HEAD)
        path = tmp_path / "history.jsonl"
        path.write_text('{"epoch": 0}\n')
        callback = tltf.HistoryJsonl(path, extra={"phase": "head"})
        seen = model.fit(tiny.dataset(), epochs=2, verbose=0, callbacks=[callback]).history
        first, *rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert first == {"epoch": 0}
        assert [(row["phase"], row["epoch"]) for row in rows] == [("head", 1), ("head", 2)]
        assert [row["loss"] for row in rows] == pytest.approx(seen["loss"])

    def test_what_is_not_finite_is_null(self, tmp_path: Path) -> None:
        callback = tltf.HistoryJsonl(tmp_path / "h")
        callback.on_epoch_end(4, {"loss": math.nan, "val_loss": math.inf, "accuracy": 1})
        row = json.loads((tmp_path / "h").read_text())
        assert row == {"epoch": 5, "loss": None, "val_loss": None, "accuracy": 1.0}


class TestKeepBest:
    def make(self, **options: object) -> tuple[tltf.KeepBest, keras.Model]:
        model = tiny.classifier()
        freezing.set_trainable(model, "last:1", batch_norm="adapt")
        best = tltf.KeepBest(**options)
        best.set_model(model)
        return best, model

    def told(self, best: tltf.KeepBest, losses: list[float]) -> list[bool]:
        """Each epoch writes its number into every changing variable; when it asks to stop."""
        best.model.stop_training = False
        asked = []
        for epoch, loss in enumerate(losses):
            for variable in best._changing():
                variable.assign(keras.ops.full(variable.shape, float(epoch)))
            best.on_epoch_end(epoch, {best.monitor: loss})
            asked.append(best.model.stop_training)
        return asked

    def test_the_best_weights_come_back_and_only_those(self) -> None:
        best, model = self.make()
        low = tiny.values(model)["low_1_conv/kernel"]
        self.told(best, [3.0, 1.0, 2.0])
        best.on_train_end()
        values = tiny.values(model)
        for path in ("top_3_conv/kernel", "top_3_bn/moving_mean", "head/logits/bias"):
            assert (values[path] == 1.0).all()
        np.testing.assert_array_equal(values["low_1_conv/kernel"], low)
        assert (best.best, best.best_epoch) == (1.0, 1)

    def test_nan_is_never_the_best(self) -> None:
        """FACTS 6.3: with a NaN first, others never recover."""
        best, model = self.make()
        self.told(best, [math.nan, 5.0, -math.inf, math.nan, 6.0])
        best.restore()
        assert (best.best, best.best_epoch) == (5.0, 1)
        assert (tiny.values(model)["head/logits/bias"] == 1.0).all()

    def test_nothing_finite_restores_nothing(self) -> None:
        best, model = self.make()
        self.told(best, [math.nan, math.nan])
        best.on_train_end()
        assert (tiny.values(model)["head/logits/bias"] == 1.0).all()

    def test_patience(self) -> None:
        best, _ = self.make(patience=2)
        assert self.told(best, [1.0, 2.0, 0.5, 0.5, 0.6, 0.4]) == [False] * 4 + [True] * 2
        never, _ = self.make(patience=None)
        assert not any(self.told(never, [1.0] * 9))

    def test_the_largest(self) -> None:
        best, _ = self.make(monitor="accuracy", mode="max")
        self.told(best, [0.2, 0.9, 0.8])
        assert best.best_epoch == 1

    def test_its_state_comes_back(self) -> None:
        best, model = self.make(patience=3)
        self.told(best, [3.0, 1.0, 2.0])
        fields, arrays = best.state()
        again = tltf.KeepBest(patience=3)
        again.set_model(model)
        again.set_state(json.loads(json.dumps(fields)), arrays)
        assert (again.best, again.best_epoch, again.waited) == (1.0, 1, 1)
        again.restore()
        assert (tiny.values(model)["top_3_conv/kernel"] == 1.0).all()
        fresh, _ = self.make()
        again.set_state(json.loads(json.dumps(fresh.state()[0])), {})
        assert again.values == []

    def test_what_it_refuses(self) -> None:
        with pytest.raises(ArgumentError, match="mode='least'"):
            tltf.KeepBest(mode="least")
        best, _ = self.make(monitor="val_los")
        with pytest.raises(ArgumentError, match=r"'val_los' is not among \['val_loss'\]"):
            best.on_epoch_end(0, {"val_loss": 1.0})


class TestLearningRateFinder:
    def test_everything_is_put_back_bit_for_bit(self) -> None:
        model = tiny.classifier(head_dropout=0.3)
        plain = tltf.Phase("p", 1, 1e-3, unfreeze="last:1", schedule="constant", warmup=0)
        tltf.enter_phase(model, plain)
        model.fit(tiny.dataset(), verbose=0)
        held = [*model.variables, *model.optimizer.variables]
        before = [np.array(v.numpy()) for v in held]
        finder = tltf.LearningRateFinder(steps=12, high=10.0)
        model.fit(tiny.dataset().repeat(), steps_per_epoch=50, verbose=0, callbacks=[finder])
        for variable, value in zip(held, before, strict=True):
            assert np.asarray(variable.numpy()).tobytes() == value.tobytes(), variable.path
        assert finder.rates[0] == pytest.approx(finder.low)
        assert len(finder.rates) == len(finder.losses) <= 12

    def test_a_rate_that_can_be_known(self) -> None:
        """On loss = w^2 / 2 plain SGD is best near 1 and diverges above 2."""
        inputs = keras.Input((1,))
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        model = keras.Model(inputs, dense(inputs))
        model.compile(keras.optimizers.SGD(0.5), loss=lambda y, p: keras.ops.square(p) / 2)
        finder = tltf.LearningRateFinder(1e-4, 100.0, steps=60, smoothing=0.0)
        x = np.ones((1, 1), "float32")
        model.fit(x, x, epochs=60, verbose=0, callbacks=[finder])
        assert 0.01 <= finder.suggestion <= 2.5
        assert float(model.optimizer.learning_rate) == 0.5
        assert float(dense.kernel.numpy()[0, 0]) == 1.0

    def test_what_it_refuses(self) -> None:
        for options in ({"low": 0.0}, {"low": 1.0, "high": 0.1}, {"steps": 9}, {"smoothing": 1}):
            with pytest.raises(ArgumentError, match="0 < low < high"):
                tltf.LearningRateFinder(**options)
        with pytest.raises(ArgumentError, match="0 finite losses"):
            _ = tltf.LearningRateFinder().suggestion

    @pytest.mark.parametrize("decay", [1.0, 0.5])
    def test_a_schedule_or_several_rates_are_refused(self, decay: float) -> None:
        model = tiny.classifier()
        phase = tltf.Phase("p", 1, 1e-3, unfreeze="all", block_lr_decay=decay)
        tltf.enter_phase(model, phase)
        with pytest.raises(ArgumentError, match="the finder needs one number"):
            model.fit(tiny.dataset(), verbose=0, callbacks=[tltf.LearningRateFinder()])

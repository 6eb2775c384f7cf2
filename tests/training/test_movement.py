"""Frozen means frozen, unfrozen means moved; both are looked at, not assumed."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tiny

import tltf
from tltf.errors import TrainabilityError
from tltf.training import movement
from tltf.training.freezing import Trainability

TUNE = tltf.Phase("tune", 1, 1e-2, unfreeze="last:1")


def entered(phase: tltf.Phase = TUNE, **options: float):
    model = tiny.classifier(**options)
    found = tltf.enter_phase(model, phase, steps_per_epoch=3)
    return model, found, movement.digests(model.variables)


def check(model: keras.Model, before: movement.Digests, found: Trainability) -> movement.Movement:
    return movement.check_movement(model, before, found, batch=tiny.arrays)


def test_a_phase_as_it_should_be() -> None:
    model, found, before = entered(dropout=0.2, head_dropout=0.2)
    values = tiny.values(model)
    model.fit(tiny.dataset(), verbose=0)
    outcome = check(model, before, found)
    assert set(outcome.moved) == set(found.trainable) == tiny.moved(values, tiny.values(model))
    assert outcome.without_gradient == ()


def test_a_frozen_variable_that_moved() -> None:
    model, found, before = entered()
    model.fit(tiny.dataset(), verbose=0)
    mean = model.layers[1].get_layer("low_1_bn").moving_mean
    mean.assign(mean + 1e-7)
    with pytest.raises(TrainabilityError, match="changed during the phase: low_1_bn/moving_mean"):
        check(model, before, found)


def test_a_variable_that_is_stuck() -> None:
    model, found, before = entered()
    stuck = model.layers[1].get_layer("top_3_conv").kernel
    value = stuck.numpy()
    model.fit(tiny.dataset(), verbose=0)
    stuck.assign(value)
    with pytest.raises(TrainabilityError, match="did not move: top_3_conv/kernel"):
        check(model, before, found)


def test_no_path_for_the_gradient_is_listed_and_no_error() -> None:
    """A second branch that the loss does not see, and a unit that is dead."""
    image = keras.Input((tiny.SIDE, tiny.SIDE, 3))
    x = keras.layers.Flatten()(tiny.backbone()(image))
    dead = keras.layers.Dense(3, activation="relu", name="dead", bias_initializer=Dead())(x)
    x = keras.layers.Concatenate()([x, dead])
    model = keras.Model(image, keras.layers.Dense(tiny.CLASSES, name="logits")(x))
    found = tltf.enter_phase(model, tltf.Phase("head", 1, 1e-2, unfreeze="none"))
    before = movement.digests(model.variables)
    model.fit(tiny.dataset(), verbose=0)
    outcome = check(model, before, found)
    assert set(outcome.without_gradient) == {"dead/kernel", "dead/bias"}
    assert "logits/bias" in outcome.moved


class Dead(keras.initializers.Initializer):
    """A bias under which a rectified unit is always off."""

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> object:
        return keras.ops.full(shape, -1e9, dtype)


def test_statistics_that_adapt_are_exempt() -> None:
    phase = tltf.Phase("tune", 1, 1e-2, unfreeze="last:1", batch_norm="adapt")
    model, found, before = entered(phase)
    values = tiny.values(model)
    model.fit(tiny.dataset(), verbose=0)
    outcome = check(model, before, found)
    statistics = {"top_3_bn/moving_mean", "top_3_bn/moving_variance"}
    assert statistics <= tiny.moved(values, tiny.values(model))
    assert not statistics & set(outcome.moved)


def test_digests_are_of_the_bits() -> None:
    model = tiny.classifier()
    before = movement.digests(model.variables)
    assert movement.digests(model.variables) == before
    bias = model.layers[-1].get_layer("logits").bias
    bias.assign(np.array([-0.0, 0.0]))
    changed = [k for k, v in movement.digests(model.variables).items() if v != before[k]]
    assert [key.rpartition("#")[0] for key in changed] == ["head/logits/bias"]

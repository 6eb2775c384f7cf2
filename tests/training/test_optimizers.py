"""A phase's rates, step by step, against the formulas."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tiny

import tltf
from tltf.errors import ArgumentError
from tltf.training.adam import Adam, AdamW
from tltf.training.optimizers import WarmUp, build_optimizer, learning_rates

STEPS, PEAK = 20, 0.1


def rate(phase: tltf.Phase, step: int) -> float:
    learning_rate = build_optimizer(phase, steps=STEPS)._learning_rate
    return float(learning_rate(step)) if callable(learning_rate) else float(learning_rate)


def phase(schedule: str, warmup: float, **options: object) -> tltf.Phase:
    return tltf.Phase("p", 1, PEAK, unfreeze="all", schedule=schedule, warmup=warmup, **options)


def cosine(step: int, warmup: int) -> float:
    """Warm-up is linear from ``PEAK / (warmup + 1)`` to ``PEAK``."""
    if step < warmup:
        low = PEAK / (warmup + 1)
        return low + (PEAK - low) * step / warmup
    share = min(1.0, (step - warmup) / (STEPS - warmup))
    return PEAK * 0.5 * (1 + math.cos(math.pi * share))


@pytest.mark.parametrize("step", [0, 1, 2, 4, 5, 12, 19, 20])
@pytest.mark.parametrize("share", [0.0, 0.25])
def test_the_schedules(step: int, share: float) -> None:
    warmup = math.ceil(share * STEPS)
    rising = min(1.0, (step + 1) / (warmup + 1))
    falling = (STEPS - step) / (STEPS - warmup)
    expected = {
        "constant": PEAK * rising,
        "linear": PEAK * min(rising, falling),
        "cosine": cosine(step, warmup),
    }
    for schedule, value in expected.items():
        assert rate(phase(schedule, share), step) == pytest.approx(value, abs=1e-7), schedule


def test_no_step_is_lost_to_a_rate_of_zero() -> None:
    for schedule in ("constant", "linear", "cosine"):
        for share in (0.0, 0.1, 0.9):
            rates = [rate(phase(schedule, share), step) for step in range(STEPS)]
            assert min(rates) > 0, (schedule, share)
            assert max(rates) <= PEAK * 1.000001


def test_a_schedule_survives_its_config() -> None:
    schedule = WarmUp(0.1, 3, 9)
    again = WarmUp.from_config(schedule.get_config())
    assert [float(again(t)) for t in range(10)] == [float(schedule(t)) for t in range(10)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sgd", keras.optimizers.SGD),
        ("adam", Adam),
        ("adamw", AdamW),
    ],
)
def test_the_kind_and_its_settings(name: str, kind: type) -> None:
    made = build_optimizer(phase("constant", 0.0, optimizer=name, clipnorm=2.0), steps=STEPS)
    assert type(made) is kind
    assert made.global_clipnorm == 2.0
    assert learning_rates(made) == pytest.approx(PEAK)
    if name == "sgd":
        assert made.momentum == 0.9


def test_a_block_learns_at_its_own_rate() -> None:
    """With SGD a step is rate x gradient: both are the same but for the factor."""
    decay = 0.25

    def steps(block_lr_decay: float) -> dict[str, np.ndarray]:
        model = tiny.classifier(norm=False)
        tltf.enter_phase(
            model,
            tltf.Phase(
                "tune",
                1,
                0.1,
                unfreeze="last:2",
                optimizer="sgd",
                momentum=0.0,
                schedule="constant",
                warmup=0.0,
                block_lr_decay=block_lr_decay,
            ),
        )
        before = tiny.values(model)
        model.train_on_batch(*tiny.arrays())
        after = tiny.values(model)
        if block_lr_decay < 1:
            assert learning_rates(model.optimizer) == pytest.approx(0.1)
        return {path: after[path] - before[path] for path in before}

    plain, scaled = steps(1.0), steps(decay)
    factors = {"head": 1.0, "top_3_conv": decay, "mid_2_conv": decay**2}
    for path, step in plain.items():
        if path.startswith("low_1"):
            assert not scaled[path].any()
            continue
        assert np.abs(step).max() > 0, path
        factor = factors[path.split("/")[0]]
        np.testing.assert_allclose(scaled[path], factor * step, rtol=0.02, atol=1e-7)


def test_decay_spares_biases_and_norms() -> None:
    model = tiny.classifier()
    tltf.enter_phase(
        model,
        tltf.Phase(
            "tune",
            1,
            0.1,
            unfreeze="all",
            batch_norm="adapt",
            optimizer="adamw",
            weight_decay=0.5,
            schedule="constant",
            warmup=0.0,
        ),
    )
    before = tiny.values(model)
    model.optimizer.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables])
    after = tiny.values(model)
    for path in (v.path for v in model.trainable_variables):
        if path.endswith("kernel"):
            np.testing.assert_allclose(after[path], before[path] * (1 - 0.1 * 0.5), rtol=1e-5)
        else:
            np.testing.assert_array_equal(after[path], before[path])


def test_a_phase_without_a_rate() -> None:
    with pytest.raises(ArgumentError, match="no learning_rate"):
        build_optimizer(tltf.Phase("p", 1), steps=1)

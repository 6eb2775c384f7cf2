"""``learning_rate="auto"``: what a curve suggests, and a run that does not notice the sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tiny

import tltf
from tltf.errors import ArgumentError
from tltf.training import ratesearch

RATES = np.geomspace(1e-5, 1, 101)


def curve(*, fall_at: float, rise_at: float, low: float = 0.2) -> np.ndarray:
    """A loss of 1 that falls to ``low`` around one rate and rises from another."""
    x = np.log(RATES)
    fallen = low + (1 - low) / (1 + np.exp(4 * (x - np.log(fall_at))))
    return fallen + np.maximum(0, x - np.log(rise_at)) * 2


class TestChosen:
    def test_the_steepest_fall(self) -> None:
        found = ratesearch.chosen(RATES, curve(fall_at=1e-3, rise_at=0.5), usual=1e-3)
        assert found.learning_rate == pytest.approx(1e-3, rel=0.15)
        assert "falls fastest" in found.reason

    def test_not_above_a_tenth_of_where_it_rises(self) -> None:
        found = ratesearch.chosen(RATES, curve(fall_at=1e-3, rise_at=3e-3), usual=1e-3)
        assert 2e-4 <= found.learning_rate <= 6e-4
        assert "rises again" in found.reason

    def test_near_the_minimum_a_tenth_of_where_it_rises(self) -> None:
        flat = 0.1 + 0 * RATES + np.maximum(0, np.log(RATES / 4e-3))
        found = ratesearch.chosen(RATES, flat, usual=1e-4)
        assert found.learning_rate == pytest.approx(4e-4, rel=0.2)
        assert "stays low" in found.reason

    @pytest.mark.parametrize(("fall_at", "expected"), [(1e-4, 1e-2), (0.05, 1e-4)])
    def test_within_ten_times_of_the_usual_rate(self, fall_at: float, expected: float) -> None:
        usual = 0.1 if fall_at == 1e-4 else 1e-5
        found = ratesearch.chosen(RATES, curve(fall_at=fall_at, rise_at=10), usual=usual)
        assert found.learning_rate == pytest.approx(expected)
        assert "within ten times" in found.reason

    def test_a_loss_that_is_not_finite_is_left_out(self) -> None:
        losses = curve(fall_at=1e-3, rise_at=10)
        losses[90:] = np.nan
        found = ratesearch.chosen(RATES, losses, usual=1e-3)
        assert found.learning_rate == pytest.approx(1e-3, rel=0.15)
        assert len(found.rates) == len(found.losses) == 90


def plan(head: float | str, tune: float | str) -> list[tltf.Phase]:
    return [
        tltf.Phase("head", 3, head, unfreeze="none"),
        tltf.Phase("tune", 2, tune, unfreeze="last:1", batch_norm="adapt", block_lr_decay=0.5),
    ]


def fitted(phases: list[tltf.Phase], folder: Path | None = None, **more: Any) -> Any:
    keras.utils.set_random_seed(3)
    model = tiny.classifier(head_dropout=0.3)
    data = {"train": tiny.dataset(), "validation": tiny.dataset(6, seed=1)}
    result = tltf.fit_phases(model, phases, **data, folder=folder, progress=False, **more)
    return result, tiny.values(model)


def test_a_run_does_not_notice_the_sweep(tmp_path: Path) -> None:
    """The same bits as the run that is given the numbers that were found."""
    told: dict[str, float] = {}
    swept, weights = fitted(
        plan("auto", "auto"), rate_found=lambda name, found: told.update({name: found})
    )
    assert set(swept.rates) == set(told) == {"head", "tune"}
    rates = [swept.rates[name].learning_rate for name in ("head", "tune")]
    assert all(isinstance(rate, float) and rate > 0 for rate in rates)
    given, expected = fitted(plan(*rates))
    assert [row["loss"] for row in swept.history] == [row["loss"] for row in given.history]
    # In their order: the names of seed generators count on.
    for (path, value), found in zip(expected.items(), weights.values(), strict=True):
        assert found.tobytes() == value.tobytes(), path
    assert given.rates == {}


def test_what_was_found_is_kept_for_a_resumed_run(tmp_path: Path) -> None:
    first, _ = fitted(plan("auto", "auto"), tmp_path)
    kept = json.loads((tmp_path / "rates.json").read_text())
    assert kept["head"]["learning_rate"] == first.rates["head"].learning_rate
    assert len(kept["head"]["rates"]) == len(kept["head"]["losses"]) >= 10
    asked: list[str] = []
    again, _ = fitted(plan("auto", "auto"), tmp_path, rate_found=lambda name, _: asked.append(name))
    assert asked == []
    assert again.rates == first.rates
    assert again.history == first.history


def test_a_phase_without_epochs_needs_no_sweep() -> None:
    phases = [tltf.Phase("head", 1, 1e-2, unfreeze="none"),
              tltf.Phase("tune", 0, "auto", unfreeze="last:1")]  # fmt: skip
    result, _ = fitted(phases)
    assert result.rates == {}


def test_only_fit_phases_can_find_it() -> None:
    with pytest.raises(ArgumentError, match=r"learning_rate='auto', which only tltf\.fit_phases"):
        tltf.enter_phase(tiny.classifier(), plan("auto", 1e-3)[0])
    with pytest.raises(ArgumentError, match="learning_rate='fast', expected a number"):
        tltf.Phase("head", 1, "fast", unfreeze="none")

"""``learning_rate="auto"``: the walk over rates, and a run that does not notice the rehearsals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tltf
from tltf.errors import ArgumentError
from tltf.training import ratesearch
from tltf.training.optimizers import rates_of
from tltf.training.ratesearch import FoundRate
from tltf.training.strategies import Distribution


def walked(loss: Any, *, usual: float = 1e-3, least: float = 0.01) -> tuple[FoundRate, list[float]]:
    """What the walk finds on a curve, and the rates in the order in which it asked for them."""
    asked: list[float] = []

    def rehearsed(rate: float) -> float:
        asked.append(rate)
        return float(loss(rate))

    found = ratesearch.best_rate(rehearsed, usual=usual, least=least, monitor="val_loss", steps=30)
    return found, asked


def valley(best: float, *, depth: float = 1.0) -> Any:
    """A loss that is least at one rate and rises by ``depth`` for each decade from it."""
    return lambda rate: 0.3 + depth * abs(math.log10(rate / best))


class TestWalk:
    @pytest.mark.parametrize(
        ("best", "expected", "rehearsals"),
        [(1e-3, 1e-3, 3), (4.6e-3, 4.6e-3, 4), (2.2e-4, 2.2e-4, 5)],
    )
    def test_it_ends_in_the_valley(self, best: float, expected: float, rehearsals: int) -> None:
        found, asked = walked(valley(best))
        assert found.learning_rate == pytest.approx(expected, rel=0.02)
        assert len(asked) == len(set(asked)) == len(found.rates) == rehearsals
        assert list(found.rates) == sorted(asked)
        assert f"{rehearsals} rehearsals of 30 steps" in found.reason

    @pytest.mark.parametrize(("best", "expected"), [(1.0, 1e-2), (1e-7, 1e-4)])
    def test_at_most_a_decade_away(self, best: float, expected: float) -> None:
        found, asked = walked(valley(best))
        assert found.learning_rate == expected
        assert 1e-4 <= min(asked) <= max(asked) <= 1e-2

    def test_what_hardly_differs_leaves_the_usual_rate(self) -> None:
        """Near a minimum: tiny losses, large in proportion to each other, and both ways lower."""
        found, asked = walked(lambda rate: 0.002 + 0.008 * (rate == 1e-3))
        assert found.learning_rate == 1e-3
        assert "the usual rate" in found.reason
        assert len(asked) == 3
        found, _ = walked(lambda rate: 1.0 - 0.03 * (rate != 1e-3))
        assert found.learning_rate == 1e-3

    def test_a_loss_in_unknown_units_needs_a_share_only(self) -> None:
        found, _ = walked(lambda rate: 0.002 + 0.008 * (rate <= 1e-3), least=0.0)
        assert found.learning_rate == 2.2e-3

    @pytest.mark.parametrize("infinite", [math.inf, math.nan])
    def test_away_from_rates_that_diverge(self, infinite: float) -> None:
        found, asked = walked(lambda rate: infinite if rate > 4e-4 else 1.0)
        assert found.learning_rate == 2.2e-4
        assert max(asked) <= 2.2e-3
        assert found.losses[-1] == math.inf
        everywhere, _ = walked(lambda rate: infinite)
        assert everywhere.learning_rate == 1e-4

    def test_as_json_and_back(self) -> None:
        found, _ = walked(lambda rate: math.inf if rate > 4e-4 else 1.0)
        text = json.dumps(found.as_dict(), allow_nan=False)
        assert FoundRate.from_dict(json.loads(text)) == found


def test_the_schedule_in_small() -> None:
    """Warm-up to the peak and cosine to zero, whatever the number of steps."""
    phase = tltf.Phase("p", 1, 3e-4, unfreeze="none", warmup=0.2, schedule="cosine")
    shares = np.array(rates_of(phase, steps=10))
    warm = np.array([1 / 3, 2 / 3])
    cosine = (1 + np.cos(np.pi * np.arange(8) / 8)) / 2
    assert shares == pytest.approx(np.concatenate([warm, cosine]), abs=1e-6)
    constant = tltf.Phase("p", 1, 3e-4, unfreeze="none", warmup=0.0, schedule="constant")
    assert rates_of(constant, steps=3) == [1.0, 1.0, 1.0]


class Parabola:
    """A model whose loss is w^2 / 2 from w = 1, by plain SGD: w shrinks by (1 - rate) a step."""

    def __init__(self) -> None:
        inputs = keras.Input((1,))
        self.dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        self.model = keras.Model(inputs, self.dense(inputs))
        self.model.compile(keras.optimizers.SGD(0.1), loss=lambda y, p: keras.ops.square(p) / 2)
        x = np.ones((4, 1), "float32")
        self.data = tf.data.Dataset.from_tensor_slices((x, x)).batch(1)

    def search(self, *, usual: float, judged: bool, nats: float = 0.0) -> FoundRate:
        phase = tltf.Phase("p", 5, "auto", unfreeze="all", schedule="constant", warmup=0.0,
                           optimizer="sgd")  # fmt: skip
        return ratesearch.search(
            self.model,
            phase,
            ratesearch.loop.DatasetEpochs(self.data),
            validation=self.data if judged else None,
            usual=usual,
            nats=nats,
            distribution=Distribution(),
        )


@pytest.mark.parametrize("judged", [True, False])
def test_rates_and_losses_that_can_be_known(judged: bool) -> None:
    """Against the same steps by hand: 10 of them, at each rate from the same start."""
    made = Parabola()
    found = made.search(usual=0.05, judged=judged)
    before = [(1 - rate) ** np.arange(11) for rate in found.rates]
    losses = [w[-1] ** 2 / 2 if judged else float(np.mean(w[:-1][-2:] ** 2 / 2)) for w in before]
    assert found.losses == pytest.approx(losses, rel=1e-3)
    assert found.learning_rate == 0.5
    assert found.monitor == ("val_loss" if judged else "loss")
    assert float(made.dense.kernel.numpy()[0, 0]) == 1.0
    assert float(made.model.optimizer.learning_rate) == pytest.approx(0.1)
    assert int(made.model.optimizer.iterations) == 0


@pytest.mark.parametrize(("nats", "expected"), [(0.3, 0.11), (0.6, 0.05)])
def test_few_examples_need_a_large_gain(nats: float, expected: float) -> None:
    """0.05 to 0.11 lowers the loss from 0.179 to 0.049, times 4 examples 0.52; further 0.19."""
    assert Parabola().search(usual=0.05, judged=True, nats=nats).learning_rate == expected


def test_a_usual_rate_that_diverges_is_left() -> None:
    """Above 2 the steps grow; 40 of 10 steps are beyond float32."""
    found = Parabola().search(usual=40000.0, judged=True)
    assert found.learning_rate == 4000.0
    assert found.losses[-1] == math.inf


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


def test_a_run_does_not_notice_the_rehearsals(tmp_path: Path) -> None:
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
    assert len(kept["head"]["rates"]) == len(kept["head"]["losses"]) >= 2
    asked: list[str] = []
    again, _ = fitted(plan("auto", "auto"), tmp_path, rate_found=lambda name, _: asked.append(name))
    assert asked == []
    assert again.rates == first.rates
    assert again.history == first.history


def test_a_phase_without_epochs_needs_no_search() -> None:
    phases = [tltf.Phase("head", 1, 1e-2, unfreeze="none"),
              tltf.Phase("tune", 0, "auto", unfreeze="last:1")]  # fmt: skip
    result, _ = fitted(phases)
    assert result.rates == {}


def test_only_fit_phases_can_find_it() -> None:
    with pytest.raises(ArgumentError, match=r"learning_rate='auto', which only tltf\.fit_phases"):
        tltf.enter_phase(tiny.classifier(), plan("auto", 1e-3)[0])
    with pytest.raises(ArgumentError, match="learning_rate='fast', expected a number"):
        tltf.Phase("head", 1, "fast", unfreeze="none")

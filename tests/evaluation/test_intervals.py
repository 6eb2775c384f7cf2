"""Wilson and the bootstrap against slow transcriptions; coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from tltf.errors import ArgumentError
from tltf.evaluation import intervals
from tltf.evaluation.evaluate import evaluate
from tltf.evaluation.resampling import metrics_of_weights
from tltf.evaluation.verdict import compare


def slow_wilson(k, n, z=1.959963984540054):
    """Roots of |p - q| = z sqrt(q (1 - q) / n) in q, by bisection."""

    def root(low, high):
        for _ in range(200):
            middle = (low + high) / 2
            outside = abs(k / n - middle) > z * math.sqrt(middle * (1 - middle) / n)
            below = middle < k / n
            low, high = (middle, high) if outside == below else (low, middle)
        return low

    return root(0, k / n) if k else 0.0, root(k / n, 1) if k < n else 1.0


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (81, 90), (1, 3), (500, 1000)])
def test_wilson_solves_its_equation(k, n):
    assert intervals.wilson(k, n) == pytest.approx(slow_wilson(k, n), abs=1e-9)


def test_wilson_rejects_nonsense():
    with pytest.raises(ArgumentError, match="expected 0 <= successes <= n"):
        intervals.wilson(3, 2)


def test_bootstrap_is_a_slow_loop():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    p = np.eye(3)[np.where(rng.random(60) < 0.7, y, (y + 1) % 3)] * 0.8 + 0.2 / 3
    metric = metrics_of_weights(p, y, task="single_label")
    strata = intervals.strata_of(y, task="single_label")
    fast = intervals.bootstrap(metric, strata=strata, n_resamples=4000, seed=1)["macro_f1"]
    slow = []
    for _ in range(1000):
        drawn = [i for c in range(3) for i in rng.choice(np.flatnonzero(y == c), (y == c).sum())]
        slow.append(f1_score(y[drawn], p[drawn].argmax(axis=1), average="macro"))
    assert fast.mean() == pytest.approx(np.mean(slow), abs=0.006)
    assert fast.std() == pytest.approx(np.std(slow), rel=0.1)
    assert np.percentile(fast, [2.5, 97.5]) == pytest.approx(
        np.percentile(slow, [2.5, 97.5]), abs=0.025
    )


def test_resamples_keep_the_strata_and_depend_on_the_seed_only(monkeypatch):
    strata = np.array([2, 0, 0, 1, 2, 2, 0, 1])
    draw = lambda seed: np.concatenate(  # noqa: E731
        list(intervals.resample_weights(strata, n_resamples=200, seed=seed))
    )
    weights = draw(3)
    for stratum in range(3):
        assert (weights[:, strata == stratum].sum(axis=1) == (strata == stratum).sum()).all()
    assert (weights == draw(3)).all()
    assert (weights != draw(4)).any()
    # Every record of a stratum is drawn equally often.
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.25)
    # Bounded memory: chunks are small, and give the same as one.
    monkeypatch.setattr(intervals, "CHUNK_ELEMENTS", 80)
    chunks = list(intervals.resample_weights(strata, n_resamples=200, seed=3))
    assert len(chunks) == 20
    assert (np.concatenate(chunks) == weights).all()


def test_rare_classes_share_a_stratum():
    y = np.array([0] * 10 + [1] * 5 + [2] * 4 + [3])
    assert intervals.strata_of(y, task="single_label").tolist() == [0] * 10 + [1] * 5 + [4] * 5


@pytest.mark.parametrize("n", [30, 100, 1000])
def test_wilson_covers_93_to_97_percent(n):
    rng = np.random.default_rng(n)
    # Counts are whole: for one accuracy the coverage jumps with it, so it is drawn, too.
    truths = rng.uniform(0.5, 0.97, 4000)
    ends = np.array([intervals.wilson(rng.binomial(n, truth), n) for truth in truths])
    share = ((ends[:, 0] <= truths) & (truths <= ends[:, 1])).mean()
    print(
        f"n={n}: the 95 % interval of an accuracy covers it in {100 * share:.1f} % of 4,000 draws"
    )
    assert 0.93 <= share <= 0.97


@pytest.mark.parametrize(("n", "simulations"), [(100, 700), (1000, 500)])
def test_bootstrap_of_accuracy_covers_93_to_97_percent(n, simulations):
    rng = np.random.default_rng(n)
    truth = np.array([0.9, 0.8, 0.7, 0.8])
    y = np.repeat(np.arange(4), n // 4)
    strata = intervals.strata_of(y, task="single_label")
    weights = np.concatenate(list(intervals.resample_weights(strata, n_resamples=600, seed=0)))
    right = rng.random((n, simulations)) < truth[y][:, None]
    low, high = np.percentile(weights @ right / n, [2.5, 97.5], axis=0)
    share = ((low <= truth.mean()) & (truth.mean() <= high)).mean()
    assert 0.93 <= share <= 0.97


def test_all_right_is_not_certain():
    p, y = np.eye(2)[[0, 1] * 20], np.array([0, 1] * 20)
    found = evaluate(p, y, task="single_label", classes=["a", "b"])["metrics"]
    for name in ("accuracy", "macro_f1", "balanced_accuracy", "auroc"):
        assert found[name]["value"] == 1.0
        assert found[name]["low"] == pytest.approx(intervals.wilson(40, 40)[0])
    large = evaluate(np.tile(p, (30, 1)), np.tile(y, 30), task="single_label", classes=["a", "b"])
    assert 0.99 < large["metrics"]["accuracy"]["low"] < 1


def test_which_interval_when():
    samples = np.random.default_rng(0).normal(0.8, 0.02, 2000)
    settings = {"effective_n": 50.0}
    small = intervals.interval_for("accuracy", 0.8, samples, n=1000, **settings)
    assert (small.low, small.high) == intervals.wilson(800, 1000)
    large = intervals.interval_for("accuracy", 0.8, samples, n=1001, **settings)
    assert (large.low, large.high) == tuple(np.percentile(samples, [2.5, 97.5]))
    # ECE: resamples lie above the value by its bias; the interval is reflected below it.
    ece = intervals.interval_for("ece", 0.78, samples, n=90, **settings)
    assert ece.low == pytest.approx(1.56 - np.percentile(samples, 97.5))
    alone = intervals.interval_for("mae", 3.0, np.full(2000, 3.0), n=1, **settings)
    assert alone.as_dict() == {"value": 3.0, "low": None, "high": None, "n": 1}


def test_macro_effective_n():
    assert intervals.macro_effective_n(np.array([30, 30, 30])) == pytest.approx(90)
    assert intervals.macro_effective_n(np.array([98, 2, 0])) < 8


def test_too_few_resamples():
    with pytest.raises(ArgumentError, match="at least 100"):
        evaluate([[1, 0]], [0], task="single_label", classes=["a", "b"], n_resamples=10)


def test_ten_thousand_records_in_bounded_memory():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 10_000)
    p = rng.dirichlet(np.ones(4), 10_000)
    found = evaluate(p, y, task="single_label", classes=list("abcd"))["metrics"]
    assert found["accuracy"]["high"] - found["accuracy"]["low"] == pytest.approx(0.017, abs=0.002)


def test_verdict_holds_for_mae():
    rng = np.random.default_rng(0)
    hard = rng.exponential(1, 200)
    found = compare(-hard, -(hard + 0.3 + 0.1 * rng.normal(size=200)), unit="MAE")
    assert found.kind == "helps"
    assert found.sentence.startswith("transfer helps by 0.29")
    assert " MAE (95 % interval " in found.sentence

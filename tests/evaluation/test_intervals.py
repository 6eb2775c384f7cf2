"""Wilson and the bootstrap against slow transcriptions; coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from experiments.benchmarks import coverage
from tltf.errors import ArgumentError
from tltf.evaluation import estimates, intervals
from tltf.evaluation.evaluate import evaluate
from tltf.evaluation.metrics import metric_values
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
    units = np.arange(60) // 3
    for of, n_units, draw in (
        (None, 60, lambda: rng.choice(60, 60)),
        (units, 20, lambda: np.concatenate([np.flatnonzero(units == u)
                                            for u in rng.choice(20, 20)])),
    ):  # fmt: skip
        strata = np.zeros(n_units, np.int64)
        found = intervals.bootstrap(metric, strata=strata, units=of, n_resamples=4000, seed=1)
        fast = found["macro_f1"]
        slow = []
        for _ in range(500):
            drawn = draw()
            slow.append(f1_score(y[drawn], p[drawn].argmax(axis=1), average="macro"))
        assert fast.mean() == pytest.approx(np.mean(slow), abs=0.008)
        assert fast.std() == pytest.approx(np.std(slow), rel=0.12)
        assert np.percentile(fast, [2.5, 97.5]) == pytest.approx(
            np.percentile(slow, [2.5, 97.5]), abs=0.03
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


@pytest.mark.parametrize("shares", [(0.95, 0.2), (0.98, 0.5)])
def test_accuracy_covers_where_classes_differ_in_difficulty(shares):
    """A bootstrap that holds the class shares fixed covered 79 to 87 % of these."""
    rng, n, held = np.random.default_rng(0), 1500, []
    for _ in range(1000):
        y = rng.integers(0, 2, n)
        right = rng.random(n) < np.array(shares)[y]
        p = np.where(np.eye(2)[np.where(right, y, 1 - y)] > 0, 0.9, 0.1)
        low, high = estimates._single_label(p, y, None)["accuracy"]
        held.append(low <= np.mean(shares) <= high)
    assert np.mean(held) >= 0.93


def test_the_width_of_an_accuracy_does_not_jump():
    def width(n):
        y = np.arange(n) % 2
        right = (np.arange(n) // 2 % 100) < np.where(y == 0, 95, 20)
        p = np.where(np.eye(2)[np.where(right, y, 1 - y)] > 0, 0.9, 0.1)
        found = evaluate(p, y, task="single_label", classes=["a", "b"], n_resamples=100)
        accuracy = found["metrics"]["accuracy"]
        assert (accuracy["low"], accuracy["high"]) == intervals.wilson(right.sum(), n)
        return accuracy["high"] - accuracy["low"]

    assert width(1001) == pytest.approx(width(1000), rel=0.01)


@pytest.mark.parametrize("n", [45, 1000])
def test_log_loss_covers_though_its_tail_is_heavy(n):
    population = coverage.POPULATIONS["2 classes, 2 % mislabelled"]
    rng = np.random.default_rng(n)
    truth = metric_values(*population.draw(200_000, rng), task="single_label").values["nll"]
    held = []
    for _ in range(500):
        p, y = population.draw(n, rng)
        low, high = estimates._single_label(p, y, None)["nll"]
        held.append(low <= truth <= high)
    print(f"n={n}: the interval of a log-loss covers it in {100 * np.mean(held):.1f} % of 500")
    assert np.mean(held) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("name", coverage.POPULATIONS)
@pytest.mark.parametrize("n", [30, 100, 1000])
def test_every_metric_covers_93_percent(name, n):
    """500 draws vary by one point: 91 is not told from 93. The table of the pages has 1,000."""
    found = coverage.coverage(coverage.POPULATIONS[name], n=n, draws=500)
    assert min(found.values()) >= 0.91, found


@pytest.mark.parametrize("groups", [10, 30])
def test_groups_are_drawn_and_said(groups):
    found = coverage.grouped_coverage(coverage.Grouped(groups=groups), draws=60)
    # 60 draws vary by three points; plain intervals hold 70 %.
    assert min(found.values()) >= 0.86, found
    rng = np.random.default_rng(0)
    (right, _), of = coverage.Grouped(groups=groups).draw(2, rng)
    y = rng.integers(0, 2, len(right))
    p = np.where(np.eye(2)[np.where(right > 0, y, 1 - y)] > 0, 0.9, 0.1)
    settings = {"task": "single_label", "classes": ["a", "b"], "n_resamples": 100}
    grouped, plain = (evaluate(p, y, groups=g, **settings)["metrics"] for g in (of, None))
    for name, row in grouped.items():
        assert row["groups"] == groups, name
        assert "groups" not in plain[name]
        assert row["high"] - row["low"] >= 0.99 * (plain[name]["high"] - plain[name]["low"]), name


@pytest.mark.slow
@pytest.mark.parametrize("groups", [10, 30, 100])
@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_groups_cover_93_percent(groups, correlation):
    population = coverage.Grouped(groups=groups, correlation=correlation)
    found = coverage.grouped_coverage(population, draws=500)
    assert min(found.values()) >= 0.91, found


def test_units_are_groups_or_records():
    assert intervals.units_of(None, n=3) is None
    assert intervals.units_of([None, "", None], n=3) is None
    assert intervals.units_of(["a", "b", "c"], n=3) is None
    assert intervals.units_of(["a", None, "a", "", "b"], n=5).tolist() == [0, 1, 0, 2, 3]
    with pytest.raises(ArgumentError, match="2 groups for 3 records"):
        intervals.units_of(["a", "b"], n=3)


def test_effective_n_is_that_of_the_design_effect():
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(200), 10)
    alike = (rng.random(200) < 0.8).astype(float)[units]
    assert intervals.effective_n(alike, units) == pytest.approx(200, rel=0.05)
    alone = (rng.random(2000) < 0.8).astype(float)
    assert intervals.effective_n(alone, None) == 2000
    assert 1500 < intervals.effective_n(alone, units) <= 2000
    # All right: nothing is known of how alike they are, and each group counts as one.
    assert intervals.effective_n(np.ones(2000), units) == pytest.approx(200, rel=0.05)


def test_all_right_is_not_certain():
    p, y = np.eye(2)[[0, 1] * 20], np.array([0, 1] * 20)
    found = evaluate(p, y, task="single_label", classes=["a", "b"])["metrics"]
    assert found["accuracy"]["low"] == pytest.approx(intervals.wilson(40, 40)[0])
    for name in ("accuracy", "macro_f1", "balanced_accuracy", "auroc"):
        assert found[name]["value"] == 1.0
        assert 0.8 < found[name]["low"] < 0.97, name
    assert found["nll"]["high"] > 0.1


def test_one_record_has_no_mean_but_a_share():
    found = evaluate([3.0], [1.0], task="regression", classes=[])["metrics"]
    assert found["mae"] == {"value": 2.0, "low": None, "high": None, "n": 1}
    found = evaluate([[0.9, 0.1]], [0], task="single_label", classes=["a", "b"])["metrics"]
    assert found["accuracy"]["low"] == intervals.wilson(1, 1)[0]


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

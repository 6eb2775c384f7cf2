"""The verdict says no more than the interval: sabotage first."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy.stats import binomtest

from experiments.benchmarks import coverage
from tltf.errors import ArgumentError, DataError
from tltf.evaluation.verdict import compare, mean_accuracy


def test_identical_predictors():
    right = np.random.default_rng(0).random((5, 90)) < 0.8
    verdict = compare(right, right)
    assert verdict.kind == "no_difference"
    assert verdict.sentence.startswith("no detectable difference between transfer and from scratch")
    assert verdict.difference == 0
    assert verdict.low < 0 < verdict.high


@pytest.mark.parametrize("seeds", [1, 3])
def test_random_relabelling_does_not_help(seeds):
    rng = np.random.default_rng(seeds)
    kinds = []
    for i in range(150):
        y = rng.integers(0, 4, 90)
        a, b = (rng.integers(0, 4, (seeds, 90)) == y for _ in range(2))
        kinds.append(compare(a, b, seed=i, n_resamples=400).kind)
    assert kinds.count("helps") <= 150 * 0.05
    assert kinds.count("negative") <= 150 * 0.05


def test_a_planted_gain_is_found_and_mirrored():
    rng = np.random.default_rng(0)
    ease = rng.random(200)
    a, b = ease + 0.1 * rng.random((5, 200)) > 0.15, ease + 0.1 * rng.random((5, 200)) > 0.35
    helps, hurts = compare(a, b), compare(b, a)
    assert re.fullmatch(
        r"transfer helps by \d+\.\d points \(95 % interval \d+\.\d to \d+\.\d, n=200, 5 seeds\)",
        helps.sentence,
    )
    assert (helps.kind, hurts.kind) == ("helps", "negative")
    assert helps.difference == pytest.approx(a.mean() - b.mean())
    assert hurts.sentence.startswith("negative transfer: transfer is ")
    assert " worse than from scratch (95 % interval " in hurts.sentence


def test_other_names():
    verdict = compare([0] * 40, [1] * 40, a_name="fine-tuning", b_name="linear probe")
    assert verdict.sentence.startswith(
        "negative effect: fine-tuning is 100.0 points worse than linear probe"
    )


@pytest.mark.parametrize("wins", range(1, 10))
@pytest.mark.parametrize("n", [12, 90])
def test_few_wins_are_judged_as_by_mcnemar(wins, n):
    a, b = np.zeros(n), np.zeros(n)
    a[:wins] = 1
    detectable = binomtest(wins, wins).pvalue < 0.05
    assert (compare(a, b, n_resamples=8000).kind == "helps") == detectable


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(0)
    b = rng.random((4, 300)) < 0.7
    steady = rng.random((4, 300)) < 0.8
    shaky = rng.random((4, 300)) < np.array([[0.95], [0.65], [0.95], [0.65]])
    width = [v.high - v.low for v in (compare(steady, b), compare(shaky, b))]
    assert width[1] > 1.5 * width[0]


@pytest.mark.parametrize("seeds", [3, 5])
def test_luck_of_runs_is_no_verdict(seeds):
    """Equal methods whose runs differ by luck; with records alone 14 to 23 % got a verdict."""
    share = coverage.false_verdicts(seeds=seeds, n=2000, luck=0.02, draws=150)
    print(f"{seeds} seeds: {100 * share:.1f} % false verdicts of 150")
    assert share <= 0.09  # 7 % and one standard error of 150 draws


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("luck", [0.0, 0.02, 0.07])
@pytest.mark.parametrize("n", [300, 2000, 5000])
def test_luck_of_runs_is_hardly_ever_a_verdict(seeds, luck, n):
    assert coverage.false_verdicts(seeds=seeds, n=n, luck=luck, draws=500) <= 0.07


def test_one_seed_is_about_two_models():
    right, wrong = np.ones(50), np.zeros(50)
    assert "these two models" in compare(right, wrong).sentence
    assert "these two models" not in compare([right] * 3, [wrong] * 3).sentence


def test_seeds_count_as_their_degrees_of_freedom():
    """Three runs 2 points apart from their rivals' by luck alone, on 10,000 records each."""
    rng = np.random.default_rng(0)
    shares = np.array([[0.80], [0.84], [0.82]])
    a, b = rng.random((3, 10_000)) < shares, rng.random((3, 10_000)) < 0.80
    found = compare(a, b, n_resamples=400)
    spread = (a.mean(axis=1) - b.mean(axis=1)).std(ddof=1) / math.sqrt(3)
    half = (found.high - found.low) / 2
    assert half >= 4.30 * spread
    assert found.kind == "no_difference"


def test_groups_are_what_a_verdict_draws():
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(12), 20)
    # Whole groups are better by one model or by the other: 8 against 4 is not proof.
    better = rng.permutation([1] * 8 + [0] * 4)[of]
    a, b = better, 1 - better
    plain, grouped = compare(a, b), compare(a, b, groups=list(of))
    assert plain.kind == "helps"
    assert grouped.kind == "no_difference"
    assert grouped.groups == 12
    assert "n=240 in 12 groups" in grouped.sentence
    assert grouped.as_dict()["groups"] == 12
    assert "groups" not in plain.as_dict()
    mean = mean_accuracy(a, groups=list(of))
    assert mean.groups == 12
    assert mean.high - mean.low > 2 * (mean_accuracy(a).high - mean_accuracy(a).low)


def test_errors():
    with pytest.raises(ArgumentError, match="expected the same seeds and records"):
        compare([1, 0], [1, 0, 1])
    with pytest.raises(ArgumentError, match=r"expected \[n\] or \[seeds, n\]"):
        compare(1, 0)
    with pytest.raises(ArgumentError, match="whether each record is right"):
        compare([0.5, 0.2], [0.1, 0.9])
    with pytest.raises(ArgumentError, match="cannot be read as numbers"):
        compare(["a"], ["b"])
    with pytest.raises(ArgumentError, match="n_resamples=5"):
        compare([1], [0], n_resamples=5)
    with pytest.raises(DataError, match="no records"):
        compare([], [])
    with pytest.raises(DataError, match="NaN"):
        compare([np.nan], [1])

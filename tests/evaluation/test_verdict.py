"""The verdict says no more than the interval: sabotage first."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import binomtest

from tltf.errors import ArgumentError, DataError
from tltf.evaluation.verdict import compare


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

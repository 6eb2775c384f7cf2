"""Distances between domains: the papers' equations, laws, and what they say of real shifts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from oracles import transfer as oracle

import tltf
from tltf.errors import ArgumentError, DataError
from tltf.transfer import distances
from tltf.transfer.distances import distance_report, mmd_test, proxy_a_distance


def sample(n: int, *, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (n, 4))


def test_mmd_is_the_papers_equation() -> None:
    x, y = sample(7), sample(5, shift=0.7, seed=1)
    width = oracle.median_sigma2(np.concatenate([x, y]))
    found = mmd_test(x, y, permutations=9)
    assert found.bandwidth == pytest.approx(width, abs=1e-9)
    assert found.value == pytest.approx(oracle.mmd_unbiased(x, y, [width]), abs=1e-9)
    biased = mmd_test(x, y, permutations=9, bandwidth=2.0, biased=True)
    assert biased.value == pytest.approx(oracle.mmd_biased(x, y, [2.0]), abs=1e-9)


def test_mmd_laws() -> None:
    x, y = sample(12), sample(9, shift=1.0, seed=1)
    assert mmd_test(x, x, biased=True).value == pytest.approx(0, abs=1e-12)
    there, back = mmd_test(x, y).value, mmd_test(y, x).value
    assert there == pytest.approx(back)
    shuffled = np.random.default_rng(3).permutation(x)
    assert mmd_test(shuffled, y).value == pytest.approx(there)
    # The median heuristic makes the value independent of the unit.
    assert mmd_test(7 * x, 7 * y).value == pytest.approx(there)


def test_the_p_value_is_uniform_when_nothing_differs_and_small_when_something_does() -> None:
    p = [mmd_test(sample(20, seed=i), sample(25, seed=100 + i), permutations=99).p_value
         for i in range(60)]  # fmt: skip
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) <= 0.05) <= 0.15
    assert mmd_test(sample(40), sample(40, shift=1, seed=1)).p_value <= 0.002


def test_degenerate_features_give_finite_numbers() -> None:
    found = mmd_test(np.ones((5, 2)), np.ones((4, 2)))
    assert (found.value, found.p_value) == (pytest.approx(0, abs=1e-12), 1.0)


def test_proxy_a_distance_reaches_from_zero_to_two() -> None:
    near = proxy_a_distance(sample(200), sample(200, seed=1))
    far = proxy_a_distance(sample(200), sample(100, shift=5, seed=1))
    assert near.low <= near.value < 0.4
    assert far.value > 1.9
    assert far.low <= far.value <= far.high <= 2.0


def test_rows_beyond_the_most_are_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sample(50), sample(60, seed=1)
    one, two = (mmd_test(x, y, most=20, permutations=1, seed=s).value for s in (0, 0))
    assert one == two
    assert mmd_test(x, y, most=20, permutations=1).n_source == 20


def test_the_report_is_json_and_says_what_it_means() -> None:
    report = json.loads(json.dumps(distance_report(sample(40), sample(40, shift=2, seed=1))))
    assert report["sentence"].startswith("source and target differ: MMD^2 ")
    same = distance_report(sample(40), sample(40, seed=1))
    assert "cannot be told apart" in same["sentence"]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: mmd_test(sample(3), np.ones((3, 2))), ArgumentError, "4 features .* 2 in"),
        (lambda: mmd_test(sample(1), sample(3)), DataError, "1 and 3 examples"),
        (lambda: mmd_test(np.ones(3), sample(3)), ArgumentError, "expected \\[n, D\\]"),
        (lambda: mmd_test(sample(3) * np.nan, sample(3)), DataError, "NaN"),
        (lambda: mmd_test(np.ones((0, 4)), sample(3)), DataError, "no examples"),
        (lambda: mmd_test(sample(3), sample(3), permutations=0), ArgumentError, "permutations=0"),
        (lambda: proxy_a_distance(sample(3), sample(9)), DataError, "at least 5"),
        (lambda: proxy_a_distance(sample(9), sample(9), folds=1), ArgumentError, "folds=1"),
    ],
)
def test_what_cannot_be_compared_is_said(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call()


def test_the_package_is_public_and_still_the_pipelines_verb() -> None:
    assert tltf.transfer.mmd_test is distances.mmd_test
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tltf.transfer.nothing
    with pytest.raises(TypeError, match="workdir"):
        tltf.transfer(None)

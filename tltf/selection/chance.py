"""Whether a score says anything: the true labels against the same labels shuffled.

A score has a value for any labels, so a table of them always has a best row. With labels that
have nothing to do with the features the best value is one like any other: it does not stand
above those of shuffled labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tltf.selection import probing, scores

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Score = Callable[[Ints], float]

DRAWS, DEVIATIONS = 19, 3.0
"""A value of chance is 3 deviations above the mean of 19 others once in 220 times (Student's t), so
that six scores together raise a false alarm in fewer than 3 of 100 rankings."""


def silent(
    features: Sequence[Floats],
    labels: Ints,
    *,
    probabilities: Sequence[Floats] = (),
    seed: int = 0,
) -> dict[str, bool]:
    """For each score whether its best candidate is like the best of shuffled labels, that is not
    above their mean by more than :data:`DEVIATIONS` of their standard deviations.

    Every shuffling is the same for all candidates and their best value is compared, so that many
    candidates do not make a chance hit more likely.

    Args:
      features: of each candidate ``[n, D]``.
      labels: class indices ``[n]``.
      probabilities: of source classifiers ``[n, Z]``, of those candidates that have one.
      seed: of the shufflings and the folds.
    """
    random = np.random.default_rng(seed)
    shuffled = [random.permutation(labels) for _ in range(DRAWS)]
    return {
        name: _best(each, labels) <= _limit([_best(each, other) for other in shuffled])
        for name, each in _scores(features, probabilities, seed).items()
        if each
    }


def _best(each: Sequence[Score], labels: Ints) -> float:
    return max(score(labels) for score in each)


def _limit(values: Sequence[float]) -> float:
    return float(np.mean(values) + DEVIATIONS * np.std(values, ddof=1))


def _scores(
    features: Sequence[Floats], probabilities: Sequence[Floats], seed: int
) -> Mapping[str, list[Score]]:
    """The columns of the table but the probe, which has an interval of its own."""

    def share(hits: Callable[..., NDArray[np.bool_]], x: Floats) -> Score:
        return lambda labels: float(hits(x, labels, seed=seed).mean())

    wide = [np.asarray(x, dtype=np.float64) for x in features]
    return {
        "k-NN": [share(probing.neighbour_hits, x) for x in wide],
        "mean": [share(probing.class_mean_hits, x) for x in wide],
        "LogME": [scores.logme_of(x) for x in wide],
        "H": [scores.h_score_of(x) for x in wide],
        "NCE": [lambda y, p=p: scores.nce(p.argmax(axis=1), y) for p in probabilities],
        "LEEP": [lambda y, p=p: scores.leep(p, y) for p in probabilities],
    }

"""Few labels per class: episodes, heads on stored features, and how well they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression

from tltf.errors import ArgumentError, DataError, nearest
from tltf.methods import FEWEST_EPISODES
from tltf.transfer import kernels
from tltf.transfer.kernels import Floats
from tltf.transfer.shallow import Labels, checked_labels, unit_rows

Head = Callable[[Floats, Labels, Floats], Floats]
"""``(support, labels from 0, query) -> class scores [n_query, ways]``."""

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Episode:
    """Row numbers and labels from 0 of one task: ``support`` to learn from, ``query`` to answer."""

    support: Labels
    support_labels: Labels
    query: Labels
    query_labels: Labels


class EpisodeSampler:
    """Tasks of ``ways`` classes with ``shots`` labelled examples each, a function of the number.

    Args:
      labels: class indices of all examples.
      ways: classes in an episode, at least 2.
      shots: labelled examples of each class, at least 1.
      queries: further examples of each class.
      seed: root of all episodes.

    Raises:
      ArgumentError: a number out of range.
      DataError: fewer than ``ways`` classes have ``shots + queries`` examples.
    """

    def __init__(
        self, labels: ArrayLike, *, ways: int = 5, shots: int = 1, queries: int = 15, seed: int = 0
    ) -> None:
        y = np.asarray(labels)
        self.labels = checked_labels(y, len(y))
        if ways < 2 or shots < 1 or queries < 1:
            raise ArgumentError(
                f"ways={ways}, shots={shots}, queries={queries}, expected at least 2, 1 and 1",
                where="EpisodeSampler",
            )
        counts = np.bincount(self.labels)
        self.classes = np.flatnonzero(counts >= shots + queries)
        if len(self.classes) < ways:
            raise DataError(
                f"{len(self.classes)} classes have {shots + queries} examples, expected {ways}",
                where="EpisodeSampler",
                next_action="use fewer ways, shots or queries",
            )
        self.ways, self.shots, self.queries, self.seed = ways, shots, queries, seed
        self._rows = {int(c): np.flatnonzero(self.labels == c) for c in self.classes}

    def episode(self, number: int) -> Episode:
        """The same for the same seed and number."""
        rng = np.random.default_rng([self.seed, number])
        chosen = rng.choice(self.classes, self.ways, replace=False)
        size = self.shots + self.queries
        rows = np.stack([rng.choice(self._rows[int(c)], size, replace=False) for c in chosen])
        names = np.arange(self.ways)
        return Episode(
            support=rows[:, : self.shots].ravel(),
            support_labels=np.repeat(names, self.shots),
            query=rows[:, self.shots :].ravel(),
            query_labels=np.repeat(names, self.queries),
        )

    def episodes(self, count: int, *, first: int = 0) -> Iterator[Episode]:
        """``count`` episodes in a row."""
        return (self.episode(number) for number in range(first, first + count))


@dataclass(frozen=True)
class EpisodeAccuracy:
    """Mean accuracy over episodes and its 95 % interval, 1.96 standard errors to each side."""

    value: float
    low: float
    high: float
    episodes: int


def evaluate_episodes(
    features: ArrayLike,
    sampler: EpisodeSampler,
    head: str | Head = "nearest_mean",
    *,
    episodes: int = FEWEST_EPISODES,
    progress: Progress | None = None,
) -> EpisodeAccuracy:
    """How a head does on many episodes.

    Args:
      features: of all examples ``[n, D]``, in the order of the sampler's labels.
      sampler: the episodes.
      head: a key of :data:`HEADS`, or such a function.
      episodes: at least 600, or the interval says little.
      progress: called with 1 after each.

    Raises:
      ArgumentError: an unknown head, or too few episodes.
    """
    if episodes < FEWEST_EPISODES:
        raise ArgumentError(f"episodes={episodes}, expected at least {FEWEST_EPISODES}")
    if isinstance(head, str) and head not in HEADS:
        raise ArgumentError(
            f"head={head!r}, expected one of {', '.join(HEADS)}{nearest(head, HEADS)}"
        )
    answer = HEADS[head] if isinstance(head, str) else head
    x = kernels.matrix(features, what="features")
    right = []
    for e in sampler.episodes(episodes):
        scores = answer(x[e.support], e.support_labels, x[e.query])
        right.append((scores.argmax(axis=1) == e.query_labels).mean())
        if progress is not None:
            progress(1)
    return accuracy_of(right)


def accuracy_of(right: ArrayLike) -> EpisodeAccuracy:
    """Mean and interval of the accuracies of single episodes."""
    values = np.asarray(right, float)
    error = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.5
    mean = float(values.mean())
    return EpisodeAccuracy(mean, max(0.0, mean - error), min(1.0, mean + error), len(values))


def class_means(support: Floats, labels: Labels) -> Floats:
    """``[ways, D]``: prototypes (Snell et al., 2017, equation 1)."""
    return np.stack([support[labels == c].mean(axis=0) for c in range(labels.max() + 1)])


def nearest_mean(support: Floats, labels: Labels, query: Floats) -> Floats:
    """Minus the squared distance to each class mean (Snell et al., 2017, equation 2)."""
    return -kernels.squared_distances(query, class_means(support, labels))


def cosine(support: Floats, labels: Labels, query: Floats) -> Floats:
    """Cosine with the mean of each class's rows of unit length (Gidaris & Komodakis, 2018)."""
    return unit_rows(query) @ unit_rows(class_means(unit_rows(support), labels)).T


def logistic(support: Floats, labels: Labels, query: Floats) -> Floats:
    """Log-probabilities of a logistic regression on rows of unit length (Tian et al., 2020)."""
    model = LogisticRegression(C=10.0, max_iter=500).fit(unit_rows(support), labels)
    return model.predict_log_proba(unit_rows(query))


HEADS: dict[str, Head] = {"nearest_mean": nearest_mean, "cosine": cosine, "logistic": logistic}

"""Labels for the target from the source's: propagation over a graph, and self-training."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg
from sklearn.linear_model import LogisticRegression

from tltf.errors import ArgumentError
from tltf.transfer import kernels, shallow
from tltf.transfer.kernels import Floats
from tltf.transfer.manifold import normalized_graph


def label_propagation(
    source: ArrayLike,
    labels: ArrayLike,
    target: ArrayLike,
    *,
    neighbours: int = 10,
    alpha: float = 0.9,
) -> Floats:
    """Class scores of the target ``[n, C]``, rows summing to 1.

    ``F = (1 - alpha) (I - alpha S)^-1 Y`` with S the normalised graph of both domains. Zhou et
    al., *Learning with Local and Global Consistency* (NIPS 2003), section 2, step 4.

    Args:
      source, target: features ``[n, D]`` in a common space.
      labels: class indices of the source.
      neighbours: of the cosine graph.
      alpha: how far labels travel, in (0, 1).
    """
    if not 0 < alpha < 1:
        raise ArgumentError(
            f"alpha={alpha:g}, expected a number in (0, 1)", where="label_propagation"
        )
    s, t = kernels.pair(source, target)
    y = shallow.checked_labels(labels, len(s))
    x = np.concatenate([s, t])
    known = np.zeros((len(x), int(y.max()) + 1))
    known[np.arange(len(s)), y] = 1.0
    # Classes weigh alike, whatever their number of source examples.
    known /= np.maximum(known.sum(axis=0), 1.0)
    graph = normalized_graph(x, neighbours=neighbours)
    scores = np.maximum(linalg.solve(np.eye(len(x)) - alpha * graph, known)[len(s) :], 0.0)
    total = scores.sum(axis=1, keepdims=True)
    return np.where(total > 0, scores / np.where(total > 0, total, 1.0), 1.0 / scores.shape[1])


def self_training(
    source: ArrayLike,
    labels: ArrayLike,
    target: ArrayLike,
    *,
    rounds: int = 5,
    confidence: float = 0.8,
    strength: float = 0.1,
) -> Floats:
    """Class probabilities of the target ``[n, C]`` by a head that learns from its own answers.

    A logistic head is fitted to the source; in each round it is fitted again with the target
    examples that it is sure of, of each class at most the share ``round / rounds`` of the most
    sure ones, so that an easy class does not drown the others (Zou et al., *Unsupervised Domain
    Adaptation for Semantic Segmentation via Class-Balanced Self-Training*, ECCV 2018).

    Args:
      source, target: features ``[n, D]`` in a common space.
      labels: class indices of the source.
      rounds: of pseudo-labelling; 0 is the head on the source only.
      confidence: least probability of a pseudo-label, in [0, 1).
      strength: C of the logistic regression.
    """
    if rounds < 0 or not 0 <= confidence < 1:
        raise ArgumentError(
            f"rounds={rounds}, confidence={confidence:g}, expected at least 0 and in [0, 1)",
            where="self_training",
        )
    s, t = kernels.pair(source, target)
    y = shallow.checked_labels(labels, len(s))
    n_classes = int(y.max()) + 1
    model = LogisticRegression(C=strength, max_iter=1000).fit(s, y)
    for number in range(1, rounds + 1):
        p = model.predict_proba(t)
        chosen = confident(p, share=number / rounds, confidence=confidence)
        if not chosen.any():
            break
        pseudo = model.classes_[p.argmax(axis=1)]
        x, both = np.concatenate([s, t[chosen]]), np.concatenate([y, pseudo[chosen]])
        model = LogisticRegression(C=strength, max_iter=1000).fit(x, both)
    full = np.zeros((len(t), n_classes))
    full[:, model.classes_] = model.predict_proba(t)
    return full


def confident(probabilities: Floats, *, share: float, confidence: float) -> np.ndarray:
    """bool ``[n]``: of each predicted class the surest ``share``, not below ``confidence``."""
    best, top = probabilities.argmax(axis=1), probabilities.max(axis=1)
    chosen = np.zeros(len(probabilities), bool)
    for c in np.unique(best):
        rows = np.flatnonzero(best == c)
        most = int(np.ceil(share * len(rows)))
        chosen[rows[np.argsort(-top[rows], kind="stable")[:most]]] = True
    return chosen & (top >= confidence)

"""Folds in which every labelled example is once held out, with all that is tied to it."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from tltf.errors import DataError

Ints = NDArray[np.int64]
Fold = tuple[Ints, Ints]
"""Which rows a model is fitted on, and which it is asked about."""


def stratified(
    strata: Sequence[Hashable], components: Sequence[Sequence[int]], *, count: int, seed: int
) -> list[Fold]:
    """Folds with the strata in proportion, no component on both sides.

    Args:
      strata: of each row what should be in proportion, for example its class.
      components: positions of rows that belong together; every row in exactly one.
      count: folds, >= 2; fewer where there are fewer components.
      seed: another seed, other folds.

    Raises:
      DataError: a single component, so that nothing can be held out.

    Example:
      >>> folds = stratified("aabb", [[0], [1], [2], [3]], count=2, seed=0)
      >>> ["".join(sorted("aabb"[i] for i in held)) for _, held in folds]
      ['ab', 'ab']
    """
    count = min(count, len(components))
    if count < 2:
        raise DataError(
            f"{len(strata)} training examples that all belong together (one group, or copies of"
            " one another), expected at least two that do not",
            where="--validation",
            next_action="add examples of other groups",
        )
    names = {stratum: i for i, stratum in enumerate(dict.fromkeys(strata))}
    labels = np.array([names[stratum] for stratum in strata])
    groups = np.empty(len(strata), np.int64)
    for i, members in enumerate(components):
        groups[list(members)] = i
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer examples than folds is missing in some of them, which is allowed.
        warnings.filterwarnings("ignore", message=".*least populated class")
        try:
            found = list(splitter.split(labels, labels, groups))
        except ValueError:
            # No class has as many examples as there are folds: of each one alone.
            found = _in_turn(groups, count, seed)
    return [(fit, held) for fit, held in found if len(fit) and len(held)]


def _in_turn(groups: Ints, count: int, seed: int) -> list[Fold]:
    """Components dealt out one after the other in random order."""
    order = np.random.default_rng(seed).permutation(groups.max() + 1)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) % count
    held = place[groups]
    return [(np.flatnonzero(held != k), np.flatnonzero(held == k)) for k in range(count)]

"""Folds: proportions, and nothing that belongs together on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from tltf.errors import DataError
from tltf.probes.folds import stratified


def alone(n):
    return [[i] for i in range(n)]


def test_every_example_is_held_out_once_with_the_classes_in_proportion():
    labels = ["a"] * 40 + ["b"] * 20
    folds = stratified(labels, alone(60), count=5, seed=0)
    held = np.concatenate([held for _, held in folds])
    assert sorted(held) == list(range(60))
    assert len(folds) == 5
    for fit, held in folds:
        assert sum(labels[i] == "b" for i in held) == 4
        assert not set(fit) & set(held)


def test_what_belongs_together_stands_on_one_side():
    labels = list("ab" * 30)
    components = [[i, i + 1, i + 2] for i in range(0, 60, 3)]
    for fit, held in stratified(labels, components, count=4, seed=1):
        for members in components:
            assert set(members) <= set(fit) or set(members) <= set(held)


def test_another_seed_other_folds_and_the_same_the_same():
    folds = [stratified("ab" * 20, alone(40), count=4, seed=s) for s in (0, 0, 1)]
    first = [[list(held) for _, held in one] for one in folds]
    assert first[0] == first[1] != first[2]


def test_classes_smaller_than_the_folds_are_missing_in_some():
    folds = stratified(["a", "a", "b", "b", "c"], alone(5), count=5, seed=0)
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(5))


def test_everything_in_one_group_cannot_be_held_out():
    with pytest.raises(DataError, match="all belong together"):
        stratified("abab", [[0, 1, 2, 3]], count=5, seed=0)

"""Some of many records, whatever their order."""

from __future__ import annotations

from collections import Counter

import pytest

from tltf.data.spreading import spread


@pytest.mark.parametrize("n", [1000, 1001, 1500, 1999, 2000, 7777, 40_000])
def test_every_class_is_there_in_its_share(n: int) -> None:
    labels = [4 * i // n for i in range(n)]
    counts = Counter(spread(labels, most=1000))
    assert sum(counts.values()) == 1000
    assert all(245 <= counts[c] <= 255 for c in range(4))


@pytest.mark.parametrize("period", [2, 3, 4, 10])
def test_classes_that_take_turns_are_all_there(period: int) -> None:
    counts = Counter(spread([i % period for i in range(period * 1000)], most=1000))
    assert set(counts) == set(range(period))
    assert min(counts.values()) > 0.7 * 1000 / period


def test_few_are_all_and_the_choice_is_the_same_again() -> None:
    assert spread([3, 1, 2], most=3) == [3, 1, 2]
    assert spread([3, 1, 2], most=0) == []
    chosen = spread(range(5000), most=77)
    assert chosen == spread(range(5000), most=77) == sorted(set(chosen))

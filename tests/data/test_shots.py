"""Labelled target examples that are learned from are not measured on."""

from __future__ import annotations

import dataclasses

import pytest

from tltf.data.manifest import Record
from tltf.data.shots import SHOTS, with_shots
from tltf.errors import DataError


def records(counts: dict[str, int]) -> list[Record]:
    return [
        Record(id=f"{name}/{i}", path="x", label=name, split="test", sha256=f"{name}{i:060d}")
        for name, n in counts.items()
        for i in range(n)
    ]


def taken(found: tuple[Record, ...]) -> set[str]:
    return {record.id for record in found if record.split == SHOTS}


def test_so_many_of_each_class_and_the_rest_stays() -> None:
    found = with_shots(records({"a": 9, "b": 5}), 3, seed=0, where="t")
    assert [r.id for r in found] == [r.id for r in records({"a": 9, "b": 5})]
    by_class = [name.split("/")[0] for name in taken(found)]
    assert (by_class.count("a"), by_class.count("b")) == (3, 3)
    assert sum(r.split == "test" for r in found) == 8


def test_which_ones_follows_from_seed_and_content() -> None:
    some = records({"a": 9, "b": 5})
    first = taken(with_shots(some, 2, seed=0, where="t"))
    assert taken(with_shots(some[::-1], 2, seed=0, where="t")) == first
    assert len({frozenset(taken(with_shots(some, 2, seed=s, where="t"))) for s in range(9)}) > 1


def test_a_copy_goes_with_what_it_copies() -> None:
    """Or the number would be measured on what was learned."""
    some = records({"a": 4, "b": 4})
    copies = [dataclasses.replace(r, id=f"{r.id}-again") for r in some]
    found = taken(with_shots([*some, *copies], 2, seed=0, where="t"))
    assert {f"{name}-again" for name in found if not name.endswith("-again")} < found
    assert len(found) == 8


def test_what_cannot_be_taken_is_said() -> None:
    unlabelled = [dataclasses.replace(r, label=None) for r in records({"a": 3})]
    with pytest.raises(DataError, match="there are no labels"):
        with_shots(unlabelled, 1, seed=0, where="t")
    with pytest.raises(DataError, match=r"b has 3 \(art\); next: use --shots=2,"):
        with_shots(records({"a": 9, "b": 3}), 3, seed=0, where="art")

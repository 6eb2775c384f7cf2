"""Splits: no leaks, classes in proportion, independent of names and order."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tltf.data.manifest import BadInputsError, Label, Manifest, Record, class_names
from tltf.data.scan import scan
from tltf.data.sources import load
from tltf.data.splits import split
from tltf.errors import DataError

FRACTIONS = {"val_fraction": 0.15, "test_fraction": 0.15, "seed": 0}
NOTHING = {"val_fraction": 0.0, "test_fraction": 0.0, "seed": 0}


def record(i: int, label: Label, *, content: object = None, **fields: object) -> Record:
    digest = hashlib.sha256(repr(i if content is None else content).encode()).hexdigest()
    return Record(id=f"{i}.png", path=f"/{i}.png", label=label, sha256=digest, **fields)  # type: ignore[arg-type]


def manifest_of(records: list[Record], task: str = "single_label") -> Manifest:
    names = {name for record in records for name in class_names(record.label)}
    return Manifest(task=task, classes=tuple(sorted(names)), records=tuple(records))


def sizes(manifest: Manifest) -> dict[str, int]:
    return dict(Counter(str(r.split) for r in manifest.records))


def test_counts_are_exact_and_stratified() -> None:
    records = [record(i, "cat" if i % 2 else "dog") for i in range(300)]
    done = split(manifest_of(records), **FRACTIONS)
    assert sizes(done) == {"train": 210, "val": 45, "test": 45}
    assert "carved 45 as val, 45 as test of 300 records, stratified, seed 0" in done.notes
    for name, share in (("train", 105), ("val", 22.5), ("test", 22.5)):
        for count in done.counts()[name].values():
            assert abs(count - share) <= 0.5


@pytest.mark.parametrize("seed", range(5))
def test_proportions_hold_for_uneven_classes(seed: int) -> None:
    generator = random.Random(seed)
    amounts = {name: generator.randint(3, 80) for name in "abcdefg"}
    labels = [name for name, n in amounts.items() for _ in range(n)]
    done = split(
        manifest_of([record(i, x) for i, x in enumerate(labels)]), **{**FRACTIONS, "seed": seed}
    )
    for name, n in amounts.items():
        for part in ("val", "test"):
            assert max(1, 0.15 * n - 1) <= done.counts()[part][name] <= 0.15 * n + 1
    assert len(done.records) == len(labels)


def test_a_class_of_three_has_one_everywhere() -> None:
    records = [record(i, "rare" if i < 3 else "common") for i in range(40)]
    counts = split(manifest_of(records), **FRACTIONS).counts()
    assert [counts[name]["rare"] for name in ("train", "val", "test")] == [1, 1, 1]


def test_a_class_of_two_cannot_be_split_three_ways() -> None:
    records = [record(i, "rare" if i < 2 else "common") for i in range(40)]
    with pytest.raises(DataError, match=r"1 classes .*rare \(train \d, val \d, test \d\)"):
        split(manifest_of(records), **FRACTIONS)


def test_same_seed_same_split_whatever_the_names_and_the_order() -> None:
    records = [record(i, "ab"[i % 2]) for i in range(60)]
    first = {r.sha256: r.split for r in split(manifest_of(records), **FRACTIONS).records}
    random.Random(1).shuffle(records)
    renamed = [
        dataclasses.replace(r, id=f"new{i}", path=f"/new/{i}") for i, r in enumerate(records)
    ]
    second = {r.sha256: r.split for r in split(manifest_of(renamed), **FRACTIONS).records}
    assert first == second
    other = split(manifest_of(records), **{**FRACTIONS, "seed": 1}).records
    assert first != {r.sha256: r.split for r in other}


def test_copies_and_groups_stay_together_even_in_chains() -> None:
    # 0 and 1 share a content, 1 and 2 a group, 2 and 3 a content: all four are one.
    chain = [
        record(0, "a", content="x"),
        record(1, "a", content="x", group="g"),
        record(2, "a", content="y", group="g"),
        record(3, "a", content="y"),
    ]
    others = [record(i, "ab"[i % 2], group=f"person {i // 5}") for i in range(10, 110)]
    done = split(manifest_of(chain + others), **FRACTIONS)
    places: dict[str, set[str | None]] = {}
    for r in done.records:
        places.setdefault(r.group or "chain", set()).add(r.split)
    places["chain"] |= places.pop("g")
    assert all(len(where) == 1 for where in places.values())
    assert len(done.records) == 104
    for name in ("val", "test"):
        assert 10 <= sizes(done)[name] <= 21


def test_named_splits_are_kept_and_only_the_missing_one_is_carved() -> None:
    records = [record(i, "ab"[i % 2], split="test" if i < 20 else None) for i in range(100)]
    done = split(manifest_of(records), **FRACTIONS)
    assert sizes(done) == {"train": 68, "val": 12, "test": 20}
    assert {r.id for r in done.split("test")} == {f"{i}.png" for i in range(20)}
    assert done.notes == ("carved 12 as val of 80 records, stratified, seed 0",)
    named = [
        dataclasses.replace(r, split=("train", "val", "test")[i % 10 // 4])
        for i, r in enumerate(records)
    ]
    assert split(manifest_of(named), **FRACTIONS).records == tuple(named)


def test_a_large_test_split_of_the_data_leaves_few_labels_to_train_on() -> None:
    """The share is one of what is not held out, or sixteen labels would all go to val."""
    records = [record(i, "ab"[i % 2], split="test" if i < 400 else None) for i in range(416)]
    done = split(manifest_of(records), **FRACTIONS)
    assert sizes(done) == {"train": 14, "val": 2, "test": 400}


def test_sabotage_a_file_copied_into_two_splits_is_caught(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    for name in ("cat", "dog"):
        files = sorted((photos / name).iterdir())
        for place, some in (("train", files[5:]), ("val", files[:2]), ("test", files[2:5])):
            (root / place / name).mkdir(parents=True)
            for file in some:
                shutil.copy(file, root / place / name)
    shutil.copy(root / "test/cat/02.png", root / "train/cat/leaked.png")
    shutil.copy(root / "test/cat/03.png", root / "val/cat/leaked too.png")
    scanned = scan(load(str(root)), max_image_pixels=10**6)

    done = split(scanned, **FRACTIONS)
    assert {(x.id, x.outcome, x.reason) for x in done.excluded} == {
        ("train/cat/leaked.png", "ignored", "duplicate of test/cat/02.png in test"),
        ("val/cat/leaked too.png", "ignored", "duplicate of test/cat/03.png in test"),
    }
    assert "2 records left out, since a stricter split holds the same" in done.notes[1]
    assert len(done.records) + len(done.excluded) == 52

    with pytest.raises(BadInputsError, match="2 records leak between splits") as caught:
        split(scanned, **FRACTIONS, fail_on_leak=True)
    assert len(caught.value.excluded) == 2


def test_a_group_in_two_named_splits_is_a_leak() -> None:
    records = [
        record(i, "ab"[i % 2], split="train" if i < 8 else "test", group=f"g{i % 8 // 2}")
        for i in range(10)
    ]
    done = split(manifest_of(records), val_fraction=0.0, test_fraction=0.0, seed=0)
    assert [(x.id, x.reason) for x in done.excluded] == [
        ("0.png", "same group 'g0' as 8.png in test"),
        ("1.png", "same group 'g0' as 8.png in test"),
    ]


def test_without_named_splits_nothing_leaks_by_construction() -> None:
    records = [record(i, "ab"[i % 2], content=i // 4) for i in range(80)]
    done = split(manifest_of(records), **FRACTIONS, fail_on_leak=True)
    assert not done.excluded


def test_copies_with_different_labels_are_reported_and_stay_on_one_side() -> None:
    records = [record(i, "ab"[i % 2]) for i in range(40)]
    records += [record(100, "a", content="same"), record(101, "b", content="same")]
    done = split(manifest_of(records), **FRACTIONS)
    assert done.notes[:2] == (
        "1 exact copies of other records; copies stand in one split",
        "1 copies with different labels: 100.png is 'a', its copy 101.png is 'b'",
    )
    assert len({r.split for r in done.records if r.id in ("100.png", "101.png")}) == 1


def test_regression_is_stratified_by_value() -> None:
    records = [record(i, float(i)) for i in range(200)]
    done = split(manifest_of(records, "regression"), **FRACTIONS)
    assert sizes(done) == {"train": 140, "val": 30, "test": 30}
    for name in ("val", "test"):
        tenths = Counter(int(float(r.label) // 20) for r in done.split(name))  # type: ignore[arg-type]
        assert all(tenths[tenth] == 3 for tenth in range(10))
    assert "stratified by value" in done.notes[0]


def test_multi_label_has_every_label_everywhere_when_possible() -> None:
    generator = random.Random(3)
    labels = [
        tuple(sorted(generator.sample("abcdef", generator.randint(0, 3)))) for _ in range(200)
    ]
    records = [record(i, label) for i, label in enumerate(labels)]
    records.append(record(1000, ("a", "once")))
    done = split(manifest_of(records, "multi_label"), **FRACTIONS)
    for name, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        for label in "abcdef":
            whole = sum(label in r.label for r in records)  # type: ignore[operator]
            assert abs(done.counts()[name][label] - share * whole) <= 5
    assert (
        "classes that only train has, so that nothing measures them: once (train 1, val 0, test 0)"
        in done.notes
    )


def test_empty_splits_are_refused() -> None:
    test_only = manifest_of([record(i, "ab"[i % 2], split="test") for i in range(10)])
    with pytest.raises(DataError, match=r"no examples in train: train 0, val 0, test 10"):
        split(test_only, **FRACTIONS)
    tiny = manifest_of([record(0, "a"), record(1, "b")])
    with pytest.raises(DataError, match="no example"):
        split(tiny, **FRACTIONS)
    with pytest.raises(DataError, match="no examples in train"):
        split(manifest_of([]), **FRACTIONS)


def test_a_class_that_a_named_split_lacks_is_a_note() -> None:
    records = [record(i, "ab"[i % 2]) for i in range(40)]
    records += [record(i, "a", split="test") for i in range(40, 50)]
    done = split(manifest_of(records), **FRACTIONS)
    assert any("b (train 1" in note for note in done.notes)


def test_zero_fractions_carve_nothing() -> None:
    done = split(
        manifest_of([record(i, "ab"[i % 2]) for i in range(4)]),
        val_fraction=0.0,
        test_fraction=0.0,
        seed=0,
    )
    assert sizes(done) == {"train": 4}
    assert done.notes == ()


def test_a_class_of_the_test_split_alone_is_refused_with_the_remedy() -> None:
    records = [
        Record(id=f"{split}{label}{i}", label=label, split=split, sha256=f"{split}{label}{i}")
        for split, labels in (("train", "ab"), ("test", "abc")) for label in labels
        for i in range(4)
    ]  # fmt: skip
    manifest = Manifest(task="single_label", classes=("a", "b", "c"), records=tuple(records))
    with pytest.raises(DataError, match=r"c \(train 0, val 0, test 4\)") as error:
        split(manifest, val_fraction=0.25, test_fraction=0.25, seed=0)
    assert error.value.next_action == (
        "move examples of c to train, or take them out of the other splits"
    )


def test_a_class_that_carving_leaves_out_names_the_flags() -> None:
    records = [Record(id=f"a{i}", label="a", sha256=f"a{i}") for i in range(9)]
    records.append(Record(id="b", label="b", sha256="b"))
    manifest = Manifest(task="single_label", classes=("a", "b"), records=tuple(records))
    with pytest.raises(DataError, match="1 classes have no example") as error:
        split(manifest, val_fraction=0.2, test_fraction=0.2, seed=0)
    assert "--val_fraction=0, --test_fraction=0" in error.value.next_action


def test_a_class_of_the_training_part_alone_is_said() -> None:
    records = [
        Record(id=f"{part}{label}{i}", label=label, split=part, sha256=f"{part}{label}{i}")
        for part, labels in (("train", "abc"), ("val", "abd"), ("test", "ab")) for label in labels
        for i in range(3)
    ]  # fmt: skip
    records += [Record(id=f"d{i}", label="d", split="train", sha256=f"d{i}") for i in range(2)]
    manifest = Manifest(task="single_label", classes=tuple("abcd"), records=tuple(records))
    notes = split(manifest, val_fraction=0.25, test_fraction=0.25, seed=0).notes
    assert (
        "classes that only train has, so that nothing measures them: c (train 3, val 0, test 0)"
        in notes
    )
    assert "classes without an example in some split: d (train 2, val 3, test 0)" in notes

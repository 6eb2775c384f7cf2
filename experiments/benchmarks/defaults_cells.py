"""The cells of :mod:`experiments.benchmarks.defaults`: what is learned from, and what judges.

A cell is a set, a number of labels per class and a seed. A seed orders the whole set once. Of every
class the first examples of that order are the test part, which is the same for all numbers of
labels; the labels follow it in the same order, so that those of a smaller cell are among those of
a larger one. Sets that come with a test part of their own keep it.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.benchmarks import text_sets
from experiments.benchmarks.quality import unpacked
from experiments.benchmarks.samples import SPLITS, photos_of
from tltf import storage
from tltf.data.duplicates import normalized
from tltf.errors import ArgumentError

PHOTOS = ("cats_dogs", "hymenoptera", "sign_digits", "flowers128", "cifar10", "pacs/photo",
          "pacs/art_painting")  # fmt: skip
TEXTS: dict[str, Callable[[], text_sets.Rows]] = {
    "sst2": text_sets.sst2, "mr": text_sets.mr, "trec6": text_sets.trec,
}  # fmt: skip
ALL = "all"
LABELS = {"photos": ("10", "25", ALL), "texts": ("8", "32", "128", ALL)}
ALL_AT_MOST = {"cifar10": 1000}
"""Of 10,000: the guide's loop reads every photo thirty times."""
TEST_SHARE, MOST_TESTS, MOST_OWN_TESTS = 0.3, 900, 2000


@dataclass(frozen=True, kw_only=True)
class Example:
    """A photo or a text with its label.

    Args:
      id: the first 16 digits of the SHA-256 of its bytes.
      label: name of its class.
      path: of a photo.
      text: itself.
      split: ``test`` if the set says so.
      group: examples of one group stand on one side; empty for none.
    """

    id: str
    label: str
    path: Path | None = None
    text: str | None = None
    split: str = ""
    group: str = ""

    @property
    def content(self) -> str:
        """What copies have in common: the bytes; of texts not case, blanks and widths."""
        return self.id if self.text is None else normalized(self.text)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The labelled examples and the test part; ``table`` holds both for ``tltf train``."""

    data: str
    labels: str
    seed: int
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    table: Path

    @property
    def title(self) -> str:
        """A file name."""
        return self.table.stem


def modality(data: str) -> str:
    """``photos`` or ``texts``."""
    return "texts" if data in TEXTS else "photos"


def examples(data: str, work: Path) -> list[Example]:
    """All of a set, one of each content."""
    found = _texts(data) if data in TEXTS else _photos(data, work)
    return distinct(found)


def _texts(data: str) -> Iterable[Example]:
    for row in TEXTS[data]():
        id_ = hashlib.sha256(row["text"].encode()).hexdigest()[:16]
        yield Example(id=id_, label=row["label"], text=row["text"], split=row.get("split", ""))


def _photos(data: str, work: Path) -> Iterable[Example]:
    """Of a set in an archive, or of one part of it as ``pacs/photo``."""
    archive, _, part = data.partition("/")
    folder = unpacked(archive, work / "data") / part
    named = {split: folder / split for split in SPLITS if (folder / split).is_dir()}
    for split, place in (named or {"": folder}).items():
        for label, paths in photos_of(place).items():
            for path in paths:
                id_ = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
                yield Example(id=id_, label=label, path=path.absolute(), split=split)


def distinct(found: Iterable[Example]) -> list[Example]:
    """One of all exact copies, the one of the test part before others; none of those that have two
    labels, of which nobody knows the right one."""
    first: dict[str, Example] = {}
    labels: dict[str, set[str]] = defaultdict(set)
    for example in sorted(found, key=lambda e: e.split != "test"):
        first.setdefault(example.content, example)
        labels[example.content].add(example.label)
    return [example for content, example in first.items() if len(labels[content]) == 1]


@dataclass(frozen=True)
class Draw:
    """A seed's test part, and for each class all other examples in the order of the draw."""

    test: tuple[Example, ...]
    pool: dict[str, tuple[Example, ...]]

    def train(self, labels: str) -> tuple[Example, ...]:
        """So many of each class, or as many as there are."""
        most = None if labels == ALL else int(labels)
        return tuple(example for members in self.pool.values() for example in members[:most])


def drawn(found: Sequence[Example], *, seed: int, most: int | None = None) -> Draw:
    """The draw of a seed.

    Args:
      found: distinct ones.
      seed: of the order.
      most: labels in all; the rest of the pool is left out, the same share of each class.
    """
    ordered = _ordered(found, seed)
    own = [example for example in ordered if example.split == "test"]
    share = min(1.0, MOST_OWN_TESTS / len(own)) if own else min(TEST_SHARE, MOST_TESTS / len(found))
    test: list[Example] = []
    for members in by_class(own or ordered).values():
        test += members[: max(1, int(share * len(members) + 1e-9))]
    taken, groups = {e.id for e in test}, {e.group for e in test if e.group}
    taken |= {e.id for e in own}  # those of a test part that is too large judge nothing
    free = [e for e in ordered if e.id not in taken and e.group not in groups]
    left = min(1.0, most / len(free)) if most else 1.0
    pool = {label: tuple(members[: max(1, round(left * len(members)))])
            for label, members in by_class(free).items()}  # fmt: skip
    return Draw(tuple(test), pool)


def _ordered(found: Sequence[Example], seed: int) -> list[Example]:
    """All of a group one after the other, the groups by lot; not by the names of files."""
    groups = sorted({example.group or example.id for example in found})
    lots = np.random.default_rng(seed).permutation(len(groups))
    rank = dict(zip(groups, lots, strict=True))
    return sorted(found, key=lambda e: (rank[e.group or e.id], e.id))


def by_class(found: Iterable[Example]) -> dict[str, list[Example]]:
    """Class name to its examples in their order; the classes by name."""
    members: dict[str, list[Example]] = defaultdict(list)
    for example in found:
        members[example.label].append(example)
    return {label: members[label] for label in sorted(members)}


def cell(data: str, found: Sequence[Example], *, labels: str, seed: int, work: Path) -> Cell:
    """A cell with its table in ``work/cells``.

    Args:
      data: name of the set.
      found: of :func:`examples`.
      labels: per class, or ``all``.
      seed: of the draw.
      work: folder of the measurement.
    """
    draw = drawn(found, seed=seed, most=ALL_AT_MOST.get(data))
    train, test = draw.train(labels), draw.test
    table = work / "cells" / f"{data.replace('/', '_')}-{labels}-{seed}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    storage.write_text(table, _csv(train, test))
    return Cell(data=data, labels=labels, seed=seed, train=train, test=test, table=table)


def _csv(train: Sequence[Example], test: Sequence[Example]) -> str:
    """Columns path (or text), label, split; in an order that does not tell the class."""
    rows = io.StringIO(newline="")
    writer = csv.writer(rows)
    column = "text" if test[0].path is None else "path"
    writer.writerow((column, "label", "split"))
    for split, part in (("train", train), ("test", test)):
        for example in sorted(part, key=lambda e: e.id):
            writer.writerow((getattr(example, column), example.label, split))
    return rows.getvalue()


def held_out(train: Sequence[Example], *, share: float, seed: int) -> tuple[Example, ...]:
    """The labelled examples with a share of them as ``val``, stratified; for the guide's loop."""
    from sklearn.model_selection import train_test_split

    _, held = train_test_split([e.id for e in train], test_size=share, random_state=seed,
                               stratify=[e.label for e in train])  # fmt: skip
    ids = set(held)
    return tuple(dataclasses.replace(e, split="val" if e.id in ids else "train") for e in train)


def check_labels(labels: Sequence[str]) -> None:
    """Raises ArgumentError for what is neither a number from 2 on nor ``all``."""
    for text in labels:
        if text != ALL and (not text.isdecimal() or int(text) < 2):
            raise ArgumentError(f"labels={text!r}, expected whole numbers of at least 2, or {ALL}",
                                where="--labels")  # fmt: skip

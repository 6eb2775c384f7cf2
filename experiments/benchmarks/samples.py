"""A small training set with a large test split, drawn anew for every seed.

A person with 160 photos has two dozen to test on, and one photo is four points. The sets at hand
are larger than that: what is not drawn for training judges.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.benchmarks.quality import unpacked
from tltf import storage

SHARES = {"train": 0.7, "val": 0.15}
SPLITS = ("train", "val", "test")


def photos_of(folder: Path) -> dict[str, list[Path]]:
    """Class name to its photos; of a set that comes split, those of all parts."""
    found: dict[str, list[Path]] = {}
    parts = [folder / split for split in SPLITS if (folder / split).is_dir()] or [folder]
    for part in parts:
        for place in sorted(path for path in part.iterdir() if path.is_dir()):
            found.setdefault(place.name, []).extend(sorted(place.iterdir()))
    return found


def sample(
    name: str, *, photos: int, tests: int, seed: int, work: Path, classes: Sequence[str] = ()
) -> Path:
    """A table of the set ``name``: the shares of ``photos`` for training and validation as a
    folder of so many would give them, the same number of each class, and of all others at most
    ``tests`` for the test split.

    Args:
      name: an image set in ``$TLTF_TEST_DATA``.
      photos: that are divided by :data:`SHARES`; what is left of them is for the test split.
      tests: test photos at most.
      seed: which ones.
      work: for the photos and the table.
      classes: only these; all if empty.
    """
    title = "-".join([name, f"{photos}+{tests}", str(seed), *classes])
    table = work / "samples" / f"{title}.csv"
    if table.exists():
        return table
    found = photos_of(unpacked(name, work / "data"))
    found = {label: found[label] for label in classes or found}
    counts = {split: round(photos * share / len(found)) for split, share in SHARES.items()}
    counts["test"] = tests // len(found)
    rows = io.StringIO(newline="")
    writer = csv.writer(rows)
    writer.writerow(("path", "label", "split"))
    for label, paths in found.items():
        order = iter(np.random.default_rng(seed).permutation(len(paths)))
        for split, count in counts.items():
            for index, _ in zip(order, range(count), strict=False):
                writer.writerow((paths[index].absolute(), label, split))
    table.parent.mkdir(parents=True, exist_ok=True)
    storage.write_text(table, rows.getvalue())
    return table

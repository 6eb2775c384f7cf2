"""The rows of :mod:`experiments.benchmarks.defaults` in their file, and what they say together.

A difference of two methods in a cell is paired by test example within each seed; over the seeds it
is a mean with the interval of Student's t, which holds the luck of the labels and of the first
weights, and that of the test part where seeds draw it. Over cells it is the mean of their means;
its interval is a bootstrap of sets, and of the seeds of each set that is drawn, each with all its
numbers of labels: these share a test part and labels, so that they are not drawn by themselves. It
says what to expect of other sets of this kind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from experiments.benchmarks.defaults_cells import ALL, LABELS, PHOTOS, TEXTS, modality
from experiments.benchmarks.defaults_rivals import PROBES
from experiments.benchmarks.protocol import RESAMPLES
from tltf.errors import MismatchError

Place = tuple[str, str]
"""A set and its number of labels per class."""
Key = tuple[str, str, int, str]
SETS = {"photos": PHOTOS, "texts": tuple(TEXTS)}


def key(row: Mapping[str, Any]) -> Key:
    """Of which set, labels, seed and method a row is."""
    return row["set"], row["labels"], row["seed"], row["method"]


def read(path: Path) -> dict[Key, dict[str, Any]]:
    """The rows of a file; without a last one that a kill cut in half."""
    found: dict[Key, dict[str, Any]] = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found.setdefault(key(row), row)
    return found


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Adds a row in one piece, so that two processes may add to one file."""
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        cut = size and os.pread(file.fileno(), 1, size - 1) != b"\n"
        file.write((b"\n" if cut else b"") + json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far one method is above another, in points, over cells.

    Args:
      mean: of the cells' means.
      low, high: its 95 % interval.
      cells: by place, the difference of each seed.
    """

    mean: float
    low: float
    high: float
    cells: Mapping[Place, Mapping[int, float]]

    @property
    def worst(self) -> Place:
        """The cell with the lowest mean."""
        return min(self.cells, key=lambda place: _mean(self.cells[place].values()))

    @property
    def sets(self) -> int:
        """How many there are."""
        return len({data for data, _ in self.cells})


class Figures:
    """What rows say together."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.rows = {key(row): row for row in rows}

    def places(self, kind: str) -> list[Place]:
        """The cells of ``photos`` or ``texts`` that have rows, in the order of the page."""
        found = {(data, labels) for data, labels, _, _ in self.rows if modality(data) == kind}
        sets = SETS[kind]
        return sorted(found, key=lambda p: (sets.index(p[0]), p[1] == ALL, p[1].zfill(9)))

    def methods(self, kind: str) -> set[str]:
        """Those that have rows."""
        return {method for data, _, _, method in self.rows if modality(data) == kind}

    def by_seed(self, place: Place, method: str) -> dict[int, Mapping[str, Any]]:
        """Seed to row."""
        return {seed: row for (data, labels, seed, name), row in sorted(self.rows.items())
                if (data, labels) == place and name == method}  # fmt: skip

    def mean(self, place: Place, method: str, field: str) -> float:
        """Over the seeds; NaN where the method has none."""
        return _mean(row[field] for row in self.by_seed(place, method).values())

    def points(self, place: Place, a: str, b: str) -> dict[int, float]:
        """Of each seed that both have, by how many points ``a`` is above ``b``.

        Raises:
          MismatchError: they were tested on different examples.
        """
        ours, theirs = self.by_seed(place, a), self.by_seed(place, b)
        found = {}
        for seed in sorted(ours.keys() & theirs.keys()):
            mine, other = ours[seed]["right"], theirs[seed]["right"]
            if mine.keys() != other.keys():
                raise MismatchError(f"{a} and {b} were tested on different examples",
                                    where=f"{place}, seed {seed}",
                                    next_action="use another --workdir")  # fmt: skip
            found[seed] = 100 * float(np.mean([mine[i] - int(other[i]) for i in mine]))
        return found

    def gap(self, kind: str, a: str, b: str) -> Gap | None:
        """Over all cells that have a seed of both; None if there are none."""
        found = {place: self.points(place, a, b) for place in self.places(kind)}
        found = {place: points for place, points in found.items() if points}
        if not found or a == b:
            return None
        low, high = interval(found)
        return Gap(mean=_mean(_mean(p.values()) for p in found.values()), low=low, high=high,
                   cells=found)  # fmt: skip

    def probes(self, kind: str) -> dict[str, float]:
        """Mean accuracy of each simple probe over the cells that all of them have, the best
        first; "the probe" is that one."""
        there = [name for name in PROBES if name in self.methods(kind)]
        means, losses = (self.over(kind, there, field) for field in ("accuracy", "nll"))
        return {name: means[name] for name in sorted(means, key=lambda m: (-means[m], losses[m]))}

    def over(self, kind: str, methods: Sequence[str], field: str) -> dict[str, float]:
        """Mean over the cells that all of these methods have, for each of them."""
        whole = self.whole(kind, methods)
        return {name: _mean(self.mean(p, name, field) for p in whole)
                for name in methods if whole}  # fmt: skip

    def whole(self, kind: str, methods: Sequence[str]) -> list[Place]:
        """The cells in which all of these methods have rows."""
        return [p for p in self.places(kind) if all(self.by_seed(p, name) for name in methods)]

    def lower_loss(self, kind: str, a: str, b: str) -> tuple[int, int]:
        """In how many cells the mean log-loss of ``a`` is below that of ``b``, and of how many."""
        below = []
        for place in self.places(kind):
            ours, theirs = self.by_seed(place, a), self.by_seed(place, b)
            if both := ours.keys() & theirs.keys():
                below.append(sum(ours[s]["nll"] - theirs[s]["nll"] for s in both) < 0)
        return sum(below), len(below)

    def complete(self, kind: str, methods: Sequence[str], *, seeds: int = 3) -> tuple[int, int]:
        """How many of the cells of the protocol have so many seeds of all methods."""
        wanted = [(data, labels) for data in SETS[kind] for labels in LABELS[kind]]
        done = [place for place in wanted
                if all(len(self.by_seed(place, name)) >= seeds for name in methods)]  # fmt: skip
        return len(done), len(wanted)


def half_width(values: Iterable[float]) -> float:
    """Of the 95 % interval of the mean (Student's t); NaN for a single value."""
    given = list(values)
    n = len(given)
    if n < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, n - 1) * np.std(given, ddof=1) / np.sqrt(n))


def interval(cells: Mapping[Place, Mapping[int, float]]) -> tuple[float, float]:
    """The 95 % interval of the mean over cells, see the text of the module; NaN for one draw."""
    sets = sorted({data for data, _ in cells})
    if len(sets) == 1 and len({seed for points in cells.values() for seed in points}) == 1:
        return float("nan"), float("nan")
    random, n = np.random.default_rng(0), len(sets)
    sums, counts = np.zeros((2, RESAMPLES, n, n))  # of each place in a resample, were it set j
    for j, data in enumerate(sets):
        own = [points for (name, _), points in cells.items() if name == data]
        seeds = sorted({seed for points in own for seed in points})
        grid = np.array([[points.get(seed, np.nan) for points in own] for seed in seeds])
        drawn = grid[random.integers(0, len(seeds), (RESAMPLES, n, len(seeds)))]
        known = (~np.isnan(drawn)).sum(axis=2)
        means = np.nansum(drawn, axis=2) / np.maximum(known, 1)
        sums[..., j], counts[..., j] = means.sum(axis=-1), (known > 0).sum(axis=-1)
    chosen = random.integers(0, n, (RESAMPLES, n, 1))
    total, count = (np.take_along_axis(x, chosen, axis=2).sum(axis=(1, 2)) for x in (sums, counts))
    low, high = np.percentile(total / np.maximum(count, 1), [2.5, 97.5])
    return float(low), float(high)


def _mean(values: Iterable[float]) -> float:
    given = list(values)
    return float(np.mean(given)) if given else float("nan")

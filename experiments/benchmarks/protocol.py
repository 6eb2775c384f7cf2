"""How a comparison is timed and printed: interleaved A B B A, medians and ranges, targets."""

from __future__ import annotations

import json
import operator
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RESAMPLES = 4000
SIGNS = {">=": operator.ge, "<=": operator.le, ">": operator.gt}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a goal of the project, what was measured, and the target.

    ``values`` are the repeats; ``target`` a bound with its direction (of ``SIGNS``), None
    for a figure that stands beside a goal without being one.
    """

    goal: str
    what: str
    values: tuple[float, ...]
    target: str | None = None
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median is within the target."""
        if self.target is None:
            return None
        sign, bound = self.target.split()[:2]
        return SIGNS[sign](self.median, float(bound))

    def __str__(self) -> str:
        low, high, n = min(self.values), max(self.values), len(self.values)
        verdict = {True: "met", False: "MISSED", None: ""}[self.met]
        target = f"target {self.target}" if self.target else ""
        return (
            f"{self.goal:<4} {self.what:<58} {self.median:10.3f} ({low:.3f} to {high:.3f}, n={n})"
            f"  {target:<16} {verdict}  {self.note}"
        ).rstrip()


def interleaved(
    a: Callable[[], float], b: Callable[[], float], *, pairs: int
) -> tuple[list[float], list[float]]:
    """Seconds of both sides in the order A B B A A B …, so that a drift hits both alike."""
    first: list[float] = []
    second: list[float] = []
    for pair in range(pairs):
        for side in (a, b) if pair % 2 == 0 else (b, a):
            (first if side is a else second).append(side())
    return first, second


def ratios(a: Iterable[float], b: Iterable[float]) -> tuple[float, ...]:
    """A over B, pair by pair."""
    return tuple(x / y for x, y in zip(a, b, strict=True))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference of accuracies, as shares, with its 95 % interval."""

    difference: float
    low: float
    high: float
    images: int


def bootstrapped(seeds: Sequence[Mapping[str, int]]) -> Difference:
    """The mean difference over seeds that each have test images of their own.

    Each seed maps its test images to right (1) or wrong (0) of one side less the other's. The
    bootstrap draws images, each with all the seeds that tested it, so that an image which was
    drawn into the test split twice does not count as two.
    """
    differences: dict[str, list[int]] = {}
    for seed in seeds:
        for image, value in seed.items():
            differences.setdefault(image, []).append(value)
    sums = np.array([sum(values) for values in differences.values()])
    counts = np.array([len(values) for values in differences.values()])
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    samples = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(samples, [2.5, 97.5])
    return Difference(difference=float(sums.sum() / counts.sum()), low=float(low),
                      high=float(high), images=len(sums))  # fmt: skip


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def save(rows: Iterable[Row], path: Path) -> None:
    """The rows as JSON with the machine they come from; other rows in it are kept."""
    rows = list(rows)
    measured = {(row.goal, row.what) for row in rows}
    before = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    kept = [row for row in before if (row["goal"], row["what"]) not in measured]
    new = [
        {**asdict(row), "median": row.median, "low": min(row.values), "high": max(row.values),
         "met": row.met, "load_after": os.getloadavg()[0]}
        for row in rows
    ]  # fmt: skip
    ordered = sorted(kept + new, key=lambda row: (len(row["goal"].rstrip("ab")), row["goal"]))
    path.write_text(json.dumps({"machine": machine(), "rows": ordered}, indent=2) + "\n", "utf-8")


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in lines.splitlines() if "model name" in line]
    flags = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in lines]
    return {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(),
            "flags": flags, "python": platform.python_version()}  # fmt: skip

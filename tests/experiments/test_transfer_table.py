"""The averages that ``make bench-transfer`` ends with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from experiments.benchmarks import transfer


def test_a_method_is_averaged_over_pairs_and_the_worst_is_named(tmp_path: Path) -> None:
    right, base = np.ones((2, 50)), np.ones((2, 50))
    base[:, :10] = 0
    rows = [
        transfer.summary("a>b", "source_only", base),
        transfer.summary("a>b", "mmd", right, base),
        transfer.summary("b>a", "mmd", base, right),
        transfer.summary("b>a", "mmd", right, right),  # again: takes the place of the first
    ]
    for row in rows:
        transfer._keep(tmp_path / "pacs.json", row)
    kept = json.loads((tmp_path / "pacs.json").read_text())
    assert [(row["row"], row["method"]) for row in kept] == [
        ("a>b", "source_only"), ("a>b", "mmd"), ("b>a", "mmd"),
    ]  # fmt: skip
    office = {"row": "office", "method": "mmd", "gain": 1.0, "pairs": {"c>d": 0.0, "d>c": 0.0}}
    [line] = transfer.averages([kept, [office]])
    assert "+5.5 over 4 pairs, least +0.0 (b>a)" in line  # (20 + 0 + 1 + 1) / 4

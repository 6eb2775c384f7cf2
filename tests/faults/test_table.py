"""The table of faults names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from faults.table import ROWS

TESTS = Path(__file__).resolve().parents[1]
EXPECTED = {
    **dict.fromkeys([f"I{i}" for i in range(1, 19)]),
    **dict.fromkeys(["P1", "P2", "P3", "P4", "P5", "P7", "P9", "P10"]),
    **dict.fromkeys([f"S{i}" for i in range(1, 8)]),
    **dict.fromkeys([f"N{i}" for i in range(1, 5)]),
    **dict.fromkeys(["C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9"]),
    **dict.fromkeys(["X1", "X3", "X4", "X5", "X6", "X7", "X8", "X10"]),
}


def test_every_row_is_there() -> None:
    assert list(ROWS) == list(EXPECTED)
    assert all(row.tests or row.gap for row in ROWS.values())


@pytest.mark.parametrize("name", ROWS)
def test_its_tests_exist(name: str) -> None:
    for test in ROWS[name].tests:
        file, _, function = test.partition("::")
        assert (TESTS / file).is_file(), f"{name}: there is no tests/{file}"
        if function:
            text = (TESTS / file).read_text("utf-8")
            assert re.search(rf"^def {function}\(", text, flags=re.M), f"{name}: no {test}"

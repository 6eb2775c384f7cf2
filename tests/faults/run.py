"""``make faults``: runs every test of the table and prints row -> outcome.

passed   every test of the row ran and passed
failed   one did not
not run  a test was skipped, with its reason, or the row has none
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pytest
from faults.table import ROWS, Row

TESTS = Path(__file__).resolve().parents[1]


class Outcomes:
    """A pytest plugin: how each test ended, and why it was skipped."""

    def __init__(self) -> None:
        self.of: dict[str, list[tuple[str, str]]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            name = report.nodeid.removeprefix("tests/")
            self.of[name].append((report.outcome, reason.removeprefix("Skipped: ")))


def outcome(row: Row, outcomes: Outcomes) -> str:
    found = [
        end
        for test in row.tests
        for name, ends in outcomes.of.items()
        if name == test or name.startswith((f"{test}::", f"{test}["))
        for end in ends
    ]
    ends = {end for end, _ in found}
    if "failed" in ends:
        return "failed"
    if not found or "passed" not in ends:
        reasons = sorted({reason for _, reason in found if reason})
        return f"not run: {'; '.join(reasons) or 'no test yet'}"
    skipped = sum(end == "skipped" for end, _ in found)
    return f"passed ({len(found) - skipped} tests{f', {skipped} not run' if skipped else ''})"


def main(arguments: list[str]) -> int:
    files = sorted({test for row in ROWS.values() for test in row.tests})
    here = [str(TESTS / test) for test in files if (TESTS / test.partition("::")[0]).exists()]
    outcomes = Outcomes()
    code = pytest.main(["-q", "--no-header", *arguments, *here], plugins=[outcomes])
    print(f"\n{'row':<5}{'tier':<6}{'fault':<52}outcome")
    for name, row in ROWS.items():
        gap = f"  [{row.gap}]" if row.gap else ""
        print(f"{name:<5}{row.tier:<6}{row.fault:<52}{outcome(row, outcomes)}{gap}")
    for tier in "AB":
        ends = [outcome(row, outcomes) for row in ROWS.values() if row.tier == tier]
        good = sum(end.startswith("passed") for end in ends)
        print(f"tier {tier}: {good} of {len(ends)} rows passed")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

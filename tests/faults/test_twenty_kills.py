"""P1: SIGKILL in both phases, at the border, in validation, commit, evaluation and export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from faults import killed


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, killed.__file__, str(tmp_path_factory.mktemp("killed") / "runs")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stderr.splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def test_killed_runs_end_as_the_uninterrupted_one(told: dict[str, Any]) -> None:
    kills = Counter(label for run in told["runs"] for label in run["kills"])
    print(dict(kills))
    assert sum(kills.values()) >= killed.KILLS
    assert len(kills) >= 5
    for run in told["runs"]:
        assert run["ended"] == 0
        assert run["outcome"] == told["whole"]
        assert run["litter"] == []


def test_work_was_continued_and_not_repeated(told: dict[str, Any]) -> None:
    for run in told["runs"]:
        most = told["planned"] + len(run["kills"]) * killed.SAVE_STEPS
        assert told["planned"] <= run["executed"] <= most
        assert len(run["resumes"]) <= len(run["kills"])
        if "tune" in run["kills"] or "export" in run["kills"]:
            assert run["resumes"]

"""C1, C2: two runs in one folder, and a holder that is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from faults import race

from tltf import rundir

TRAIN = """
import sys
from tltf.cli import app
code = app.dispatch(["train", *sys.argv[1:]])
print("heavy" if "tensorflow" in sys.modules else "light")
sys.exit(code)
"""


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("race") / "run"
    done = subprocess.run(
        [sys.executable, race.__file__, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_ten_start_races_have_one_winner_each(raced: dict[str, Any]) -> None:
    assert len(raced["races"]) == 10
    for row in raced["races"]:
        assert row["ends"] == [75, 0]
        assert row["seconds"] < 5
        assert row["untouched"]


def test_ten_killed_holders_leave_nothing_to_unlock(raced: dict[str, Any]) -> None:
    assert len(raced["cycles"]) == 10
    assert all(row["seconds"] < 5 for row in raced["cycles"])


def test_the_second_command_is_told_before_tensorflow_is_imported(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    flags = [f"--data={tmp_path / 'photos'}", "--backbone=small_cnn", "--weights=none"]
    with rundir.opened(tmp_path / "run"):
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", TRAIN, *flags, f"--workdir={tmp_path / 'run'}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert time.monotonic() - begun < 5
    assert (done.returncode, done.stdout) == (75, "light\n"), done.stderr
    assert "another run holds this folder: pid " in done.stderr
    assert not (tmp_path / "run" / "error.json").exists()

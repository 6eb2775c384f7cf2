"""docs/migration.md is run: the Keras 2 blocks in a process of their own, the others here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import hub_modules
import pytest
from pictures import write_digit_folder

PAGE = Path(__file__).parents[1] / "docs" / "migration.md"
BLOCK = re.compile(r"^```([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[str]:
    found = BLOCK.findall(PAGE.read_text("utf-8"))
    assert {name for name, _ in found} == {"python", "python keras2", "bash"}
    return [text for name, text in found if name == kind]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("vision", "encoder", "sentence"):
        getattr(hub_modules, name)(tmp_path / "modules" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_after(folder: Path) -> None:
    names: dict[str, object] = {"__name__": "migration"}
    for text in blocks("python"):
        exec(compile(text, "migration.md", "exec"), names)
    assert (folder / "model.keras").is_file()
    assert not {"tf_keras", "tensorflow_hub"} & set(sys.modules)


@pytest.mark.slow
def test_before(folder: Path) -> None:
    """What people have is right where it was written for."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks("python keras2"))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_the_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_digit_folder(folder / "photos", (0, 1), 20)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for text in blocks("bash"):
        done = subprocess.run(["bash", "-euc", text], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "mine" / "1" / "saved_model.pb").is_file()

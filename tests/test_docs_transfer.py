"""docs/transfer.md is a promise: its blocks run, in order, in one process."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from commands import tltf
from integration_domains import draw
from test_readme import BLOCK

PAGE = Path(__file__).parents[1] / "docs" / "transfer.md"


def blocks(kind: str) -> list[str]:
    found = [match.groups() for match in BLOCK.finditer(PAGE.read_text("utf-8"))]
    assert {k for k, _ in found} == {"bash", "python"}
    return [text for k, text in found if k == kind]


def test_every_python_block_runs() -> None:
    names: dict[str, object] = {"__name__": "docs"}
    for text in blocks("python"):
        exec(compile(text, "transfer.md", "exec"), names)
    assert np.mean(names["answers"] == names["truth"]) > 0.5


def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photo", n=30, seed=0, dark=False)
    draw(tmp_path / "art", n=30, seed=1, dark=True)
    for text in blocks("bash"):
        for command in text.replace("\\\n", " ").splitlines():
            _, name, *flags = shlex.split(command)
            options = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
            # The servable is the subject of another test, and takes a process of its own.
            extra = {"export": "none"} if name == "adapt" else {}
            done = tltf(name, **options, **extra)
            assert done.code == 0, done.err

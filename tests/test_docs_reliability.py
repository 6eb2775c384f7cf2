"""docs/reliability.md and docs/security.md: the blocks run, the commands and names exist."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

import tltf
from tltf import sealed
from tltf.backbones import foreign
from tltf.cli import app

DOCS = Path(tltf.__file__).parents[1] / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text("utf-8") for name in ("reliability", "security")}


def blocks(language: str) -> list[str]:
    return [
        b for text in PAGES.values() for b in re.findall(rf"```{language}\n(.*?)```", text, re.S)
    ]


def test_the_fit_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    said = io.StringIO()
    for _ in range(2):
        with contextlib.redirect_stdout(said):
            exec(compile(code, "reliability.md", "exec"), {"__name__": "page"})
    assert said.getvalue().splitlines() == ["None 24", "{'epoch': 3, 'step': 0} 24"]


def test_the_commands_exist() -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line]
    assert lines
    for line in lines:
        program, command, *flags = line.split()
        assert (program, command in app.COMMANDS) == ("tltf", True)
        known = app.command_module(command).FLAGS
        assert all(flag.removeprefix("--").partition("=")[0] in known for flag in flags)


def test_the_pages_name_what_the_code_names() -> None:
    assert sealed.SEAL in PAGES["reliability"]
    assert "`damaged-…`" in PAGES["reliability"]
    assert sealed.DAMAGED == "damaged-"
    named = re.findall(r"`(\.\w+)`", PAGES["security"])
    assert {".npy", ".npz", ".pt", ".pth", ".pkl"} <= set(named) & set(foreign.PICKLES)
    makefile = (DOCS.parent / "Makefile").read_text("utf-8")
    for target in re.findall(r"`make ([\w-]+)`", PAGES["reliability"]):
        assert re.search(rf"^{target}:", makefile, re.M), target

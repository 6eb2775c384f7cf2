"""docs/transfer.md is a promise: its blocks run, in order, in one process."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from commands import tltf
from integration_domains import draw
from test_readme import BLOCK

from tltf import adapt

PAGE = Path(__file__).parents[1] / "docs" / "transfer.md"
QUICK = ("coral", "mmd", "dann")


def blocks(kind: str) -> list[str]:
    found = [match.groups() for match in BLOCK.finditer(PAGE.read_text("utf-8"))]
    assert {k for k, _ in found} == {"bash", "python"}
    return [text for k, text in found if k == kind]


def test_every_python_block_runs() -> None:
    names: dict[str, object] = {"__name__": "docs"}
    for text in blocks("python"):
        exec(compile(text, "transfer.md", "exec"), names)
    assert np.mean(names["answers"] == names["truth"]) > 0.5


@pytest.mark.parametrize(
    "method",
    [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in adapt.TERMS],
)
def test_the_block_of_ten_lines_takes_every_term(method: str) -> None:
    """The page says "any of": each in the place of the one that is written there."""
    data, terms = (next(b for b in blocks("python") if text in b) for text in
                   ("def network()", "training_model(model"))  # fmt: skip
    written = "tltf.transfer.DANN(hidden=(16,), ramp_steps=steps)"
    assert terms.count(written) == 1
    names: dict[str, object] = {"__name__": "docs"}
    exec(compile(data, "transfer.md", "exec"), names)
    code = terms.replace(written, f"*tltf.adapt.terms_for({method!r}, steps=steps)")
    exec(compile(code, "transfer.md", "exec"), names)
    assert np.mean(names["answers"] == names["truth"]) > 0.5


@pytest.mark.slow
def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photo", n=30, seed=0, dark=False)
    draw(tmp_path / "art", n=30, seed=1, dark=True)
    for text in blocks("bash"):
        for command in text.replace("\\\n", " ").splitlines():
            _, name, *flags = shlex.split(command)
            options = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
            # The servable is the subject of another test, and takes a process of its own.
            extra = {"export": "none"} if name in ("adapt", "train") else {}
            done = tltf(name, **options, **extra)
            assert done.code == 0, done.err

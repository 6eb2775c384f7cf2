"""The README is a promise: its blocks run, in order, in one folder, on real photos."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tltf.backbones.hub.archives import extract

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PHOTOS_PER_CLASS = 12


def blocks() -> list[tuple[str, str]]:
    return [match.groups() for match in BLOCK.finditer(README.read_text("utf-8"))]  # type: ignore[misc]


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert {kind for kind, _ in blocks()} == {"bash", "python"}


def test_every_link_and_picture_is_there() -> None:
    prose = BLOCK.sub("", README.read_text("utf-8"))
    for target in re.findall(r"\[[^\]]*\]\(([^)#\s]+)\)", prose):
        if not target.startswith("http"):
            assert (README.parent / target).exists(), target


def test_every_block_runs(
    shared_data: Path, keras_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    _photos(shared_data, tmp_path / "photos")
    for kind, text in blocks():
        if kind == "bash":
            done = subprocess.run(
                ["bash", "-euc", text], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{text}\n{done.stderr}"
        else:
            exec(compile(text, "README.md", "exec"), {"__name__": "readme"})
    _check_what_they_left(tmp_path)


def _check_what_they_left(folder: Path) -> None:
    report = json.loads((folder / "run/report/report.json").read_text("utf-8"))
    assert report["classes"] == ["cat", "dog"]
    answers = [json.loads(line) for line in (folder / "answers.jsonl").open()]
    assert len(answers) == 2 * PHOTOS_PER_CLASS
    assert all(row["label"] in ("cat", "dog") for row in answers)
    assert (folder / "servable/1/saved_model.pb").is_file()
    assert (folder / "my-servable/1/saved_model.pb").is_file()
    history = [json.loads(line) for line in (folder / "history.jsonl").open()]
    assert [row["phase"] for row in history] == ["head"] * 3 + ["tune"] * 2


def _photos(shared_data: Path, folder: Path) -> None:
    with tarfile.open(shared_data / "images/cats_dogs/public.tar") as archive:
        extract(archive, folder.parent)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for path in sorted((folder.parent / "cats_dogs" / name).iterdir())[:PHOTOS_PER_CLASS]:
            path.rename(folder / name / path.name)

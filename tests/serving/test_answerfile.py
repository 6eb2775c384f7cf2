"""Answers in one file, as its ending says, with the names of the classes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import tltf

from tltf import trained
from tltf.serving.predicting import Opened

CLASSES = ("=cat", "dog, big")


@pytest.fixture(autouse=True)
def _texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of texts that answers by their length; of no weights."""

    def answer(rows: Sequence[bytes]) -> dict[str, np.ndarray]:
        long = np.array([len(row) > 3 for row in rows])
        return {
            "label": np.array([CLASSES[x].encode() for x in long.astype(int)], object),
            "label_id": long.astype(int),
            "probabilities": np.stack([~long, long], axis=1).astype(float),
            "accepted": long,
            "value": long * 2.5,
        }

    def opened(path: Path, *, max_image_pixels: int = 0) -> Opened:
        del max_image_pixels
        regression = path.name == "numbers"
        task = "regression" if regression else "single_label"
        return Opened(answer, () if regression else CLASSES, task, "text")

    monkeypatch.setattr(trained, "opened_model", opened)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    for name in ("run", "numbers", "texts"):
        (tmp_path / name).mkdir()
    (tmp_path / "lines.txt").write_text("a b\n=1+2\n")
    (tmp_path / "texts" / "good.txt").write_text("a longer one")
    (tmp_path / "texts" / "odd.txt").write_bytes(b"caf\xe9")
    return {path.name: path for path in tmp_path.iterdir()} | {"top": tmp_path}


def read(path: Path) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))


def test_every_answer_names_its_classes(files: dict[str, Path]) -> None:
    rows = tltf("predict", model=files["run"], inputs=files["lines.txt"]).rows
    assert [row["label"] for row in rows] == ["=cat", "dog, big"]
    for row in rows:
        assert row["classes"] == list(CLASSES)
        assert row["probabilities"][row["classes"].index(row["label"])] == 1.0


def test_json_lines(files: dict[str, Path]) -> None:
    printed = tltf("predict", model=files["run"], inputs=files["lines.txt"])
    out = files["top"] / "new" / "answers.jsonl"
    done = tltf("predict", model=files["run"], inputs=files["lines.txt"], out=out)
    assert (done.code, done.out) == (0, ""), done.err
    assert [json.loads(line) for line in out.read_text().splitlines()] == printed.rows


def test_a_spreadsheet(files: dict[str, Path]) -> None:
    out = files["top"] / "p.csv"
    done = tltf("predict", model=files["run"], inputs=files["texts"], out=out)
    assert done.code == 0, done.err
    assert "1 answered, 1 failed" in done.err
    good, odd = read(out)
    assert list(good) == ["id", "label", "accepted", "p(=cat)", "p(dog, big)", "error"]
    assert (good["label"], good["accepted"], good["p(dog, big)"]) == ("dog, big", "True", "1.0")
    assert good["error"] == odd["label"] == ""
    assert "not UTF-8" in odd["error"]
    out.unlink()
    assert tltf("predict", model=files["run"], inputs=files["lines.txt"], out=out).code == 0
    # What a spreadsheet would calculate is a text.
    assert [row["id"] for row in read(out)] == ["a b", "'=1+2"]
    assert read(out)[0]["label"] == "'=cat"


def test_numbers(files: dict[str, Path]) -> None:
    out = files["top"] / "p.CSV"
    assert tltf("predict", model=files["numbers"], inputs=files["lines.txt"], out=out).code == 0
    assert [row["value"] for row in read(out)] == ["0.0", "2.5"]
    assert list(read(out)[0]) == ["id", "value", "accepted", "error"]


def test_what_is_there_is_not_written_over(files: dict[str, Path]) -> None:
    out = files["top"] / "p.csv"
    out.write_text("mine")
    done = tltf("predict", model=files["run"], inputs=files["lines.txt"], out=out)
    assert done.code == 73
    assert "there is such a file already" in done.last_line
    assert out.read_text() == "mine"


def test_flags_of_shards_are_refused_beside_a_file(files: dict[str, Path]) -> None:
    out = files["top"] / "p.jsonl"
    done = tltf("predict", model=files["run"], inputs=files["lines.txt"], out=out, shards=2)
    assert done.code == 64
    assert "--shards has an effect only with --out=FOLDER" in done.last_line
    assert not out.exists()
    strict = tltf("predict", model=files["run"], inputs=files["texts"], out=out, strict=True)
    assert strict.code == 65
    assert len(out.read_text().splitlines()) == 2


@pytest.mark.parametrize("command", ["audit", "index"])
def test_a_folder_that_is_named_like_a_file_is_refused(
    command: str, files: dict[str, Path]
) -> None:
    table = files["top"] / "t.csv"
    table.write_text("text,label\na,x\nb,y\n")
    done = tltf(command, data=table, out=files["top"] / "out.csv")
    assert done.code == 73
    assert "out.csv is the name of a file" in done.last_line
    assert not (files["top"] / "out.csv").exists()

"""The few-label curves of texts, and the sets that they are drawn from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks import text_quality, text_sets
from experiments.benchmarks.text_quality import Draw, few
from tltf.cli.app import execute


def write_table(folder: Path) -> Path:
    """120 texts of which a word tells the class, 40 of them for the test."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(120):
        words = [*rng.choice(["the", "film", "plot", "scene"], 4), ("good", "dull")[i % 2], str(i)]
        row = {"text": " ".join(words), "label": "pn"[i % 2]}
        rows.append(json.dumps(row | ({"split": "test"} if i < 40 else {})))
    path = folder / "films.jsonl"
    path.write_text("\n".join(rows))
    return path


def test_a_curve_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [f"--data={write_table(tmp_path)}", f"--workdir={tmp_path}", "--sides=tfidf",
               "--shots=2,0", "--seeds=2"]  # fmt: skip
    assert execute(text_quality.PROGRAM, command) == 0
    first = capsys.readouterr().out
    assert "| labels per class of 80 labels, 40 tests, 2 seeds | tfidf |" in first
    assert "| all | 1.000 ± 0.000 |" in first
    monkeypatch.setattr(text_quality, "hits", None)
    assert execute(text_quality.PROGRAM, command) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("flag", "words"),
    [("--sides=tdidf", "did you mean 'tfidf'"), ("--shots=-3", "shots='-3'"),
     ("--shots=abc", "whole numbers"), ("--shots=1", "at least 2")],
)  # fmt: skip
def test_wrong_flags_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, words: str
) -> None:
    command = [f"--data={write_table(tmp_path)}", f"--workdir={tmp_path}", flag]
    assert execute(text_quality.PROGRAM, command) == 64
    assert words in capsys.readouterr().err


def test_another_table_of_the_same_name_has_figures_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path)
    command = [f"--data={table}", f"--workdir={tmp_path}", "--sides=tfidf", "--shots=0"]
    assert execute(text_quality.PROGRAM, command) == 0
    table.write_text(table.read_text().replace("good", "dull"))
    assert execute(text_quality.PROGRAM, command) == 0
    first, second = capsys.readouterr().out.split("| labels per class")[1:]
    assert "| all | 1.000" in first
    assert "| all | 1.000" not in second


def test_a_draw_has_as_many_of_each_class() -> None:
    labels = np.array(["a"] * 30 + ["b"] * 12)
    whole = Draw([str(i) for i in range(42)], labels, ["t"], np.array(["a"]), seed=3)
    some = few(whole, 8)
    assert Counter(some.labels.tolist()) == {"a": 8, "b": 8}
    assert all(
        labels[int(text)] == label for text, label in zip(some.texts, some.labels, strict=True)
    )
    assert few(whole, 8).texts == some.texts
    assert few(whole, 0) is whole


def test_the_sets_are_whole(shared_data: Path, tmp_path: Path) -> None:
    del shared_data
    expected = {
        "sst2": {("train", 2): 6920, ("test", 2): 872}, "mr": {("", 2): 10662},
        "trec": {("", 6): 5452},
    }  # fmt: skip
    for name, sizes in expected.items():
        rows = [json.loads(line) for line in text_sets.table(name, tmp_path).open()]
        classes = {row["label"] for row in rows}
        found = Counter((row.get("split", ""), len(classes)) for row in rows)
        assert found == sizes
        assert all(row["text"].strip() for row in rows)

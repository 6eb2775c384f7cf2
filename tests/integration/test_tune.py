"""``tltf tune``: trials on validation, the best one finished, and going on after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import tltf
from pictures import write_digit_folder

from tltf.spec import TransferSpec

pytest.importorskip("optuna")

FLAGS: dict[str, Any] = {
    "backbone": "small_cnn", "weights": "none", "image_size": 8, "head_epochs": 1,
    "tune_epochs": 2, "batch_norm": "adapt", "batch_size": 16, "export": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digit_folder(tmp_path_factory.mktemp("data") / "digits", (0, 1, 2), 30)


def test_a_search_and_its_continuation(photos: Path, tmp_path: Path) -> None:
    work = tmp_path / "search"
    flags = {**FLAGS, "data": photos, "workdir": work, "budget": 5, "trials": 2}
    done = tltf("tune", **flags)
    assert done.code == 0, done.err
    table = json.loads((work / "tune.json").read_text())
    assert [row["default"] for row in table["trials"]] == [True, False]
    values = {row["trial"]: row["value"] for row in table["trials"]}
    assert values[table["best"]] == min(v for v in values.values() if v is not None)
    chosen = TransferSpec.from_json((work / "spec.json").read_text())
    best = next(row for row in table["trials"] if row["trial"] == table["best"])
    assert chosen.phases[-1].learning_rate == pytest.approx(best["params"]["tune_lr"], rel=0.01)
    report = json.loads((work / "best/report/report.json").read_text())
    assert f"accuracy {report['metrics']['accuracy']['value']:.3f}" in done.out
    assert report["test_split"] == {"uses": 1}
    assert len(list((work / "trials").iterdir())) == 1  # of ended trials only the best is kept
    page = (work / "tune.html").read_text("utf-8")
    assert "without a search" in page
    assert "chosen" in page

    more = tltf("tune", **{**flags, "trials": 3})
    assert more.code == 0, more.err
    later = json.loads((work / "tune.json").read_text())["trials"]
    assert later[:2] == table["trials"]
    assert len(later) == 3
    other = tltf("tune", **{**flags, "batch_size": 8})
    assert other.code == 78, other.err
    assert "begun with other settings: batch_size: 16 -> 8" in other.last_line


def test_what_it_refuses(photos: Path, tmp_path: Path) -> None:
    for flags, words in (
        ({"cache": "off"}, "--cache=off"),
        ({"budget": -1}, "--budget"),
        ({"bugdet": 3}, "did you mean"),
    ):
        done = tltf("tune", **{**FLAGS, "data": photos, "workdir": tmp_path / "w", **flags})
        assert done.code == 64, done.err
        assert words in done.last_line

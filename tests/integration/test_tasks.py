"""Multi-label and regression on real digits, and what sabotage does to a single label."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from commands import tltf
from pictures import digit_pngs

from tltf.data.manifest import Manifest

pytestmark = pytest.mark.usefixtures("quick_gate")

SMALL = {
    "backbone": "small_cnn",
    "weights": "none",
    "image_size": 8,
    "head_epochs": 0,
    "tune_epochs": 2,
    "tune_lr": 0.003,
    "batch_norm": "adapt",
}
ROUND = (0, 6, 8, 9)


def properties(digit: int) -> str:
    """``even|small|round`` and the like."""
    names = ["even" if digit % 2 == 0 else "odd", "small" if digit < 5 else "large"]
    return "|".join(names + ["round"] * (digit in ROUND))


def table(folder: Path, label: Callable[[int], object], *, per_class: int = 12) -> Path:
    """The digits 0 to 9 as files with a table beside them."""
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        for digit, files in digit_pngs(range(10), per_class).items():
            for i, data in enumerate(files):
                (folder / f"{digit}-{i}.png").write_bytes(data)
                rows.writerow([f"{digit}-{i}.png", label(digit)])
    return folder / "labels.csv"


def report_of(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "report" / "report.json").read_text())


def answers(workdir: Path) -> tuple[Manifest, dict[str, np.ndarray]]:
    """The published SavedModel on the original test files."""
    lines = (workdir / "manifest.jsonl").read_text().splitlines()
    manifest = Manifest.from_json_lines(lines)
    data = [Path(str(record.path)).read_bytes() for record in manifest.split("test")]
    loaded = tf.saved_model.load(str(workdir / "export" / "1"))
    found = loaded.signatures["serving_default"](image_bytes=tf.constant(data))
    return manifest, {key: value.numpy() for key, value in found.items()}


def test_multi_label(tmp_path: Path) -> None:
    from sklearn import metrics

    workdir = tmp_path / "run"
    done = tltf("train", data=table(tmp_path, properties), task="multi_label", workdir=workdir,
                **SMALL)  # fmt: skip
    assert done.code == 0, done.err
    report = report_of(workdir)
    classes = ["even", "large", "odd", "round", "small"]
    assert (report["task"], report["classes"]) == ("multi_label", classes)
    manifest, found = answers(workdir)
    truth = np.array([[c in r.label for c in classes] for r in manifest.split("test")])
    expected = metrics.f1_score(truth, found["probabilities"] >= 0.5, average="macro",
                                zero_division=0)  # fmt: skip
    assert report["metrics"]["macro_f1"]["value"] == pytest.approx(expected)
    names = [name.decode().split("|") if name else [] for name in found["label"]]
    assert [[c in row for c in classes] for row in names] == (
        found["probabilities"] >= 0.5
    ).tolist()
    row = tltf("predict", model=workdir, inputs=tmp_path / "8-0.png").rows[0]
    assert len(row["probabilities"]) == 5


@pytest.mark.slow
def test_regression(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    done = tltf("train", data=table(tmp_path, float), task="regression", workdir=workdir,
                assert_metric="mae<9", **SMALL)  # fmt: skip
    assert done.code == 0, done.err
    report = report_of(workdir)
    manifest, found = answers(workdir)
    truth = np.array([record.label for record in manifest.split("test")])
    errors = found["value"] - truth
    metrics = {name: entry["value"] for name, entry in report["metrics"].items()}
    assert metrics["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    assert metrics["rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-5)
    unexplained = (errors**2).sum() / ((truth - truth.mean()) ** 2).sum()
    assert metrics["r2"] == pytest.approx(1 - unexplained, abs=1e-5)
    assert "mae" in done.out
    row = tltf("predict", model=workdir / "export", inputs=tmp_path / "8-0.png").rows[0]
    assert set(row) == {"id", "value", "accepted"}


def test_shuffled_labels_fall_to_chance(tmp_path: Path) -> None:
    """What the model then "knows" can only have leaked from somewhere."""
    random = np.random.default_rng(0)
    labels = iter(random.permutation(np.repeat(["a", "b", "c"], 100)))
    shuffled = table(tmp_path, lambda _: next(labels), per_class=30)
    done = tltf("train", data=shuffled, workdir=tmp_path / "run", export="none", **SMALL)
    assert done.code == 0, done.err
    accuracy = report_of(tmp_path / "run")["metrics"]["accuracy"]
    assert accuracy["low"] <= 1 / 3 <= accuracy["high"]

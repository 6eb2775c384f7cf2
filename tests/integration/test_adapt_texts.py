"""``tltf adapt`` on tables of texts: what is true of images is true of them."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Done, tltf

from tltf import sealed, storage
from tltf.data.manifest import Record
from tltf.data.textbatches import TextBatches
from tltf.errors import ArgumentError
from tltf.trained import Trained, load

pytestmark = pytest.mark.usefixtures("quick_gate")

LETTERS = "abcdefgh"


def write_table(path: Path, *, n: int, seed: int, shared: str) -> Path:
    """Texts of ``a`` and ``b``, or of ``g`` and ``h``, among letters that say where they are from.

    The first letters tell the classes apart in every domain.
    """
    rng = random.Random(seed)
    rows = ["text,label"]
    for i in range(n):
        letters = rng.choices(["ab", "gh"][i % 2] * 2 + shared, k=rng.randint(4, 9))
        rows.append(f"{' '.join(letters)},{['low', 'high'][i % 2]}")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("texts")
    rows = (" ".join(str(float(a == b)) for b in LETTERS) for a in LETTERS)
    vectors = top / "letters.txt"
    vectors.write_text("".join(f"{a} {row}\n" for a, row in zip(LETTERS, rows, strict=True)))
    return {
        "source": write_table(top / "source.csv", n=80, seed=0, shared="cd"),
        "target": write_table(top / "target.csv", n=60, seed=1, shared="ef"),
        "vectors": vectors,
        "cache": top / "cache",
    }


def adapt(texts: dict[str, Path], workdir: Path, **more: Any) -> Done:
    options = {
        "source": texts["source"], "target": texts["target"],
        "backbone": f"vectors:{texts['vectors']}", "workdir": workdir, "cache": texts["cache"],
        "epochs": 15, "lr": 0.05, "bottleneck": 8, "batch_size": 16, "export": "none",
    } | more  # fmt: skip
    return tltf("adapt", **options)


def test_texts_are_read_and_learned_from(texts: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = adapt(texts, run, method="mmd", export="auto")
    assert done.code == 0, done.err
    report = json.loads((run / "report" / "report.json").read_text())
    assert report["metrics"]["accuracy"]["value"] > 0.9
    assert report["baselines"]["source_only"]["metrics"]["accuracy"]["value"] > 0.9
    assert report["adaptation"]["distance"]["mmd"]["p_value"] < 0.05
    model = load(run / "weights")
    manifest = [json.loads(row) for row in (run / "manifest.jsonl").read_text().splitlines()[1:]]
    assert {row["split"] for row in manifest} == {"train", "val", "test"}
    words = [row["text"] for row in manifest[:8]]
    answered = tltf("predict", model=run / "export", inputs=texts["target"]).rows
    right = [row["label"] == ["low", "high"][i % 2] for i, row in enumerate(answered)]
    assert np.mean(right) > 0.9
    assert model.max_length is not None
    assert model.max_length >= max(len(w.split()) for w in words)


def test_a_model_without_its_input_size_cannot_be_made(
    texts: dict[str, Path], tmp_path: Path
) -> None:
    """What a construction site left out was once 0, and every text an empty one."""
    run = tmp_path / "run"
    assert adapt(texts, run, method="source_only", epochs=1).code == 0
    model = load(run / "weights")
    for wrong in ({"max_length": None}, {"image_size": 32}):
        with pytest.raises(ArgumentError, match="for a model of texts, expected max_length alone"):
            dataclasses.replace(model, **wrong)
    fields = {f.name: f for f in dataclasses.fields(Trained)}
    for name in ("image_size", "max_length"):
        assert fields[name].default is dataclasses.MISSING, name
    with pytest.raises(ArgumentError, match="max_length=0, expected at least 3"):
        TextBatches([Record(id="1", text="a")], tokenizer=model.tokenizer, max_length=0,
                    classes=("low",), task="single_label", batch_size=1)  # fmt: skip
    decision = storage.read_json(run / "weights" / "decision.json") | {"max_length": 0}
    with sealed.rewritten(run / "weights"):
        storage.write_json(run / "weights" / "decision.json", decision)
    done = tltf("predict", model=run, inputs=texts["target"])
    assert done.code == 65
    assert "learned from empty texts" in done.last_line


def test_the_size_of_the_other_modality_is_refused(texts: dict[str, Path], tmp_path: Path) -> None:
    for more, text in (
        ({"image_size": 32}, "--image_size"),
        ({"method": "adabn"}, "no BatchNormalization"),
    ):
        done = adapt(texts, tmp_path / "run", **more)
        assert done.code == 64, done.err
        assert text in done.last_line
    done = tltf("train", data="digits", backbone="mlp", weights="none", max_length=9, dry_run=True)
    assert done.code == 64
    assert "max_length=9 with a backbone of images" in done.last_line

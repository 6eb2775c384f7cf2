"""A table of texts becomes a servable that reads raw strings."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from commands import Done, tltf
from pictures import write_digit_folder

import tltf as library
from tltf.trained import load

pytestmark = pytest.mark.usefixtures("quick_gate")

GOLDEN = Path(__file__).parents[1] / "backbones" / "golden_encoders"
BACKBONE = f"bert:{GOLDEN / 'bert'}"
FLAGS: dict[str, Any] = {
    "backbone": BACKBONE, "head_epochs": 2, "head_lr": 0.05, "tune_epochs": 2, "tune_lr": 1e-3,
    "batch_size": 16, "cache_dtype": "float32",
}  # fmt: skip
FRESH = """
import json, sys
import tensorflow as tf
rows = json.load(open(sys.argv[2]))
answer = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
found = answer(text=tf.constant(rows))["probabilities"].numpy().tolist()
assert "tltf" not in sys.modules and "tensorflow_text" not in sys.modules
ops = {n.op for n in answer.graph.as_graph_def().node}
ops |= {n.op for f in answer.graph.as_graph_def().library.function for n in f.node_def}
json.dump({"found": found, "ops": sorted(ops)}, open(sys.argv[3], "w"))
"""
ODD = ["", "Ünïcödé abc", "\U0001f600 中", "a " * 500, "abc" * 60, "b\u0301a"]


def texts(n: int) -> list[tuple[str, str]]:
    rng = random.Random(0)
    made = []
    for i in range(n):
        letters = ["abc", "fgh"][i % 2] * 2 + "de"
        made.append((" ".join(rng.choices(letters, k=rng.randint(3, 12))), ["low", "high"][i % 2]))
    return made


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "reviews.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in texts(240)))
    return path


@pytest.fixture(scope="module")
def trained(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    workdir = tmp_path_factory.mktemp("runs") / "run"
    return workdir, tltf("train", data=table, workdir=workdir, unfreeze="last:1", **FLAGS)


def history(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_word_vectors_learn_what_can_be_learned(table: Path, tmp_path: Path) -> None:
    file = tmp_path / "letters.txt"
    rows = (" ".join(str(float(a == b)) for b in "abcdefgh") for a in "abcdefgh")
    file.write_text("".join(f"{a} {row}\n" for a, row in zip("abcdefgh", rows, strict=True)))
    done = tltf(
        "train", data=table, backbone=f"vectors:{file}", workdir=tmp_path / "run", export="none",
        head_epochs=20, head_lr=0.1, tune_epochs=0, unfreeze="all",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert report["metrics"]["accuracy"]["value"] >= 0.9


def test_it_plans_and_reports(trained: tuple[Path, Done]) -> None:
    workdir, done = trained
    assert done.code == 0, done.err
    for sentence in ("max_length = 16", "tune.optimizer = adamw", "layer_0_norm tokensx16"):
        assert sentence in done.err
    assert done.out.endswith(f"next: tltf predict --model={workdir} --inputs=TEXTS.csv\n")
    report = json.loads((workdir / "report" / "report.json").read_text())
    assert report["metrics"]["accuracy"]["n"] == 36
    spec = json.loads((workdir / "spec.json").read_text())
    assert (spec["phases"][1]["weight_decay"], spec["phases"][1]["clipnorm"]) == (0.01, 1.0)


def test_the_servable_reads_strings_with_nothing_but_tensorflow(
    trained: tuple[Path, Done], tmp_path: Path
) -> None:
    workdir, _ = trained
    rows = [text for text, _ in texts(20)] + ODD
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    servable = workdir / "export" / "1"
    arguments = [str(servable), str(tmp_path / "rows.json"), str(tmp_path / "out.json")]
    subprocess.run([sys.executable, "-I", "-c", FRESH, *arguments], check=True)
    answers = json.loads((tmp_path / "out.json").read_text())
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": r}) + "\n" for r in rows))
    said = tltf("predict", model=workdir, inputs=tmp_path / "rows.jsonl")
    probabilities = [row["probabilities"] for row in said.rows if "probabilities" in row]
    kept = [i for i, row in enumerate(said.rows) if "probabilities" in row]
    assert len(kept) == len(rows), said
    difference = np.abs(np.array(answers["found"])[kept] - np.array(probabilities)).max()
    print(f"largest difference of a probability: {difference:.1e}")
    assert difference < 1e-5
    assert not [op for op in answers["ops"] if "Py" in op or "Text" in op or "Sentence" in op]
    assert (servable / "assets" / "vocab.txt").is_file()
    sample = json.loads((servable / "sample_request.json").read_text())
    assert isinstance(sample["instances"][0]["text"], str | dict)


def test_the_report_shows_what_close_calls_lean_on(trained: tuple[Path, Done]) -> None:
    rows = json.loads((trained[0] / "report" / "tokens.json").read_text())
    assert 0 < len(rows) <= 12
    assert all(len(row["tokens"]) == len(row["scores"]) for row in rows)
    assert "<span" in (trained[0] / "report" / "tokens.html").read_text()


@pytest.mark.slow
def test_a_file_for_devices_takes_token_ids(trained: tuple[Path, Done], tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    done = tltf("export", run=trained[0], to=tmp_path / "servable", litert="float")
    assert done.code == 0, done.err
    (found,) = json.loads((tmp_path / "servable" / "1" / "portable.json").read_text())
    assert found["largest_difference"] < 1e-4
    assert found["same_label"] == 1.0
    done = tltf("export", run=trained[0], to=tmp_path / "servable", onnx=True)
    assert (done.code, "ONNX files are for models of images" in done.last_line) == (64, True)


def test_evaluating_other_texts(trained: tuple[Path, Done], tmp_path: Path) -> None:
    other = tmp_path / "other.train"
    other.write_text("".join(f"{label} {text}\n" for text, label in texts(40)))
    done = tltf("evaluate", run=trained[0], data=other, out=tmp_path / "out")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["n"] == 40


def test_texts_that_are_cut_are_counted(trained: tuple[Path, Done], tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    rows = [f"{text},{label}\n" for text, label in texts(10)]
    other.write_text("text,label\n" + "".join(rows) + "abc " * 40 + ",low\n")
    done = tltf("evaluate", run=trained[0], data=other)
    assert done.code == 0, done.err
    assert "1 of 11 texts are longer than max_length tokens and are cut there" in done.err


def test_texts_in_another_encoding(trained: tuple[Path, Done], tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    content = "text,label\n" + "".join(f"{text} ö,{label}\n" for text, label in texts(10))
    other.write_bytes(content.encode("latin-1"))
    for command in ({"command": "evaluate", "run": trained[0], "data": other},
                    {"command": "predict", "model": trained[0], "inputs": other}):  # fmt: skip
        refused = tltf(**command)
        assert (refused.code, "--encoding=latin-1" in refused.last_line) == (65, True)
        unknown = tltf(**command, encoding="latin-x")
        assert (unknown.code, "encoding='latin-x' is not known" in unknown.last_line) == (64, True)
        done = tltf(**command, encoding="latin-1")
        assert done.code == 0, done.err
    replaced = tltf(**command, encoding="utf-8")
    assert (replaced.code, "10 invalid bytes" in replaced.err) == (0, True)
    assert [row["id"] for row in done.rows] == [f"{text} ö" for text, _ in texts(10)]
    shards = tltf(**command, encoding="latin-1", out=tmp_path / "out", shards=1)
    assert shards.code == 0, shards.err
    (file,) = (tmp_path / "out").glob("predictions-*.jsonl")
    assert [json.loads(line) for line in file.read_text().splitlines()] == done.rows
    other.write_text(content, "utf-16")
    assert tltf(**command).rows == done.rows


@pytest.mark.slow
def test_stored_features_give_the_same_training(
    trained: tuple[Path, Done], table: Path, tmp_path: Path
) -> None:
    done = tltf(
        "train", data=table, workdir=tmp_path / "run", unfreeze="last:1", cache="off",
        export="none", **FLAGS,
    )  # fmt: skip
    assert done.code == 0, done.err
    for a, b in zip(history(trained[0]), history(tmp_path / "run"), strict=True):
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=2e-3, abs=2e-3)


def test_a_run_is_a_backbone_for_texts(trained: tuple[Path, Done]) -> None:
    again = library.backbone(f"file:{trained[0]}")
    ours = load(trained[0] / "weights").model
    assert again.tokenizer is not None
    ids = again.tokenizer.padded(again.tokenizer.encode(["abc d"], max_length=16))
    inner = next(layer for layer in ours.layers if isinstance(layer, type(again)))
    np.testing.assert_allclose(again(ids), inner(ids), atol=1e-6)


def test_phases_block_rates_and_frozen_dropout() -> None:
    model = library.classifier(library.backbone(BACKBONE), library.head(2))
    ids = np.array([[2, 4, 5, 3]] * 8, np.int32)
    y = np.eye(2, dtype=np.float32)[[0, 1] * 4]
    frozen = model.get_layer("bert")
    library.enter_phase(model, library.Phase("h", 1, 1e-2, unfreeze="none"))
    assert keras.ops.all(frozen(ids, training=True) == frozen(ids, training=False))
    tuned = library.Phase(
        "t", 1, 1e-2, unfreeze="last:1", optimizer="adamw", weight_decay=0.1, block_lr_decay=0.5
    )
    library.enter_phase(model, tuned)
    before = [v.numpy() for v in model.variables]
    model.fit(ids, y, verbose=0)
    moved = {
        v.path.split("/")[-2]
        for v, old in zip(model.variables, before, strict=True)
        if (v.numpy() != old).any() and "seed" not in v.path
    }
    assert any(name.startswith("layer_1") for name in moved)
    assert not any(name.startswith(("layer_0", "embeddings")) for name in moved)


def test_what_does_not_fit(table: Path, tmp_path: Path) -> None:
    photos = write_digit_folder(tmp_path / "digits", (0, 1), 20)
    cases = (
        ({"data": photos, "backbone": BACKBONE}, 64, "reads texts, and the data are images"),
        (
            {"data": table, "backbone": "mlp", "weights": "none", "image_size": 8},
            64,
            "reads images",
        ),
        ({"data": table, "backbone": BACKBONE, "pooling": "flatten"}, 64, "pooling='flatten'"),
        ({"data": table, "backbone": BACKBONE, "max_length": 33}, 64, "reads at most 32 tokens"),
        ({"data": table, "backbone": BACKBONE, "mix": "mixup"}, 64, "mix=mixup with texts"),
        ({"data": table, "backbone": BACKBONE, "augment": "light"}, 64, "augment=light with"),
        ({"data": table, "backbone": BACKBONE, "views": 3}, 64, "views=3 with texts"),
        ({"data": table, "backbone": BACKBONE, "encoding": "latin-99"}, 64, "encoding="),
        ({"data": table, "backbone": f"bert:{tmp_path}/none"}, 66, "no such folder"),
    )
    for i, (flags, code, message) in enumerate(cases):
        done = tltf("train", workdir=tmp_path / f"run{i}", **flags)
        assert (done.code, message in done.last_line) == (code, True), done.last_line
    headless = tmp_path / "x.csv"
    headless.write_text("review,label\na,b\nc,d\n")
    done = tltf("train", data=headless, backbone=BACKBONE, workdir=tmp_path / "run")
    assert done.code == 65
    assert "columns found: review, label" in done.last_line

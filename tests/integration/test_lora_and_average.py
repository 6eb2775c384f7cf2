"""``--lora`` and ``--average`` of ``tltf train``: an ordinary run in the end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import hub_modules
import numpy as np
import pytest
from commands import Done, tltf
from integration_domains import draw
from test_text import BACKBONE, texts

from tltf import tensorfile
from tltf.trained import load
from tltf.training.callbacks import FrozenCheck

pytestmark = pytest.mark.usefixtures("quick_gate")

FLAGS: dict[str, Any] = {
    "backbone": BACKBONE, "head_epochs": 1, "head_lr": 0.05, "tune_epochs": 2, "unfreeze": "last:1",
    "batch_size": 16, "cache_dtype": "float32",
}  # fmt: skip
LOW_RANK: dict[str, Any] = {"lora": 2, "average": "ema:0.8", "tune_lr": 1e-2}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "reviews.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in texts(120)))
    return path


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    workdir = tmp_path_factory.mktemp("runs") / "run"
    return workdir, tltf("train", data=table, workdir=workdir, **FLAGS, **LOW_RANK)


def weights(workdir: Path) -> dict[str, np.ndarray]:
    return tensorfile.read_tensors(workdir / "weights" / "model.safetensors")[0]


def test_it_says_what_trains_and_keeps_an_ordinary_model(run: tuple[Path, Done]) -> None:
    workdir, done = run
    assert done.code == 0, done.err
    sentence = next(x for x in done.err.splitlines() if x.startswith("tune.lora = 2: "))
    assert "LoRA rank 2: " in sentence
    model = load(workdir / "weights").model
    adapted, head = 3 * 16 * 2 * 2 + 16 * 2 * 2 + 2 * 2 * (16 + 24), 16 * 2 + 2
    whole = sum(int(np.prod(v.shape)) for v in model.weights)
    assert f"{adapted + head:,} of {whole:,} parameters train, in 10 variables" in sentence
    assert "tune.average = ema:0.8: of " in done.err
    assert "saves" in done.err.partition("cache: layer_0_norm")[2].partition("\n")[0]
    spec = json.loads((workdir / "spec.json").read_text())
    assert [(p["lora"], p["average"]) for p in spec["phases"]] == [(0, "none"), (2, "ema:0.8")]
    report = json.loads((workdir / "report" / "report.json").read_text())
    assert "tune.lora" in json.dumps(report)
    assert not [name for name in weights(workdir) if "lora" in name or "average" in name]
    assert "lora" not in (workdir / "weights" / "model.json").read_text()


def test_only_what_the_adapters_change_has_changed(run: tuple[Path, Done]) -> None:
    """Against the published weights: two kernels of each layer, not its biases or norms."""
    import tltf as library

    start = [v.numpy() for v in library.backbone(BACKBONE).variables if "seed" not in v.path]
    found = {k: v for k, v in weights(run[0]).items() if k.startswith("backbone/")}
    kept = [(k, v) for k, v in found.items() if "seed" not in k]
    moved = []
    for (name, value), before in zip(kept, start, strict=True):
        if value.tobytes() != before.tobytes():
            moved.append(name.partition(":")[2])
            rank = np.linalg.matrix_rank(value - before, tol=1e-5)
            assert 0 < rank <= (6 if "qkv" in name else 2)
    assert moved == [
        "layer_1_attention/qkv_kernel", "layer_1_attention/output_kernel",
        "layer_1_intermediate/kernel", "layer_1_output/kernel",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_run_answers_alike_everywhere(
    run: tuple[Path, Done], table: Path, tmp_path: Path
) -> None:
    workdir, _ = run
    done = tltf("evaluate", run=workdir, data=table, out=tmp_path / "out")
    assert done.code == 0, done.err
    rows = [text for text, _ in texts(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": r}) + "\n" for r in rows))
    answers = []
    for model in (workdir, workdir / "export" / "1"):
        said = tltf("predict", model=model, inputs=tmp_path / "rows.jsonl")
        assert said.code == 0, said.err
        answers.append([row["probabilities"] for row in said.rows])
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)
    done = tltf("export", run=workdir, to=tmp_path / "servable", litert="float")
    assert done.code == 0, done.err


def test_the_same_command_is_complete_and_another_rank_is_refused(
    run: tuple[Path, Done], table: Path
) -> None:
    workdir, _ = run
    done = tltf("train", data=table, workdir=workdir, **FLAGS, **LOW_RANK)
    assert (done.code, "already complete" in done.out) == (0, True), done.err
    done = tltf("train", data=table, workdir=workdir, **FLAGS, **(LOW_RANK | {"lora": 3}))
    assert done.code == 78
    assert "phases.tune.lora: 2 -> 3" in done.last_line


@pytest.mark.slow
def test_interrupted_among_the_adapters_it_goes_on_to_the_same_weights(
    run: tuple[Path, Done], table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(self: FrozenCheck, batch: int, logs: object = None) -> None:
        if batch == 2 and any("lora" in v.path for v in self.model.trainable_variables):
            os.kill(os.getpid(), signal.SIGINT)

    options = {"data": table, "workdir": tmp_path / "cut", "export": "none", **FLAGS, **LOW_RANK}
    with monkeypatch.context() as patch:
        patch.setattr(FrozenCheck, "on_train_batch_end", press)
        done = tltf("train", **options)
    assert (done.code, "phase tune, epoch 1, batch 3" in done.last_line) == (130, True)
    options["export"] = "none"
    done = tltf("train", **options)
    assert done.code == 0, done.err
    assert "resumed_from: tune, epoch 0, step 3" in done.out
    ours, theirs = (list(weights(folder).values()) for folder in (tmp_path / "cut", run[0]))
    assert [a.tobytes() for a in ours] == [a.tobytes() for a in theirs]


@pytest.mark.slow
def test_stored_features_give_what_texts_give(
    run: tuple[Path, Done], table: Path, tmp_path: Path
) -> None:
    done = tltf("train", data=table, workdir=tmp_path / "run", cache="off", export="none",
                **FLAGS, **LOW_RANK)  # fmt: skip
    assert done.code == 0, done.err
    for a, b in zip(weights(run[0]).values(), weights(tmp_path / "run").values(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)


def test_a_dry_run_says_the_numbers(table: Path) -> None:
    done = tltf("train", data=table, dry_run=True, **(FLAGS | {"lora": 4, "average": "swa"}))
    assert done.code == 0, done.err
    assert "tune.lora = 4: LoRA rank 4: " in done.out
    assert "tune.learning_rate = 0.0004: low-rank adapters, which begin at zero" in done.out
    assert "tune.average = swa: the mean of the weights after the last 3 of 12 steps" in done.out


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ({"lora": -1}, 64, "lora=-1"),
        ({"lora": "x"}, 64, "lora"),
        ({"average": "emma:0.9"}, 64, "did you mean 'ema'"),
        ({"average": "ema:1"}, 64, "for example --average=ema:0.99"),
        ({"average": "swa", "batch_norm": "adapt"}, 64, "use --batch_norm=frozen"),
        ({"lora": 2, "regularizer": "l2sp:0.1"}, 64, "leaves those weights alone"),
    ],
)
def test_wrong_flags_are_said(
    table: Path, tmp_path: Path, flags: dict[str, Any], code: int, words: str
) -> None:
    done = tltf("train", data=table, workdir=tmp_path / "run", **(FLAGS | flags))
    assert (done.code, words in done.last_line) == (code, True), done.last_line


def test_a_backbone_that_takes_no_adapter_is_said(tmp_path: Path) -> None:
    """Before the first step: the last block of this network has a depthwise convolution only."""
    data = draw(tmp_path / "data", n=24, seed=0, dark=False)
    options = {"data": data, "backbone": "MobileNet:alpha=0.25", "weights": "none",
               "image_size": 32, "workdir": tmp_path / "run", "precision": "float32"}  # fmt: skip
    done = tltf("train", **options, lora=2, unfreeze="regex:^conv_dw_13$")
    assert done.code == 64
    for part in ("DepthwiseConv2D", "adapters are for Dense, EinsumDense", "leave lora out"):
        assert part in done.last_line
    assert not (tmp_path / "run" / "history.jsonl").exists()


def test_a_saved_model_takes_no_adapter(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", n=24, seed=0, dark=False)
    module = hub_modules.vision(tmp_path / "module")
    done = tltf("train", data=data, backbone=f"hub:{module}", workdir=tmp_path / "run", lora=2,
                unfreeze="last:1", precision="float32")  # fmt: skip
    assert done.code == 64
    assert "it has weights in ModulePart; adapters are for Dense" in done.last_line
    assert "leave lora out and tune the weights" in done.last_line


@pytest.mark.slow
def test_they_go_with_gradual_unfreezing_anchors_and_rates_by_rehearsal(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", n=45, seed=0, dark=False)
    done = tltf("train", data=data, backbone="small_cnn", weights="none", image_size=16,
                workdir=tmp_path / "run", export="none", precision="float32", unfreeze="last:2",
                gradual=1, head_epochs=1, tune_epochs=2, tune_lr="auto", lora=2, average="swa",
                regularizer="delta:0.01", block_lr_decay=0.5)  # fmt: skip
    assert done.code == 0, done.err
    for part in ("tune1.lora = 2: LoRA rank 2", "tune2.lora = 2: LoRA rank 2", "tune2.average",
                 "tune2.learning_rate = "):  # fmt: skip
        assert part in done.err
    assert "tune1.average" not in done.err
    assert not [name for name in weights(tmp_path / "run") if "lora" in name]


def test_adapters_that_change_nothing_are_said(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", n=24, seed=0, dark=False)
    done = tltf("train", data=data, backbone="small_cnn", weights="none", image_size=16,
                workdir=tmp_path / "run", export="none", precision="float32", unfreeze="last:1",
                head_epochs=4, tune_epochs=0, lora=2, average="ema:0.5")  # fmt: skip
    assert done.code == 0, done.err
    assert "tune.lora = 2: changes nothing: no epoch of it trains the backbone" in done.err
    assert "head.average = ema:0.5: of " in done.err

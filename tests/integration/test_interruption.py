"""Ctrl-C on the command line, and the same command again."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from commands import tltf
from pictures import write_digit_folder

from tltf import tensorfile
from tltf.training.callbacks import FrozenCheck

FLAGS: dict[str, Any] = {
    "backbone": "small_cnn",
    "weights": "none",
    "image_size": 8,
    "head_epochs": 1,
    "tune_epochs": 3,
    "batch_norm": "adapt",
    "batch_size": 8,
    "augment": "light",
    "export": "none",
}


@pytest.mark.slow
def test_interrupted_is_130_and_the_same_command_gives_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_digit_folder(tmp_path / "digits", (0, 1), 16)
    whole = tltf("train", data=data, workdir=tmp_path / "whole", **FLAGS)
    assert whole.code == 0, whole.err

    def press(self: FrozenCheck, batch: int, logs: object = None) -> None:
        trained = {v.path for v in self.model.trainable_variables}
        if batch == 1 and any("block3" in path for path in trained):
            os.kill(os.getpid(), signal.SIGINT)

    workdir = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(FrozenCheck, "on_train_batch_end", press)
        done = tltf("train", data=data, workdir=workdir, **FLAGS)
    assert done.code == 130
    assert done.last_line.startswith("tltf: interrupted (phase tune, epoch 1, batch 2)")
    assert "kept: state of step " in done.last_line
    assert "next: run the same command again" in done.last_line
    error = json.loads((workdir / "error.json").read_text())
    assert (error["exit_code"], error["what"]) == (130, "interrupted")
    assert not (workdir / "report").exists()
    done = tltf("train", data=data, workdir=workdir, **FLAGS)
    assert done.code == 0, done.err
    assert "resumed_from: tune, epoch 0, step 2" in done.out
    assert not (workdir / "error.json").exists()
    # By value: names of seed states count up within this process.
    ours, theirs = (
        list(tensorfile.read_tensors(folder / "weights" / "model.safetensors")[0].values())
        for folder in (workdir, tmp_path / "whole")
    )
    assert [a.tobytes() for a in ours] == [a.tobytes() for a in theirs]
    decisions = [
        (f / "weights" / "decision.json").read_text() for f in (workdir, tmp_path / "whole")
    ]
    assert decisions[0] == decisions[1]
    progress = json.loads((workdir / "progress.json").read_text())
    assert progress["resumed_from"] == {"phase": "tune", "epoch": 0, "step": 2}

"""P3: signals outside of the training steps, and the second one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tiny
from commands import tltf as command

import tltf
from tltf import pipeline
from tltf.errors import InterruptedRun
from tltf.training import states

PATIENT = """
import os, signal, sys, time
from tltf.training.interrupts import stop_requests
with stop_requests() as stop, stop.at_borders():
    print("ready", flush=True)
    sys.stdin.readline()
    print("asked" if stop else "never", flush=True)
    time.sleep(60)
"""
PLAN = (tltf.Phase("all", 2, 1e-2, unfreeze="all", batch_norm="adapt"),)


def test_the_second_signal_ends_the_process_at_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PATIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "asked\n"
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 143
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    def reading(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    (tmp_path / "photos").mkdir()
    monkeypatch.setattr(pipeline, "run_data", reading)
    begun = time.monotonic()
    done = command("train", data=tmp_path / "photos", workdir=tmp_path / "run",
                   backbone="small_cnn", weights="none")  # fmt: skip
    assert time.monotonic() - begun < 10
    assert done.code == code
    assert done.last_line.startswith("tltf: interrupted (outside of training); kept: the run")
    assert json.loads((tmp_path / "run" / "error.json").read_text())["exit_code"] == code


def fitted(folder: Path) -> list[bytes]:
    model = tiny.classifier(head_dropout=0.2)
    kernel = model.get_layer("head").get_layer("logits").kernel
    kernel.assign(np.random.default_rng(0).normal(0, 0.1, kernel.shape))
    tltf.fit_phases(model, PLAN, tiny.dataset(), validation=tiny.dataset(8, seed=1), folder=folder,
                    progress=False)  # fmt: skip
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in rows]
    return [v.numpy().tobytes() for v in model.variables] + [json.dumps(kept).encode()]


def test_a_signal_in_the_validation_keeps_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("whole", "cut")]
    for folder in folders:
        folder.mkdir()
    evaluate = keras.Model.evaluate

    def pressed(self: keras.Model, *arguments: Any, **options: Any) -> Any:
        result = evaluate(self, *arguments, **options)
        os.kill(os.getpid(), signal.SIGINT)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "evaluate", pressed)
        with pytest.raises(InterruptedRun, match="validation of epoch 1") as error:
            fitted(folders[1])
    assert error.value.kept == "state of step 3"
    state = states.newest(folders[1] / "state")
    assert state is not None
    assert state.position == states.Position(0, 0, 3)
    assert fitted(folders[1]) == fitted(folders[0])

"""Faults of a whole run, on one small run that is trained once for all of them."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from commands import Done
from commands import tltf as command
from pictures import write_digit_folder

import tltf
from tltf import pipeline, rundir, storage
from tltf.data.manifest import Manifest, Record
from tltf.errors import DivergenceError, MismatchError
from tltf.stages import data as data_stage
from tltf.stages import environment as environment_stage
from tltf.stages.environment import run_environment
from tltf.training import states

SETTINGS: dict[str, Any] = {
    "backbone": "mlp", "weights": "none", "image_size": 8, "head_epochs": 1, "tune_epochs": 1,
    "batch_size": 8, "augment": "none", "export": "none", "save_every": "2steps",
}  # fmt: skip
NAMES = {"0": "../../escaped", "1": "{0}<b>\x1b[31m"}
SOCKETS: list[tuple[str, Any]] = []
INTERNET = (2, 10)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo" or (event == "socket.__new__" and arguments[1] in INTERNET):
        SOCKETS.append((event, arguments))


@dataclasses.dataclass(frozen=True)
class Finished:
    folder: Path
    flags: dict[str, Any]
    done: Done
    sockets: list[Any]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run on a table whose labels are no fit names for files."""
    place = tmp_path_factory.mktemp("finished")
    digits = write_digit_folder(place / "digits", (0, 1), 10)
    rows = [
        json.dumps({"path": str(path), "label": NAMES[path.parent.name]})
        for path in sorted(digits.glob("*/*"))
    ]
    (place / "table.jsonl").write_text("\n".join(rows) + "\n")
    flags = {"data": place / "table.jsonl", "workdir": place / "runs" / "run", **SETTINGS}
    (place / "runs").mkdir()
    sys.addaudithook(_watch)  # for good: Python takes none away
    SOCKETS.clear()
    done = command("train", **flags)
    return Finished(place / "runs" / "run", flags, done, list(SOCKETS))


def test_no_socket_is_opened_when_all_is_local(finished: Finished) -> None:
    assert finished.done.code == 0, finished.done.err
    assert finished.sockets == []


def test_no_command_imports_keras_2(finished: Finished) -> None:
    assert finished.done.code == 0
    assert "tf_keras" not in sys.modules


def test_names_are_data(finished: Finished) -> None:
    """Labels with paths and braces stay inside the files, escaped where a person reads them."""
    place = finished.folder.parent.parent
    assert {p.name for p in place.iterdir()} == {"digits", "table.jsonl", "runs"}
    assert {p.name for p in finished.folder.parent.iterdir()} == {"run"}
    page = (finished.folder / "report" / "report.html").read_text()
    assert "{0}<b>" not in page
    assert "\x1b" not in page + finished.done.out + finished.done.err


def every(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_finished_run_is_not_touched(finished: Finished) -> None:
    before = every(finished.folder)
    done = command("train", **finished.flags)
    assert (done.code, every(finished.folder)) == (0, before)
    assert done.out.startswith("already complete")
    done = command("train", **{**finished.flags, "batch_size": 4})
    assert (done.code, every(finished.folder)) == (78, before)
    assert "batch_size: 8 -> 4" in done.last_line


def test_another_environment_is_said_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with rundir.opened(tmp_path / "run") as run:
        run_environment(run, require_exact=True, say=said.append)
        run_environment(run, require_exact=True, say=said.append)
        assert said == []
        now = environment_stage.environment.describe()
        assert {"tltf", "tltf_code", "intra_op_threads", "cpus_allowed", "onednn"} <= now.keys()
        other = {**now, "intra_op_threads": 9, "tltf_code": "0" * 16}
        monkeypatch.setattr(environment_stage.environment, "describe", lambda: other)
        expected = rf"intra_op_threads: {now['intra_op_threads']} -> 9, tltf_code: \w+ -> 0{{16}}"
        with pytest.raises(MismatchError, match=expected) as error:
            run_environment(run, require_exact=True, say=said.append)
        assert error.value.exit_code == 78
        run_environment(run, require_exact=False, say=said.append)
        assert "-> 9" in said[0]
        assert run.stage()["environment_changes"]


def test_other_data_is_named_field_by_field(tmp_path: Path) -> None:
    records = tuple(
        Record(id=f"{i}.png", path=f"/{i}.png", label="ab"[i % 2], sha256=f"{i:064d}")
        for i in range(4)
    )
    before = Manifest(task="single_label", classes=("a", "b"), records=records)
    changed = dataclasses.replace(records[1], label="c", sha256="f" * 64)
    now = Manifest(
        task="single_label", classes=("a", "b", "c"), records=(records[0], changed, records[2])
    )
    found = data_stage.changes(before, now)
    assert found[:2] == ["classes: a, b -> a, b, c", "examples: 4 -> 3"]
    assert "3.png: there -> gone" in found
    assert "label of 1.png: 'b' -> 'c'" in found
    assert any(text.startswith("sha256 of 1.png: 000000000000 -> ffff") for text in found)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "out of memory"),
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"), "out of memory"),
        (tf.errors.ResourceExhaustedError(None, None, "No space left on device"), "is full"),
    ],
)
def test_no_memory_left(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(pipeline, "run_data", fails)
    done = command("train", **{**finished.flags, "workdir": tmp_path / "run"})
    assert done.code == 74, done.err
    assert text in done.last_line
    assert ("--micro_batch" in done.last_line) == (text == "out of memory")
    assert json.loads((tmp_path / "run" / "error.json").read_text())["exit_code"] == 74


def test_a_bug_leaves_its_error_too(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "run_data", lambda *_, **__: 1 / 0)
    assert command("train", **{**finished.flags, "workdir": tmp_path / "run"}).code == 1
    error = json.loads((tmp_path / "run" / "error.json").read_text())
    assert (error["exit_code"], "ZeroDivisionError" in error["what"]) == (1, True)


def test_a_full_disk_is_told_even_when_the_error_cannot_be_written(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "free_bytes", lambda folder: 10)
    done = command("train", **{**finished.flags, "workdir": tmp_path / "run"})
    assert done.code == 74
    assert "the disk or quota is full" in done.last_line


def test_divergence_keeps_the_last_finite_state_and_exports_nothing(tmp_path: Path) -> None:
    class Poison(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 2:
                bias = self.model.get_layer("head").get_layer("logits").bias
                bias.assign(keras.ops.full(bias.shape, np.nan))

    with pytest.raises(DivergenceError, match="NaN or infinite by step 3") as error:
        tltf.fit_phases(
            tiny.classifier(),
            [tltf.Phase("all", 2, 1e-3, unfreeze="all")],
            tiny.dataset(24),
            callbacks=[Poison()],
            folder=tmp_path,
            save_every="1steps",
            progress=False,
        )
    assert (error.value.exit_code, error.value.kept) == (80, "state of step 2")
    state = states.newest(tmp_path / "state")
    assert state is not None
    assert all(np.isfinite(a).all() for k, a in state.tensors.items() if k.startswith("model/"))

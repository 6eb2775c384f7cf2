"""Training states: committed whole, found again, damaged ones set aside."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tltf import storage
from tltf.errors import MismatchError, StorageError
from tltf.training import states
from tltf.training.states import Position


def saved(folder: Path, steps_done: int, *, phase: int = 0, value: float = 1.0) -> Path:
    return states.save(
        folder,
        position=Position(phase, 2, 3),
        steps_done=steps_done,
        groups={"model": [np.full(3, value), np.array(7)], "optimizer": []},
        callbacks={"best": {"best": 0.5}},
        history=[{"epoch": 1, "loss": value}],
    )


def test_a_state_comes_back(tmp_path: Path) -> None:
    saved(tmp_path / "state", 5, value=2.0)
    state = states.newest(tmp_path / "state")
    assert state is not None
    assert (state.position, state.steps_done) == (Position(0, 2, 3), 5)
    assert state.history == [{"epoch": 1, "loss": 2.0}]
    assert state.callbacks == {"best": {"best": 0.5}}
    held = [keras.Variable(np.zeros(3)), keras.Variable(0)]
    states.assign(held, state, "model")
    np.testing.assert_array_equal(held[0].numpy(), [2.0, 2.0, 2.0])
    with pytest.raises(MismatchError, match="2 tensors for 1 variables"):
        states.assign(held[:1], state, "model")


def test_more_than_ten_variables_keep_their_order(tmp_path: Path) -> None:
    held = [keras.Variable(float(i)) for i in range(12)]
    states.save(
        tmp_path / "s",
        position=Position(),
        steps_done=1,
        groups={"model": held},
        callbacks={},
        history=[],
    )
    again = [keras.Variable(0.0) for _ in held]
    state = states.newest(tmp_path / "s")
    assert state is not None
    states.assign(again, state, "model")
    assert [float(v.numpy()) for v in again] == [float(i) for i in range(12)]


def test_two_are_kept_and_the_newest_is_by_progress(tmp_path: Path) -> None:
    for steps_done in (9, 10, 100):
        saved(tmp_path, steps_done)
    last = saved(tmp_path, 100, phase=1)
    assert len(list(tmp_path.iterdir())) == 2
    assert last.name == "000000100-1-2"
    found = states.newest(tmp_path)
    assert found is not None
    assert found.position.phase == 1


@pytest.mark.parametrize("member", ["tensors.safetensors", "state.json"])
def test_a_damaged_state_is_set_aside_for_the_one_before(tmp_path: Path, member: str) -> None:
    saved(tmp_path, 1, value=1.0)
    newest = saved(tmp_path, 2, value=2.0)
    data = bytearray((newest / member).read_bytes())
    data[len(data) // 2] ^= 1
    (newest / member).write_bytes(data)
    found = states.newest(tmp_path)
    assert found is not None
    if member == "tensors.safetensors":
        assert found.steps_done == 1
        assert (tmp_path / f"damaged-{newest.name}").is_dir()
        assert states.newest(tmp_path) is not None


def test_members_of_two_commits_do_not_mix(tmp_path: Path) -> None:
    first, second = saved(tmp_path, 1, value=1.0), saved(tmp_path, 2, value=2.0)
    (second / "tensors.safetensors").write_bytes((first / "tensors.safetensors").read_bytes())
    found = states.newest(tmp_path)
    assert found is not None
    assert found.steps_done == 1


def test_nothing_yet(tmp_path: Path) -> None:
    assert states.newest(tmp_path / "none") is None
    assert states.newest(tmp_path) is None


def test_a_full_disk_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 1)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(StorageError, match="disk or quota is full"):
        saved(tmp_path, 2)
    monkeypatch.undo()
    assert [item.name for item in tmp_path.iterdir()] == ["000000001-0-2"]
    found = states.newest(tmp_path)
    assert found is not None
    assert found.steps_done == 1


@pytest.mark.parametrize("name", ["files.json", "state.json", "tensors.safetensors"])
def test_a_state_that_cannot_be_read_now_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """With too many open files the run would begin anew."""
    folder = tmp_path / "state"
    names = [path.name for path in saved(folder, 5).iterdir()]
    assert name in names, names
    real = Path.open

    def refused(self: Path, *given: Any, **more: Any) -> Any:
        if self.name == name:
            raise OSError(errno.EMFILE, "Too many open files", str(self))
        return real(self, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refused)
        with pytest.raises(StorageError, match="Too many open files"):
            states.newest(folder)
    found = states.newest(folder)
    assert found is not None
    assert found.steps_done == 5

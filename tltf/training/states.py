"""Committed training states: everything that the next step depends on, in one folder.

``state/<step>/`` holds ``tensors.safetensors`` (model, optimizer, metric and seed
variables, and the best weights so far) and ``state.json`` (position, callback state,
history), which carries the SHA-256 of the tensors. Folders are committed by rename, so the
newest that verifies is the one to resume from.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging

from tltf import storage, variables
from tltf.errors import StorageError, TltfError

KEEP = 2


@dataclass(frozen=True, order=True)
class Position:
    """The next step to do: phase index, epoch and batch within the epoch, all from 0."""

    phase: int = 0
    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class State:
    """A training state as read from disk."""

    position: Position
    steps_done: int
    callbacks: dict[str, Any]
    history: list[dict[str, Any]]
    tensors: dict[str, np.ndarray]


def save(
    folder: Path,
    *,
    position: Position,
    steps_done: int,
    groups: Mapping[str, Iterable[keras.Variable | np.ndarray]],
    callbacks: Mapping[str, Any],
    history: list[dict[str, Any]],
) -> Path:
    """Commits ``folder/<steps_done>`` and removes all but the newest two.

    Args:
      groups: name -> variables or arrays; read back in the same order.

    Raises:
      StorageError: the disk refused; the previous state is intact.
    """
    folder.mkdir(exist_ok=True)
    temporary = storage.sibling(folder / str(steps_done))
    tensors = {
        f"{group}/{i:05d}": _numpy(value)
        for group, values in groups.items()
        for i, value in enumerate(values)
    }
    try:
        temporary.mkdir()
        storage.write_tensors(temporary / "tensors.safetensors", tensors)
        fields = {
            "position": asdict(position),
            "steps_done": steps_done,
            "callbacks": dict(callbacks),
            "history": history,
            "sha256": storage.file_sha256(temporary / "tensors.safetensors"),
        }
        storage.write_json(temporary / "state.json", fields)
        final = folder / _name(position, steps_done)
        if final.exists():
            shutil.rmtree(final)
        storage.commit_folder(temporary, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise storage.storage_error(error, folder) from error
    for old in _folders(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest(folder: Path) -> State | None:
    """The newest state that verifies; a damaged one is set aside with a loud line."""
    for candidate in reversed(_folders(folder)):
        try:
            return _read(candidate)
        except (TltfError, KeyError, TypeError, ValueError, OSError) as error:
            aside = candidate.with_name(f"damaged-{candidate.name}")
            logging.error("state %s is damaged and set aside: %s", candidate, error)
            candidate.rename(aside)
    return None


def assign(held: Iterable[keras.Variable], state: State, group: str) -> None:
    """Puts a group's arrays into the variables ``held``, all or nothing.

    Raises:
      DataError: number or shapes differ from what was saved.
    """
    keys = sorted(key for key in state.tensors if key.startswith(f"{group}/"))
    arrays = [state.tensors[key] for key in keys]
    variables.assign(list(held), arrays, where=f"{group} of the saved state")


def _read(folder: Path) -> State:
    fields = storage.read_json(folder / "state.json")
    tensors, _ = storage.read_tensors(folder / "tensors.safetensors")
    if storage.file_sha256(folder / "tensors.safetensors") != fields["sha256"]:
        raise StorageError("state.json and its tensors are not of one commit", where=folder)
    return State(
        position=Position(**fields["position"]),
        steps_done=fields["steps_done"],
        callbacks=fields["callbacks"],
        history=fields["history"],
        tensors=tensors,
    )


def _name(position: Position, steps_done: int) -> str:
    """Sorts by progress: two positions can share a step count at a phase's border."""
    return f"{steps_done:09d}-{position.phase}"


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(item for item in folder.iterdir() if item.name[:9].isdecimal())


def _numpy(value: keras.Variable | np.ndarray) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else keras.ops.convert_to_numpy(value.value)

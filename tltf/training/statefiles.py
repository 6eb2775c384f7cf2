"""Training states as files: committed whole, found again, damaged ones set aside.

``state/<steps>-<phase>/`` holds ``tensors.safetensors`` and ``state.json``, sealed by
``files.json``. No TensorFlow here, so that the tests can kill a writer at every system call.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from tltf import sealed, storage, tensorfile
from tltf.errors import TltfError

KEEP = 2
FORMAT = 2
TENSORS = "tensors.safetensors"
FIELDS = "state.json"
_NAME = re.compile(r"\d{9,}-\d+-\d+")


@dataclass(frozen=True, order=True)
class Position:
    """The next step to do: phase index, epoch and batch within the epoch, all from 0.

    A batch equal to the number of steps means that the epoch's validation comes next.
    """

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


def write(folder: Path, state: State) -> Path:
    """Commits the state as the newest in ``folder`` and retires all but the newest two.

    Raises:
      StorageError: the disk refused; the states before are intact.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise storage.storage_error(error, folder) from error
    final = folder / _name(state)
    with sealed.committed(final) as temporary:
        tensorfile.write_tensors(temporary / TENSORS, state.tensors)
        fields = {
            "format": FORMAT,
            "position": vars(state.position),
            "steps_done": state.steps_done,
            "callbacks": state.callbacks,
            "history": state.history,
        }
        storage.write_sealed(temporary / FIELDS, fields)
    for old in _committed(folder)[:-KEEP]:
        sealed.retire(old)
    return final


def newest(folder: Path) -> State | None:
    """The newest state that verifies; a damaged one is set aside with a loud line.

    Raises:
      StorageError: the system refused to read one, which may be whole: an older state instead of
        it, or none, would throw work away.
    """
    for candidate in reversed(_committed(folder)):
        try:
            return _read(candidate)
        except (TltfError, KeyError, TypeError, ValueError, OSError) as error:
            if isinstance(error, OSError) and storage.refused(error):
                raise storage.storage_error(error, candidate) from error
            aside = sealed.set_aside(candidate)
            logging.error("a state is damaged and set aside as %s: %s", aside, error)
    return None


def peek(folder: Path) -> int | None:
    """Steps done of the newest committed state, without reading it."""
    found = _committed(folder)
    return _order(found[-1])[0] if found else None


def _read(folder: Path) -> State:
    sealed.verify(folder)
    fields = storage.read_sealed(folder / FIELDS)
    if fields["format"] != FORMAT:
        raise ValueError(f"state format {fields['format']}, expected {FORMAT}")
    tensors, _ = tensorfile.read_tensors(folder / TENSORS)
    return State(
        position=Position(**fields["position"]),
        steps_done=fields["steps_done"],
        callbacks=fields["callbacks"],
        history=fields["history"],
        tensors=tensors,
    )


def _name(state: State) -> str:
    """Two positions can share a step count: before and after a validation, and at a border."""
    return f"{state.steps_done:09d}-{state.position.phase}-{state.position.epoch}"


def _committed(folder: Path) -> list[Path]:
    """By progress."""
    if not folder.is_dir():
        return []
    try:
        return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=_order)
    except OSError as error:
        raise storage.storage_error(error, folder) from error


def _order(folder: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in folder.name.split("-"))

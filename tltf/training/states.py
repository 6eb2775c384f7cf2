"""Committed training states: everything that the next step depends on, in one folder.

Model, optimizer, metric and seed variables and the best weights so far as tensors; position,
callback state and history beside them. :mod:`tltf.training.statefiles` has the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tltf import variables
from tltf.errors import DataError, DivergenceError, MismatchError
from tltf.training import statefiles
from tltf.training.statefiles import KEEP, Position, State, newest

__all__ = ["KEEP", "Position", "State", "array", "assign", "newest", "save"]

Groups = Mapping[str, Iterable[keras.Variable | np.ndarray]]


def save(
    folder: Path,
    *,
    position: Position,
    steps_done: int,
    groups: Groups,
    callbacks: Mapping[str, Any],
    history: list[dict[str, Any]],
) -> Path:
    """Commits the newest state and removes all but the newest two.

    Args:
      groups: name -> variables or arrays; read back in the same order.

    Raises:
      DivergenceError: a weight is NaN or infinite; the state before stays the newest.
      StorageError: the disk refused; the previous state is intact.
    """
    tensors = {
        f"{group}/{i:05d}": array(value)
        for group, values in groups.items()
        for i, value in enumerate(values)
    }
    _check_finite(tensors, steps_done)
    state = State(position, steps_done, dict(callbacks), history, tensors)
    return statefiles.write(folder, state)


def assign(held: Iterable[keras.Variable], state: State, group: str) -> None:
    """Puts a group's arrays into the variables ``held``, all or nothing.

    Raises:
      MismatchError: number or shapes differ from what was saved.
    """
    keys = sorted(key for key in state.tensors if key.startswith(f"{group}/"))
    arrays = [state.tensors[key] for key in keys]
    try:
        variables.assign(list(held), arrays, where=f"{group} of the saved state")
    except DataError as error:
        raise MismatchError(
            f"the saved state is of another {group}: {error.what}",
            where=error.where,
            kept="the run as it is",
            next_action="use the model and the version that began the run, or --fresh",
        ) from error


def _check_finite(tensors: Mapping[str, np.ndarray], steps_done: int) -> None:
    for key, array in tensors.items():
        if key.startswith("model/") and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DivergenceError(
                f"a weight became NaN or infinite by step {steps_done}",
                where=f"tensor {key}",
                next_action="lower the learning rate (--head_lr, --tune_lr)",
            )


def array(value: keras.Variable | np.ndarray) -> np.ndarray:
    """A variable's value, wherever it lives; what several processes count is summed over them."""
    if isinstance(value, np.ndarray):
        return value
    return np.asarray(tf.convert_to_tensor(value.value).numpy())

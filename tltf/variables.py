"""Keras variables to named arrays and back: all or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tltf.errors import DataError


def named_arrays(variables: Iterable[Any], *, prefix: str = "") -> dict[str, np.ndarray]:
    """The values by ``<prefix><position>:<path>``, in order; paths alone need not be unique."""
    return {f"{prefix}{i:05d}:{v.path}": np.asarray(v.numpy()) for i, v in enumerate(variables)}


def assign(variables: Sequence[Any], arrays: Sequence[np.ndarray], *, where: object) -> None:
    """Puts ``arrays`` into ``variables``, in order; every shape is checked before the first.

    Raises:
      DataError: number or shapes differ; the first five mismatches are named.
    """
    wrong = [
        f"{v.path} {tuple(v.shape)} against {a.shape}"
        for v, a in zip(variables, arrays, strict=False)
        if tuple(v.shape) != a.shape
    ]
    if len(variables) != len(arrays):
        wrong.insert(0, f"{len(arrays)} tensors for {len(variables)} variables")
    if wrong:
        raise DataError(
            f"the weights do not fit the model: {'; '.join(wrong[:5])}",
            where=where,
            next_action="use the weights of this very model",
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)

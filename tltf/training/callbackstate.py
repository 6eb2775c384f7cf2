"""What any Keras callback knows, so that a resumed run goes on with it.

Keras callbacks have no protocol for this, and ``EarlyStopping`` and ``ReduceLROnPlateau``
forget everything in ``on_train_begin``. Their memory, as that of most people's own
callbacks, is numbers, texts and weights held as attributes: those are taken, except what
bears the name of a constructor's argument, which is a setting.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from absl import logging

_NOT_STATE = {"_model", "model", "params", "validation_data"}
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_KEY = "float"


def captured(
    callbacks: Sequence[keras.callbacks.Callback],
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Strict-JSON fields of each callback, in order, and the arrays they refer to."""
    arrays: list[np.ndarray] = []
    rows = []
    for callback in callbacks:
        values: dict[str, Any] = {}
        settings = inspect.signature(type(callback).__init__).parameters
        for name, value in vars(callback).items():
            if name in _NOT_STATE or name in settings:
                continue
            if _is_plain(value):
                values[name] = {"value": _to_json(value)}
            elif isinstance(value, np.ndarray):
                values[name] = {"array": len(arrays)}
                arrays.append(np.array(value))
            elif _is_arrays(value):
                values[name] = {"arrays": [len(arrays) + i for i in range(len(value))]}
                arrays += [np.array(item) for item in value]
        rows.append({"class": type(callback).__name__, "values": values})
    return rows, arrays


def put_back(
    callbacks: Sequence[keras.callbacks.Callback],
    rows: Sequence[Mapping[str, Any]],
    arrays: Sequence[np.ndarray],
) -> None:
    """Gives the callbacks what :func:`captured` took; after their ``on_train_begin``.

    They are found again by class and order; one that is new begins anew, and one that is gone
    is said.
    """
    waiting = list(callbacks)
    for row in rows:
        callback = next((c for c in waiting if type(c).__name__ == row["class"]), None)
        if callback is None:
            logging.warning("the resumed training has no %s any more", row["class"])
            continue
        waiting.remove(callback)
        for name, value in row["values"].items():
            if "array" in value:
                setattr(callback, name, np.array(arrays[value["array"]]))
            elif "arrays" in value:
                setattr(callback, name, [np.array(arrays[i]) for i in value["arrays"]])
            else:
                setattr(callback, name, _from_json(value["value"]))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value) and not _is_arrays(value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    return value is None or isinstance(value, bool | int | float | str | np.generic)


def _is_arrays(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(item, np.ndarray) for item in value)
    )


def _to_json(value: Any) -> Any:
    """Strict JSON: what is not finite becomes an object, tuples become lists."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {_KEY: {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, dict):
        return {"object": {key: _to_json(item) for key, item in value.items()}}
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if isinstance(value, dict):
        if _KEY in value:
            return _SPECIAL[value[_KEY]]
        return {key: _from_json(item) for key, item in value["object"].items()}
    return value

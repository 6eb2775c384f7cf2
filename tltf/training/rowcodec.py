"""How a row of features lies on disk: dtypes, and uint8 with an offset and a scale."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from tltf.errors import StorageError

VERSION = 1
_FLOATS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
_HEAD = 8  # bytes in front of a uint8 row: offset and scale, two float32


@dataclass(frozen=True)
class Layout:
    """One crossing tensor on disk.

    Args:
      shape: without the batch axis.
      dtype: of stored floats, one of :data:`tltf.spec.CACHE_DTYPES`.
      kind: numpy dtype as computed; integers (token ids, masks) are stored as they are, since
        float16 holds whole numbers up to 2048 only.

    ``uint8`` stores ``q = round((x - low) / scale)`` with ``scale = (high - low) / 255`` of each
    row, so an element is off by half a scale at most.
    """

    shape: tuple[int, ...]
    dtype: str = field(kw_only=True)
    kind: str = field(default="float32", kw_only=True)

    @property
    def exact(self) -> bool:
        """Whether the tensor is of integers or booleans."""
        return self.kind.startswith(("int", "uint", "bool"))

    @property
    def output(self) -> Any:
        """The numpy dtype that :meth:`decoded` gives."""
        return np.dtype(self.kind) if self.exact else np.dtype(np.float32)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        count = math.prod(self.shape)
        if not self.exact and self.dtype == "uint8":
            return _HEAD + count
        return count * self._stored.itemsize

    def describe(self) -> list[Any]:
        """For shard.json: what must be equal for a shard to be readable."""
        return [list(self.shape), self.kind if self.exact else self.dtype]

    def encoded(self, array: np.ndarray) -> np.ndarray:
        """uint8 ``[n, row_bytes]`` of ``[n, *shape]``.

        Raises:
          StorageError: a value is not finite, or too large for the stored dtype.
        """
        flat = np.asarray(array).reshape(len(array), -1)
        if self.exact:
            return _bytes(flat.astype(self._stored))
        with np.errstate(over="ignore"):
            stored = flat.astype(np.float32 if self.dtype == "uint8" else self._stored)
        if not np.isfinite(stored.astype(np.float32)).all():
            raise StorageError(
                f"features are too large for {self.dtype}, or not finite",
                next_action="use --cache_dtype=float32, or --cache=off",
            )
        return _quantised(stored) if self.dtype == "uint8" else _bytes(stored)

    def decoded(self, rows: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`encoded`, in :attr:`output`."""
        n = len(rows)
        if not self.exact and self.dtype == "uint8":
            low, scale = np.split(np.ascontiguousarray(rows[:, :_HEAD]).view(np.float32), 2, axis=1)
            flat = rows[:, _HEAD:].astype(np.float32) * scale + low
        else:
            flat = np.ascontiguousarray(rows).view(self._stored)
        return flat.astype(self.output, copy=False).reshape(n, *self.shape)

    @property
    def _stored(self) -> np.dtype[Any]:
        if self.exact:
            return np.dtype(self.kind)
        return np.dtype(np.uint8 if self.dtype == "uint8" else _FLOATS[self.dtype])


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)


def _quantised(rows: np.ndarray) -> np.ndarray:
    low = rows.min(axis=1, keepdims=True)
    scale = (rows.max(axis=1, keepdims=True) - low) / np.float32(255)
    steps = np.divide(rows - low, scale, out=np.zeros_like(rows), where=scale > 0)
    head = _bytes(np.concatenate([low, scale], axis=1).astype(np.float32))
    return np.concatenate([head, np.rint(steps).astype(np.uint8)], axis=1)

"""Shards in the making: rows are collected beside their place and committed by one rename."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tltf import storage
from tltf.errors import StorageError
from tltf.training.rowcodec import Layout

FORMAT = 3
"""3: a row is of the bytes that its key names; those of before may be of others."""
SHARD_BYTES = 256_000_000
SHARD_SECONDS = 60.0

Key = str
"""``<sha256>/<view>``; the view is ``plain`` or names policy, seed and number."""


class Writer:
    """Appends rows; see :meth:`tltf.training.featurestore.FeatureStore.writer`."""

    def __init__(self, folder: Path, layouts: Sequence[Layout]) -> None:
        self._folder, self._layouts = folder, layouts
        self._open()

    def append(self, keys: Sequence[Key], arrays: Sequence[np.ndarray]) -> None:
        """Adds rows ``[len(keys), *shape]`` of each tensor.

        Raises:
          StorageError: the disk is full, or a value is too large for the stored dtype.
        """
        for array, layout, file, state in zip(
            arrays, self._layouts, self._files, self._hashes, strict=True
        ):
            try:
                data = layout.encoded(array).tobytes()
            except StorageError as error:
                error.where = str(self._folder)
                raise
            try:
                file.write(data)
            except OSError as error:
                raise storage.storage_error(error, self._final, need=len(data)) from error
            state.update(data)
            self._bytes += len(data)
        self._keys += keys
        if self._bytes > SHARD_BYTES or time.monotonic() - self._since > SHARD_SECONDS:
            self.commit()
            self._open()

    def commit(self) -> None:
        """Makes the shard visible; one without rows is dropped.

        Raises:
          StorageError: the disk refused.
        """
        try:
            for file in self._files:
                file.close()
        except OSError as error:
            raise storage.storage_error(error, self._final) from error
        if not self._keys:
            return
        fields = {
            "format": FORMAT,
            "layouts": [layout.describe() for layout in self._layouts],
            "sha256": [state.hexdigest() for state in self._hashes],
            "keys": self._keys,
        }
        storage.write_sealed(self._temporary / "shard.json", fields)
        storage.commit_folder(self._temporary, self._final)

    def discard(self) -> None:
        """Removes what was not committed."""
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _open(self) -> None:
        self._final = self._folder / f"shard-{uuid.uuid4().hex[:12]}"
        self._temporary = storage.sibling(self._final)
        self._keys: list[Key] = []
        self._bytes, self._since = 0, time.monotonic()
        self._temporary.mkdir()
        names = [f"t{i}.bin" for i in range(len(self._layouts))]
        self._files = [(self._temporary / name).open("wb") for name in names]
        self._hashes = [hashlib.sha256() for _ in names]

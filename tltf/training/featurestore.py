"""FeatureStore: what a frozen prefix computed, on disk, a row per example and view.

Layout below one folder per prefix digest (DESIGN 4.3)::

    <digest>/prefix.json            what the digest was made of, for people
    <digest>/shard-<id>/t0.bin ...  raw rows, C order, one file per crossing tensor
    <digest>/shard-<id>/shard.json  keys in the order of the rows, dtype, shapes, SHA-256

A shard is written beside its place, made durable and renamed, so a killed writer leaves
nothing that a reader takes for valid. A row's key is (content SHA-256, view); everything
else that determines it is in the prefix digest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from tltf import storage
from tltf.errors import StorageError, TltfError

FORMAT = 1
DTYPES = ("float16", "float32")
USED = "used"

Key = str
"""``<sha256>/<view>``; the view is ``plain`` or names policy, seed and number."""


@dataclass(frozen=True)
class _Shard:
    arrays: tuple[np.ndarray, ...]
    rows: Mapping[Key, int]


class FeatureStore:
    """The rows of one prefix.

    Args:
      folder: the cache folder; made if its parent exists.
      digest: of the prefix, see :func:`prefix_digest`.
      shapes: of the crossing tensors, without the batch axis.
      dtype: ``float16`` or ``float32``, as stored; part of the digest's folder name.

    Example::

      store = FeatureStore(folder, digest, shapes=[(1280,)])
      with store.writer() as writer:
          writer.append(["ab12.../plain"], [features])
      rows = store.gather(store.rows(["ab12.../plain"]))
    """

    def __init__(
        self,
        folder: Path,
        digest: str,
        *,
        shapes: Sequence[Sequence[int]],
        dtype: str = "float16",
    ) -> None:
        self.folder = folder / f"{digest[:32]}-{dtype}"
        self.shapes = tuple(tuple(shape) for shape in shapes)
        self.dtype = np.dtype(dtype)
        self._shards: dict[str, _Shard] = {}
        self._where: dict[Key, tuple[str, int]] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.refresh()

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return sum(math.prod(shape) for shape in self.shapes) * self.dtype.itemsize

    def __contains__(self, key: Key) -> bool:
        return key in self._where

    def __len__(self) -> int:
        return len(self._where)

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Those keys, once each and in order, that have no row yet."""
        return [key for key in dict.fromkeys(keys) if key not in self._where]

    def refresh(self) -> None:
        """Takes in the shards that were committed since; a damaged one is removed and said."""
        for folder in sorted(self.folder.glob("shard-*")):
            if folder.name in self._shards:
                continue
            try:
                shard = self._read(folder)
            except (TltfError, OSError, KeyError, TypeError, ValueError) as error:
                logging.warning("feature store: %s is damaged and rebuilt (%s)", folder, error)
                shutil.rmtree(folder, ignore_errors=True)
                continue
            self._shards[folder.name] = shard
            for key, row in shard.rows.items():
                self._where.setdefault(key, (folder.name, row))
        with contextlib.suppress(OSError):
            (self.folder / USED).touch()

    def gather(self, keys: Sequence[Key]) -> list[np.ndarray]:
        """The rows of ``keys``, stacked: one array ``[len(keys), *shape]`` per tensor.

        Raises:
          KeyError: a key has no row.
        """
        found = [np.empty((len(keys), *shape), self.dtype) for shape in self.shapes]
        places = [self._where[key] for key in keys]
        for name in dict.fromkeys(shard for shard, _ in places):
            at = [i for i, (shard, _) in enumerate(places) if shard == name]
            rows = [places[i][1] for i in at]
            for out, array in zip(found, self._shards[name].arrays, strict=True):
                out[at] = array[rows]
        return found

    @contextlib.contextmanager
    def writer(self) -> Iterator[Writer]:
        """Collects rows into one shard, committed when the block ends without an exception."""
        writer = Writer(self.folder, self.shapes, self.dtype)
        try:
            yield writer
            writer.commit()
        finally:
            writer.discard()
        self.refresh()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time computes rows of this prefix; others wait, then find them."""
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refresh()
            yield

    def _read(self, folder: Path) -> _Shard:
        fields = storage.read_sealed(folder / "shard.json")
        if fields["format"] != FORMAT or fields["dtype"] != self.dtype.name:
            raise StorageError("another format", where=folder)
        keys = fields["keys"]
        arrays = []
        for i, shape in enumerate(self.shapes):
            path = folder / f"t{i}.bin"
            if storage.file_sha256(path) != fields["sha256"][i]:
                raise StorageError("its SHA-256 does not fit", where=path)
            arrays.append(np.memmap(path, self.dtype, mode="r", shape=(len(keys), *shape)))
        return _Shard(tuple(arrays), {key: row for row, key in enumerate(keys)})


class Writer:
    """A shard in the making; see :meth:`FeatureStore.writer`."""

    def __init__(
        self, folder: Path, shapes: Sequence[tuple[int, ...]], dtype: np.dtype[Any]
    ) -> None:
        self._final = folder / f"shard-{uuid.uuid4().hex[:12]}"
        self._temporary = storage.sibling(self._final)
        self._shapes, self._dtype = shapes, dtype
        self._keys: list[Key] = []
        self._temporary.mkdir()
        names = [f"t{i}.bin" for i in range(len(shapes))]
        self._files = [(self._temporary / name).open("wb") for name in names]
        self._hashes = [hashlib.sha256() for _ in shapes]

    def append(self, keys: Sequence[Key], arrays: Sequence[np.ndarray]) -> None:
        """Adds rows ``[len(keys), *shape]`` of each tensor.

        Raises:
          StorageError: the disk is full, or a value is too large for the stored dtype.
        """
        for array, file, state in zip(arrays, self._files, self._hashes, strict=True):
            with np.errstate(over="ignore"):
                stored = np.ascontiguousarray(array, self._dtype)
            if not np.isfinite(stored).all():
                raise StorageError(
                    f"features are too large for {self._dtype.name}, or not finite",
                    where=self._final.parent,
                )
            data = stored.tobytes()
            try:
                file.write(data)
            except OSError as error:
                raise storage.storage_error(error, self._final, need=len(data)) from error
            state.update(data)
        self._keys += keys

    def commit(self) -> None:
        """Makes the shard visible; one without rows is dropped."""
        for file in self._files:
            file.close()
        if not self._keys:
            return
        fields = {
            "format": FORMAT,
            "dtype": self._dtype.name,
            "shapes": [list(shape) for shape in self._shapes],
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


def prefix_digest(ingredients: Mapping[str, Any], arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 over everything but the example that determines a row.

    Args:
      ingredients: JSON-able: the prefix' configuration, input size, versions, precision.
      arrays: the prefix' variables, in order.
    """
    state = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode())
    state.update(str(FORMAT).encode())
    for array in arrays:
        state.update(repr((array.dtype.name, array.shape)).encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


@dataclass(frozen=True)
class StoredPrefix:
    """What ``tltf cache --list`` shows of one prefix."""

    folder: Path
    rows: int
    size_bytes: int
    used: float
    about: str


def stored_prefixes(folder: Path) -> list[StoredPrefix]:
    """Every prefix below the cache folder, the longest unused first."""
    found = []
    for item in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not (item / "prefix.json").is_file():
            continue
        about = storage.read_json(item / "prefix.json").get("about", "")
        shards = list(item.glob("shard-*/shard.json"))
        rows = sum(len(storage.read_json(shard)["keys"]) for shard in shards)
        size = sum(f.stat().st_size for f in item.rglob("*") if f.is_file())
        used = (item / USED).stat().st_mtime if (item / USED).exists() else 0.0
        found.append(StoredPrefix(item, rows, size, used, about))
    return sorted(found, key=lambda prefix: prefix.used)


def evict(folder: Path, *, cap_bytes: int, keep: Path | None = None) -> list[Path]:
    """Removes the longest unused prefixes until at most ``cap_bytes`` are left.

    Args:
      keep: a prefix that stays, whatever its size.
    """
    prefixes = stored_prefixes(folder)
    total, removed = sum(prefix.size_bytes for prefix in prefixes), []
    for prefix in prefixes:
        if total <= cap_bytes:
            break
        if prefix.folder != keep:
            shutil.rmtree(prefix.folder, ignore_errors=True)
            total -= prefix.size_bytes
            removed.append(prefix.folder)
    return removed


def free_bytes(folder: Path) -> int:
    """Free space where ``folder`` is, or will be."""
    while not folder.exists():
        folder = folder.parent
    stats = os.statvfs(folder)
    return stats.f_bavail * stats.f_frsize

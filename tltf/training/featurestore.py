"""FeatureStore: what a frozen prefix computed, on disk, a row per example and view.

Layout below one folder per prefix digest and storage dtype (DESIGN 4.3)::

    <digest>-<dtype>/prefix.json            what the digest was made of, for people
    <digest>-<dtype>/shard-<id>/t0.bin ...  raw rows, C order, one file per crossing tensor
    <digest>-<dtype>/shard-<id>/shard.json  keys in the order of the rows, dtypes, shapes, SHA-256

A shard is written beside its place, made durable and renamed, so a killed writer leaves
nothing that a reader takes for valid. A row's key is (content SHA-256, view); everything
else that determines it is in the prefix digest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from tltf import storage
from tltf.errors import StorageError, TltfError
from tltf.training import rowcodec
from tltf.training.rowcodec import Layout
from tltf.training.shards import FORMAT, Key, Writer

USED = "used"
VERIFIED = ".verified.json"
TRUST_SECONDS = 7 * 24 * 3600.0
MAPPED_BYTES = 16_000_000
"""After so many bytes read, mapped pages are given back: memory stays, the page cache too."""


@dataclass(frozen=True)
class Rows:
    """Where some keys lie: shard numbers and row numbers, int32 ``[n]``; may be indexed."""

    shard: np.ndarray
    row: np.ndarray

    def __getitem__(self, chosen: Any) -> Rows:
        return Rows(self.shard[chosen], self.row[chosen])


@dataclass(frozen=True)
class _Shard:
    maps: tuple[mmap.mmap | None, ...]
    arrays: tuple[np.ndarray, ...]


class FeatureStore:
    """The rows of one prefix.

    Args:
      folder: the cache folder; made with its parents.
      digest: of the prefix, see :func:`prefix_digest`.
      shapes: of the crossing tensors, without the batch axis.
      dtype: of stored floats: ``float16``, ``bfloat16``, ``float32``, or ``uint8`` with an
        offset and a scale for each row; part of the folder's name.
      kinds: numpy dtype of each tensor as computed; integers are stored as they are. None:
        all are float32.

    Example::

      store = FeatureStore(folder, digest, shapes=[(1280,)])
      with store.writer() as writer:
          writer.append(["ab12.../plain"], [features])
      rows = store.gather(["ab12.../plain"])
    """

    def __init__(
        self,
        folder: Path,
        digest: str,
        *,
        shapes: Sequence[Sequence[int]],
        dtype: str = "float16",
        kinds: Sequence[str] | None = None,
    ) -> None:
        self.folder = folder / f"{digest[:32]}-{dtype}"
        self.shapes = tuple(tuple(shape) for shape in shapes)
        self.dtype = dtype
        kinds = kinds or ["float32"] * len(self.shapes)
        self.layouts = tuple(
            Layout(shape, dtype=dtype, kind=kind)
            for shape, kind in zip(self.shapes, kinds, strict=True)
        )
        self._shards: dict[str, _Shard] = {}
        self._order: list[str] = []
        self._where: dict[Key, tuple[int, int]] = {}
        self._read_bytes = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        self.refresh()

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return sum(layout.row_bytes for layout in self.layouts)

    def __contains__(self, key: Key) -> bool:
        return key in self._where

    def __len__(self) -> int:
        return len(self._where)

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Those keys, once each and in order, that have no row yet."""
        return [key for key in dict.fromkeys(keys) if key not in self._where]

    def refresh(self) -> None:
        """Takes in the shards that were committed since; a damaged one is removed and said.

        One that the system does not let us read now (too many open files, no permission, a disk
        that fails) says nothing of its content: it is left alone, and asked again the next time.
        """
        for folder in sorted(self.folder.glob("shard-*")):
            if folder.name in self._shards:
                continue
            try:
                shard, keys = self._opened(folder)
            except (TltfError, OSError, KeyError, TypeError, ValueError) as error:
                if storage.refused(error):
                    logging.warning("feature store: %s is left as it is (%s)", folder, error)
                else:
                    logging.warning("feature store: %s is damaged and rebuilt (%s)", folder, error)
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            number = len(self._order)
            self._shards[folder.name] = shard
            self._order.append(folder.name)
            for row, key in enumerate(keys):
                self._where.setdefault(key, (number, row))
        with contextlib.suppress(OSError):
            (self.folder / USED).touch()

    def rows(self, keys: Sequence[Key]) -> Rows:
        """Where the rows of ``keys`` are, for :meth:`read`; 8 bytes a key.

        Raises:
          KeyError: a key has no row.
        """
        found = np.array([self._where[key] for key in keys], np.int32).reshape(-1, 2)
        return Rows(found[:, 0].copy(), found[:, 1].copy())

    def read(self, rows: Rows) -> list[np.ndarray]:
        """The rows stacked, one array ``[n, *shape]`` per tensor: float32, integers as they are."""
        found = [np.empty((len(rows.row), *x.shape), x.output) for x in self.layouts]
        for number in np.unique(rows.shard):
            at = np.flatnonzero(rows.shard == number)
            shard = self._shards[self._order[number]]
            for out, array, layout in zip(found, shard.arrays, self.layouts, strict=True):
                out[at] = layout.decoded(array[rows.row[at]])
        self._give_back(len(rows.row) * self.row_bytes)
        return found

    def gather(self, keys: Sequence[Key]) -> list[np.ndarray]:
        """:meth:`read` of :meth:`rows`.

        Raises:
          KeyError: a key has no row.
        """
        return self.read(self.rows(keys))

    @contextlib.contextmanager
    def writer(self) -> Iterator[Writer]:
        """Collects rows into shards; the last is committed when the block ends without an error.

        A long computation commits now and then, so that a kill loses a minute of it.
        """
        writer = Writer(self.folder, self.layouts)
        try:
            yield writer
            writer.commit()
        finally:
            writer.discard()
        self.refresh()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time computes rows of this prefix; others wait, then find them.

        What killed writers left is removed, since nobody else can be writing.
        """
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for litter in self.folder.glob(f"{storage.TEMPORARY}*"):
                shutil.rmtree(litter, ignore_errors=True)
            self.refresh()
            yield

    def _opened(self, folder: Path) -> tuple[_Shard, list[Key]]:
        fields = storage.read_sealed(folder / "shard.json")
        described = [layout.describe() for layout in self.layouts]
        if fields["format"] != FORMAT or fields["layouts"] != described:
            raise StorageError("another format", where=folder)
        keys = fields["keys"]
        paths = [folder / f"t{i}.bin" for i in range(len(self.layouts))]
        _verify(folder, paths, fields["sha256"])
        maps, arrays = [], []
        for path, layout in zip(paths, self.layouts, strict=True):
            if path.stat().st_size != len(keys) * layout.row_bytes:
                raise StorageError("of another size", where=path)
            with path.open("rb") as file:
                size = path.stat().st_size
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else None
            stored = np.frombuffer(mapped or b"", np.uint8).reshape(len(keys), layout.row_bytes)
            maps.append(mapped)
            arrays.append(stored)
        return _Shard(tuple(maps), tuple(arrays)), keys

    def _give_back(self, count: int) -> None:
        """Mapped pages count as this process' memory until they are given back."""
        self._read_bytes += count
        if self._read_bytes < MAPPED_BYTES:
            return
        self._read_bytes = 0
        for shard in self._shards.values():
            for mapped in shard.maps:
                if mapped is not None:
                    mapped.madvise(mmap.MADV_DONTNEED)


def _verify(folder: Path, paths: Sequence[Path], sha256: Sequence[str]) -> None:
    """Compares the hashes, unless that was done within a week and no file changed since.

    Any write, cut or restored time stamp moves a file's ctime. So a start costs a few ``stat``
    calls; hashing a large store at each start would take longer than training on it.

    Raises:
      StorageError: a file is not what was written.
    """
    stamp = [
        [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        for status in (path.stat() for path in paths)
    ]
    try:
        seen = json.loads((folder / VERIFIED).read_text("utf-8"))
        fresh = 0 <= time.time() - seen["time"] < TRUST_SECONDS
        if fresh and seen["stamp"] == stamp and seen["sha256"] == list(sha256):
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass
    for path, expected in zip(paths, sha256, strict=True):
        if storage.file_sha256(path) != expected:
            raise StorageError("its SHA-256 does not fit", where=path)
    fields = {"time": time.time(), "stamp": stamp, "sha256": list(sha256)}
    with contextlib.suppress(OSError):
        temporary = storage.sibling(folder / VERIFIED)
        temporary.write_text(json.dumps(fields), "utf-8")
        temporary.replace(folder / VERIFIED)


def prefix_digest(ingredients: Mapping[str, Any], arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 over everything but the example that determines a row.

    Args:
      ingredients: JSON-able: the prefix' configuration, input size, versions, precision.
      arrays: the prefix' variables, in order.
    """
    state = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode())
    state.update(f"{FORMAT}/{rowcodec.VERSION}".encode())
    for array in arrays:
        state.update(repr((array.dtype.name, array.shape)).encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def free_bytes(folder: Path) -> int:
    """Free space where ``folder`` is, or will be."""
    while not folder.exists():
        folder = folder.parent
    stats = os.statvfs(folder)
    return stats.f_bavail * stats.f_frsize

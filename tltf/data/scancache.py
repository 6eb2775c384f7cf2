"""What scans have found before, so that a file is decoded once in its life.

A file that has the size, the times and the place of a former scan has its hash; contents that
have a known hash have been decoded. It is one SQLite file in the cache folder; without it, or
with a damaged one, everything is simply done again.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from tltf.data.cachefolder import cache_folder
from tltf.errors import OutputError

FORMAT = 2
"""2: smaller pictures have no fingerprint any more."""
MOST_ROWS = 1_000_000
SETTLED_SECONDS = 2.0
"""A file that changed less than this ago may change again without a newer time on it."""

_TABLES = """
CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, state TEXT, sha256 TEXT);
CREATE TABLE IF NOT EXISTS contents (sha256 TEXT PRIMARY KEY, found TEXT);
"""

Found = dict[str, Any]


class ScanCache:
    """Safe to use from several threads; all is written when the scan ends."""

    def __init__(self, connection: sqlite3.Connection | None) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._files: list[tuple[bytes, str, str]] = []
        self._contents: list[tuple[str, str]] = []

    def sha256_of(self, path: str, status: os.stat_result) -> str | None:
        """The hash of a file that is as it was when it was read last."""
        query = "SELECT sha256 FROM files WHERE path = ? AND state = ?"
        return self._one(query, (os.fsencode(path), _state(status)))

    def found_in(self, sha256: str) -> Found | None:
        """What decoding these contents gave."""
        text = self._one("SELECT found FROM contents WHERE sha256 = ?", (sha256,))
        try:
            return json.loads(text) if text else None
        except ValueError:
            return None

    def keep_file(self, path: str, status: os.stat_result, sha256: str) -> None:
        """Notes the hash of a file, unless it was changed just now."""
        if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_SECONDS:
            self._files.append((os.fsencode(path), _state(status), sha256))

    def keep_found(self, sha256: str, found: Found) -> None:
        """Notes what decoding gave."""
        self._contents.append((sha256, json.dumps(found)))

    def write(self) -> None:
        """Commits what was noted, and forgets the oldest of too many rows."""
        if self._connection is None or not (self._files or self._contents):
            return
        with self._lock, contextlib.suppress(sqlite3.Error), self._connection as connection:
            connection.executemany("REPLACE INTO files VALUES (?, ?, ?)", self._files)
            connection.executemany("REPLACE INTO contents VALUES (?, ?)", self._contents)
            for table in ("files", "contents"):
                oldest = f"(SELECT MAX(rowid) FROM {table}) - {MOST_ROWS}"
                connection.execute(f"DELETE FROM {table} WHERE rowid <= {oldest}")

    def _one(self, query: str, values: tuple[object, ...]) -> str | None:
        if self._connection is None:
            return None
        with self._lock, contextlib.suppress(sqlite3.Error):
            row = self._connection.execute(query, values).fetchone()
            return str(row[0]) if row else None
        return None


@contextlib.contextmanager
def opened() -> Iterator[ScanCache]:
    """The cache of this user, written on leaving, also after an error or an interruption."""
    connection = _connected()
    cache = ScanCache(connection)
    try:
        yield cache
    finally:
        cache.write()
        if connection is not None:
            connection.close()


def _connected() -> sqlite3.Connection | None:
    try:
        # Another TensorFlow may decode otherwise.
        name = f"scan-{FORMAT}-{metadata.version('tensorflow')}.sqlite"
        path = cache_folder() / name
    except (OutputError, metadata.PackageNotFoundError):
        return None
    for _ in range(2):
        try:
            connection = sqlite3.connect(path, timeout=10.0, check_same_thread=False)
            connection.executescript(_TABLES)
            return connection
        except sqlite3.OperationalError:
            return None
        except sqlite3.DatabaseError:
            # Not a database (any more): nothing is lost but time.
            with contextlib.suppress(OSError):
                path.unlink()
    return None


def _state(status: os.stat_result) -> str:
    """Size, times and place. The time of the last change of the inode cannot be set back."""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"

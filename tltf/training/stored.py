"""All feature stores below one cache folder: what is there, how large, and what goes first."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tltf import storage
from tltf.errors import TltfError

PREFIX, USED = "prefix.json", "used"


@dataclass(frozen=True)
class StoredPrefix:
    """What ``tltf cache --list`` shows of one prefix."""

    folder: Path
    rows: int
    size_bytes: int
    used: float
    about: str


def stored_prefixes(folder: Path) -> list[StoredPrefix]:
    """Every prefix below the cache folder, the longest unused first.

    A folder without ``prefix.json`` is not ours and is left out; a damaged shard has no rows.
    """
    found = []
    for item in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not (item / PREFIX).is_file():
            continue
        about, rows = "damaged", 0
        with contextlib.suppress(TltfError, AttributeError):
            about = str(storage.read_json(item / PREFIX).get("about", ""))
        for shard in item.glob("shard-*/shard.json"):
            with contextlib.suppress(TltfError, KeyError, TypeError):
                rows += len(storage.read_sealed(shard)["keys"])
        used = 0.0
        with contextlib.suppress(OSError):
            used = (item / USED).stat().st_mtime
        found.append(StoredPrefix(item, rows, size_bytes(item), used, about))
    return sorted(found, key=lambda prefix: prefix.used)


def size_bytes(folder: Path) -> int:
    """Bytes of all files below a folder, those that vanish meanwhile left out."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def evict(folder: Path, *, cap_bytes: int, keep: Path | None = None) -> list[Path]:
    """Removes the longest unused prefixes until at most ``cap_bytes`` are left.

    One that a process is filling is left alone.

    Args:
      keep: a prefix that stays, whatever its size.
    """
    prefixes = stored_prefixes(folder)
    total, removed = sum(prefix.size_bytes for prefix in prefixes), []
    for prefix in prefixes:
        if total <= cap_bytes:
            break
        if prefix.folder != keep and remove(prefix.folder):
            total -= prefix.size_bytes
            removed.append(prefix.folder)
    return removed


def clear(folder: Path) -> list[Path]:
    """Removes every prefix that nobody is filling; nothing else in the folder is touched."""
    return [prefix.folder for prefix in stored_prefixes(folder) if remove(prefix.folder)]


def remove(prefix: Path) -> bool:
    """Removes one prefix unless a process holds its lock; says whether it did.

    Whoever has it open goes on reading: the files are mapped.
    """
    with _lock(prefix) as free:
        if free:
            shutil.rmtree(prefix, ignore_errors=True)
    return free


@contextlib.contextmanager
def _lock(prefix: Path) -> Iterator[bool]:
    try:
        file = (prefix / ".lock").open("w")
    except OSError:
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True

"""Version folders that a server may read at any moment. No TensorFlow."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

from tltf import sealed, storage
from tltf.errors import ArgumentError, OutputError

ATTEMPTS = 100
LITTER_SECONDS = 3600.0


def versions(folder: Path) -> list[int]:
    """The published versions, ascending."""
    if not folder.is_dir():
        return []
    names = [item.name for item in folder.iterdir()]
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


def newest(folder: Path) -> Path | None:
    """The folder of the newest version, or None."""
    found = versions(folder)
    return folder / str(found[-1]) if found else None


def commit(temporary: Path, folder: Path) -> Path:
    """Renames a complete servable to the next version: max + 1, never a time.

    Two publishers at once get two numbers. Every byte is on disk before the rename, and the
    rename is the moment from which a server sees the version.

    Raises:
      OutputError: a hundred others were faster.
      StorageError: the disk refused; no version was made.
    """
    sealed.seal(temporary)
    for _ in range(ATTEMPTS):
        final = folder / str(max(versions(folder), default=0) + 1)
        try:
            storage.commit_folder(temporary, final)
        except FileExistsError:
            continue
        return final
    raise OutputError(
        f"no free version number after {ATTEMPTS} attempts",
        where=folder,
        next_action="see who else publishes there",
    )


def prune(folder: Path, *, keep: int) -> list[int]:
    """Removes all but the newest ``keep`` versions, and returns their numbers.

    Each vanishes by one rename before its files are deleted, so that no reader sees a version
    that is half gone. The newest is never touched.

    Raises:
      ArgumentError: keep is less than one.
    """
    check_keep(keep)
    removed = []
    for number in versions(folder)[:-keep]:
        doomed = storage.sibling(folder / f"pruned-{number}")
        try:
            (folder / str(number)).rename(doomed)
        except OSError:
            # Another publisher was faster, or it is spelled with leading zeros: not ours to force.
            continue
        shutil.rmtree(doomed, ignore_errors=True)
        removed.append(number)
    if removed:
        storage.sync_folder(folder)
    return removed


def check_keep(keep: int | None) -> None:
    """Raises ArgumentError for a number of versions that leaves none."""
    if keep is not None and keep < 1:
        raise ArgumentError(
            f"keep={keep}, expected at least 1", where="--keep", next_action="for example --keep=3"
        )


def remove_litter(folder: Path) -> None:
    """Removes what killed publishers left: temporary names of dead processes, an hour old.

    The age is for publishers on other machines, whose process numbers mean nothing here.
    """
    for item in folder.glob(f"{storage.TEMPORARY}*"):
        with contextlib.suppress(OSError):
            old = time.time() - item.stat().st_mtime > LITTER_SECONDS
            if old and not _alive(item.name):
                shutil.rmtree(item, ignore_errors=True)


def _alive(name: str) -> bool:
    """Whether the process in a name of :func:`tltf.storage.sibling` lives on this machine."""
    number = name.split("-")[-2]
    try:
        os.kill(int(number), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True

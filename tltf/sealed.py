"""Folders that are committed as a whole and know every file of theirs by its hash.

The protocol of every folder that tltf leaves (states, weights, reports, servables, feature
shards): write into a sibling with a temporary name, write ``files.json`` with the SHA-256 of
each file last, fsync all of it, rename, fsync the parent. A reader verifies before it uses
anything, and what is removed are the files on the list, never what a person put beside them.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Container, Iterator
from pathlib import Path

from tltf import storage
from tltf.errors import StorageError, TltfError

SEAL = "files.json"
DAMAGED = "damaged-"


def seal(folder: Path, *, leave_out: Container[str] = ()) -> None:
    """Writes ``files.json``: every file below ``folder`` with its SHA-256.

    Raises:
      StorageError: the disk refused.
    """
    names = [name for name in _files(folder) if name not in leave_out]
    try:
        files = {name: storage.file_sha256(folder / name) for name in names}
    except OSError as error:
        raise storage.storage_error(error, folder) from error
    storage.write_sealed(folder / SEAL, {"files": files})


def verify(folder: Path) -> None:
    """Reads every file of a sealed folder and compares its hash. Further files are let be.

    Raises:
      StorageError: a file is missing, damaged, or the seal itself is.
    """
    for name, expected in _listed(folder).items():
        path = folder / name
        try:
            found = storage.file_sha256(path)
        except FileNotFoundError as error:
            raise storage.damaged(path, "it is missing") from error
        except OSError as error:
            raise storage.storage_error(error, path) from error
        if found != expected:
            raise storage.damaged(path, "its SHA-256 does not fit its content")


@contextlib.contextmanager
def committed(final: Path) -> Iterator[Path]:
    """A temporary folder to fill; sealed and renamed to ``final`` when the block ends well.

    A folder of ours that is there already is replaced; what a person put into it stays.

    Raises:
      StorageError: the disk refused; what stood at ``final`` before still stands, or, after
        the very last step, the new one.
    """
    temporary = storage.sibling(final)
    try:
        storage.check_space(final.parent, 0)
        temporary.mkdir()
        yield temporary
        seal(temporary)
        if final.exists():
            replace(temporary, final)
        else:
            storage.commit_folder(temporary, final)
    except OSError as error:
        raise storage.storage_error(error, final) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def rewritten(folder: Path) -> Iterator[None]:
    """Around changes to a sealed folder in its place: sealed anew, without people's files."""
    theirs = set(_present(folder)) - {*_own(folder), SEAL}
    yield
    seal(folder, leave_out=theirs)


def replace(temporary: Path, final: Path) -> None:
    """Puts a complete folder in the place of one of ours, and moves people's files over.

    Between the two renames nothing stands there: a killed writer's work is done anew then,
    from the state, which is committed elsewhere.
    """
    old = storage.sibling(final)
    final.rename(old)
    storage.commit_folder(temporary, final)
    for name in set(_present(old)) - {*_own(old), SEAL}:
        target = final / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            (old / name).rename(target)
    remove_own(old)


def retire(folder: Path) -> None:
    """Removes a folder of ours so that no reader ever sees a part of it."""
    doomed = storage.sibling(folder)
    try:
        folder.rename(doomed)
    except OSError as error:
        raise storage.storage_error(error, folder) from error
    shutil.rmtree(doomed, ignore_errors=True)


def set_aside(path: Path) -> Path:
    """Renames something damaged to a ``damaged-…`` name beside it, which nothing reads."""
    aside = path.with_name(f"{DAMAGED}{path.name}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{DAMAGED}{path.name}-{number}")
    path.rename(aside)
    return aside


def remove_own(folder: Path) -> None:
    """Removes the files that the seal lists and the folders that are empty then."""
    for name in (*_own(folder), SEAL):
        (folder / name).unlink(missing_ok=True)
    for below in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            below.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()


def remove_litter(folder: Path) -> None:
    """What killed writers left below ``folder`` under our temporary names.

    Of a folder that was complete only what its seal lists goes: a person's files may have been
    in it when it was being replaced.
    """
    for item in folder.glob(f"{storage.TEMPORARY}*"):
        if item.is_symlink() or not item.is_dir():
            item.unlink(missing_ok=True)
        elif is_sealed(item):
            remove_own(item)
        else:
            shutil.rmtree(item, ignore_errors=True)


def is_sealed(folder: Path) -> bool:
    """Whether the folder has a seal at all, good or bad."""
    return (folder / SEAL).is_file()


def _listed(folder: Path) -> dict[str, str]:
    if not is_sealed(folder):
        raise StorageError(
            f"{SEAL} is missing, so that nothing in it can be checked",
            where=folder,
            next_action="restore it from a copy, or move the folder away and run again",
        )
    files = storage.read_sealed(folder / SEAL).get("files")
    if not isinstance(files, dict) or not all(_inside(name) for name in files):
        raise storage.damaged(folder / SEAL, "it is no list of files")
    return files


def _own(folder: Path) -> list[str]:
    """What the seal lists; nothing when it cannot be read."""
    try:
        return list(_listed(folder))
    except TltfError:
        return []


def _inside(name: object) -> bool:
    """A relative path that stays below its folder."""
    return isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts


def _present(folder: Path) -> list[str]:
    return [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if not p.is_dir()]


def _files(folder: Path) -> list[str]:
    return [name for name in _present(folder) if name != SEAL]

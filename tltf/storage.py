"""One way to put bytes on disk so that a reader never sees half of them.

Write to a sibling with a temporary name, fsync, rename, fsync the folder. Neither TensorFlow nor
NumPy: the command line imports it before it knows whether its flags are right.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tltf.errors import InputMissingError, StorageError, TltfError

TEMPORARY = ".tmp-"
_SEAL = re.compile(rb',\n  "seal": "([0-9a-f]{64})"\n}\n\Z')


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces the file at ``path`` by ``data``, atomically and durably.

    Raises:
      StorageError: the disk is full or writing failed; the previous file is intact.
    """
    write_pieces(path, [data])


def write_pieces(path: Path, pieces: Sequence[bytes | memoryview]) -> None:
    """:func:`write_bytes` of the pieces one after the other, without joining them in memory."""
    temporary = sibling(path)
    need = sum(len(piece) for piece in pieces)
    try:
        check_space(path.parent, need)
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        # On a failing disk even this may fail; the first error is the one to tell.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise storage_error(error, path, need=need) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` when the block ends well, as :func:`write_bytes`.

    Raises:
      StorageError: the disk is full or writing failed; the previous file is intact.
    """
    temporary = sibling(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_space(folder: Path, need: int) -> None:
    """Raises StorageError unless ``need`` bytes are free where ``folder`` is, or will be."""
    free = free_bytes(folder)
    if need > free:
        raise _full(folder, need=need, free=free)


def free_bytes(folder: Path) -> int:
    """Free space for this user where ``folder`` is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` of UTF-8; lone surrogates of file names are kept as escapes."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """Strict JSON (no NaN), indented, with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises InputMissingError or StorageError instead of returning something else."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputMissingError("there is no such file", where=path) from error
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot be read as JSON: {error}", where=path) from error
    except RecursionError as error:
        raise damaged(path, "its JSON is nested without end") from error


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """:func:`write_json` of a non-empty object that ends with its own SHA-256 as ``seal``."""
    body = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
    data = body.encode("utf-8", "backslashreplace")
    digest = hashlib.sha256(data).hexdigest()
    write_bytes(path, data + f',\n  "seal": "{digest}"\n}}\n'.encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """Reads what :func:`write_sealed` wrote, after checking every byte of it.

    Raises:
      InputMissingError: no such file.
      StorageError: cut, damaged or without its hash.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputMissingError("there is no such file", where=path) from error
    except OSError as error:
        raise storage_error(error, path) from error
    match = _SEAL.search(data)
    if match is None or hashlib.sha256(data[: match.start()]).hexdigest() != match[1].decode():
        raise damaged(path, "its SHA-256 does not fit its content")
    try:
        value: dict[str, Any] = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"it is not JSON: {error}") from error
    del value["seal"]
    return value


def commit_folder(temporary: Path, final: Path) -> None:
    """Makes every byte below ``temporary`` durable and renames it to ``final``.

    Raises:
      FileExistsError: ``final`` exists already; nothing was changed.
      StorageError: the disk refused.
    """
    try:
        for folder, _, files in os.walk(temporary):
            for name in files:
                _sync_file(Path(folder, name))
            sync_folder(Path(folder))
        if final.exists():
            raise FileExistsError(errno.EEXIST, "exists already", str(final))
        temporary.rename(final)
        sync_folder(final.parent)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise FileExistsError(errno.EEXIST, "exists already", str(final)) from error
        raise storage_error(error, final) from error


def sibling(path: Path) -> Path:
    """A fresh temporary name beside ``path``, never a plain integer."""
    return path.parent / f"{TEMPORARY}{path.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def point(path: Path, to: Path) -> None:
    """Makes ``path`` a symbolic link to ``to`` beside or below it, in one step.

    Raises:
      StorageError: the operating system refused.
    """
    temporary = sibling(path)
    try:
        temporary.symlink_to(os.path.relpath(to, path.parent), target_is_directory=True)
        temporary.replace(path)
    except OSError as error:
        raise storage_error(error, path) from error


def sync_folder(folder: Path) -> None:
    """fsync of a directory: the rename itself is durable after it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes; a StorageError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise storage_error(error, path) from error


def damaged(path: Path, why: str) -> StorageError:
    """The error of a file of ours that is not what was written."""
    return StorageError(
        f"damaged file: {why}",
        where=path,
        next_action="restore it from a copy, or move it away and run the same command again",
    )


def refused(error: Exception) -> bool:
    """Whether reading failed since the system would not (too many open files, no permission, a disk
    that fails), which says nothing of the content; a file that is not there is damage."""
    cause: BaseException | None = error
    while isinstance(cause, TltfError):
        # What was wrapped twice is its own cause; what it was made of is then its context.
        again = cause.__cause__ is cause
        cause = cause.__context__ if again else cause.__cause__
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def storage_error(error: OSError, path: Path, *, need: int | None = None) -> StorageError:
    """The OSError as a StorageError that says what was needed and what is free."""
    if isinstance(error, StorageError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        try:
            free = free_bytes(path.parent)
        except OSError:  # the disk that has just failed
            free = 0
        return _full(path, need=need, free=free)
    return StorageError(
        f"{error.strerror or error}",
        where=path,
        kept="what was committed before",
        next_action="see to the disk, then run the same command again",
    )


def _full(path: Path, *, need: int | None, free: int) -> StorageError:
    wanted = f"{need / 1e6:.1f} MB wanted, " if need else ""
    return StorageError(
        f"the disk or quota is full: {wanted}{free / 1e6:.1f} MB free",
        where=path,
        kept="what was committed before",
        next_action="free some space and run the same command again",
    )

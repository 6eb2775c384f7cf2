"""Handles of SavedModels: a folder, an archive, or a URL, resolved to a folder and its SHA-256.

URLs and archives go to ``hub/`` below the private cache folder, never to the shared temporary
folder, where anyone may plant a module::

    hub/<sha1 of the URL>/             the module, as TF Hub itself would lay it out
    hub/<sha1 of the URL>.json         the URL, and the SHA-256 of the module's files

TF Hub's own package resolves URLs in a process of its own (:mod:`download`): importing it would
bring a second Keras into ours.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from tltf import storage
from tltf.backbones import weights
from tltf.backbones.hub import archives
from tltf.data.cachefolder import cache_folder
from tltf.errors import (
    ArgumentError,
    DataError,
    DownloadError,
    InputMissingError,
    SecurityError,
    StorageError,
)

DOWNLOAD = (sys.executable, "-I", str(Path(__file__).with_name("download.py")))
LOOPBACK = ("http://127.0.0.1:", "http://localhost:")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A module on this machine: as it was named, its folder, the SHA-256 of its files."""

    handle: str
    folder: Path
    sha256: str


def resolve(handle: str, *, sha256: str | None = None, download: bool = True) -> Resolved:
    """The module that ``handle`` names; nothing of it is run.

    Args:
      handle: a folder, a ``.tar.gz`` or ``.tgz``, or an ``https://`` URL.
      sha256: what the files must have, from :func:`tree_sha256`; None for whatever is there.
      download: whether a URL that is not in the cache may be fetched.

    Raises:
      InputMissingError: no such folder or file, or a URL that is not in the cache.
      DownloadError: the URL is neither in the cache nor to be had.
      DataError: the files are not those that were recorded; folder and hash are named.
      SecurityError: an unsafe archive, or a cache folder that others can write to.
      ArgumentError: not a handle.
    """
    if not handle:
        raise ArgumentError("hub: names no module", next_action="pass hub:<folder or URL>")
    if "://" in handle:
        folder, name = _from_url(handle, download=download), handle
    else:
        path = Path(handle).expanduser().absolute()
        folder, name = _from_path(path), str(path)
    found = tree_sha256(folder)
    if sha256 and found != sha256:
        raise _altered(folder, sha256, found)
    return Resolved(handle=name, folder=folder, sha256=found)


def tree_sha256(folder: Path) -> str:
    """SHA-256 over the names and contents of every file below ``folder``, in sorted order.

    Raises:
      DataError: a link or another thing that is no plain file.
    """
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        kind = path.lstat().st_mode
        if stat.S_ISDIR(kind):
            continue
        if not stat.S_ISREG(kind):
            raise DataError("a module may only hold plain files", where=path)
        name = path.relative_to(folder).as_posix()
        state.update(f"{name}\0{storage.file_sha256(path)}\n".encode())
    return state.hexdigest()


def place(handle: str) -> Path:
    """Where the module of a URL lies in the cache; the name is TF Hub's own."""
    return hub_folder() / hashlib.sha1(handle.encode(), usedforsecurity=False).hexdigest()


def hub_folder() -> Path:
    """``hub`` below the cache folder, this user's alone.

    Raises:
      SecurityError: it belongs to someone else, or others may write to it.
    """
    folder = cache_folder() / "hub"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise SecurityError(
            "the cache of modules is not this user's alone, and modules are code",
            where=folder,
            next_action=f"chmod 700 {folder}, or set TLTF_CACHE_DIR to another folder",
        )
    return folder


def _from_path(path: Path) -> Path:
    if path.is_dir():
        return path
    if not path.is_file():
        raise InputMissingError(
            "there is no such module",
            where=path,
            next_action="pass hub:<folder>, hub:<file>.tar.gz or hub:<https URL>",
        )
    if not path.name.endswith((".tar.gz", ".tgz")):
        raise ArgumentError(
            f"{path.name!r} is a file, expected a folder or a .tar.gz",
            where=path,
            next_action="name the folder that holds saved_model.pb",
        )
    folder = hub_folder() / storage.file_sha256(path)
    made_once(folder, lambda temporary: archives.unpack(path, temporary), origin=str(path))
    return folder


def _from_url(url: str, *, download: bool) -> Path:
    if not url.startswith(("https://", *LOOPBACK)):
        raise ArgumentError(
            f"{url!r} is not an https URL", next_action="pass hub:https://… or a folder"
        )
    folder = place(url)
    if not folder.is_dir() and not download:
        raise InputMissingError(
            f"the module of {url} is not in the cache",
            where=folder,
            next_action=f"fetch it again: tltf.SavedModelLayer({url!r})",
        )
    made_once(folder, lambda temporary: _fetch(url, folder, temporary), origin=url)
    return folder


def made_once(folder: Path, make: Callable[[Path], None], *, origin: str) -> None:
    """Fills ``folder`` by ``make`` and records its SHA-256, or checks it against the record.

    Of two processes that want the same module one makes it. A folder without a record was put
    there by hand, in a place that only this user can write to; it is recorded as it is.

    Raises:
      DataError: the files are not those of the record.
      StorageError: the disk refused.
    """
    record = folder.with_name(f"{folder.name}.json")
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            temporary = storage.sibling(folder)
            try:
                temporary.mkdir(mode=0o700)
                make(temporary)
                fields = {"origin": origin, "sha256": tree_sha256(temporary)}
                # the record first: a folder without one would be taken for one put there by hand
                storage.write_json(record, fields)
                storage.commit_folder(temporary, folder)
            except OSError as error:
                if isinstance(error, StorageError | DownloadError):
                    raise
                raise storage.storage_error(error, folder) from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        elif not record.is_file():
            storage.write_json(record, {"origin": origin, "sha256": tree_sha256(folder)})
            logging.warning("%s was put there by hand; its SHA-256 is recorded now", folder)
        expected, found = storage.read_json(record)["sha256"], tree_sha256(folder)
    if found != expected:
        raise _altered(folder, expected, found)


def _fetch(url: str, folder: Path, temporary: Path) -> None:
    """Has TF Hub's package download ``url`` into ``temporary``, in a process of its own."""
    try:
        # it has no limit on how long it waits for an answer; this has
        with weights.connect(_compressed(url), schemes=("https://", *LOOPBACK)):
            pass
    except weights.Unreachable as error:
        raise _unreachable(url, folder, str(error)) from error
    cache = temporary.with_name(f"{temporary.name}.cache")
    cache.mkdir(mode=0o700)
    try:
        environment = {**os.environ, "TFHUB_CACHE_DIR": str(cache)}
        done = subprocess.run(
            [*DOWNLOAD, url], env=environment, capture_output=True, text=True, check=False
        )
        made = cache / folder.name
        if done.returncode or not made.is_dir():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise _unreachable(url, folder, last)
        temporary.rmdir()
        made.rename(temporary)
        temporary.chmod(0o700)
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _compressed(url: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}tf-hub-format=compressed"


def _unreachable(url: str, folder: Path, why: str) -> DownloadError:
    return DownloadError(
        f"cannot get the module {url}: {why}",
        next_action=f"unpack it into {folder} by hand",
    )


def _altered(folder: Path, expected: str, found: str) -> DataError:
    return DataError(
        f"the module is not the one that was recorded: SHA-256 {found[:16]}…, expected {expected}",
        where=folder,
        next_action="put the original back, or delete the folder and its .json to fetch it anew",
    )

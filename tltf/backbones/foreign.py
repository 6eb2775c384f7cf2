"""Weight files from anywhere, looked at as data before any library opens them for real.

A ``.keras`` archive and an HDF5 file can name classes to import, functions to call, other
files to read and shapes that fill the memory. Nothing of that is followed: what holds more than
plain arrays is refused as a whole. No TensorFlow and no Keras here.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import h5py

from tltf.errors import DataError, SecurityError

MEMBER = "model.weights.h5"
MAX_MEMBER_BYTES = 20_000_000_000
MAX_RATIO = 200
SMALL_BYTES = 16_000_000
PICKLES = (".npy", ".npz", ".pkl", ".pickle", ".pt", ".pth", ".joblib")
_SYMLINK = 0o120000

Shapes = list[tuple[str, tuple[int, ...]]]


def check_kind(path: Path) -> None:
    """Refuses what would have to be executed to be read.

    Raises:
      SecurityError: a SavedModel folder, or a format of pickled objects.
    """
    if path.is_dir() and (path / "saved_model.pb").exists():
        raise SecurityError(
            "a SavedModel is a program, and weights are read as data",
            where=path,
            next_action=f"if you trust it, name it as --backbone=hub:{path}",
        )
    if path.name.endswith(PICKLES) and path.is_file():
        raise SecurityError(
            f"a {path.suffix} file may hold pickled objects, which run code when they are read",
            where=path,
            next_action="convert it to .weights.h5 where you trust it",
        )


def stored_shapes(path: Path) -> Shapes:
    """Name and shape of every weight array in a file, optimizer and metric state left out.

    Args:
      path: ``.h5``, ``.weights.h5`` or ``.keras``.

    Raises:
      SecurityError: an archive with foreign paths, links or bombs; an HDF5 file that refers to
        other files, holds objects, or declares arrays that are not in it.
      DataError: damaged.
    """
    try:
        if path.suffix == ".keras":
            source: Any = io.BytesIO(_member(path))
            size = source.getbuffer().nbytes
        else:
            source, size = path, path.stat().st_size
        with h5py.File(source, "r") as file:
            return list(_shapes(file, path, size))
    except SecurityError:
        raise
    # A damaged file makes h5py raise nearly anything.
    except Exception as error:
        raise DataError(f"damaged weights file: {error}", where=path) from error


def _member(path: Path) -> bytes:
    """The weights of a ``.keras`` archive, after a look at every entry of it."""
    with zipfile.ZipFile(path) as archive:
        names: set[str] = set()
        for info in archive.infolist():
            name = PurePosixPath(info.filename.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
                raise _refused(path, f"its entry {info.filename!r} leaves the archive's folder")
            if (info.external_attr >> 16) & 0o170000 == _SYMLINK:
                raise _refused(path, f"its entry {info.filename!r} is a link")
            if info.filename in names:
                raise _refused(path, f"it holds {info.filename!r} twice")
            packed = max(1, info.compress_size)
            if info.file_size > max(SMALL_BYTES, MAX_RATIO * packed, 0) or (
                info.file_size > MAX_MEMBER_BYTES
            ):
                raise _refused(path, f"its entry {info.filename!r} is a bomb")
            names.add(info.filename)
        with archive.open(MEMBER) as member:
            declared = archive.getinfo(MEMBER).file_size
            data = member.read(declared + 1)
    if len(data) != declared:
        raise _refused(path, f"{MEMBER} is longer than the archive says")
    return data


def _shapes(file: h5py.File, path: Path, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Walks the groups by hand: ``visititems`` passes over the links that matter here."""
    root = file["model_weights"] if _is_hard(file, "model_weights") else file
    seen: set[int] = set()
    waiting = [("", file)]
    inside = {file_id(root)} if root is not file else set()
    while waiting:
        prefix, group = waiting.pop(0)
        if file_id(group) in seen:
            continue
        seen.add(file_id(group))
        for name in group:
            below = f"{prefix}/{name}" if prefix else name
            if not _is_hard(group, name):
                raise _refused(path, f"{below!r} is a link")
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append((below, item))
            elif isinstance(item, h5py.Dataset):
                _check_dataset(item, below, path, size)
                own = below.removeprefix("model_weights/") if inside else below
                ours = not inside or below.startswith("model_weights/")
                if ours and own.split("/")[0] not in (
                    "optimizer", "metrics", "top_level_model_weights"
                ):  # fmt: skip
                    yield own, tuple(item.shape)


def file_id(group: h5py.Group) -> int:
    """The object's address in its file, so that circles of groups end."""
    return int(h5py.h5o.get_info(group.id).addr)


def _is_hard(group: h5py.Group, name: str) -> bool:
    return isinstance(group.get(name, getlink=True), h5py.HardLink)


def _check_dataset(item: h5py.Dataset, name: str, path: Path, size: int) -> None:
    if item.external or item.is_virtual:
        raise _refused(path, f"{name!r} lies in other files")
    if item.dtype.hasobject or item.dtype.kind in "OV":
        raise _refused(path, f"{name!r} holds objects, not numbers")
    if item.nbytes > max(SMALL_BYTES, 4 * size):
        raise _refused(path, f"{name!r} of {item.nbytes / 1e6:.0f} MB is not in the file")


def _refused(path: Path, why: str) -> SecurityError:
    return SecurityError(
        f"the weights file is refused: {why}",
        where=path,
        next_action="get the weights from a source that you trust",
    )

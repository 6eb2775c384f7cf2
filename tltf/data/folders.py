"""Image folders: ``class/file``, or ``train|val|test/class/file``."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tltf.data.headers import SUPPORTED, kind_of
from tltf.data.labels import check_classes
from tltf.data.manifest import SPLIT_NAMES, BadInputsError, Excluded, Manifest, Record
from tltf.errors import DataError, named_list

_JUNK = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"}
SIDE_NAMES = {"readme", "license", "licence", "copying", "notice", "makefile", "changelog"}
_SIDE_SUFFIXES = {".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml"}
_SIDE_SUFFIXES |= {".yml", ".html", ".htm", ".log", ".py", ".sh", ".ipynb", ".ini", ".cfg"}


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Everything below a folder: what can be used, the rest in ``excluded`` with its reason, and
    what is wrong with the whole (sentences)."""

    manifest: Manifest
    problems: tuple[str, ...]


@dataclass
class _Found:
    """What a walk collects; paths are relative to the top, with slashes."""

    files: list[str] = field(default_factory=list)
    ignored: list[Excluded] = field(default_factory=list)
    bad: list[Excluded] = field(default_factory=list)


def load_folder(folder: Path) -> Manifest:
    """Reads the names of an image folder; the files' content is looked at by the scan.

    Every regular file below a class is an image until its content says otherwise; extensions
    do not matter. Folders below a class belong to that class.

    Args:
      folder: with one folder per class, or with ``train`` (and ``val``, ``test``, or their long
        names) that have one folder per class each.

    Raises:
      BadInputsError: empty class folders, dangling links, pipes, unreadable folders: all of them.
      DataError: no classes, only one, two that differ in case or spaces, or no ``train``.
    """
    listed = list_folder(folder)
    bad = tuple(x for x in listed.manifest.excluded if x.outcome == "bad")
    if bad:
        raise BadInputsError(
            f"{len(bad)} places that cannot be read: "
            + named_list(f"{x.id} ({x.reason})" for x in bad),
            excluded=bad,
            where=folder,
            next_action="repair or remove them",
        )
    if listed.problems:
        raise layout_error(listed.problems[0], folder)
    if not listed.manifest.records:
        raise DataError(
            "no class folders with files in them",
            where=folder,
            next_action="make one sub-folder per class and put its images there",
        )
    check_classes(listed.manifest.classes, fewest=2, where=str(folder))
    return listed.manifest


def layout_error(trouble: str, folder: Path) -> DataError:
    """The error for what :func:`splits_of` cannot tell."""
    return DataError(
        f"{trouble}; expected class/file, or train, val, test with class/file",
        where=folder,
        next_action="rename or move the folders",
    )


def list_folder(folder: Path) -> Listed:
    """What :func:`load_folder` would use and refuse, without refusing: for an audit."""
    found = _Found()
    entries = _entries(folder, "", found)
    folders = [name for name in entries if (folder / name).is_dir() and not is_junk(name)]
    splits, trouble = splits_of(folder, folders)
    for name in entries:
        if name not in folders:
            _leave_out(folder, name, found, "in no class folder")
    records = []
    for top in folders:
        split = splits.get(top)
        for class_name, files in _classes(folder, top, found, deep=bool(splits)):
            records += [
                Record(id=f, path=str(folder / f), label=class_name, split=split) for f in files
            ]
    manifest = Manifest(
        task="single_label",
        classes=tuple(sorted({str(r.label) for r in records})),
        records=tuple(records),
        excluded=tuple(found.bad + found.ignored),
    )
    return Listed(manifest=manifest, problems=(trouble,) if trouble else ())


def load_flat(folder: Path) -> Manifest | None:
    """The images of a folder without sub-folders, which have no labels; None if it has some."""
    found = _Found()
    entries = _entries(folder, "", found)
    if any((folder / name).is_dir() and not is_junk(name) for name in entries):
        return None
    for name in entries:
        if is_junk(name):
            _leave_out(folder, name, found, "hidden or system file")
        elif trouble := _trouble(folder / name):
            found.bad.append(Excluded(id=name, outcome="bad", reason=trouble))
        elif side_file(folder / name):
            found.ignored.append(Excluded(id=name, outcome="ignored", reason="not an image"))
        else:
            found.files.append(name)
    return Manifest(
        task="single_label",
        classes=(),
        records=tuple(Record(id=name, path=str(folder / name)) for name in found.files),
        excluded=tuple(found.bad + found.ignored),
    )


def list_files(folder: Path) -> Manifest:
    """Every file below a folder as a record without a label."""
    found = _Found()
    _walk(folder.parent, folder.name, found, frozenset())
    records = tuple(Record(id=name, path=str(folder.parent / name)) for name in found.files)
    excluded = tuple(found.bad + found.ignored)
    return Manifest(task="single_label", classes=(), records=records, excluded=excluded)


def splits_of(folder: Path, folders: list[str]) -> tuple[dict[str, str], str]:
    """``{"validation": "val", ...}`` if the top folders are splits, empty if they are classes; and
    why it cannot be told which."""
    named = {name: SPLIT_NAMES[name.lower()] for name in folders if name.lower() in SPLIT_NAMES}
    deep = [name for name in named if _has_folders(folder / name)]
    if not deep:
        # A class may well be called "train", as in: boat, car, train.
        return {}, ""
    trouble = ""
    if len(named) < len(folders):
        others = [name for name in folders if name not in named]
        trouble = f"splits ({named_list(deep)}) beside other folders ({named_list(others)})"
    elif "train" not in named.values():
        trouble = f"splits ({named_list(named)}) without train"
    elif len(set(named.values())) < len(named):
        trouble = f"two folders for one split: {named_list(named)}"
    return ({}, trouble) if trouble else (named, "")


def _has_folders(folder: Path) -> bool:
    return any(path.is_dir() and not is_junk(path.name) for path in folder.iterdir())


def _classes(
    folder: Path, top: str, found: _Found, *, deep: bool
) -> Iterator[tuple[str, list[str]]]:
    """``(class, files)`` of one class folder, or of the class folders of one split folder."""
    if not deep:
        yield top, _class_files(folder, top, found)
        return
    for name in _entries(folder, top, found):
        place = f"{top}/{name}"
        if (folder / place).is_dir() and not is_junk(name):
            yield name, _class_files(folder, place, found)
        else:
            _leave_out(folder, place, found, "in no class folder")


def _class_files(folder: Path, place: str, found: _Found) -> list[str]:
    here = _Found(ignored=found.ignored, bad=found.bad)
    before = len(found.bad)
    _walk(folder, place, here, frozenset())
    if not here.files and len(found.bad) == before:
        found.bad.append(Excluded(id=place, outcome="bad", reason="empty class folder"))
    return here.files


def _walk(folder: Path, place: str, found: _Found, above: frozenset[tuple[int, int]]) -> None:
    """Collects the files below a place, in sorted order; links to folders are followed once."""
    identity = _identity(folder / place)
    if identity in above:
        found.bad.append(Excluded(id=place, outcome="bad", reason="a link to a folder above it"))
        return
    for name in _entries(folder, place, found):
        below = f"{place}/{name}"
        path = folder / below
        if is_junk(name):
            _leave_out(folder, below, found, "hidden or system file")
        elif path.is_dir():
            _walk(folder, below, found, above | {identity})
        elif trouble := _trouble(path):
            found.bad.append(Excluded(id=below, outcome="bad", reason=trouble))
        elif side_file(path):
            found.ignored.append(Excluded(id=below, outcome="ignored", reason="not an image"))
        else:
            found.files.append(below)


def _leave_out(folder: Path, place: str, found: _Found, reason: str) -> None:
    """Counts a file, or every file below a junk folder, as ignored."""
    path = folder / place
    if is_junk(path.name):
        reason = "hidden or system file"
    if path.is_dir() and not path.is_symlink():
        for name in _entries(folder, place, found):
            _leave_out(folder, f"{place}/{name}", found, reason)
    elif reason != "hidden or system file" and (trouble := _trouble(path)):
        found.bad.append(Excluded(id=place, outcome="bad", reason=trouble))
    else:
        found.ignored.append(Excluded(id=place, outcome="ignored", reason=reason))


def _entries(folder: Path, place: str, found: _Found) -> list[str]:
    try:
        return sorted(os.listdir(folder / place))  # noqa: PTH208 - names, not paths
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        found.bad.append(Excluded(id=place or ".", outcome="bad", reason=reason))
        return []


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden or an operating system's own."""
    return name.startswith(".") or name.lower() in _JUNK


def _trouble(path: Path) -> str:
    """Why this is no file to read, or an empty text."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "dangling link" if path.is_symlink() else f"cannot be read: {error.strerror}"
    return "" if stat.S_ISREG(mode) else "not a regular file"


def side_file(path: Path) -> bool:
    """A README, table or note that lies among the images: by name, unless its content is one."""
    name = path.name.lower()
    if path.suffix.lower() not in _SIDE_SUFFIXES and name.split(".")[0] not in SIDE_NAMES:
        return False
    if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"}:
        return False
    with path.open("rb") as file:
        return kind_of(file.read(512)) not in SUPPORTED

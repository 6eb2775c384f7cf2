"""Texts from plain files: what encoding they are in, label-prefixed lines, folders of ``.txt``."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tltf.data.labels import check_classes, understand
from tltf.data.manifest import SPLIT_NAMES, BadInputsError, Excluded, Manifest, Record
from tltf.errors import ArgumentError, DataError, named_list

BOMS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
SUFFIX = ".txt"
LABEL_MARK = "__label__"
LOOKED_AT = 200
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


@dataclass(frozen=True)
class Decoded:
    """A file's text, and how many bytes were no text in its encoding (each is a U+FFFD)."""

    text: str
    replaced: int = 0

    def notes(self, name: str) -> tuple[str, ...]:
        """What a person should know about it."""
        if not self.replaced:
            return ()
        return (f"{name}: {self.replaced} invalid bytes were read as U+FFFD",)


def read_text(file: Path, *, encoding: str = "auto") -> Decoded:
    """A file's characters.

    Args:
      encoding: ``auto`` takes UTF-16 and UTF-8 byte order marks and valid UTF-8, and refuses the
        rest; a name of Python's, such as ``latin-1``, decides. Named explicitly, invalid bytes
        become U+FFFD and are counted.

    Raises:
      BadInputsError: ``auto``, and the file is no UTF-8: its lines are named.
      ArgumentError: an unknown encoding.
    """
    data = file.read_bytes()
    if encoding != "auto":
        codec = check_encoding(encoding)
        text = data.decode("utf-8-sig" if codec == "utf-8" else codec, "replace")
        before = data.count("\ufffd".encode()) if codec == "utf-8" else 0
        return Decoded(text, max(0, text.count("\ufffd") - before))
    for mark, name in BOMS:
        if data.startswith(mark):
            text = data.decode(name, "replace")
            return Decoded(text, text.count("\ufffd"))
    try:
        return Decoded(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        lines = [i for i, line in enumerate(data.split(b"\n"), start=1) if not _is_utf8(line)]
        raise BadInputsError(
            f"not UTF-8 in {len(lines)} lines: {named_list(lines)}",
            excluded=[
                Excluded(id=f"{file.name}:{line}", outcome="bad", reason="not UTF-8")
                for line in lines
            ],
            where=file,
            next_action="name the encoding, e.g. --encoding=latin-1, or repair the lines",
        ) from None


def check_encoding(encoding: str) -> str:
    """The codec's own name, ``auto`` as it is.

    Raises:
      ArgumentError: Python knows no such encoding of texts.
    """
    if encoding == "auto":
        return encoding
    try:
        codec = codecs.lookup(encoding)
        "".encode(codec.name)
    except (LookupError, ValueError) as error:
        raise ArgumentError(
            f"encoding={encoding!r} is not known",
            where="--encoding",
            next_action="for example utf-8, latin-1, cp1252 or utf-16",
        ) from error
    return codec.name


def load_lines(file: Path, *, task: str = "auto", encoding: str = "auto") -> Manifest:
    """Lines of a label, a blank and a text, as TREC and SST come; ``__label__`` is left out.

    Raises:
      BadInputsError: lines without a text, all of them; or as :func:`read_text`.
      DataError: no text file, or classes as in ``understand``.
    """
    with file.open("rb") as stream:
        start = stream.read(1024)
    binary = b"\0" in start and not start.startswith(tuple(mark for mark, _ in BOMS))
    if binary or file.suffix.lower() in ARCHIVES:
        raise DataError(
            "a file, expected a folder or a table (.csv, .tsv, .jsonl), or lines of label and text",
            where=file,
            next_action="unpack it if it is an archive, or give a folder",
        )
    decoded = read_text(file, encoding=encoding)
    records, labels, bad = [], [], []
    for number, line in enumerate(decoded.text.split("\n"), start=1):
        if not line.strip():
            continue
        label, _, text = line.strip().partition(" ")
        name = f"{file.name}:{number}"
        if text.strip():
            records.append(Record(id=name, text=text.strip()))
            labels.append(label.removeprefix(LABEL_MARK))
        else:
            bad.append(Excluded(id=name, outcome="bad", reason="a label without a text"))
    if bad or not records:
        raise BadInputsError(
            f"{len(bad)} lines are no 'label text' beside {len(records)} that are: "
            + named_list(x.id for x in bad),
            excluded=bad,
            where=file,
            next_action="give each line a label, a blank and a text, or use a table",
        )
    names = [record.id for record in records]
    task, classes, found = understand(labels, names, task=task, where=str(file))
    made = (
        Record(id=record.id, text=record.text, label=label)
        for record, label in zip(records, found, strict=True)
    )
    return Manifest(task=task, classes=classes, records=tuple(made), notes=decoded.notes(file.name))


def holds_texts(folder: Path) -> bool:
    """Whether what lies in the class folders are ``.txt`` files only."""
    some = list(islice((path for _, _, path in _files(folder)), LOOKED_AT))
    return bool(some) and all(path.suffix.lower() == SUFFIX for path in some)


def load_text_folder(folder: Path, *, encoding: str = "auto") -> Manifest:
    """``class/*.txt``, or ``train|val|test/class/*.txt``: one text a file.

    Raises:
      BadInputsError: files that are empty or in another encoding, all of them.
      DataError: fewer than two classes, or two that differ in case or spaces only.
    """
    records, bad, replaced = [], [], 0
    for split, label, path in _files(folder):
        name = path.relative_to(folder).as_posix()
        try:
            decoded = read_text(path, encoding=encoding)
        except BadInputsError as error:
            bad.append(Excluded(id=name, outcome="bad", reason=error.what))
            continue
        replaced += decoded.replaced
        if decoded.text.strip():
            records.append(Record(id=name, text=decoded.text.strip(), label=label, split=split))
        else:
            bad.append(Excluded(id=name, outcome="bad", reason="an empty text"))
    if bad:
        raise BadInputsError(
            f"{len(bad)} of {len(bad) + len(records)} files cannot be used: "
            + named_list(f"{x.id} ({x.reason})" for x in bad),
            excluded=bad,
            where=folder,
            next_action="repair them, or name their --encoding",
        )
    classes = check_classes({str(r.label) for r in records}, fewest=2, where=str(folder))
    notes = Decoded("", replaced).notes(folder.name)
    return Manifest(task="single_label", classes=classes, records=tuple(records), notes=notes)


def _files(folder: Path) -> Iterator[tuple[str | None, str, Path]]:
    """``(split, class, file)`` in a fixed order; hidden files are left out."""
    tops = _folders(folder)
    splits = {top: SPLIT_NAMES.get(top.lower()) for top in tops}
    deep = bool(tops) and all(splits.values()) and any(_folders(folder / top) for top in tops)
    for top in tops:
        for label in _folders(folder / top) if deep else [top]:
            place = folder / top / label if deep else folder / top
            for path in sorted(place.rglob("*")):
                hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
                if path.is_file() and not hidden:
                    yield (splits[top] if deep else None), label, path


def _folders(folder: Path) -> list[str]:
    names = sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths
    return [name for name in names if (folder / name).is_dir() and name[0] not in "._"]


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True

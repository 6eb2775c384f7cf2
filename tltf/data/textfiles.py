"""Texts from plain files: what encoding they are in, label-prefixed lines, folders of ``.txt``."""

from __future__ import annotations

import codecs
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tltf.data.folders import SIDE_NAMES, Listed, is_junk, layout_error, side_file, splits_of
from tltf.data.headers import SUPPORTED, kind_of
from tltf.data.label_remarks import remarks
from tltf.data.labels import SEPARATOR, check_classes, counted, understand
from tltf.data.manifest import SKIP, BadInputsError, Excluded, Manifest, Record
from tltf.errors import ArgumentError, DataError, named_list

BOMS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
SUFFIX = ".txt"
LABEL_MARK = "__label__"
LOOKED_AT = 200
EMPTY_FOLDER = "empty class folder"
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


def load_lines(
    file: Path,
    *,
    task: str = "auto",
    encoding: str = "auto",
    label_separator: str = SEPARATOR,
    skip: bool = False,
) -> Manifest:
    """Lines of a label, a blank or tab and a text, as TREC and SST come; ``__label__`` is left out.

    Args:
      task, encoding, label_separator: as in :func:`tltf.data.sources.load`.
      skip: leave lines that are no label and text to the policy: they are ``bad`` in ``excluded``.

    Raises:
      BadInputsError: lines without a text or with several labels, all of them; or as
        :func:`read_text`.
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
        label, text = [*line.split(maxsplit=1), ""][:2]
        text = text.strip()
        name = f"{file.name}:{number}"
        if trouble := _line_trouble(label, text):
            bad.append(Excluded(id=name, outcome="bad", reason=trouble))
        else:
            records.append(Record(id=name, text=text))
            labels.append(label.removeprefix(LABEL_MARK))
    if (bad and not skip) or not records:
        raise _bad_lines(bad, len(records), file)
    names = [record.id for record in records]
    understood, classes, found = understand(
        labels, names, task=task, where=str(file), separator=label_separator
    )
    said = remarks(counted(found), task=understood, asked=task, separator=label_separator)
    made = (
        Record(id=record.id, text=record.text, label=label)
        for record, label in zip(records, found, strict=True)
    )
    notes = (*decoded.notes(file.name), *said)
    return Manifest(
        task=understood,
        classes=classes,
        records=tuple(made),
        excluded=tuple(bad),
        notes=notes,
    )


def _line_trouble(label: str, text: str) -> str:
    """Why a line is no label and text, or an empty text."""
    if not text:
        return "a label without a text"
    # fastText takes a mark anywhere for a label: in the text, it would be the answer.
    marked = [word for word in text.split() if word.startswith(LABEL_MARK)]
    if marked and label.startswith(LABEL_MARK):
        return "several labels"
    return "a label behind the text" if marked else ""


def _bad_lines(bad: Sequence[Excluded], sound: int, file: Path) -> BadInputsError:
    by_reason = defaultdict(list)
    for excluded in bad:
        by_reason[excluded.reason].append(excluded.id)
    action = f"give each line a label, a blank and a text, or use a table, or {SKIP}"
    if "several labels" in by_reason:
        action = "for several labels use a table (.csv) with columns text, label: sauce|cheese"
    return BadInputsError(
        f"{len(bad)} lines are no 'label text' beside {sound} that are: "
        + "; ".join(f"{reason}: {named_list(names)}" for reason, names in by_reason.items()),
        excluded=bad,
        where=file,
        next_action=action,
    )


def holds_texts(folder: Path) -> bool:
    """Whether what lies in the class folders are ``.txt`` files rather than images.

    READMEs and tables beside them say nothing; of the rest, the first ones are looked at.
    """
    places, _ = _places(folder)
    paths = (path for _, _, place in places for path in _files(folder, place))
    texts = others = 0
    for path in islice((path for path in paths if not _beside(path)), LOOKED_AT):
        if path.suffix.lower() == SUFFIX:
            texts += 1
        elif _is_image(path):
            return False
        else:
            others += 1
    return texts > others


def load_text_folder(folder: Path, *, encoding: str = "auto", skip: bool = False) -> Manifest:
    """``class/*.txt``, or ``train|val|test/class/*.txt``: one text a file.

    Args:
      encoding: see :func:`read_text`.
      skip: leave files that cannot be used to the policy: they are ``bad`` in ``excluded``.

    Raises:
      BadInputsError: files that are empty, in another encoding or no ``.txt``, and class folders
        without a file, all of them.
      DataError: fewer than two classes, or two that differ in case or spaces only; splits beside
        other folders.
    """
    listed = list_text_folder(folder, encoding=encoding)
    if listed.problems:
        raise layout_error(listed.problems[0], folder)
    bad = [x for x in listed.manifest.excluded if x.outcome == "bad"]
    whole = [x for x in bad if x.reason == EMPTY_FOLDER]
    if bad and (whole or not skip):
        _refuse(bad, len(listed.manifest.records), folder, skippable=not whole)
    check_classes(listed.manifest.classes, fewest=2, where=str(folder))
    return listed.manifest


def list_text_folder(folder: Path, *, encoding: str = "auto") -> Listed:
    """What :func:`load_text_folder` would use and refuse, without refusing: for an audit."""
    places, trouble = _places(folder)
    records: list[Record] = []
    excluded: list[Excluded] = []
    replaced = 0
    for split, label, place in places:
        before = len(records) + len(excluded)
        ignored = []
        for path in _files(folder, place):
            name = path.relative_to(folder).as_posix()
            if _beside(path):
                ignored.append(Excluded(id=name, outcome="ignored", reason="not a text"))
                continue
            text, reason, invalid = _content(path, encoding)
            replaced += invalid
            if reason:
                excluded.append(Excluded(id=name, outcome="bad", reason=reason))
            else:
                records.append(Record(id=name, text=text, label=label, split=split))
        if before == len(records) + len(excluded):
            name = place.relative_to(folder).as_posix()
            excluded.append(Excluded(id=name, outcome="bad", reason=EMPTY_FOLDER))
        excluded += ignored
    manifest = Manifest(
        task="single_label",
        classes=tuple(sorted({str(r.label) for r in records})),
        records=tuple(records),
        excluded=tuple(excluded),
        notes=Decoded("", replaced).notes(folder.name),
    )
    return Listed(manifest=manifest, problems=(trouble,) if trouble else ())


def _refuse(bad: Sequence[Excluded], sound: int, folder: Path, *, skippable: bool) -> None:
    raise BadInputsError(
        f"{len(bad)} of {len(bad) + sound} files cannot be used: "
        + named_list(f"{x.id} ({x.reason})" for x in bad),
        excluded=bad,
        where=folder,
        next_action="repair or remove them, or name their --encoding"
        + (f", or {SKIP}" if skippable else ""),
    )


def _content(path: Path, encoding: str) -> tuple[str, str, int]:
    """The text of a file, why it is none, and how many bytes of it were invalid."""
    if path.suffix.lower() != SUFFIX:
        return "", "not a .txt file", 0
    try:
        decoded = read_text(path, encoding=encoding)
    except BadInputsError as error:
        return "", error.what, 0
    text = decoded.text.strip()
    return text, "" if text else "an empty text", decoded.replaced


def _places(folder: Path) -> tuple[list[tuple[str | None, str, Path]], str]:
    """``(split, class, class folder)`` in a fixed order, and why splits cannot be told."""
    tops = _folders(folder)
    splits, trouble = splits_of(folder, tops)
    if not splits:
        return [(None, top, folder / top) for top in tops], trouble
    return [
        (splits[top], label, folder / top / label)
        for top in tops
        for label in _folders(folder / top)
    ], trouble


def _files(folder: Path, place: Path) -> Iterator[Path]:
    """The files below a class folder in a fixed order; hidden ones are left out."""
    for path in sorted(place.rglob("*")):
        if path.is_file() and not any(map(is_junk, path.relative_to(folder).parts)):
            yield path


def _folders(folder: Path) -> list[str]:
    names = sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths
    return [name for name in names if (folder / name).is_dir() and not is_junk(name)]


def _beside(path: Path) -> bool:
    """A README or a table that lies among the texts."""
    if path.suffix.lower() == SUFFIX:
        return path.stem.lower() in SIDE_NAMES
    return side_file(path)


def _is_image(path: Path) -> bool:
    with path.open("rb") as file:
        return kind_of(file.read(512)) in SUPPORTED


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True

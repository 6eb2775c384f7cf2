"""What a person means by ``--inputs``: one item for each answer. No TensorFlow."""

from __future__ import annotations

import csv
import glob
import io
import itertools
import json
import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tltf.data.manifest import is_index
from tltf.errors import DataError, InputMissingError

TABLES = (".csv", ".tsv", ".jsonl")
TEXT = "text"


@dataclass(frozen=True)
class Item:
    """One input: ``id`` as it was given, and the file or the text that it stands for."""

    id: str
    path: str | None = None
    text: str | None = None


def items(given: str, stdin: TextIO, *, key: str = "image_bytes") -> Iterator[Item]:
    """The inputs in order, as they become known.

    - ``-``: one line of stdin each, a path or, for a model of texts, a text;
    - a folder that ``tltf index`` made: its images;
    - a folder: its files at any depth, hidden ones left out; a file, or a glob;
    - a ``.csv``, ``.tsv`` or ``.jsonl`` table with a column ``path`` (relative to the table) or
      ``text``; for a model of texts any other file is read as one text a line.

    A name on stdin or in a table that does not exist fails later, in its own line.

    Args:
      given: the value of ``--inputs``.
      key: what the model takes, ``image_bytes`` or ``text``.

    Raises:
      InputMissingError: nothing is there.
      DataError: a table without such a column, or one that is not UTF-8.
    """
    if given == "-":
        return (_item(line, key) for line in _lines(stdin))
    if is_index(given):
        return iter(_of_index(given, 0, 1))
    path = Path(given)
    if path.suffix.lower() in TABLES and path.is_file():
        return iter(_of_table(path, key))
    names = check_given(given)
    if key == TEXT:
        return (_item(line, key) for name in names for line in _text(Path(name)).splitlines())
    return iter([Item(name, path=name) for name in names])


def shard_items(
    given: str, stdin: TextIO, *, shard: int, shards: int, key: str = "image_bytes"
) -> Iterator[Item]:
    """Every ``shards``-th of the items, from ``shard`` on; of an index only these are looked at."""
    if is_index(given):
        return _of_index(given, shard, shards)
    return itertools.islice(items(given, stdin, key=key), shard, None, shards)


def _of_index(given: str, first: int, step: int) -> Iterator[Item]:
    from tltf.data import columns  # NumPy, which a mistyped flag does not wait for

    records = columns.opened(Path(given)).records
    for i in range(first, len(records), step):
        path = str(records[i].path)
        yield Item(path, path=path)


def check_given(given: str) -> list[str]:
    """The names of the files, without a look into them; none for ``-`` and of an index.

    Raises:
      InputMissingError: nothing is there.
    """
    if given == "-" or is_index(given):
        return []
    names = _names(given)
    if not names:
        raise InputMissingError(
            "no files", where=f"--inputs={given}", next_action="pass a file, a folder or a glob"
        )
    return names


def batches(found: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """At most ``size`` items at a time; fewer when no more are there yet.

    A thread reads ahead, so that what comes slowly (a pipe) is answered as it comes.
    """
    waiting: queue.Queue[Item | BaseException | None] = queue.Queue(maxsize=2 * size)

    def read() -> None:
        try:
            for item in found:
                waiting.put(item)
            waiting.put(None)
        except BaseException as error:
            waiting.put(error)

    threading.Thread(target=read, daemon=True).start()
    ended = False
    while not ended:
        batch: list[Item] = []
        while len(batch) < size and not ended:
            try:
                item = waiting.get(block=not batch)
            except queue.Empty:
                break
            if isinstance(item, BaseException):
                raise item
            if item is None:
                ended = True
            else:
                batch.append(item)
        if batch:
            yield batch


def known_count(given: str) -> int | None:
    """How many there will be, for the time left; None when that is not known."""
    if is_index(given):
        from tltf.data import columns  # see above

        return len(columns.opened(Path(given)).records)
    path = Path(given)
    if given == "-" or (path.is_file() and path.suffix.lower() in (*TABLES, ".txt")):
        return None
    return len(_names(given)) or None


def _names(given: str) -> list[str]:
    path = Path(given)
    if path.is_dir():
        found = (Path(folder, name) for folder, _, files in os.walk(path) for name in files)
        return sorted(str(item) for item in found if not item.name.startswith("."))
    if path.exists():
        return [given]
    # Not Path.glob, which takes no absolute patterns.
    found_by_glob = glob.glob(given, recursive=True)  # noqa: PTH207
    return sorted(name for name in found_by_glob if Path(name).is_file())


def _lines(stdin: TextIO) -> Iterator[str]:
    for line in stdin:
        if line.strip():
            yield line.rstrip("\r\n")


def _item(given: str, key: str) -> Item:
    return Item(given, text=given) if key == TEXT else Item(given, path=given)


def _of_table(file: Path, key: str) -> list[Item]:
    column = TEXT if key == TEXT else "path"
    if file.suffix.lower() == ".jsonl":
        rows = [json.loads(line) for line in _text(file).splitlines() if line.strip()]
    else:
        separator = "\t" if file.suffix.lower() == ".tsv" else ","
        rows = list(csv.DictReader(io.StringIO(_text(file), newline=""), delimiter=separator))
    if not rows:
        raise InputMissingError("no rows", where=file, next_action="add a header and rows")
    if not all(isinstance(row, dict) and isinstance(row.get(column), str) for row in rows):
        raise DataError(
            f"rows without {column!r}",
            where=file,
            next_action=f"give every row a column {column}",
        )
    given = [row[column] for row in rows]
    if key == TEXT:
        return [Item(text, text=text) for text in given]
    return [Item(name, path=str(file.parent / name)) for name in given]


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8: {error.reason} at byte {error.start}",
            where=file,
            next_action="convert it, e.g. with `iconv -f LATIN1 -t UTF-8`",
        ) from error

"""What a person means by ``--inputs``: one item for each answer. No TensorFlow."""

from __future__ import annotations

import glob
import io
import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from absl import logging

from tltf.data.manifest import is_index
from tltf.data.tables import SUFFIXES, load_column
from tltf.data.textfiles import read_text
from tltf.errors import DataError, InputMissingError

Say = Callable[[str], None]
TEXT = "text"


@dataclass(frozen=True)
class Item:
    """One input: ``id`` as it was given, and the file or the text that it stands for.

    ``error`` is why there is no text: the input is a bad one.
    """

    id: str
    path: str | None = None
    text: str | None = None
    error: str = ""


def items(
    given: str,
    stdin: TextIO,
    *,
    key: str = "image_bytes",
    encoding: str = "auto",
    say: Say = logging.info,
) -> Iterator[Item]:
    """The inputs in order, as they become known.

    - ``-``: one line of stdin each, a path or, for a model of texts, a text;
    - a folder that ``tltf index`` made: its images;
    - a folder: its files at any depth, hidden ones left out; a file, or a glob;
    - ``.csv``, ``.tsv`` and ``.jsonl`` tables with a column ``path`` (relative to the table) or
      ``text``, if nothing but tables was given; for a model of texts wherever they lie.

    For a model of texts every other file of a folder is one text, called by its name; a file
    outside of one, or a glob's, is one text a line.

    A name on stdin or in a table that does not exist fails later, in its own line, and so does
    a file of a folder that cannot be read.

    Args:
      given: the value of ``--inputs``.
      key: what the model takes, ``image_bytes`` or ``text``.
      encoding: of texts and tables, see :func:`tltf.data.textfiles.read_text`.
      say: receives what a person should know, such as bytes that were no text.

    Raises:
      InputMissingError: nothing is there.
      DataError: a table without such a column or with rows that cannot be understood, or texts
        in another encoding.
    """
    if given == "-":
        return (_item(line, key) for line in _lines(stdin))
    if is_index(given):
        return iter(_of_index(given, 0, 1))
    names = check_given(given)
    if key == TEXT:
        return _texts(names, encoding, say, whole=Path(given).is_dir())
    if all(map(_is_table, names)):
        return (item for name in names for item in _of_table(Path(name), key, encoding, say))
    return iter([Item(name, path=name) for name in names])


def shard_items(
    given: str,
    stdin: TextIO,
    *,
    shard: int,
    shards: int,
    key: str = "image_bytes",
    encoding: str = "auto",
) -> Iterator[Item]:
    """Every ``shards``-th of the items, from ``shard`` on; of an index only these are looked at."""
    if is_index(given):
        return _of_index(given, shard, shards)
    return itertools.islice(items(given, stdin, key=key, encoding=encoding), shard, None, shards)


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


def known_count(given: str, *, key: str = "image_bytes") -> int | None:
    """How many there will be, for the time left; None when that is not known.

    Args:
      given, key: as for :func:`items`.
    """
    if is_index(given):
        from tltf.data import columns  # see above

        return len(columns.opened(Path(given)).records)
    path = Path(given)
    if given == "-" or (path.is_file() and path.suffix.lower() == ".txt"):
        return None
    names = _names(given)
    if key == TEXT:
        several = any(map(_is_table, names)) or not path.is_dir()
    else:
        several = all(map(_is_table, names))
    return None if several else len(names)


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


def _is_table(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _of_table(file: Path, key: str, encoding: str, say: Say) -> Iterator[Item]:
    found = load_column(file, TEXT if key == TEXT else "path", encoding=encoding)
    _say_notes(found.notes, say)
    for given in found.values:
        yield Item(given, text=given) if key == TEXT else Item(given, path=str(file.parent / given))


def _texts(names: Sequence[str], encoding: str, say: Say, *, whole: bool) -> Iterator[Item]:
    """The rows of tables; of other files the lines, or the ``whole`` as one text."""
    for name in names:
        file = Path(name)
        if _is_table(name):
            yield from _of_table(file, TEXT, encoding, say)
        elif whole:
            yield _of_file(file, encoding, say)
        else:
            decoded = read_text(file, encoding=encoding)
            _say_notes(decoded.notes(file.name), say)
            # Not str.splitlines, for which a form feed and U+2028 end a line too.
            for line in io.StringIO(decoded.text, newline=None):
                text = line.removesuffix("\n")
                yield Item(text, text=text)


def _of_file(file: Path, encoding: str, say: Say) -> Item:
    """One text, as `tltf train` reads the files of a folder; a bad one is no end of the others."""
    try:
        decoded = read_text(file, encoding=encoding)
    except DataError as error:
        return Item(str(file), error=f"{error.what}; {error.next_action}")
    except OSError as error:
        return Item(str(file), error=str(error))
    _say_notes(decoded.notes(file.name), say)
    return Item(str(file), text=decoded.text.strip())


def _say_notes(notes: Sequence[str], say: Say) -> None:
    for note in notes:
        say(note)

"""Answers in one file, as its ending says: ``.csv`` for spreadsheets, ``.jsonl`` for programs.

The file takes its name when it is whole; an answer that was interrupted leaves none.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tltf import rundir, storage
from tltf.errors import OutputError, printable

SUFFIXES = (".csv", ".jsonl")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Row = Mapping[str, Any]


def is_answer_file(out: str) -> bool:
    """Whether ``--out`` names such a file; a folder may be called anything."""
    return Path(out).suffix.lower() in SUFFIXES and not Path(out).is_dir()


def check_answer_file(path: Path) -> None:
    """Raises OutputError unless the file can be made; before any work is done."""
    if path.exists():
        raise OutputError(
            "there is such a file already",
            where=f"--out={path}",
            kept="the file as it is",
            next_action="name another one, or remove it",
        )
    rundir.check_writable(path.parent, flag="--out")


@contextlib.contextmanager
def answer_file(
    path: Path, *, task: str, classes: Sequence[str]
) -> Iterator[Callable[[Row], None]]:
    """Gives the function that writes a row of :func:`tltf.serving.predicting.predictions`."""
    with storage.replacing(path) as file:
        if path.suffix.lower() == ".jsonl":
            yield lambda row: _write(file, json.dumps(row) + "\n")
            return
        value = ("value",) if task == "regression" else ("label",)
        probabilities = () if task == "regression" else tuple(f"p({name})" for name in classes)
        columns = ("id", *value, "accepted", *probabilities, "error")
        _write(file, _line(columns))
        yield lambda row: _write(file, _line(_cells(row, value[0], len(probabilities))))


def _cells(row: Row, value: str, n: int) -> list[object]:
    given = row.get("probabilities") or [""] * n
    return [row["id"], row.get(value, ""), row.get("accepted", ""), *given, row.get("error", "")]


def _line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([_cell(cell) for cell in cells])
    return text.getvalue()


def _cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _write(file: Any, text: str) -> None:
    file.write(text.encode("utf-8", "backslashreplace"))

"""Tables of examples: ``.csv``, ``.tsv``, or ``.jsonl`` with one JSON object per line.

Columns: ``path`` or ``text``, ``label``; if wanted ``group``, ``slice``, ``split``, ``weight``.
All rows are looked at before anything is said, so one run of the command shows every bad row.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tltf.data.labels import RawLabel, understand
from tltf.data.manifest import SPLIT_NAMES, BadInputsError, Excluded, Manifest, Record
from tltf.data.textfiles import read_text
from tltf.errors import ArgumentError, DataError, InputMissingError, named_list, nearest

SUFFIXES = (".csv", ".tsv", ".jsonl")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
_LONG_FIELD_LINES = 20


@dataclass
class _Table:
    """Column names, ``(line number, values by column)`` of the sound rows, and the bad ones."""

    name: str
    header: list[str] = field(default_factory=list)
    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    bad: list[Excluded] = field(default_factory=list)

    def refuse(self, line: int, reason: str) -> None:
        self.bad.append(Excluded(id=f"{self.name}:{line}", outcome="bad", reason=reason))


@dataclass(frozen=True)
class Column:
    """What the rows of a table have in one column, and what a person should know about it."""

    values: tuple[str, ...]
    notes: tuple[str, ...] = ()


def load_table(
    file: Path, *, task: str = "auto", group_column: str | None = None, encoding: str = "auto"
) -> Manifest:
    """Reads a table.

    Args:
      file: the table. Paths in it are relative to its folder.
      task: as in :func:`tltf.data.sources.load`. ``auto``: labels with ``|`` (``red|round``) or
        JSON lists are multi_label; numbers are a regression if any is fractional or there are
        more than 20 different ones, or nan among them, whose lines are then refused; everything
        else is single_label.
      group_column: the column to group by, instead of ``group``.
      encoding: see :func:`tltf.data.textfiles.read_text`.

    Returns:
      One record per row, called ``file.csv:12`` by its line; rows whose file is missing are in
      ``excluded`` as ``bad``, for the policy to decide on.

    Raises:
      BadInputsError: rows that cannot be understood, all of them by line number.
      DataError: wrong encoding, missing or doubled columns, no rows; classes as in ``understand``.
      ArgumentError: there is no such group column.
    """
    decoded = read_text(file, encoding=encoding)
    table = _read(decoded.text, file)
    if not table.rows and not table.bad:
        raise DataError("no rows", where=file, next_action="add a header and examples")
    columns = columns_of(table.header, file, group_column)
    records, raw, folder = [], [], str(file.parent)
    for line, values in table.rows:
        try:
            record = record_of(line, values, columns, file.name, folder)
            raw.append(raw_label(values.get(columns["label"])))
        except ValueError as error:
            table.refuse(line, str(error))
        else:
            records.append(record)
    try:
        task, classes, labels = understand(raw, [r.id for r in records], task=task, where=str(file))
    except BadInputsError as error:
        _refuse([*table.bad, *error.excluded], table, file, error.next_action)
        raise
    except DataError:
        # Classes may be missing just because their rows are bad: say that first.
        _refuse(table.bad, table, file)
        raise
    _refuse(table.bad, table, file)
    labelled = [
        dataclasses.replace(record, label=label)
        for record, label in zip(records, labels, strict=True)
    ]
    manifest = _without_missing(labelled, task=task, classes=classes)
    return dataclasses.replace(manifest, notes=decoded.notes(file.name))


def load_column(file: Path, column: str, *, encoding: str = "auto") -> Column:
    """One column of a table that needs no labels, by the same reading as :func:`load_table`.

    Args:
      file: the table.
      column: its name in lower case; ``Text`` and ``TEXT`` are the column ``text`` too.
      encoding: see :func:`tltf.data.textfiles.read_text`.

    Returns:
      The value of every row, in order; it may be an empty text.

    Raises:
      BadInputsError: rows that cannot be understood, all of them by line number.
      DataError: wrong encoding, or the column is not there, or twice.
      InputMissingError: no rows.
    """
    decoded = read_text(file, encoding=encoding)
    table = _read(decoded.text, file)
    if not table.rows and not table.bad:
        raise InputMissingError("no rows", where=file, next_action="add a header and rows")
    names = [name for name in table.header if name.lower() == column]
    if len(names) != 1:
        if not table.rows:
            _refuse(table.bad, table, file)
        trouble = f"column {column!r} is there {len(names)} times" if names else "no such column"
        raise DataError(
            f"rows without {column!r}: {trouble}; columns found: "
            + (named_list(table.header, most=12) or "none"),
            where=file,
            next_action=f"give every row one column {column}; in csv and tsv the first line"
            " names the columns",
        )
    rows, table.rows = table.rows, []
    for line, values in rows:
        given = values.get(names[0])
        if isinstance(given, str):
            table.rows.append((line, values))
        else:
            why = f"no {column}" if given is None else f"{column} {given!r} is not a text"
            table.refuse(line, why)
    _refuse(table.bad, table, file)
    found = tuple(values[names[0]] for _, values in table.rows)
    return Column(found, decoded.notes(file.name))


def _read(text: str, file: Path) -> _Table:
    if file.suffix.lower() == ".jsonl":
        return _read_json_lines(text, file.name)
    return _read_csv(text, file.name, SEPARATORS[file.suffix.lower()])


def _read_csv(text: str, name: str, separator: str) -> _Table:
    table = _Table(name)
    for number, content in enumerate(text.split("\n"), start=1):
        if "\0" in content:
            table.refuse(number, "a NUL character")
    # Lines with NUL are refused already; the reader is to go on behind them.
    lines = io.StringIO(text.replace("\0", ""), newline="")
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
    refused = {excluded.id for excluded in table.bad}
    # The limit of 128 KB per field is the module's, a text may be longer.
    limit = csv.field_size_limit(len(text) + 1)
    try:
        _read_rows(table, reader, refused, separator)
    finally:
        csv.field_size_limit(limit)
    return table


def _read_rows(table: _Table, reader: Any, refused: set[str], separator: str) -> None:
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            table.refuse(line, f"{csv_reason(error)}; the rest was not read")
            return
        if not row or f"{table.name}:{line}" in refused:
            continue
        if not table.header:
            table.header = [column.strip() for column in row]
        elif len(row) != len(table.header):
            table.refuse(line, f"{len(row)} fields, expected {len(table.header)}")
        elif swallowed(row, separator):
            table.refuse(line, f"a field of {reader.line_num - line + 1} lines: an unclosed quote?")
        else:
            table.rows.append((line, dict(zip(table.header, row, strict=True))))


def csv_reason(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "a quote that is never closed"
    return str(error)


def swallowed(row: list[str], separator: str) -> bool:
    """Whether a field looks like rows that an unclosed quote ran over.

    A text of many lines is fine; many lines with as many separators as a row has are not, nor are
    a tab and a line break in one field of a ``.tsv``, whose texts have no tabs.
    """
    for value in row:
        if separator == "\t" and "\t" in value and ("\n" in value or "\r" in value):
            return True
        if "\n" not in value:
            continue
        inner = value.split("\n")
        alike = sum(line.count(separator) == len(row) - 1 for line in inner)
        if len(inner) > 1 and (alike == len(inner) or alike > _LONG_FIELD_LINES):
            return True
    return False


def _read_json_lines(text: str, name: str) -> _Table:
    table = _Table(name)
    columns: dict[str, None] = {}
    for line, row in enumerate(text.split("\n"), start=1):
        if not row.strip():
            continue
        try:
            values = json.loads(row)
        except (ValueError, RecursionError) as error:
            table.refuse(line, f"not JSON: {error}")
            continue
        if not isinstance(values, dict):
            table.refuse(line, f"{type(values).__name__}, expected an object")
            continue
        columns |= dict.fromkeys(values)
        table.rows.append((line, values))
    table.header = list(columns)
    return table


def columns_of(
    header: Sequence[str], file: Path, group_column: str | None = None
) -> dict[str, str]:
    """Which column plays which role: ``{"path": "path", "label": "Label", ...}``.

    Raises:
      DataError: columns are missing or there twice.
      ArgumentError: there is no such group column.
    """
    found = f"columns found: {named_list(header, most=12)}"
    roles = ("path", "text", "label", "group", "slice", "split", "weight")
    by_role: dict[str, list[str]] = {role: [] for role in roles}
    for column in header:
        by_role.get(column.lower(), []).append(column)
    doubled = [column for column, n in Counter(header).items() if n > 1]
    doubled += [column for columns in by_role.values() for column in columns[1:]]
    trouble = ""
    if doubled:
        trouble = f"column {doubled[0]!r} is there twice"
    elif not by_role["label"]:
        trouble = "no column 'label'"
    elif not by_role["path"] and not by_role["text"]:
        trouble = "no column 'path' or 'text'"
    elif by_role["path"] and by_role["text"]:
        trouble = "both a column 'path' and a column 'text'"
    if trouble:
        raise DataError(
            f"{trouble}; {found}",
            where=file,
            next_action="the first line names the columns: path or text, and label",
        )
    columns = {role: names[0] for role, names in by_role.items() if names}
    if group_column is not None:
        if group_column not in header:
            raise ArgumentError(
                f"group_column={group_column!r}; {found}{nearest(group_column, header)}",
                where="--group_column",
            )
        columns["group"] = group_column
    return columns


def record_of(
    line: int, values: Mapping[str, Any], columns: Mapping[str, str], name: str, folder: str
) -> Record:
    """One row without its label.

    Args:
      line, values: of the row.
      columns: of :func:`columns_of`.
      name, folder: of the table.

    Raises:
      ValueError: with what is wrong.
    """

    role = "path" if "path" in columns else "text"
    content = _text(values, columns, role)
    if not isinstance(content, str):
        raise ValueError(f"{role} {content!r} is not a text")
    if not content.strip():
        raise ValueError(f"empty {role}")
    if role == "path" and "\0" in content:
        raise ValueError("a NUL character in the path")
    split = str(_text(values, columns, "split")).strip() if "split" in columns else ""
    if split and split.lower() not in SPLIT_NAMES:
        raise ValueError(f"split {split!r}, expected train, val or test")
    return Record(
        id=f"{name}:{line}",
        path=_joined(folder, content) if role == "path" else None,
        text=content if role == "text" else None,
        group=(str(_text(values, columns, "group")) or None) if "group" in columns else None,
        slice=(str(_text(values, columns, "slice")) or None) if "slice" in columns else None,
        split=SPLIT_NAMES[split.lower()] if split else None,
        weight=_weight(_text(values, columns, "weight")) if "weight" in columns else 1.0,
    )


def _text(values: Mapping[str, Any], columns: Mapping[str, str], role: str) -> Any:
    """What a row has in the column of a role; an empty text where it has nothing."""
    given = values.get(columns[role])
    return "" if given is None else given


def _joined(folder: str, path: str) -> str:
    """``str(Path(folder) / path)``, which takes ten times as long, for what it leaves as it is."""
    if path[0] in "./" or "//" in path or "/." in path or path[-1] == "/":
        return str(Path(folder) / path)
    return f"{folder}/{path}"


def _weight(given: Any) -> float:
    if given == "":
        return 1.0
    try:
        weight = float(given)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0.0 <= weight < math.inf:
        raise ValueError(f"weight {given!r}, expected a number of at least 0")
    return weight


def raw_label(given: Any) -> RawLabel:
    if given is None:
        return ""
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        return tuple(given)
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, str | int | float):
        return given
    raise ValueError(f"label {given!r}, expected a text, a number or a list of texts")


def _refuse(
    bad: Sequence[Excluded], table: _Table, file: Path, next_action: str = "correct these lines"
) -> None:
    if bad:
        bad = sorted(bad, key=lambda x: int(x.id.rpartition(":")[2]))
        raise BadInputsError(
            f"{len(bad)} bad lines beside {len(table.rows)} sound ones: "
            + named_list(f"line {x.id.rpartition(':')[2]}: {x.reason}" for x in bad),
            excluded=bad,
            where=file,
            next_action=next_action,
        )


def _without_missing(records: Sequence[Record], *, task: str, classes: tuple[str, ...]) -> Manifest:
    good, missing = [], []
    for record in records:
        trouble = _path_trouble(record.path)
        if trouble:
            missing.append(Excluded(id=f"{record.id} {record.path}", outcome="bad", reason=trouble))
        else:
            good.append(record)
    return Manifest(task=task, classes=classes, records=tuple(good), excluded=tuple(missing))


def _path_trouble(path: str | None) -> str:
    if path is None:
        return ""
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        return error.strerror or "cannot be read"
    return "" if stat.S_ISREG(mode) else "not a regular file"

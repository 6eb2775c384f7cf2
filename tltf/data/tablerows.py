"""The rows of a table as they are written: values by column, or why a row is none."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tltf.data.manifest import Excluded

SUFFIXES = (".csv", ".tsv", ".jsonl")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
_LONG_FIELD_LINES = 20


@dataclass
class Table:
    """Column names, ``(line number, values by column)`` of the sound rows, and the bad ones.

    ``lost`` is whether rows may be missing that nobody can name: behind a quote that never ends.
    """

    name: str
    header: list[str] = field(default_factory=list)
    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    bad: list[Excluded] = field(default_factory=list)
    lost: bool = False

    def refuse(self, line: int, reason: str) -> None:
        self.bad.append(Excluded(id=f"{self.name}:{line}", outcome="bad", reason=reason))


def read_rows(text: str, file: Path) -> Table:
    if file.suffix.lower() == ".jsonl":
        return _read_json_lines(text, file.name)
    return _read_csv(text, file.name, SEPARATORS[file.suffix.lower()])


def _read_csv(text: str, name: str, separator: str) -> Table:
    table = Table(name)
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


def _read_rows(table: Table, reader: Any, refused: set[str], separator: str) -> None:
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            table.refuse(line, f"{csv_reason(error)}; the rest was not read")
            table.lost = True
            return
        if not row or f"{table.name}:{line}" in refused:
            continue
        if not table.header:
            table.header = [column.strip() for column in row]
        elif len(row) != len(table.header):
            table.refuse(line, f"{len(row)} fields, expected {len(table.header)}")
        elif swallowed(row, separator):
            table.refuse(line, f"a field of {reader.line_num - line + 1} lines: an unclosed quote?")
            table.lost = True
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


def _read_json_lines(text: str, name: str) -> Table:
    table = Table(name)
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

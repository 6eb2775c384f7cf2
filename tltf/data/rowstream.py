"""The rows of a table one after the other, for tables that are not to be read as a whole.

The same rows that :func:`tltf.data.tables.load_table` finds, and the same reasons for bad ones.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tltf.data.manifest import BadInputsError, Excluded
from tltf.data.tablerows import SEPARATORS, SUFFIXES, csv_reason, swallowed
from tltf.data.textfiles import check_encoding
from tltf.errors import ArgumentError, DataError

Values = dict[str, Any]


class RowStream:
    """Iterates over ``(line number, values by column)``, or ``(line number, reason)`` of a bad row.

    Args:
      file: ``.csv``, ``.tsv`` or ``.jsonl``.
      encoding: ``auto`` is UTF-8, with a byte order mark or without; or a name of Python's.

    Attributes:
      header: the columns; of JSON lines those of the first row.

    Raises:
      ArgumentError: another kind of file, or an unknown encoding.
      DataError: there is no row.
    """

    def __init__(self, file: Path, *, encoding: str = "auto") -> None:
        if file.suffix.lower() not in SUFFIXES:
            raise ArgumentError(
                f"{file.name}, expected a table ({', '.join(SUFFIXES)})",
                where="--data",
                next_action="write the paths and labels of the images into a CSV file",
            )
        name = check_encoding(encoding)
        self._file, self._encoding = file, "utf-8-sig" if name in ("auto", "utf-8") else name
        self._raw = file.open("rb")
        self._size = file.stat().st_size
        self._rows = self._read()
        self.header: list[str] = []
        self._head: list[tuple[int, Values | str]] = []
        for row in self._rows:
            self._head.append(row)
            if self.header:
                break
        if not self._head:
            raise DataError("no rows", where=file, next_action="add a header and examples")

    def expected(self, rows: int) -> int:
        """How many rows there will be, judged by the first ``rows`` of them."""
        if self._raw.closed:
            return rows
        return max(rows, round(rows * self._size / max(1, self._raw.tell())))

    def __iter__(self) -> Iterator[tuple[int, Values | str]]:
        yield from self._head
        yield from self._rows

    def _read(self) -> Iterator[tuple[int, Values | str]]:
        with self._raw, io.TextIOWrapper(self._raw, self._encoding, newline="") as text:
            suffix = self._file.suffix.lower()
            rows = self._json(text) if suffix == ".jsonl" else self._csv(text, SEPARATORS[suffix])
            try:
                yield from rows
            except UnicodeDecodeError as error:
                raise BadInputsError(
                    f"not {self._encoding.removesuffix('-sig')}: {error.reason}",
                    excluded=[Excluded(id=self._file.name, outcome="bad", reason=str(error))],
                    where=self._file,
                    next_action="name the encoding, e.g. --encoding=latin-1",
                ) from error

    def _csv(self, text: io.TextIOWrapper, separator: str) -> Iterator[tuple[int, Values | str]]:
        reader = csv.reader(text, delimiter=separator, strict=True, skipinitialspace=True)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, f"{csv_reason(error)}; the rest was not read"
                return
            if not row:
                continue
            if not self.header:
                self.header = [column.strip() for column in row]
            elif "\0" in "".join(row):
                yield line, "a NUL character"
            elif len(row) != len(self.header):
                yield line, f"{len(row)} fields, expected {len(self.header)}"
            elif swallowed(row, separator):
                lines = reader.line_num - line + 1
                yield line, f"a field of {lines} lines: an unclosed quote?"
            else:
                yield line, dict(zip(self.header, row, strict=True))

    def _json(self, text: io.TextIOWrapper) -> Iterator[tuple[int, Values | str]]:
        for line, row in enumerate(text, start=1):
            if not row.strip():
                continue
            try:
                values = json.loads(row)
            except (ValueError, RecursionError) as error:
                yield line, f"not JSON: {error}"
                continue
            if not isinstance(values, dict):
                yield line, f"{type(values).__name__}, expected an object"
                continue
            self.header = self.header or list(values)
            yield line, values

"""Tables of examples: ``.csv``, ``.tsv``, or ``.jsonl`` with one JSON object per line.

Columns: ``path`` or ``text``, ``label``; if wanted ``group``, ``slice``, ``split``, ``weight``.
All rows are looked at before anything is said, so one run of the command shows every bad row.
"""

from __future__ import annotations

import dataclasses
import math
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tltf.data.label_remarks import remarks
from tltf.data.labels import SEPARATOR, RawLabel, counted, understand
from tltf.data.manifest import (
    SKIP,
    SPLIT_NAMES,
    BadInputsError,
    Excluded,
    Label,
    Manifest,
    Record,
)
from tltf.data.tablerows import SUFFIXES as SUFFIXES
from tltf.data.tablerows import Table, read_rows
from tltf.data.textfiles import read_text
from tltf.errors import ArgumentError, DataError, InputMissingError, named_list, nearest


@dataclass(frozen=True)
class Column:
    """What the rows of a table have in one column, and what a person should know about it."""

    values: tuple[str, ...]
    notes: tuple[str, ...] = ()


def load_table(
    file: Path,
    *,
    task: str = "auto",
    group_column: str | None = None,
    encoding: str = "auto",
    label_separator: str = SEPARATOR,
    skip: bool = False,
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
      label_separator: what stands between several labels in one cell.
      skip: leave rows that cannot be understood to the policy: they are ``bad`` in ``excluded``.
        Not where a quote that never ends may have swallowed rows that nobody can name.

    Returns:
      One record per row, called ``file.csv:12`` by its line; rows whose file is missing are in
      ``excluded`` as ``bad``, for the policy to decide on.

    Raises:
      BadInputsError: rows that cannot be understood, all of them by line number.
      DataError: wrong encoding, missing or doubled columns, no rows; classes as in ``understand``.
      ArgumentError: there is no such group column.
    """
    decoded = read_text(file, encoding=encoding)
    table = read_rows(decoded.text, file)
    if not table.rows and not table.bad:
        raise DataError("no rows", where=file, next_action="add a header and examples")
    columns = columns_of(table.header, file, group_column)
    pairs, folder = list[tuple[Record, RawLabel]](), str(file.parent)
    for line, values in table.rows:
        try:
            record = record_of(line, values, columns, file.name, folder)
            pairs.append((record, raw_label(values.get(columns["label"]))))
        except ValueError as error:
            table.refuse(line, str(error))
    skip = skip and not table.lost

    def understood() -> tuple[str, tuple[str, ...], list[Label]]:
        raw, ids = [label for _, label in pairs], [record.id for record, _ in pairs]
        return understand(raw, ids, task=task, where=str(file), separator=label_separator)

    try:
        found, classes, labels = understood()
    except BadInputsError as error:
        table.bad += error.excluded
        if not skip:
            _refuse(table, file, error.next_action)
        bad = {excluded.id for excluded in error.excluded}
        pairs = [pair for pair in pairs if pair[0].id not in bad]
        found, classes, labels = understood()
    except DataError:
        # Classes may be missing just because their rows are bad: say that first.
        _refuse(table, file)
        raise
    if not skip:
        _refuse(table, file)
    labelled = [
        dataclasses.replace(record, label=label)
        for (record, _), label in zip(pairs, labels, strict=True)
    ]
    manifest = _without_missing(labelled, task=found, classes=classes, bad=table.bad)
    said = remarks(counted(labels), task=found, asked=task, separator=label_separator)
    return dataclasses.replace(manifest, notes=(*decoded.notes(file.name), *said))


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
    table = read_rows(decoded.text, file)
    if not table.rows and not table.bad:
        raise InputMissingError("no rows", where=file, next_action="add a header and rows")
    names = [name for name in table.header if name.lower() == column]
    if len(names) != 1:
        if not table.rows:
            _refuse(table, file, skippable=False)
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
    _refuse(table, file, skippable=False)
    found = tuple(values[names[0]] for _, values in table.rows)
    return Column(found, decoded.notes(file.name))


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
    table: Table, file: Path, next_action: str = "correct these lines", *, skippable: bool = True
) -> None:
    if table.bad:
        bad = sorted(table.bad, key=lambda x: int(x.id.rpartition(":")[2]))
        raise BadInputsError(
            f"{len(bad)} bad lines beside {len(table.rows)} sound ones: "
            + named_list(f"line {x.id.rpartition(':')[2]}: {x.reason}" for x in bad),
            excluded=bad,
            where=file,
            next_action=next_action + (f", or {SKIP}" if skippable and not table.lost else ""),
        )


def _without_missing(
    records: Sequence[Record], *, task: str, classes: tuple[str, ...], bad: Sequence[Excluded]
) -> Manifest:
    good, missing = [], list(bad)
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

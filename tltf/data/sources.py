"""``--data``: from a folder, a table or a name to a Manifest."""

from __future__ import annotations

from pathlib import Path

from tltf.data import columns
from tltf.data.folders import load_folder
from tltf.data.labels import SEPARATOR
from tltf.data.manifest import Manifest, is_index
from tltf.data.named_sets import load_digits, load_tfds
from tltf.data.tables import SUFFIXES, load_table
from tltf.data.textfiles import holds_texts, load_lines, load_text_folder
from tltf.errors import ArgumentError, InputMissingError
from tltf.spec import DataSpec


def load(
    source: str,
    *,
    task: str = "auto",
    group_column: str | None = None,
    encoding: str = "auto",
    label_separator: str = SEPARATOR,
    skip: bool = False,
) -> Manifest:
    """Lists the examples of a source; nothing is decoded, and nothing is split.

    Args:
      source: a folder with one sub-folder per class, or with ``train``, ``val``, ``test`` that
        have them; a ``.csv``, ``.tsv`` or ``.jsonl`` table; a file of lines that begin with their
        label; a folder that ``tltf index`` made; ``tfds:<name>``; ``digits`` (a folder
        of that name is ``./digits``).
      task: ``auto``, ``single_label``, ``multi_label`` or ``regression``.
      group_column: column of a table whose equal values must stay in one split.
      encoding: of texts and tables, see :func:`tltf.data.textfiles.read_text`.
      label_separator: what stands between several labels of a row of a table, or of a line.
      skip: texts and rows that cannot be used are ``bad`` in ``excluded``, for
        :func:`tltf.data.scan.apply_policy`; otherwise they are refused here.

    Returns:
      The records in a fixed order, with a ``split`` only where the data names one.

    Raises:
      ArgumentError: a task or column that the source does not have.
      InputMissingError: there is no such file or folder.
      DataError: it is there and cannot be used; see the function of each kind of source.
      DownloadError: a named set that cannot be had.

    Example::

      manifest = load("photos")
      manifest.classes  # ("ants", "bees")
    """
    path = Path(source)
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        return load_table(_existing(path), task=task, group_column=group_column, encoding=encoding,
                          label_separator=label_separator, skip=skip)  # fmt: skip
    if group_column is not None:
        raise ArgumentError(
            f"group_column={group_column!r} with data={source!r}, which has no columns",
            where="--group_column",
            next_action=f"use a table ({', '.join(SUFFIXES)}) with such a column",
        )
    manifest = _load_named(source) or _load_path(path, task, encoding, label_separator, skip)
    if task not in ("auto", manifest.task):
        raise ArgumentError(
            f"task={task!r} with data={source!r}, which is {manifest.task}",
            where="--task",
            next_action=f"use a table ({', '.join(SUFFIXES)}) for other kinds of labels",
        )
    return manifest


def load_spec(spec: DataSpec) -> Manifest:
    """As :func:`load`, with everything that a specification says about reading."""
    return load(
        spec.source,
        task=spec.task,
        group_column=spec.group_column,
        encoding=spec.encoding,
        label_separator=spec.label_separator,
        skip=spec.bad_files == "skip",
    )


def _load_named(source: str) -> Manifest | None:
    if source == "digits" or source.startswith("digits:"):
        return load_digits(source)
    return load_tfds(source) if source.startswith("tfds:") else None


def _load_path(path: Path, task: str, encoding: str, label_separator: str, skip: bool) -> Manifest:
    path = _existing(path)
    if is_index(path):
        return columns.opened(path)
    if not path.is_dir():
        return load_lines(path, task=task, encoding=encoding, label_separator=label_separator,
                          skip=skip)  # fmt: skip
    if holds_texts(path):
        return load_text_folder(path, encoding=encoding, skip=skip)
    return load_folder(path)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise InputMissingError(
            "no such file or folder",
            where=path,
            next_action="pass a folder with one sub-folder per class, or a CSV file",
        )
    return path.absolute()

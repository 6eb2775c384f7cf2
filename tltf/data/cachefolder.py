"""Where tltf keeps what it can make again: one private folder per user."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tltf.errors import OutputError

_INDEX = "index.json"


def cache_folder() -> Path:
    """``$TLTF_CACHE_DIR``, or ``~/.cache/tltf``; made on first use, for this user only.

    Not the shared temporary folder: there anyone could plant the files that we trust later.

    Raises:
      OutputError: it cannot be created.
    """
    folder = Path(os.environ.get("TLTF_CACHE_DIR") or Path.home() / ".cache" / "tltf")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the cache folder cannot be created: {error.strerror}",
            where=folder,
            next_action="set TLTF_CACHE_DIR to a folder that you can write to",
        ) from error
    return folder.absolute()


def made_once(folder: Path, make: Callable[[Path], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Files that are made once and then reused: all of them, or none.

    ``make`` fills a folder beside the final one and returns a row per file with its name under
    ``"file"``. Only when all is written the folder gets its final name, with the rows in
    ``index.json``. On reuse the sizes are compared, and what was damaged is made again.

    Args:
      folder: the final place, below :func:`cache_folder`.
      make: called with the folder to write to, unless there is a good one already.

    Returns:
      The rows that ``make`` returned, now or then.

    Raises:
      OutputError: it cannot be written.
    """
    rows = _intact(folder)
    if rows is not None:
        return rows
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as made:
            inside = Path(made) / "made"
            inside.mkdir(mode=0o700)
            rows = make(inside)
            for row in rows:
                row["bytes"] = (inside / row["file"]).stat().st_size
            (inside / _INDEX).write_text(json.dumps(rows), encoding="utf-8")
            if folder.exists() and _intact(folder) is None:
                shutil.rmtree(folder)
            try:
                inside.rename(folder)
            except OSError:
                # Another process may have been faster: then its folder stands and ours goes.
                if _intact(folder) is None:
                    raise
    except OSError as error:
        raise OutputError(
            f"the cache cannot be written: {error.strerror or error}",
            where=folder,
            next_action="free some space, or set TLTF_CACHE_DIR to another folder",
        ) from error
    return rows


def _intact(folder: Path) -> list[dict[str, Any]] | None:
    try:
        rows: list[dict[str, Any]] = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        good = all((folder / row["file"]).stat().st_size == row["bytes"] for row in rows)
    except (OSError, ValueError):
        return None
    return rows if good else None

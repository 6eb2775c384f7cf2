"""Which files a person means by ``--inputs``. No TensorFlow."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TextIO

from tltf.errors import InputMissingError


def listed(text: str, stdin: TextIO) -> list[str]:
    """The names in order: a file, a folder's files at any depth, a glob, or ``-`` for stdin.

    Hidden files in folders are left out. A single file that does not exist is an error; a
    name on stdin that does not exist fails later, in its own line.

    Raises:
      InputMissingError: nothing is there.
    """
    path = Path(text)
    if text == "-":
        names = [line.rstrip("\n") for line in stdin if line.strip()]
    elif path.is_dir():
        found = (Path(folder, name) for folder, _, files in os.walk(path) for name in files)
        names = sorted(str(item) for item in found if not item.name.startswith("."))
    elif path.exists():
        names = [text]
    else:
        # Not Path.glob, which takes no absolute patterns.
        found_by_glob = glob.glob(text, recursive=True)  # noqa: PTH207
        names = sorted(name for name in found_by_glob if Path(name).is_file())
    if not names:
        raise InputMissingError(
            "no files", where=f"--inputs={text}", next_action="pass a file, a folder or a glob"
        )
    return names

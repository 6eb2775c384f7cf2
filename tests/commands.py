"""``tltf`` as it is typed, in this process: TensorFlow is imported once for the whole suite."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tltf.cli import app


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """What, where, what was kept, the one next action."""
        return self.err.rstrip("\n").rpartition("\n")[2]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """JSON lines of stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


def tltf(command: str, **options: object) -> Done:
    """``tltf("train", data=folder, dry_run=True)`` is ``tltf train --data=FOLDER --dry_run``."""
    if command in app.COMMANDS:
        # A process parses its flags once; here values of an earlier call would stay.
        app.command_module(command).FLAGS.unparse_flags()
    flags = [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()
    ]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = app.dispatch([command, *flags])
    return Done(code, out.getvalue(), err.getvalue())


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder with its time of change and its content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }

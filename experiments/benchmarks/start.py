"""G11: how long the command line takes to answer without work to do."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from experiments.benchmarks.protocol import Row, seconds

PROGRAM = [sys.executable, "-c", "from tltf.cli.app import main; main()"]
LINES = {"tltf --help": ["--help"], "a flag error": ["train", "--bakbone=x"]}


def cold_start(photos: Any, *, pairs: int, **others: Any) -> list[Row]:
    """Seconds of two command lines, in processes of their own."""
    del photos, others

    def once(arguments: list[str]) -> float:
        return seconds(
            lambda: subprocess.run([*PROGRAM, *arguments], capture_output=True, check=False)
        )

    return [
        Row(goal="G11", what=f"{what}, seconds", target="<= 0.3",
            values=tuple(once(arguments) for _ in range(max(5, pairs))))
        for what, arguments in LINES.items()
    ]  # fmt: skip

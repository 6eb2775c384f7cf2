"""What a person who waits at a terminal sees; silent where there is none."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

REDRAW_SECONDS = 0.1


class Bar:
    """A bar for counted work outside training; silent where there is no terminal.

    Use it as a context; :meth:`advance` tells it how much was done.
    """

    def __init__(
        self, what: str, total: int, *, unit: str, shown: bool = True, stream: TextIO | None = None
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.stream = stream or sys.stderr
        self._shown = shown and self.stream.isatty()
        self._done, self._drawn = 0, 0.0
        self._started = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._shown:
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def advance(self, count: int) -> None:
        """``count`` more are done."""
        self._done += count
        now = time.monotonic()
        if not self._shown or now - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = now
        rate = self._done / max(now - self._started, 1e-9)
        left = clock((self.total - self._done) / max(rate, 1e-9))
        text = f"{self.what} {bar_text(self._done / max(1, self.total), 20)}"
        text += f" {self._done}/{self.total}, {rate:.0f} {self.unit}/s, {left} left"
        columns = shutil.get_terminal_size().columns
        self.stream.write("\r\x1b[K" + text[: columns - 1])
        self.stream.flush()


def bar_text(share: float, width: int) -> str:
    """``[#####.....]`` for a share in [0, 1]."""
    full = int(share * width)
    return f"[{'#' * full}{'.' * (width - full)}]"


def clock(seconds: float) -> str:
    """``9 s``, ``2:05``, ``1:02:05``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, seconds_left = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    return (
        f"{hours}:{minutes_left:02d}:{seconds_left:02d}"
        if hours
        else f"{minutes}:{seconds_left:02d}"
    )


@contextlib.contextmanager
def counted(what: str, *, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that tells how much is done: yields ``progress(done, all)``."""
    bar = Bar(what, 0, unit=unit)

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.advance(1)

    with bar:
        yield progress

"""SIGINT and SIGTERM: in training a request to stop at the next batch border, elsewhere at once.

Training saves its state first; everything else (scanning, computing features, evaluation,
export) commits its work as a whole or not at all, so that stopping there loses nothing more.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A signal outside of training. No Exception, so that no handler of errors swallows it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class StopRequest:
    """Whether and by which signal the process was asked to stop."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._waits = False

    def __bool__(self) -> bool:
        return self.signal_number is not None

    @contextlib.contextmanager
    def at_borders(self, *, waits: bool = True) -> Iterator[None]:
        """While the block runs a signal is only noted: the block looks at it between batches.

        With ``waits=False`` it raises at once again, inside such a block.
        """
        before, self._waits = self._waits, waits
        try:
            yield
        finally:
            self._waits = before

    def ask(self, number: int, frame: FrameType | None = None) -> None:
        """The signal handler; a second signal ends the process at once."""
        if self:
            os._exit(128 + number)
        self.signal_number = number
        if not self._waits:
            raise Interrupted(number)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catches the two signals while the block runs; inside another such block, joins that one.

    Outside the main thread Python cannot handle signals: the request then never comes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    outer = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    if isinstance(outer, StopRequest):
        yield outer
        return
    before = {s: signal.signal(s, request.ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

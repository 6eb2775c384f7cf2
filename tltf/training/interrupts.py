"""SIGINT and SIGTERM become a request to stop at the next batch border."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Whether and by which signal the process was asked to stop."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catches the two signals while the block runs; a second one ends the process at once.

    Outside the main thread Python cannot handle signals: the request then never comes.
    """
    request = StopRequest()

    def ask(number: int, frame: FrameType | None) -> None:
        if request:
            os._exit(128 + number)
        request.signal_number = number

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

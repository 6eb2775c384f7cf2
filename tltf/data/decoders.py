"""Decodes files in child processes: a decoder that crashes or eats memory is not this process.

The children are started by the first file that nobody has seen before, stay for the next scan,
and end with this process, however it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from tltf.data import scancache
from tltf.data.decoder_process import ANSWER, REQUEST
from tltf.data.manifest import is_index
from tltf.errors import StorageError

Answer = dict[str, Any]
_lock = threading.Lock()
_started: list[Decoders] = []


class Decoders:
    """As many workers as processors; see :mod:`tltf.data.decoder_process`."""

    def __init__(self, n: int | None = None) -> None:
        pairs = [socket.socketpair() for _ in range(n or os.cpu_count() or 1)]
        theirs = [str(b.fileno()) for _, b in pairs]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tltf.data.decoder_process", *theirs],
            pass_fds=[b.fileno() for _, b in pairs],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            # Ctrl-C is for us; they end when their sockets close.
            start_new_session=True,
        )
        self._free: queue.Queue[socket.socket] = queue.Queue()
        for ours, their in pairs:
            their.close()
            self._free.put(ours)

    def decode(self, data: bytes, *, thumbnail: int = 0) -> Answer:
        """What one file is when decoded; waits for a free worker.

        Args:
          data: the whole file.
          thumbnail: side in pixels of a JPEG thumbnail to come with it, 0 for none.

        Returns:
          ``hash`` and perhaps ``said`` and ``thumbnail`` (base64), or ``failed`` (``damaged`` or
          ``memory``), or ``crashed`` with the name of a signal.

        Raises:
          StorageError: the children cannot be started, or are gone.
        """
        with self._worker() as connection:
            try:
                connection.sendall(REQUEST.pack(len(data), thumbnail))
                # A worker that dies while it reads resets nothing: its parent holds the socket.
                connection.sendall(data)
                length = ANSWER.unpack(_exactly(connection, ANSWER.size))[0]
                answer: Answer = json.loads(_exactly(connection, length))
            except OSError as error:
                raise StorageError(
                    "the processes that decode images could not be started, or were ended",
                    where="scan",
                    next_action="run the same command again; is there enough memory?",
                ) from error
        return answer

    @property
    def pid(self) -> int:
        """Of the process that the workers are forked from."""
        return self.process.pid

    @contextlib.contextmanager
    def _worker(self) -> Iterator[socket.socket]:
        connection = self._free.get()
        try:
            yield connection
        finally:
            self._free.put(connection)


def decoders() -> Decoders:
    """The workers of this process, started by the first call (or again, if they are gone)."""
    with _lock:
        if _started and _started[0].process.poll() is not None:
            _started.clear()
        if not _started:
            _started.append(Decoders())
        return _started[0]


def start_if_new(source: str) -> None:
    """Starts the workers while this process still imports TensorFlow, if there will be work.

    Args:
      source: ``--data``; new if the first file below it was never scanned.
    """
    if is_index(source):
        return
    with scancache.opened() as cache:
        for folder, _, names in os.walk(source):
            for name in sorted(names):
                path = os.path.join(os.path.abspath(folder), name)  # noqa: PTH100, PTH118
                with contextlib.suppress(OSError):
                    if cache.sha256_of(path, os.stat(path)) is None:  # noqa: PTH116
                        decoders()
                return


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise ConnectionError("closed")
        data += part
    return bytes(data)


def _environment() -> dict[str, str]:
    """Ours, with the place of this very package, wherever it was imported from."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root}

"""The process in which files of strangers are decoded: one that may crash, or be short of memory.

Run as ``python -m tltf.data.decoder_process FD...`` by :mod:`tltf.data.decoders`. It imports
TensorFlow once and forks one worker per socket. A worker that dies takes only the file with it
that it had in hand: the next one is forked in milliseconds, and its socket says by which signal
the last one ended.

A request is the length of a file in 8 bytes, the side of a wanted thumbnail in 4 (0 for none),
and the file. An answer is its length in 4 bytes, and JSON.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import IO, Any

from tltf.data.perceptual import fingerprint

MEMORY_BYTES = 1536 << 20
"""What a worker may allocate beyond what it has when it is ready: any image of 64 million pixels,
its progressive coefficients and the copies of the decoder fit."""
SECONDS_PER_FILE = 120
REQUEST = struct.Struct("<QI")
ANSWER = struct.Struct("<I")
_THUMBNAIL_QUALITY = 80


def main(descriptors: Sequence[int]) -> None:
    """Serves until every socket is closed by the other side."""
    # What the decoder says is looked at; what the runtime says is not, and it needs no GPU.
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    # Imported before the fork, so that a new worker costs milliseconds; no op runs here, since
    # a forked TensorFlow cannot use the threads of its parent.
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from tltf.data import decoding  # noqa: F401 - read now, used by the workers

    workers = {_fork(fd, descriptors): fd for fd in descriptors}
    while workers:
        pid, status = os.wait()
        fd = workers.pop(pid)
        if os.WIFSIGNALED(status):
            if _unread(fd):
                # It was killed before it had the file in hand: who would answer for the rest?
                sys.exit(1)
            _send(fd, {"crashed": signal.Signals(os.WTERMSIG(status)).name})
            workers[_fork(fd, descriptors)] = fd
        else:
            os.close(fd)


def _fork(fd: int, descriptors: Sequence[int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for other in descriptors:
            if other != fd:
                with contextlib.suppress(OSError):
                    os.close(other)
        _work(fd)
        code = 0
    finally:
        os._exit(code)


def _work(fd: int) -> None:
    said = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - as long as the process
    os.dup2(said.fileno(), 2)
    examine = _examiner(said)
    _limit_memory()
    with socket.socket(fileno=fd) as connection:
        while (head := _receive(connection, REQUEST.size)) is not None:
            length, side = REQUEST.unpack(head)
            data = _receive(connection, length)
            if data is None:
                return
            # Whoever is not done by then is ended by the alarm, and named.
            signal.alarm(SECONDS_PER_FILE)
            answer = examine(data, side)
            signal.alarm(0)
            text = json.dumps(answer).encode()
            connection.sendall(ANSWER.pack(len(text)) + text)


def _examiner(said: IO[bytes]) -> Callable[[bytes, int], dict[str, Any]]:
    import tensorflow as tf

    from tltf.data.decoding import decode_kind, resize
    from tltf.data.headers import kind_of

    # The first op starts the runtime, which has something to say.
    tf.io.decode_raw(b"\0", tf.uint8)
    _taken(said)

    def examine(data: bytes, side: int) -> dict[str, Any]:
        try:
            image = decode_kind(tf.constant(data), kind_of(data[:512]) or "")
        except tf.errors.InvalidArgumentError:
            return {"failed": "damaged", "said": _taken(said)}
        except tf.errors.ResourceExhaustedError:
            return {"failed": "memory", "said": _taken(said)}
        pixels = image.numpy()
        answer = {"hash": fingerprint(pixels), "said": _taken(said)}
        if side:
            small = tf.cast(resize(image, side) + 0.5, tf.uint8)
            jpeg = tf.io.encode_jpeg(small, quality=_THUMBNAIL_QUALITY).numpy()
            answer["thumbnail"] = base64.b64encode(jpeg).decode()
        return answer

    return examine


def _limit_memory() -> None:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _taken(said: IO[bytes]) -> str:
    """What the decoder wrote to stderr about this file: libjpeg warns there of garbage."""
    if not os.fstat(said.fileno()).st_size:
        return ""
    said.seek(0)
    text = said.read(4096).decode("utf-8", "replace")
    said.seek(0)
    said.truncate()
    return text


def _receive(connection: socket.socket, length: int) -> bytes | None:
    """Exactly so many bytes, or None when the other side is gone."""
    parts = bytearray(length)
    view, at = memoryview(parts), 0
    while at < length:
        got = connection.recv_into(view[at:])
        if not got:
            return None
        at += got
    return bytes(parts)


def _unread(fd: int) -> bool:
    """Whether there is something in the socket that nobody has taken."""
    readable, _, _ = select.select([fd], [], [], 0)
    return bool(readable)


def _send(fd: int, answer: dict[str, Any]) -> None:
    text = json.dumps(answer).encode()
    # Nobody may be listening any more.
    with contextlib.suppress(OSError):
        os.write(fd, ANSWER.pack(len(text)) + text)


if __name__ == "__main__":
    main([int(fd) for fd in sys.argv[1:]])

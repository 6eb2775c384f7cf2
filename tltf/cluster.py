"""Which process of a training on several hosts this is, from TF_CONFIG, and whether all are there.

Without TensorFlow, which waits for the others inside a call that nothing in Python can end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tltf.errors import ArgumentError, WorkerLostError, named_list

WAIT_SECONDS = 600.0
_AGAIN_SECONDS, _TALK_SECONDS = 0.1, 2.0


@dataclass(frozen=True)
class Cluster:
    """``{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}``.

    Args:
      workers: addresses; the first is the chief, which writes the artifacts.
      index: which of them this process is.
    """

    workers: tuple[str, ...]
    index: int

    @property
    def chief(self) -> bool:
        """Whether this process writes the artifacts."""
        return self.index == 0


def from_environment() -> Cluster:
    """The cluster of ``$TF_CONFIG``.

    Raises:
      ArgumentError: there is none, or it is not of that form; a ``chief`` job is not supported,
        worker 0 is the chief.
    """
    text = os.environ.get("TF_CONFIG", "")
    remedy = "set it as TensorFlow describes, or try it on one machine by tltf launch --workers=2"
    if not text:
        raise ArgumentError(
            "no TF_CONFIG, which says where the workers are",
            where="--strategy=multiworker",
            next_action=remedy,
        )
    try:
        fields = json.loads(text)
        workers = tuple(str(address) for address in fields["cluster"]["worker"])
        kind, index = fields["task"]["type"], int(fields["task"]["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArgumentError(
            f"TF_CONFIG is not as expected: {type(error).__name__} {error}",
            where="--strategy=multiworker",
            next_action=remedy,
        ) from error
    if kind != "worker" or len(fields["cluster"]) > 1 or not 0 <= index < len(workers):
        raise ArgumentError(
            f"TF_CONFIG names jobs {sorted(fields['cluster'])} and task {kind} {index}, expected"
            f" only workers, and one of {len(workers)}",
            where="--strategy=multiworker",
            next_action="name the chief as worker 0",
        )
    return Cluster(workers, index)


def gather(cluster: Cluster, *, seconds: float | None = None) -> None:
    """Returns when every worker is there, on every one of them.

    Each listens at its own address, where TensorFlow will, until it has greeted all the others and
    has been greeted by them.

    Args:
      cluster: of :func:`from_environment`.
      seconds: how long to wait; None for :data:`WAIT_SECONDS`.

    Raises:
      WorkerLostError: some did not come in time; they are named.
      ArgumentError: the port of this worker is taken.
    """
    limit = WAIT_SECONDS if seconds is None else seconds
    others = {i: a for i, a in enumerate(cluster.workers) if i != cluster.index}
    if not others:
        return
    mark = hashlib.sha256(repr(cluster.workers).encode()).hexdigest()[:16].encode()
    until, greeted = time.monotonic() + limit, set[int]()
    with _listening(cluster, mark) as seen:
        while True:
            greeted |= {i for i in others if i not in greeted
                        and _greet(others[i], mark, cluster.index)}  # fmt: skip
            missing = [i for i in others if i not in greeted or i not in seen]
            if not missing:
                return
            if time.monotonic() > until:
                raise WorkerLostError(
                    f"waited {limit:g} s for {named_list(f'worker {i}' for i in missing)}",
                    where=", ".join(others[i] for i in missing),
                    next_action="start the same command on all workers",
                )
            time.sleep(_AGAIN_SECONDS)


@contextlib.contextmanager
def _listening(cluster: Cluster, mark: bytes) -> Iterator[set[int]]:
    """The numbers of the workers that have greeted this one; it grows."""
    address = cluster.workers[cluster.index]
    seen, done = set[int](), threading.Event()
    try:
        server = socket.create_server(("", int(address.rpartition(":")[2])))
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"cannot listen at the address of this worker: {error}",
            where=f"TF_CONFIG, {address}",
            next_action="end what uses the port, or name another one on all workers",
        ) from error
    server.settimeout(_AGAIN_SECONDS)

    def answer() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError, ValueError):
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(_TALK_SECONDS)
                    said, number = connection.recv(64).split()
                    if said == mark:
                        connection.sendall(mark)
                        seen.add(int(number))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
        server.close()


def _greet(address: str, mark: bytes, index: int) -> bool:
    """Whether a worker of the same cluster answers there."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_TALK_SECONDS) as connection:
            connection.sendall(b"%s %d" % (mark, index))
            return connection.recv(64) == mark
    except (OSError, ValueError):
        return False

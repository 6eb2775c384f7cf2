"""A client that keeps a REST server busy and counts what fails. No TensorFlow."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """How many requests, how many of them failed, and the seconds of each."""

    failures: int
    seconds: Sequence[float]

    @property
    def requests(self) -> int:
        return len(self.seconds)

    def quantile(self, share: float) -> float:
        """Seconds that this share of the requests did not exceed."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def plus(self, other: Load) -> Load:
        return Load(self.failures + other.failures, [*self.seconds, *other.seconds])

    def sentence(self) -> str:
        p50, p99 = (1000 * self.quantile(share) for share in (0.5, 0.99))
        return (
            f"{self.requests} requests, {self.failures} failed, p50 {p50:.1f} ms, p99 {p99:.1f} ms"
        )


def load(
    host: str, port: int, path: str, body: bytes, *, requests: int, concurrency: int = 8
) -> Load:
    """Sends the same POST from ``concurrency`` threads; good answers have predictions."""
    lock = threading.Lock()
    left, failures, seconds = [requests], [0], []

    def client() -> None:
        connection = http.client.HTTPConnection(host, port, timeout=60)
        while True:
            with lock:
                if left[0] == 0:
                    break
                left[0] -= 1
            started = time.monotonic()
            good = _good(connection, path, body)
            with lock:
                seconds.append(time.monotonic() - started)
                failures[0] += not good
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Load(failures[0], seconds)


def _good(connection: http.client.HTTPConnection, path: str, body: bytes) -> bool:
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        found = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError):
        connection.close()
        return False
    return response.status == 200 and "predictions" in found

"""Which process of a training on several hosts this is, from TF_CONFIG; without TensorFlow."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from tltf.errors import ArgumentError


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

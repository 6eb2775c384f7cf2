"""How much of a batch fits through the network at once (``--micro_batch=auto``).

Before the first step of a phase one step on its first batch is tried, with weights, optimizer,
metrics and seeds put back bit for bit. What runs out of memory is tried with half as many
examples at once. What was found is written to ``microbatch.json``: a resumed run takes the same
parts, so that its bits are the same. The first batch is as large as any; texts that are padded to
the longest of their batch may be longer later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import keras
import tensorflow as tf

from tltf import storage
from tltf.errors import ArgumentError, OutOfMemoryError, printable
from tltf.spec import AUTO
from tltf.training import loop
from tltf.training.strategies import Distribution

FILE = "microbatch.json"


def begin(distribution: Distribution, micro_batch: int | str) -> None:
    """Takes the number that was given, if it is one.

    Raises:
      ArgumentError: ``auto`` with several processes.
    """
    if micro_batch == AUTO and distribution.workers > 1:
        raise ArgumentError(
            "micro_batch='auto' with several processes, which would not fail alike",
            where="--micro_batch",
            next_action="pass a number",
        )
    distribution.micro_batch = 0 if micro_batch == AUTO else int(micro_batch)


def fitting(model: keras.Model, data: loop.EpochData, distribution: Distribution) -> int:
    """The most examples at once on each device that a step does not run out of memory with.

    Args:
      model: compiled; unchanged afterwards.
      data: its training batches.
      distribution: over which devices; its ``micro_batch`` is left as found.

    Returns:
      0 where the whole batch fits, else the batch divided by a power of two, rounded up.

    Raises:
      OutOfMemoryError: not even one example fits.
    """
    batch = next(iter(data.train_dataset(0)))
    whole = -(-int(tf.shape(tf.nest.flatten(batch)[0])[0]) // distribution.replicas)
    distribution.prepare(model, batch)
    at_once = 0
    while True:
        distribution.micro_batch = at_once
        if at_once:
            distribution.prepare(model, batch)
        trouble = _tried(model, data, distribution)
        if trouble is None:
            return at_once
        size = at_once or whole
        if size == 1:
            raise OutOfMemoryError(
                f"out of memory with one example at a time: {printable(str(trouble))[:120]}",
                where="--micro_batch=auto",
                next_action="use a smaller --image_size, or unfreeze less",
            ) from trouble
        at_once = -(-size // 2)


def _tried(
    model: keras.Model, data: loop.EpochData, distribution: Distribution
) -> Exception | None:
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = [v.numpy() for v in variables]
    try:
        distribution.train_function(model)(distribution.iterator(data.train_dataset(0)))
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        return error
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
    return None


def read(folder: Path | None) -> dict[str, int]:
    """What was found for the phases of a run before; nothing for a new one."""
    file = folder / FILE if folder is not None else None
    return dict(storage.read_json(file)) if file is not None and file.exists() else {}


def write(folder: Path | None, found: Mapping[str, int]) -> None:
    """Keeps it for a resumed run."""
    if folder is not None:
        storage.write_json(folder / FILE, dict(found))

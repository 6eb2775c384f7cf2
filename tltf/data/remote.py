"""Batches decoded by the workers of a ``tf.data`` service, the same as those decoded here.

A batch is a function of its step. So the steps, and not the batches, are shared out to the remote
workers (dynamic sharding: each step goes to one of them); what comes back carries its step and is
put in order here. A batch that does not come, because its worker died with it, is made here as
soon as the ones behind it fill the waiting room, or the remote side has nothing more. Every
example is seen exactly once; which batches were made twice is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from absl import logging

from tltf.data.batches import Batches
from tltf.data.columns import Rows
from tltf.data.readahead import read_ahead
from tltf.data.textbatches import TextBatches
from tltf.errors import ArgumentError, DownloadError

WAITING_ROOM = 32
"""Batches that may wait for an earlier one before that is made here."""

Say = Callable[[str], None]


class RemoteBatches:
    """:class:`Batches` whose training batches are made by a ``tf.data`` service.

    Everything else, validation too, is read here. The workers read the same files by the same
    paths.

    Args:
      batches: what is to be read.
      service: ``grpc://host:port`` of the dispatcher.
      say: told which batches were made here because they did not come.
    """

    def __init__(self, batches: Batches, service: str, *, say: Say = logging.info) -> None:
        if not service.startswith("grpc://"):
            raise ArgumentError(
                f"{service!r}, expected grpc://host:port of a tf.data service dispatcher",
                where="--data_service",
            )
        if batches.mix != "none" or isinstance(batches, TextBatches):
            what = "texts" if isinstance(batches, TextBatches) else f"mix={batches.mix!r}"
            raise ArgumentError(
                f"{what}, whose batches are made here",
                where="--data_service",
                next_action="leave one of them out",
            )
        if isinstance(batches.records, Rows):
            raise ArgumentError(
                "an index, whose paths are looked up here",
                where="--data_service",
                next_action="leave one of them out",
            )
        self.batches, self.service, self.say = batches, service, say

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)

    def train_dataset(self, epoch: int, start_step: int = 0, *, epochs: int = 1) -> tf.data.Dataset:
        """As :meth:`Batches.train_dataset`, with the same batches in the same order."""
        local = self.batches.train_dataset(epoch, start_step, epochs=epochs)
        steps = range(start_step, epochs * self.batches.steps_per_epoch)

        def ordered() -> Iterator[Any]:
            yield from _in_order(steps, self._arriving(epoch, epochs, steps), self._made_here, self)

        self._epochs = (epoch, epochs)
        found = tf.data.Dataset.from_generator(ordered, output_signature=local.element_spec)
        return read_ahead(found)

    def _arriving(self, epoch: int, epochs: int, steps: range) -> Iterator[tuple[int, Any]]:
        """(step, batch) as they come, in no order."""
        numbers = tf.data.Dataset.range(steps.start, steps.stop)
        made = numbers.flat_map(self.batches.step_dataset(epoch, epochs))
        spread = made.apply(
            tf.data.experimental.service.distribute(
                processing_mode=tf.data.experimental.service.ShardingPolicy.DYNAMIC,
                service=self.service,
            )
        )
        try:
            for step, batch in spread:
                yield int(step), batch
        except tf.errors.OpError as error:
            raise DownloadError(
                f"the tf.data service failed: {str(error).splitlines()[0]}",
                where=self.service,
                next_action="see its log; without --data_service everything is read here",
            ) from error

    def _made_here(self, step: int) -> Any:
        make = self.batches.step_dataset(*self._epochs)
        [(_, batch)] = make(tf.constant(step, tf.int64))
        return batch


def _in_order(
    steps: range,
    arriving: Iterator[tuple[int, Any]],
    made_here: Callable[[int], Any],
    remote: RemoteBatches,
) -> Iterator[Any]:
    """The batches by step; what is late by ``WAITING_ROOM``, or never comes, is made here."""
    waiting: dict[int, Any] = {}
    done, repeated = set(), []
    for wanted in steps:
        while wanted not in waiting and len(waiting) < WAITING_ROOM:
            step, batch = next(arriving, (None, None))
            if step is None:
                break
            if step not in done:
                waiting[step] = batch
        if wanted in waiting:
            yield waiting.pop(wanted)
        else:
            repeated.append(wanted)
            yield made_here(wanted)
        done.add(wanted)
    if repeated:
        remote.say(f"data service: made here, since they did not come: batches {repeated}")

"""The same training on several devices or processes: which strategy, and its exact steps.

Batch size and learning rate are those of the whole: a batch of 32 on 2 replicas is 16 for each,
and the step is the one that a single device would take. A batch that does not divide, as the
smaller last one of an epoch may be, is computed by every replica in full and counted once. So
losses, weights and metrics are those of a single process, to rounding; with dropout each replica
draws its own masks.

Keras' own ``fit`` fails under ``MultiWorkerMirroredStrategy``; here its compiled loss, metrics and
optimizer are called by our step in ``strategy.run``, which works under every strategy.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tltf import cluster
from tltf.cluster import Cluster
from tltf.errors import ArgumentError, WorkerLostError
from tltf.training import freezing, steps

STRATEGIES = ("none", "mirrored", "multiworker", "tpu")
Logs = dict[str, Any]
LOST = (
    tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
    tf.errors.DeadlineExceededError, tf.errors.InternalError,
)  # fmt: skip


class Distribution:
    """Where a training runs; the one of :func:`distribution`.

    Attributes:
      name: of :data:`STRATEGIES`.
      replicas: in all processes together.
      worker: number of this process.
      workers: processes.
      micro_batch: most examples that go through the network together on each device; 0 for all.
    """

    def __init__(self, name: str = "none", strategy: tf.distribute.Strategy | None = None) -> None:
        self.name, self.strategy = name, strategy
        self.replicas = 1 if strategy is None else strategy.num_replicas_in_sync
        several = name == "multiworker"
        self.cluster = cluster.from_environment() if several else Cluster(("here",), 0)
        self.workers, self.worker = len(self.cluster.workers), self.cluster.index
        self.asked: Callable[[], bool] = lambda: False
        self.micro_batch = 0
        self._agreed = False

    @property
    def chief(self) -> bool:
        """Whether this process writes the artifacts."""
        return self.cluster.chief

    def stopping(self) -> bool:
        """Whether to stop here: as asked, or with several processes as any of them was asked.

        What the processes know of each other is as of the last step, the same for all.
        """
        return self.asked() if self.workers == 1 else self._agreed

    def barrier(self) -> None:
        """Waits until every process is here."""
        if self.workers == 1:
            return

        def count() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.ones(()))

        tf.function(lambda: self.strategy.run(count))()

    @contextlib.contextmanager
    def naming_lost(self) -> Iterator[None]:
        """Around work that several processes do together: a lost one is an error with its name.

        Raises:
          WorkerLostError: another process ended or cannot be reached.
        """
        try:
            yield
        except LOST as error:
            if self.workers == 1:
                raise
            found = re.search(r"/task:(\d+) while calling|remote task[^\n]*task:(\d+)", str(error))
            number = next((int(g) for g in found.groups() if g), None) if found else None
            if number is None and self.workers == 2:
                number = 1 - self.worker
            who = "another worker" if number is None else f"worker {number}"
            where = "" if number is None else self.cluster.workers[number]
            raise WorkerLostError(
                f"{who} ended or cannot be reached",
                where=where or "cluster",
                next_action="see what it said; start the same command on all workers again",
            ) from error

    @property
    def local(self) -> range:
        """Which of the replicas are in this process."""
        each = self.replicas // self.workers
        return range(self.worker * each, (self.worker + 1) * each)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Variables that are made inside live on every replica."""
        if self.strategy is None:
            yield
            return
        with self.strategy.scope():
            yield

    def check_batch(self, size: int) -> None:
        """Raises ArgumentError unless a batch divides evenly."""
        if size % self.replicas:
            raise ArgumentError(
                f"batch_size={size} on {self.replicas} replicas, expected a multiple of"
                f" {self.replicas}: it is the size of the whole batch",
                where="--batch_size",
                next_action=f"use --batch_size={-(-size // self.replicas) * self.replicas}",
            )

    def prepare(self, model: keras.Model, batch: Any) -> None:
        """Builds what Keras would build in the first step, where variables cannot be made.

        Args:
          model: compiled.
          batch: one batch ``(x, y, sample_weight)`` of the data.
        """
        if self.strategy is None and not self.micro_batch:
            return
        model._symbolic_build(data_batch=batch)  # seam: Model._symbolic_build
        if self.strategy is None:
            return
        for layer in freezing.leaves(model):
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
                layer.synchronized = True
                self._check_parts(layer)

    def _check_parts(self, layer: keras.layers.Layer) -> None:
        if self.micro_batch:
            raise ArgumentError(
                f"micro_batch={self.micro_batch} on {self.replicas} replicas, with {layer.name},"
                " whose statistics are of the whole batch",
                where="--micro_batch",
                next_action="use --batch_norm=frozen, or more replicas",
            )

    def iterator(self, batches: tf.data.Dataset) -> Iterator[Any]:
        """Batches of the whole, as each replica's part of them."""
        if self.strategy is None:
            return iter(batches)
        parts = batches.flat_map(self._parts)
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        parts = parts.with_options(options)
        spread = self.strategy.distribute_datasets_from_function(lambda _: parts)
        return iter(spread)

    def train_function(self, model: keras.Model) -> Callable[[Iterator[Any]], Logs]:
        """One training step from an iterator; Keras' own where there is a single device."""
        at_once = self.micro_batch
        if self.strategy is not None:
            return self._stepper(model, lambda x: steps.train_step(model, x, at_once=at_once))
        if at_once:
            return _in_parts(model, at_once)
        model.make_train_function()
        return model.train_function

    def evaluate(self, model: keras.Model, batches: tf.data.Dataset) -> Logs:
        """Every metric over all batches, each example once."""
        if self.strategy is None:
            results: Logs = model.evaluate(batches, verbose=0, return_dict=True)
            return results
        model.reset_metrics()
        step = self._stepper(model, lambda data: steps.evaluation_step(model, data))
        iterator = self.iterator(batches)
        with contextlib.suppress(StopIteration, tf.errors.OutOfRangeError):
            while True:
                step(iterator)
        results = {key: float(value) for key, value in model.get_metrics_result().items()}
        return results

    def _parts(self, *batch: tf.Tensor) -> tf.data.Dataset:
        """The parts of one batch for the replicas of this process, and whether it is whole."""
        size = tf.shape(tf.nest.flatten(batch)[0])[0]
        whole = size % self.replicas != 0
        part = tf.where(whole, size, size // self.replicas)

        def of(replica: tf.Tensor) -> tuple[Any, tf.Tensor]:
            start = tf.where(whole, 0, tf.cast(replica, tf.int32) * part)
            return tf.nest.map_structure(lambda t: t[start : start + part], batch), whole

        return tf.data.Dataset.range(self.local.start, self.local.stop).map(of)

    def _stepper(
        self, model: keras.Model, step: Callable[[Any], tf.Tensor]
    ) -> Callable[[Iterator[Any]], Logs]:
        strategy = self.strategy

        def replica(data: Any, whole: tf.Tensor, asked: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            context = tf.distribute.get_replica_context()
            counted = [tf.identity(v.value) for v in model.metrics_variables]
            loss = step(data)
            # What every replica computed in full counts once: on the first.
            again = tf.logical_and(whole, context.replica_id_in_sync_group > 0)
            for variable, before in zip(model.metrics_variables, counted, strict=True):
                variable.assign(tf.where(again, before, variable.value))
            return loss, tf.identity(asked)

        @tf.function(reduce_retracing=True)
        def run(iterator: Iterator[Any], asked: tf.Tensor) -> list[tf.Tensor]:
            data, whole = next(iterator)
            found = strategy.run(replica, args=(data, whole, asked))
            return [strategy.reduce(tf.distribute.ReduceOp.SUM, x, axis=None) for x in found]

        def one(iterator: Iterator[Any]) -> Logs:
            loss, asked = run(iterator, tf.constant(float(self.asked())))
            if self.workers > 1:
                self._agreed = float(asked) > 0
            return {"loss": loss}

        return one


def _in_parts(model: keras.Model, at_once: int) -> Callable[[Iterator[Any]], Logs]:
    """A step of a single device that takes a batch in parts; the logs are those of Keras' own."""

    @tf.function(reduce_retracing=True)
    def step(iterator: Iterator[Any]) -> Logs:
        data = keras.utils.unpack_x_y_sample_weight(next(iterator))
        steps.train_step(model, data, at_once=at_once)
        return model.get_metrics_result()

    return step


def distribution(name: str) -> Distribution:
    """The strategy ``name`` on this machine; call it before anything else of TensorFlow runs.

    Raises:
      ArgumentError: an unknown name, no TF_CONFIG for ``multiworker``, no TPU for ``tpu``.
      WorkerLostError: not all workers came within ten minutes.
    """
    if name == "none":
        return Distribution()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return Distribution(name, tf.distribute.MirroredStrategy([d.name for d in devices]))
    if name == "multiworker":
        cluster.gather(cluster.from_environment())
        return Distribution(name, tf.distribute.MultiWorkerMirroredStrategy())
    if name == "tpu":
        return Distribution(name, _tpu())
    raise ArgumentError(f"strategy={name!r}, expected one of {', '.join(STRATEGIES)}",
                        where="--strategy")  # fmt: skip


def _tpu() -> tf.distribute.Strategy:
    """The TPU of this host or of ``$TPU_NAME``. Written to the documentation, never run by us."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(os.environ.get("TPU_NAME", ""))
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise ArgumentError(
            f"no TPU: {str(error).splitlines()[0]}",
            where="--strategy=tpu",
            next_action="run it on a TPU host, or set TPU_NAME",
        ) from error
    return tf.distribute.TPUStrategy(resolver)

"""Training on what a frozen prefix computed once: extraction, and epochs over stored rows."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tltf import storage
from tltf.data import augmentation, decoding
from tltf.data.batches import Batches
from tltf.policies import Policy
from tltf.training.boundary import Boundary
from tltf.training.featurestore import FeatureStore, Key, prefix_digest

PLAIN = "plain"
EXTRACT_BATCH = 32
# Of a layer's configuration, what does not change what it computes.
# A SavedModel's place and flags are such too; its SHA-256, in its configuration, is not.
_NO_EFFECT = {"name", "trainable", "registered_name", "batch_shape", "seed", "handle", "trains"}


@dataclass(frozen=True, kw_only=True)
class FeatureData:
    """What a cached phase trains on; both speak of crossing tensors instead of images."""

    train: FeatureEpochs
    validation: tf.data.Dataset


class FeatureEpochs:
    """Stored rows as :class:`tltf.training.loop.EpochData`, in the order of ``batches``.

    Epoch e reads view ``e mod views``; order, targets and weights are those of
    :meth:`Batches.train_dataset`, so that a run gives the same with and without a store.

    Args:
      batches: whose examples, order and batch size are taken.
      store: holds the rows of all of them, for every view.
    """

    def __init__(self, batches: Batches, store: FeatureStore) -> None:
        self.batches, self.store = batches, store
        self.batch_size = batches.batch_size
        self.steps_per_epoch = batches.steps_per_epoch
        self._keys = [view_keys(batches, view) for view in range(batches.views or 1)]

    def train_dataset(self, epoch: int, start_step: int = 0, *, epochs: int = 1) -> tf.data.Dataset:
        """As :meth:`Batches.train_dataset`; ``x`` is a tuple of float32 ``[b, *shape]``."""
        order = self.batches.orders(epoch, epochs)
        views = np.array([(epoch + e) % len(self._keys) for e in range(epochs)], np.int64)
        per_epoch, n, size = self.steps_per_epoch, self.batches.n, self.batch_size

        def batch(step: tf.Tensor) -> tuple[Any, tf.Tensor, tf.Tensor]:
            e, k = step // per_epoch, step % per_epoch
            positions = tf.range(k * size, tf.minimum(tf.cast(n, tf.int64), (k + 1) * size))
            chosen = tf.random.experimental.index_shuffle(positions, order[e], n - 1)
            x = self._read(tf.constant(views)[e], chosen)
            y, weight = self.batches.train_targets(chosen)
            return x, y, weight

        steps = tf.data.Dataset.range(start_step, epochs * per_epoch)
        return steps.map(batch, 2, deterministic=True).prefetch(tf.data.AUTOTUNE)

    def _read(self, view: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, ...]:
        def gather(view: np.ndarray, chosen: np.ndarray) -> list[np.ndarray]:
            keys = self._keys[int(view)]
            return [a.astype(np.float32) for a in self.store.gather([keys[i] for i in chosen])]

        found = tf.numpy_function(gather, [view, chosen], [tf.float32] * len(self.store.shapes))
        return tuple(
            tf.ensure_shape(tensor, (None, *shape))
            for tensor, shape in zip(found, self.store.shapes, strict=True)
        )


def eval_features(batches: Batches, store: FeatureStore) -> tf.data.Dataset:
    """Stored rows of unchanged images, as :meth:`Batches.eval_dataset`."""
    arrays = store.gather(_keys(batches, PLAIN))
    targets, weights = batches.targets(), batches.record_weights()
    signature = tuple(tf.TensorSpec((None, *shape), tf.float32) for shape in store.shapes)

    def rows() -> Any:
        for start in range(0, batches.n, batches.batch_size):
            part = slice(start, start + batches.batch_size)
            x = tuple(array[part].astype(np.float32) for array in arrays)
            yield x, targets[part], weights[part]

    spec = (
        signature,
        tf.TensorSpec((None, targets.shape[1]), tf.float32),
        tf.TensorSpec((None,), tf.float32),
    )
    steps = batches.steps_per_epoch
    dataset = tf.data.Dataset.from_generator(rows, output_signature=spec)
    return dataset.apply(tf.data.experimental.assert_cardinality(steps))


def opened_store(folder: Path, boundary: Boundary, *, image_size: int, dtype: str) -> FeatureStore:
    """The store of this prefix below ``folder``, with a readable ``prefix.json``."""
    ingredients = {
        "graph": describe_graph(boundary.prefix),
        "image_size": image_size,
        "decoding": inspect.getsource(decoding),
        "augmentation": inspect.getsource(augmentation),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    arrays = (keras.ops.convert_to_numpy(v.value) for v in boundary.prefix.variables)
    digest = prefix_digest(ingredients, arrays)
    store = FeatureStore(folder, digest, shapes=boundary.shapes, dtype=dtype)
    about = f"{boundary} at {image_size} px"
    storage.write_json(store.folder / "prefix.json", {"digest": digest, "about": about})
    return store


def extract(
    store: FeatureStore,
    compute: Callable[[Any], Sequence[tf.Tensor]],
    batches: Batches,
    *,
    view: int | None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Computes the rows that are missing; returns how many those were.

    Args:
      compute: from images to the crossing tensors.
      batches: the examples; their augmentation is that of ``view``, none for None.
      progress: called with the number of rows of each batch done.
    """
    keys = _keys(batches, PLAIN) if view is None else view_keys(batches, view)
    wanted = set(store.missing(keys))
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    chosen = sorted(first[key] for key in wanted)
    if not chosen:
        return 0
    some = batches.with_records([batches.records[i] for i in chosen])
    dataset = some.eval_dataset() if view is None else some.view_dataset(view)
    done = 0
    with store.writer() as writer, some.naming_unreadable():
        for x, _, _ in dataset:
            rows = [np.asarray(t) for t in compute(x)]
            n = len(rows[0])
            writer.append([keys[i] for i in chosen[done : done + n]], rows)
            done += n
            if progress:
                progress(n)
    return done


def extract_from(
    lower: FeatureStore,
    store: FeatureStore,
    compute: Callable[[Any], Sequence[tf.Tensor]],
    *,
    keys: Sequence[Key],
) -> int:
    """As :func:`extract`, from rows that another store has of the same keys."""
    wanted = store.missing(keys)
    with store.writer() as writer:
        for start in range(0, len(wanted), EXTRACT_BATCH):
            part = wanted[start : start + EXTRACT_BATCH]
            maps = [tf.constant(a.astype(np.float32)) for a in lower.gather(part)]
            writer.append(part, [np.asarray(t) for t in compute(maps)])
    return len(wanted)


def run_keys(train: Batches, validation: Batches) -> list[Key]:
    """Every key that a run reads: all views of the training split, validation as it is."""
    views = range(max(1, train.views))
    found = [key for view in views for key in view_keys(train, view)]
    return list(dict.fromkeys([*found, *_keys(validation, PLAIN)]))


def compiled(model: keras.Model) -> Callable[[Any], Sequence[tf.Tensor]]:
    """The model as one traced function with a list of float32 outputs."""

    @tf.function(reduce_retracing=True)
    def compute(x: Any) -> list[tf.Tensor]:
        found = model(x, training=False)
        found = found if isinstance(found, list | tuple) else [found]
        return [tf.cast(tensor, tf.float32) for tensor in found]

    return compute


def view_keys(batches: Batches, view: int) -> list[Key]:
    """The keys of one augmented view; without augmentation every view is the plain one."""
    if not is_augmented(batches):
        return _keys(batches, PLAIN)
    policy = dataclasses.astuple(batches.policy)
    return _keys(batches, f"{policy}-{batches.seed}-{view}")


def is_augmented(batches: Batches) -> bool:
    """Whether the policy changes anything."""
    return dataclasses.replace(batches.policy, fill="reflect") != Policy()


def _keys(batches: Batches, view: str) -> list[Key]:
    return [f"{record.sha256}/{view}" for record in batches.records]


def describe_graph(model: Any) -> list[Any]:
    """What a functional model computes, without the names that differ from build to build.

    One entry per node, bottom to top: the layer's class, its configuration, and which
    earlier tensors it reads.
    """
    # seam: Function._nodes_by_depth
    number: dict[int, int] = {id(t): i for i, t in enumerate(model.inputs)}
    entries: list[Any] = [[list(t.shape[1:]) for t in model.inputs]]
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.operation is None or node.is_input:
                continue
            reads = [number[id(t)] for t in node.input_tensors]
            entries.append([_describe(node.operation), reads, _literals(node)])
            for tensor in node.outputs:
                number[id(tensor)] = len(number)
    return entries


def _describe(operation: Any) -> Any:
    if hasattr(operation, "_nodes_by_depth"):
        return describe_graph(operation)
    if isinstance(operation, keras.Sequential):
        return [_describe(layer) for layer in operation.layers]
    config = _without_names(operation.get_config())
    return [type(operation).__name__, repr(config)]


def _without_names(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in _NO_EFFECT and "initializer" not in k}
        # A policy's name is what it computes in, not what it is called.
        return {k: v if k == "dtype" else _without_names(v) for k, v in sorted(kept.items())}
    if isinstance(value, list | tuple):
        return [_without_names(item) for item in value]
    return value


def _literals(node: Any) -> str:
    """Constants among a node's arguments, for example the factor of a multiplication."""
    kinds = int | float | str | bool
    flat = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    return repr([item for item in flat if isinstance(item, kinds)])


def rows_bytes(boundary: Boundary, *, n: int, dtype: str) -> int:
    """Bytes that ``n`` rows of this boundary take on disk."""
    return boundary.values * np.dtype(dtype).itemsize * n


def megabytes(count: float) -> str:
    """``21 MB`` for people."""
    return f"{math.ceil(count / 1e6)} MB"

"""Training on what a frozen prefix computed once: extraction, and epochs over stored rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tltf import storage
from tltf.data.batches import Batches
from tltf.data.readahead import read_ahead
from tltf.policies import Policy
from tltf.training.boundary import Boundary
from tltf.training.featurestore import FeatureStore, prefix_digest
from tltf.training.freezing import leaves
from tltf.training.shards import Key
from tltf.training.stored import PREFIX

PLAIN = "plain"
Shapes = Sequence[Sequence[int | None]]
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
      shapes: of the crossing tensors, where None is the axis of tokens: stored rows are padded
        to one length and cut to the longest text of the batch.
    """

    def __init__(
        self, batches: Batches, store: FeatureStore, *, shapes: Shapes | None = None
    ) -> None:
        self.batches, self.store = batches, store
        self.shapes = shapes or store.shapes
        self.batch_size = batches.batch_size
        self.steps_per_epoch = batches.steps_per_epoch
        self.views = batches.views or 1
        self._rows = [store.rows(view_keys(batches, v)) for v in range(self.views)]

    def train_dataset(self, epoch: int, start_step: int = 0, *, epochs: int = 1) -> tf.data.Dataset:
        """As :meth:`Batches.train_dataset`; ``x`` is a tuple of float32 ``[b, *shape]``."""
        choose = self.batches.chooser(epoch, epochs)
        views = np.array([(epoch + e) % len(self._rows) for e in range(epochs)], np.int64)
        per_epoch = self.steps_per_epoch

        def batch(step: tf.Tensor) -> tuple[Any, tf.Tensor, tf.Tensor]:
            e = step // per_epoch
            chosen = choose(e, step % per_epoch)
            x = self._read(tf.constant(views)[e], chosen)
            y, weight = self.batches.train_targets(chosen)
            return x, y, weight

        steps = tf.data.Dataset.range(start_step, epochs * per_epoch)
        return read_ahead(steps.map(batch, 2, deterministic=True))

    def _read(self, view: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, ...]:
        def gather(view: np.ndarray, chosen: np.ndarray) -> list[np.ndarray]:
            found = self.store.read(self._rows[int(view)][chosen])
            return _cut(found, self.shapes, self.batches, chosen)

        kinds = [layout.output for layout in self.store.layouts]
        found = tf.numpy_function(gather, [view, chosen], kinds)
        return tuple(
            tf.ensure_shape(tensor, (None, *shape))
            for tensor, shape in zip(found, self.shapes, strict=True)
        )


def eval_features(
    batches: Batches,
    store: FeatureStore,
    *,
    shapes: Shapes | None = None,
    view: int | None = None,
) -> tf.data.Dataset:
    """Stored rows in the order of the records, as :meth:`Batches.eval_dataset`.

    Args:
      view: of an augmented view instead of the unchanged examples.
    """
    stored = store.rows(job_keys(batches, view))
    targets, weights = batches.targets(), batches.record_weights()
    shapes = shapes or store.shapes

    def rows() -> Iterator[Any]:
        for start in range(0, batches.n, batches.batch_size):
            part = slice(start, start + batches.batch_size)
            chosen = np.arange(batches.n)[part]
            x = _cut(store.read(stored[part]), shapes, batches, chosen)
            yield tuple(x), targets[part], weights[part]

    spec = (
        tuple(
            tf.TensorSpec((None, *shape), layout.output)
            for shape, layout in zip(shapes, store.layouts, strict=True)
        ),
        tf.TensorSpec((None, targets.shape[1]), tf.float32),
        tf.TensorSpec((None,), tf.float32),
    )
    steps = batches.steps_per_epoch
    dataset = tf.data.Dataset.from_generator(rows, output_signature=spec)
    return read_ahead(dataset.apply(tf.data.experimental.assert_cardinality(steps)))


def opened_store(
    folder: Path,
    boundary: Boundary,
    *,
    reading: Mapping[str, Any],
    dtype: str,
    shapes: Sequence[Sequence[int]] | None = None,
) -> FeatureStore:
    """As :func:`opened_stores`, the one of a single dtype."""
    return opened_stores(folder, boundary, reading=reading, dtypes=(dtype,), shapes=shapes)[dtype]


def opened_stores(
    folder: Path,
    boundary: Boundary,
    *,
    reading: Mapping[str, Any],
    dtypes: Sequence[str],
    shapes: Sequence[Sequence[int]] | None = None,
) -> dict[str, FeatureStore]:
    """The stores of this prefix below ``folder``, each with a readable ``prefix.json``.

    Args:
      reading: how an example becomes the prefix' input, :func:`tltf.data.reading.reading`.
      dtypes: of stored floats.
      shapes: those of the boundary with numbers for the axis of tokens, where there is one.
    """
    ingredients = {
        "graph": describe_graph(boundary.prefix),
        "precision": sorted({layer.compute_dtype for layer in leaves(boundary.prefix)}),
        "reading": dict(reading),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    arrays = (keras.ops.convert_to_numpy(v.value) for v in boundary.prefix.variables)
    digest = prefix_digest(ingredients, arrays)
    stored = shapes or [[side or 0 for side in shape] for shape in boundary.shapes]
    kinds = boundary.kinds or None
    stores = {}
    for dtype in dict.fromkeys(dtypes):
        store = FeatureStore(folder, digest, shapes=stored, dtype=dtype, kinds=kinds)
        about = {"digest": digest, "about": str(boundary), "dtype": dtype, "reading": dict(reading)}
        if not (store.folder / PREFIX).exists():
            storage.write_json(store.folder / PREFIX, about)
        stores[dtype] = store
    return stores


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
    keys = job_keys(batches, view)
    wanted = set(store.missing(keys))
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    chosen = sorted(first[key] for key in wanted)
    if not chosen:
        return 0
    order = batches.for_extraction([batches.records[i] for i in chosen])
    chosen = [chosen[i] for i in order]
    some = batches.with_records([batches.records[i] for i in chosen])
    dataset = some.eval_dataset() if view is None else some.view_dataset(view)
    done = 0
    # Converting, hashing and writing one batch while the next is computed.
    with (
        store.writer() as writer,
        ThreadPoolExecutor(1) as background,
        some.naming_unreadable(),
    ):
        writing: Future[None] | None = None
        for x, _, _ in dataset:
            rows = [
                _filled_up(np.asarray(t), shape)
                for t, shape in zip(compute(x), store.shapes, strict=True)
            ]
            n = len(rows[0])
            if writing is not None:
                writing.result()
            part = [keys[i] for i in chosen[done : done + n]]
            writing = background.submit(writer.append, part, rows)
            done += n
            if progress:
                progress(n)
        if writing is not None:
            writing.result()
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
            maps = [tf.constant(array) for array in lower.gather(part)]
            writer.append(part, [np.asarray(t) for t in compute(maps)])
    return len(wanted)


def _cut(
    arrays: Sequence[np.ndarray], shapes: Shapes, batches: Batches, chosen: np.ndarray
) -> list[np.ndarray]:
    """Rows without the padding that none of the examples ``chosen`` needs."""
    if all(None not in shape for shape in shapes):
        return list(arrays)
    length = batches.batch_length(chosen)
    return [a[:, :length] if None in s else a for a, s in zip(arrays, shapes, strict=True)]


def _filled_up(rows: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Rows ``[n, L, ...]`` with zeros behind L, so that they have the stored shape."""
    if rows.shape[1:] == tuple(shape):
        return rows
    return np.pad(rows, [(0, 0), *((0, b - a) for a, b in zip(rows.shape[1:], shape, strict=True))])


def job_keys(batches: Batches, view: int | None) -> list[Key]:
    """The keys of one pass over the examples: of an augmented view, or unchanged for None."""
    return plain_keys(batches) if view is None else view_keys(batches, view)


def compiled(model: keras.Model) -> Callable[[Any], Sequence[tf.Tensor]]:
    """The model as one function, traced once for every batch size.

    Returns:
      From the input, or a list of the inputs, to a list of the outputs in float32 or whole numbers.
    """

    @tf.function(
        input_signature=[[tf.TensorSpec(t.shape, t.dtype) for t in model.inputs]], autograph=False
    )
    def compute(inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        found = model(inputs if len(inputs) > 1 else inputs[0], training=False)
        found = found if isinstance(found, list | tuple) else [found]
        return [tf.cast(t, tf.float32) if t.dtype.is_floating else t for t in found]

    return lambda x: compute(list(x) if isinstance(x, list | tuple) else [x])


def view_keys(batches: Batches, view: int) -> list[Key]:
    """The keys of one augmented view; without augmentation every view is the plain one."""
    if not is_augmented(batches):
        return plain_keys(batches)
    policy = dataclasses.astuple(batches.policy)
    return _keys(batches, f"{policy}-{batches.seed}-{view}")


def is_augmented(batches: Batches) -> bool:
    """Whether the policy changes anything."""
    return dataclasses.replace(batches.policy, fill="reflect") != Policy()


def plain_keys(batches: Batches) -> list[Key]:
    """The keys of the unchanged examples."""
    return _keys(batches, PLAIN)


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


def megabytes(count: float) -> str:
    """``21 MB`` for people."""
    return f"{math.ceil(count / 1e6)} MB"

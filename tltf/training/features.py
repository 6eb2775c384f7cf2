"""What a frozen prefix computes once: the keys of its rows, and their extraction into a store."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tltf import storage
from tltf.data.batches import Batches
from tltf.data.contents import check_contents
from tltf.errors import DataError, named_list
from tltf.policies import Policy
from tltf.training.boundary import Boundary
from tltf.training.description import describe_graph as describe_graph
from tltf.training.description import own_sources
from tltf.training.featurestore import FeatureStore, prefix_digest
from tltf.training.freezing import leaves
from tltf.training.shards import Key, Writer
from tltf.training.stored import PREFIX

Shapes = Sequence[Sequence[int | None]]
Compute = Callable[[Any], Sequence[tf.Tensor]]
"""From a batch, or the tensors that cross, to tensors; see :func:`compiled`."""

PLAIN = "plain"


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

    Raises:
      UndescribableError: the prefix holds something that its key would have to leave out.
    """
    ingredients = {
        "graph": describe_graph(boundary.prefix),
        "precision": sorted({layer.compute_dtype for layer in leaves(boundary.prefix)}),
        "reading": dict(reading),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "tltf": own_sources(),
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
    compute: Compute,
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

    Raises:
      BadInputsError: a file is not what was scanned, so that its row would be another one's.
    """
    return extract_through([(store, compute)], batches, view=view, progress=progress)


def extract_through(
    steps: Sequence[tuple[FeatureStore, Compute]],
    batches: Batches,
    *,
    view: int | None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """As :func:`extract` of the last store, keeping what is computed on the way there.

    Each step goes on with what the one before has computed, not with what was stored of it: rows of
    half precision would give other rows above them than the whole network does.

    Args:
      steps: from the images to rows of the first store, from those to rows of the next.
    """
    keys = job_keys(batches, view)
    chosen = _without_row(steps[-1][0], keys, batches)
    if not chosen:
        return 0
    some = batches.with_records([batches.records[i] for i in chosen])
    done = 0
    # Converting, hashing and writing one batch while the next is computed.
    with (
        ExitStack() as writers,
        ThreadPoolExecutor(1) as background,
        some.naming_unreadable(),
    ):
        open_ones = [writers.enter_context(store.writer()) for store, _ in steps]
        writing: Future[None] | None = None
        for x, sha256 in some.hashed_dataset(view):
            n = len(sha256)
            check_contents(some.records[done : done + n], sha256, among=some.records)
            part = [keys[i] for i in chosen[done : done + n]]
            found = _computed([compute for _, compute in steps], x, n)
            if writing is not None:
                writing.result()
            writing = background.submit(_append, open_ones, [s for s, _ in steps], part, found)
            done += n
            if progress:
                progress(n)
        if writing is not None:
            writing.result()
    return done


def _computed(computes: Sequence[Compute], x: Any, n: int) -> list[list[np.ndarray]]:
    """What each step gives for ``n`` examples; never for one alone, which is summed in another
    order than many are, so that its row would depend on who is beside it."""
    if n == 1:
        x = keras.tree.map_structure(lambda t: tf.concat([t, t], axis=0), x)
    found = []
    for compute in computes:
        x = compute(x)
        found.append([np.asarray(tensor)[:n] for tensor in x])
    return found


def _append(
    writers: Sequence[Writer],
    stores: Sequence[FeatureStore],
    keys: Sequence[Key],
    found: Sequence[Sequence[np.ndarray]],
) -> None:
    """Those rows that a store does not have yet."""
    for writer, store, arrays in zip(writers, stores, found, strict=True):
        new = [i for i, key in enumerate(keys) if key not in store]
        if new:
            rows = [_filled_up(a, s)[new] for a, s in zip(arrays, store.shapes, strict=True)]
            writer.append([keys[i] for i in new], rows)


def unpadded(
    arrays: Sequence[np.ndarray], shapes: Shapes, batches: Batches, chosen: np.ndarray
) -> list[np.ndarray]:
    """Stored rows without the padding that none of the examples needs.

    Args:
      arrays: one ``[n, *shape]`` for each crossing tensor, with an axis of tokens padded to one
        length for all texts.
      shapes: of the crossing tensors, where None is that axis.
      batches, chosen: the examples: those of ``batches`` at the positions ``chosen``, int ``[n]``.
    """
    if all(None not in shape for shape in shapes):
        return list(arrays)
    length = batches.batch_length(chosen)
    return [a[:, :length] if None in s else a for a, s in zip(arrays, shapes, strict=True)]


def _without_row(store: FeatureStore, keys: Sequence[Key], batches: Batches) -> list[int]:
    """Positions of the examples that have no row yet, each content once, in the order that is
    cheapest to compute."""
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    chosen = sorted(first[key] for key in set(store.missing(keys)))
    if not chosen:
        return []
    order = batches.for_extraction([batches.records[i] for i in chosen])
    return [chosen[i] for i in order]


def _filled_up(rows: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Rows ``[n, L, ...]`` with zeros behind L, so that they have the stored shape; the inverse of
    :func:`unpadded`."""
    if rows.shape[1:] == tuple(shape):
        return rows
    return np.pad(rows, [(0, 0), *((0, b - a) for a, b in zip(rows.shape[1:], shape, strict=True))])


def job_keys(batches: Batches, view: int | None) -> list[Key]:
    """The keys of one pass over the examples: of an augmented view, or unchanged for None."""
    return plain_keys(batches) if view is None else view_keys(batches, view)


def compiled(model: keras.Model) -> Compute:
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

    def cast(x: Any) -> Sequence[tf.Tensor]:
        given = list(x) if isinstance(x, list | tuple) else [x]
        # what crosses in half precision comes back in single
        return compute([tf.cast(t, i.dtype) for t, i in zip(given, model.inputs, strict=True)])

    return cast


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
    if not batches.hashed:
        without = [record.id for record in batches.records if not record.sha256]
        raise DataError(
            f"records whose content was not hashed, so that their features have no key:"
            f" {named_list(without)}",
            where="data",
            next_action="scan them, or keep no features of them",
        )
    return [f"{record.sha256}/{view}" for record in batches.records]


def megabytes(count: float) -> str:
    """``21 MB`` for people."""
    return f"{math.ceil(count / 1e6)} MB"

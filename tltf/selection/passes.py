"""One pass of the data through a backbone: pooled features at the output of every block."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tltf.backbones.network import Backbone
from tltf.data.batches import Batches
from tltf.models.heads import Pool
from tltf.training import features

LATENCY_CALLS = 10


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What one pass gave.

    Args:
      features: block name -> float32 ``[n, D]``, bottom to top; the last block's are those of
        the whole backbone.
      seconds: wall time of the pass, tracing included.
      probabilities: of the source classifier ``[n, Z]``, if one was given.
    """

    features: dict[str, NDArray[np.float32]]
    seconds: float
    probabilities: NDArray[np.float32] | None = None


def run_pass(
    backbone: Backbone,
    data: Batches,
    *,
    classifier: keras.Model | None = None,
    progress: Callable[[int], None] | None = None,
) -> Pass:
    """Every block's output for every record, averaged over positions, from one pass.

    Args:
      backbone: any Backbone; it runs in inference mode.
      data: the records in the order of the rows.
      classifier: from the backbone's output to probabilities of its source classes.
      progress: called with the number of records of each batch.
    """
    started = time.monotonic()
    names, model = _block_model(backbone)
    if classifier is not None:
        outputs = [*model.outputs, classifier(backbone.output)]
        model = keras.Model(backbone.inputs, outputs, name="blocks_and_classes")
    step = features.compiled(model)
    rows: list[list[NDArray[np.float32]]] = [[] for _ in model.outputs]
    with data.naming_unreadable():
        for x, _, weight in data.eval_dataset():
            for column, values in zip(rows, step(x), strict=True):
                column.append(values.numpy())
            if progress is not None:
                progress(len(weight))
    columns = [np.concatenate(column) for column in rows]
    return Pass(
        features=dict(zip(names, columns, strict=False)),
        probabilities=columns[-1] if classifier is not None else None,
        seconds=time.monotonic() - started,
    )


def single(backbone: Backbone) -> Any:
    """The backbone on one example, traced once for its latency and its operations."""
    step = tf.function(lambda x: backbone(x, training=False))
    return step.get_concrete_function(tf.TensorSpec((1, *backbone.input_shape[1:]), tf.float32))


def latency_milliseconds(step: Any) -> float:
    """Median time of one image on this machine, after a warm-up call; ``step`` of :func:`single`"""
    [image] = [tf.zeros(spec.shape) for spec in step.structured_input_signature[0]]
    times = []
    for _ in range(LATENCY_CALLS + 1):
        started = time.perf_counter()
        keras.tree.flatten(step(image))[0].numpy()
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times[1:]))


def _block_model(backbone: Backbone) -> tuple[list[str], keras.Model]:
    """A model with one pooled output per block that has weights."""
    pool = Pool("avg", dtype="float32")
    names, outputs = [], []
    for name, layers in backbone.blocks.items():
        if any(layer.weights for layer in layers):
            names.append(name)
            outputs.append(pool(layers[-1].output))
    # What the whole backbone gives is what its last block gives.
    outputs[-1] = pool(backbone.output)
    return names, keras.Model(backbone.inputs, outputs, name="blocks")

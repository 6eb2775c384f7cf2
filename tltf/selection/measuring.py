"""What one backbone gives on the examples of a ranking, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tltf.backbones import backbone as build_backbone
from tltf.backbones import catalog
from tltf.backbones.applications import classifier_of
from tltf.data.batches import Batches
from tltf.data.manifest import Record
from tltf.errors import ArgumentError
from tltf.selection.passes import latency_milliseconds, run_pass, single
from tltf.selection.ranking import Measured

BATCH = 32


def measured(
    name: str,
    weights: str,
    *,
    records: Sequence[Record],
    classes: Sequence[str],
    progress: Callable[[int], None] | None = None,
) -> Measured:
    """One pass of ``records`` through the backbone ``name``, with its costs.

    Args:
      name, weights: as :func:`tltf.backbone` takes them.
      records: single-label records.
      classes: names in the order of class indices.
      progress: called with the number of records of each batch.

    Raises:
      As :func:`tltf.backbone`; BadInputsError for a file that became unreadable.
    """
    network = build_backbone(name, weights)
    if network.tokenizer is not None:
        raise ArgumentError(
            f"{name} reads texts, and tltf rank measures backbones of images",
            where="--backbones",
            next_action="train with each backbone of texts, then tltf compare RUN1 RUN2",
        )
    network.trainable = False
    data = Batches(
        records,
        classes=classes,
        task="single_label",
        image_size=network.input_shape[1],
        batch_size=BATCH,
    )
    choice = catalog.lookup(name)
    classifier = classifier_of(network, choice) if weights == "imagenet" else None
    found = run_pass(network, data, classifier=classifier, progress=progress)
    one = single(network)
    return Measured(
        features=found.features,
        probabilities=found.probabilities,
        parameters=int(network.count_params()),
        milliseconds=latency_milliseconds(one),
        pass_seconds=found.seconds,
        gigaflops=gigaflops(one),
    )


def gigaflops(step: Any) -> float:
    """Multiplications and additions of one example in 10^9, counted on TensorFlow's graph of
    :func:`tltf.selection.passes.single`.

    Operations that TensorFlow has no count for (most activations) are left out; convolutions and
    matrix products, nearly all of the work, are in.
    """
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().build()
    level = tf.get_logger().level
    tf.get_logger().setLevel("ERROR")  # the counter calls functions that it deprecates itself
    try:
        return tf.compat.v1.profiler.profile(step.graph, options=options).total_float_ops / 1e9
    finally:
        tf.get_logger().setLevel(level)

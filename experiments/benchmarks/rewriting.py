"""What TensorFlow's graph rewriting costs and gives in the training of a text encoder.

    python -m experiments.benchmarks.rewriting [--backbone=minilm]

Seconds until the first step of a new model is done, and of a later step, with and without it: a
new model each time, interleaved, ``--repeats`` times.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("backbone", "minilm", "A text backbone.")
flags.DEFINE_integer("repeats", 3, "New models of each kind.", lower_bound=1)
flags.DEFINE_integer("steps", 12, "Later steps of each model.", lower_bound=1)

LENGTHS = (16, 24, 32, 40)


def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(0)
    for step in range(FLAGS.steps + 1):
        ids = random.integers(1000, 20000, (32, LENGTHS[step % len(LENGTHS)]))
        yield ids.astype("int32"), np.eye(2, dtype="float32")[random.integers(0, 2, 32)]


def measured(*, off: bool) -> tuple[float, float]:
    """Seconds of the first step of a new model, tracing included, and the median of later ones."""
    import tensorflow as tf

    import tltf
    from tltf.training.rewriting import OFF

    tf.config.optimizer.set_experimental_options({OFF: off})
    model = tltf.classifier(tltf.backbone(FLAGS.backbone), tltf.head(2))
    phase = tltf.Phase("one", 1, 2e-5, unfreeze="all", optimizer="adamw", weight_decay=0.01)
    tltf.enter_phase(model, phase)
    shapes = (tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None, 2), tf.float32))
    data: Any = iter(tf.data.Dataset.from_generator(batches, output_signature=shapes))
    model.make_train_function()
    seconds = []
    for _ in range(FLAGS.steps + 1):
        begun = time.perf_counter()
        model.train_function(data)
        seconds.append(time.perf_counter() - begun)
    return seconds[0], float(np.median(seconds[1:]))


def main(_: Sequence[str]) -> None:
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(FLAGS.repeats):
        for off in found:
            found[off].append(measured(off=off))
    for off, rows in found.items():
        first, later = zip(*rows, strict=True)
        print(f"rewriting {'off' if off else 'on'}: first step {np.median(first):.1f} s"
              f" ({min(first):.1f} to {max(first):.1f}), later {np.median(later):.2f} s"
              f" ({min(later):.2f} to {max(later):.2f})")  # fmt: skip


if __name__ == "__main__":
    sys.exit(app.run(main))

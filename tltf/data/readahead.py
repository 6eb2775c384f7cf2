"""How far pipelines read ahead: fixed numbers, without the thread that would tune them.

tf.data starts a thread for every iterator of a pipeline with something to tune, and deleting the
iterator waits until that thread wakes up: a tenth of a second as a rule, seconds at times. A run
makes dozens of short iterators, one for each pass over a split, so these waits add up to more
than tuning could ever gain. Decoding wants one thread for each core, whatever the data.
"""

from __future__ import annotations

import os

import tensorflow as tf

READERS = max(2, os.cpu_count() or 1)
"""Examples decoded at a time."""
AHEAD = 3
"""Batches that are ready before they are asked for."""


def read_ahead(dataset: tf.data.Dataset, batches: int = AHEAD) -> tf.data.Dataset:
    """The data set, read ahead of whoever iterates over it, and with nothing left to tune.

    Args:
      dataset: of batches; its ``map`` takes :data:`READERS` calls at a time, not ``AUTOTUNE``.
      batches: how many are kept ready, >= 1.

    Example::

      read_ahead(tf.data.Dataset.range(8).map(decode, READERS).batch(4))
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(batches).with_options(options)

"""TensorFlow's rewriting of traced graphs, left out where it only costs time.

Before a graph first runs, a dozen passes look for something to fold, fuse or reorder. In an
encoder of texts they find nothing that makes a step faster, on CPU, and take a third of the time
until the first step is done (``python -m experiments.benchmarks.rewriting``). For images they
stay: a convolution, its BatchNorm and its activation become one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from tltf.models.classifier import backbone_of

OFF = "disable_meta_optimizer"


@contextlib.contextmanager
def rewriting_for(model: keras.Model) -> Iterator[None]:
    """Within it graphs of a model that reads token ids run as they were traced.

    The switch is one of the process and comes back as it was; a graph that is called on both sides
    of the border is prepared twice.
    """
    backbone = backbone_of(model)
    if backbone is None or backbone.tokenizer is None:
        yield
        return
    before = tf.config.optimizer.get_experimental_options().get(OFF, False)
    tf.config.optimizer.set_experimental_options({OFF: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({OFF: before})

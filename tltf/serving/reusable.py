"""``tltf export --reusable``: our backbone as a SavedModel that others can train further.

The published interface of reusable SavedModels: ``variables``, ``trainable_variables``,
``regularization_losses`` and a call that takes ``training``. Images are [0, 1] as TF Hub has
them, and features are pooled to a vector. ``named_variables`` is our addition: Keras' names of
variables are short, and the blocks of a backbone are read from long ones.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tltf import storage
from tltf.backbones.hub.layer import SavedModelLayer, restored_objects
from tltf.backbones.network import Backbone
from tltf.errors import ArgumentError, DataError
from tltf.models import heads
from tltf.rundir import check_writable
from tltf.serving import publish
from tltf.training.freezing import leaves

MAX_DIFFERENCE = 1e-4
ROWS = 4


class Reusable(tf.train.Checkpoint):
    """What is saved; the attributes are the published interface.

    Args:
      backbone: from images ``[B, S, S, 3]`` in [0, 255] to features.
      pooling: as in :func:`tltf.head`.
    """

    def __init__(self, backbone: Backbone, *, pooling: str = "avg") -> None:
        super().__init__()
        pool = heads.Pool(pooling, dtype="float32")
        spec = tf.TensorSpec(backbone.inputs[0].shape, tf.float32, name="inputs")

        def call(inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
            return tf.cast(pool(backbone(inputs * 255.0, training=training)), tf.float32)

        self.__call__ = tf.function(call)
        with _all_trainable(backbone):
            trains = {id(v) for v in backbone.trainable_variables}
            for training in (False, True):
                self.__call__.get_concrete_function(spec, training=training)
        held = backbone.variables
        self.variables = [v.value for v in held]
        self.trainable_variables = [v.value for v in held if id(v) in trains]
        self.named_variables = {f"{i:05d}/{v.path}": v.value for i, v in enumerate(held)}
        self.regularization_losses = [
            _penalty(v) for v in held if id(v) in trains and v.regularizer is not None
        ]
        self.kept = restored_objects(backbone)


def export_reusable(backbone: Backbone, *, to: str | Path, pooling: str = "avg") -> Path:
    """Publishes a backbone as the next version below ``to``, after it was loaded again.

    Args:
      backbone: whose input is one batch of images.
      to: the folder of versions, created if its parent exists.
      pooling: ``avg`` or ``max``.

    Returns:
      The published folder, for ``hub:`` and :class:`tltf.SavedModelLayer`.

    Raises:
      ArgumentError: not an image backbone.
      DataError: the reloaded module answers differently; nothing is published.
      OutputError: ``to`` cannot be written.
    """
    if len(backbone.inputs) != 1 or len(backbone.inputs[0].shape) != 4:
        raise ArgumentError(
            "only backbones of images can be exported as reusable modules",
            where="--reusable",
            next_action="export a servable instead, without --reusable",
        )
    folder = Path(to)
    check_writable(folder, flag="to")
    temporary = storage.sibling(folder / "version")
    try:
        tf.saved_model.save(Reusable(backbone, pooling=pooling), str(temporary))
        _check(temporary, backbone, pooling)
        return publish.commit(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check(folder: Path, backbone: Backbone, pooling: str) -> None:
    """The module, loaded again, must give the same features and have the same variables."""
    shape = backbone.inputs[0].shape[1:]
    images = np.random.default_rng(0).random((ROWS, *shape), dtype=np.float32)
    expected = heads.Pool(pooling)(backbone(images * 255.0, training=False))
    layer = SavedModelLayer(folder, trainable=True)
    found = layer(images, training=False)
    worst = float(keras.ops.max(keras.ops.abs(keras.ops.cast(expected, "float32") - found)))
    if not worst <= MAX_DIFFERENCE or len(layer.names) != len(backbone.variables):
        raise DataError(
            f"the reusable module answers differently by {worst:.2g},"
            f" expected at most {MAX_DIFFERENCE:g}",
            where=folder,
            kept="nothing was published",
            next_action="report this model to tltf",
        )


def _penalty(variable: keras.Variable) -> Any:
    """The variable's regularisation loss, as a function without arguments."""

    @tf.function(input_signature=[])
    def loss() -> tf.Tensor:
        return tf.cast(variable.regularizer(variable.value), tf.float32)

    return loss


@contextlib.contextmanager
def _all_trainable(backbone: Backbone) -> Iterator[None]:
    """While it is open, nothing of the backbone is frozen; flags are put back at the end."""
    containers = [backbone, *(x for x in backbone.layers if leaves(x) != [x])]
    flags = [(layer, layer.trainable) for layer in [*containers, *leaves(backbone)]]
    quiet = backbone.inference_mode
    try:
        backbone.trainable = False
        backbone.trainable, backbone.inference_mode = True, False
        yield
    finally:
        backbone.inference_mode = quiet
        for layer, flag in flags:
            layer.trainable = flag

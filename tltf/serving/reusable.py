"""``tltf export --reusable``: our backbone as a SavedModel that others can train further.

The published interface of reusable SavedModels: ``variables``, ``trainable_variables``,
``regularization_losses`` and a call that takes ``training``. Images are [0, 1] as TF Hub has
them, and features are pooled to a vector; encoders of texts take and give what TF Hub's BERT
does, with their vocabulary beside. ``named_variables`` is our addition: Keras' names of
variables are short, and the blocks of a backbone are read from long ones.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tltf import storage
from tltf.backbones.hub import texts
from tltf.backbones.hub.layer import SavedModelLayer, restored_objects
from tltf.backbones.network import Backbone
from tltf.backbones.tokens import PoolTokens
from tltf.errors import ArgumentError, DataError
from tltf.models import heads
from tltf.rundir import check_writable
from tltf.serving import publish
from tltf.training.freezing import leaves

MAX_DIFFERENCE = 1e-4
ROWS, TOKENS = 4, 16


class Reusable(tf.train.Checkpoint):
    """What is saved; the attributes are the published interface.

    Args:
      backbone: from images ``[B, S, S, 3]`` in [0, 255], or from token ids, to features.
      pooling: of images, as in :func:`tltf.head`.
    """

    def __init__(self, backbone: Backbone, *, pooling: str = "avg") -> None:
        super().__init__()
        if backbone.tokenizer is None:
            call, spec = _of_images(backbone, pooling)
        else:
            call, spec = _of_texts(backbone)
            self.vocab_file = _vocabulary_asset(backbone.tokenizer.vocabulary)
            self.do_lower_case = tf.Variable(backbone.tokenizer.lowercase, trainable=False)
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


def _of_images(backbone: Backbone, pooling: str) -> tuple[Callable[..., Any], Any]:
    """[0, 1] images to a pooled feature vector."""
    pool = heads.Pool(pooling, dtype="float32")

    def call(inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.cast(pool(backbone(inputs * 255.0, training=training)), tf.float32)

    return call, tf.TensorSpec(backbone.inputs[0].shape, tf.float32, name="inputs")


def _of_texts(backbone: Backbone) -> tuple[Callable[..., Any], Any]:
    """TF Hub's dictionary of ids to ``pooled_output``, and ``sequence_output`` if there is one.

    Which text of a pair a token belongs to follows from [SEP], so ``input_type_ids`` are taken
    and not looked at.
    """
    outputs = {texts.POOLED: backbone.output}
    pool = next((x for x in backbone.layers if isinstance(x, PoolTokens)), None)
    if pool is not None:
        outputs[texts.SEQUENCE] = pool.input[0]
    model = keras.Model(backbone.input, outputs)
    pad = backbone.tokenizer.pad

    def call(inputs: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        ids = tf.where(inputs[texts.MASK] > 0, inputs[texts.WORDS], pad)
        found = model(ids, training=training)
        return {key: tf.cast(value, tf.float32) for key, value in found.items()}

    keys = (texts.WORDS, texts.MASK, texts.TYPES)
    return call, {key: tf.TensorSpec((None, None), tf.int32, name=key) for key in keys}


def _vocabulary_asset(vocabulary: Sequence[str]) -> tf.saved_model.Asset:
    # kept until the process ends: a SavedModel's assets are copied when it is written
    folder = tempfile.mkdtemp(prefix="tltf-vocabulary-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder, "vocab.txt")
    path.write_text("".join(f"{piece}\n" for piece in vocabulary), "utf-8")
    return tf.saved_model.Asset(str(path))


def export_reusable(backbone: Backbone, *, to: str | Path, pooling: str = "avg") -> Path:
    """Publishes a backbone as the next version below ``to``, after it was loaded again.

    Args:
      backbone: of images, or an encoder of texts with a vocabulary.
      to: the folder of versions, created with its parents.
      pooling: of images: ``avg`` or ``max``.

    Returns:
      The published folder, for ``hub:`` and :class:`tltf.SavedModelLayer`.

    Raises:
      ArgumentError: another kind of backbone.
      DataError: the reloaded module answers differently; nothing is published.
      OutputError: ``to`` cannot be written.
    """
    images = len(backbone.inputs) == 1 and len(backbone.inputs[0].shape) == 4
    encoder = backbone.tokenizer is not None and backbone.tokenizer.vocabulary
    if not (images or encoder):
        raise ArgumentError(
            "only backbones of images and encoders with a vocabulary can be reusable modules",
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
    random = np.random.default_rng(0)
    layer = SavedModelLayer(folder, trainable=True)
    if backbone.tokenizer is None:
        images = random.random((ROWS, *backbone.inputs[0].shape[1:]), dtype=np.float32)
        expected = heads.Pool(pooling)(backbone(images * 255.0, training=False))
        found = layer(images, training=False)
    else:
        ids = random.integers(0, len(backbone.tokenizer.vocabulary), (ROWS, TOKENS), np.int32)
        mask = (ids != backbone.tokenizer.pad).astype(np.int32)
        given = {texts.WORDS: ids, texts.MASK: mask, texts.TYPES: np.zeros_like(ids)}
        expected = backbone(ids, training=False)
        found = layer(given, training=False)[texts.POOLED]
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

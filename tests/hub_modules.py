"""SavedModels in the published formats, small enough to build in a blink."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

SIDE = 8
WIDTH = 6


def keras2(folder: Path) -> Path:
    """Convolutions, BatchNorm, Dropout and L2, saved by Keras 2 in a process of its own."""
    script = Path(__file__).with_name("keras2_module.py")
    subprocess.run(
        [sys.executable, str(script), str(folder)],
        check=True,
        capture_output=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    return folder


class Vision(tf.Module):
    """Two dense layers on [0, 1] pixels, with statistics that move in training mode only."""

    def __init__(self, side: int | None = SIDE, seed: int = 0) -> None:
        super().__init__()
        normal = np.random.default_rng(seed).normal
        with tf.name_scope("vision"), tf.name_scope("stage_1"):
            self.kernel = _variable(normal(0, 0.5, (3, WIDTH)), "kernel")
            self.mean = _variable(np.zeros(WIDTH), "moving_mean", trainable=False)
        with tf.name_scope("vision"), tf.name_scope("stage_2"):
            self.top = _variable(normal(0, 0.5, (WIDTH, WIDTH)), "kernel")
        # properties of tf.Module are not saved; the published interface wants attributes
        self.listed = [self.kernel, self.mean, self.top]
        self.side = side

    @tf.function
    def __call__(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = tf.nn.relu(tf.einsum("bhwc,cd->bhwd", inputs, self.kernel))
        x = tf.reduce_mean(x, axis=(1, 2))
        if training:
            self.mean.assign(0.5 * self.mean + 0.5 * tf.reduce_mean(x, axis=0))
        return tf.matmul(x - self.mean, self.top)


def vision(folder: Path, *, side: int | None = SIDE) -> Path:
    module = Vision(side)
    spec = tf.TensorSpec((None, side, side, 3), tf.float32, name="inputs")
    for training in (False, True):
        module.__call__.get_concrete_function(spec, training=training)
    return save(module, folder)


class Encoder(tf.Module):
    """The signature of TF Hub's BERT encoders, with one layer."""

    def __init__(self, vocabulary: Path | None) -> None:
        super().__init__()
        normal = np.random.default_rng(1).normal
        with tf.name_scope("word_embeddings"):
            self.table = _variable(normal(0, 0.5, (30, WIDTH)), "embeddings")
        with tf.name_scope("type_embeddings"):
            self.types = _variable(normal(0, 0.5, (2, WIDTH)), "embeddings")
        with tf.name_scope("transformer/layer_0"):
            self.kernel = _variable(normal(0, 0.5, (WIDTH, WIDTH)), "kernel")
        with tf.name_scope("pooler_transform"):
            self.pooler = _variable(normal(0, 0.5, (WIDTH, WIDTH)), "kernel")
        if vocabulary is not None:
            self.vocab_file = tf.saved_model.Asset(str(vocabulary))
            self.do_lower_case = tf.Variable(True, trainable=False)

    @tf.function
    def __call__(self, inputs: dict[str, tf.Tensor], training: bool = False) -> Any:
        x = tf.gather(self.table, inputs["input_word_ids"])
        x += tf.gather(self.types, inputs["input_type_ids"])
        x = tf.nn.tanh(tf.einsum("btd,de->bte", x, self.kernel))
        if training:
            x = tf.nn.dropout(x, 0.1)
        mask = tf.cast(inputs["input_mask"], tf.float32)[..., None]
        pooled = tf.tanh(tf.matmul(x[:, 0], self.pooler))
        return {"sequence_output": x * mask, "pooled_output": pooled}


KEYS = ("input_word_ids", "input_mask", "input_type_ids")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a", "the", "##s")


def encoder(folder: Path, *, length: int | None = None, vocabulary: bool = True) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    words = folder.parent / "vocab.txt"
    words.write_text("".join(f"{word}\n" for word in VOCABULARY), "utf-8")
    module = Encoder(words if vocabulary else None)
    specs = {key: tf.TensorSpec((None, length), tf.int32, name=key) for key in KEYS}
    for training in (False, True):
        module.__call__.get_concrete_function(specs, training=training)
    return save(module, folder)


class Sentence(tf.Module):
    """Text to vector, like TF Hub's sentence embeddings: words hashed and averaged."""

    def __init__(self) -> None:
        super().__init__()
        normal = np.random.default_rng(2).normal
        with tf.name_scope("embedding"):
            self.table = _variable(normal(0, 0.5, (50, WIDTH)), "table")

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="sentences")])
    def __call__(self, sentences: tf.Tensor) -> tf.Tensor:
        words = tf.strings.split(tf.strings.lower(sentences))
        buckets = tf.strings.to_hash_bucket_fast(words.to_tensor(""), 50)
        return tf.reduce_mean(tf.gather(self.table, buckets), axis=1)


def sentence(folder: Path) -> Path:
    return save(Sentence(), folder)


class Serving(tf.Module):
    """Signatures only: nothing to call, nothing to train."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = _variable(np.ones((3, 2)), "kernel")

    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, name="x")])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.matmul(x, self.kernel)}


def serving(folder: Path) -> Path:
    module = Serving()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


def tf1(folder: Path) -> Path:
    """What TensorFlow 1 wrote: a graph without objects."""
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 3))
        y = x * v1.get_variable("scale", initializer=2.0, use_resource=True)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(folder), {"x": x}, {"y": y})
    return folder


def save(module: tf.Module, folder: Path) -> Path:
    tf.saved_model.save(module, str(folder))
    return folder


def _variable(value: Any, name: str, *, trainable: bool = True) -> tf.Variable:
    return tf.Variable(np.asarray(value, np.float32), name=name, trainable=trainable)

"""The layers of a text encoder that Keras does not have, in pure Keras operations.

Every one owns its weights directly: it is frozen or trained as a whole, and when frozen its
dropout is silent too (see :class:`tltf.backbones.network.Backbone`).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import keras
from keras import ops

from tltf.data.wordpiece import WordPiece
from tltf.errors import ArgumentError

MASKED = -1e9
POOLINGS = ("mean", "cls", "max")


@keras.saving.register_keras_serializable(package="tltf")
class Tokens(keras.layers.Layer):
    """Token ids to the mask of what is not padding; carries the tokenizer of the network.

    The vocabulary is part of the layer's configuration, so that whatever keeps the
    architecture (a run folder, a ``.keras`` file, a clone) keeps the tokenizer.

    Args:
      vocabulary: word pieces in the order of their ids, joined by line breaks.
      lowercase: whether the tokenizer lowers case and strips accents.
      max_length: the most tokens that the network can read.
      skipped: ids below this are no part of a text's content, 0 for padding only.

    Call args:
      ids: int ``[B, L]``.

    Returns:
      float32 ``[B, L]``, 1 where a token is, 0 where padding is.
    """

    def __init__(
        self, vocabulary: str, lowercase: bool, max_length: int, skipped: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.vocabulary, self.lowercase, self.max_length = vocabulary, lowercase, max_length
        self.skipped = skipped

    @cached_property
    def tokenizer(self) -> WordPiece:
        """From strings to the ids that this network reads."""
        return WordPiece(self.vocabulary.split("\n"), lowercase=self.lowercase)

    def call(self, ids: Any) -> Any:
        """See the class."""
        pad = self.vocabulary.split("\n").index("[PAD]")
        content = ops.logical_and(ops.not_equal(ids, pad), ids >= self.skipped)
        return ops.cast(content, "float32")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "vocabulary": self.vocabulary,
            "lowercase": self.lowercase,
            "max_length": self.max_length,
            "skipped": self.skipped,
        }


@keras.saving.register_keras_serializable(package="tltf")
class TokenEmbedding(keras.layers.Layer):
    """word[id] + position[place] + segment[0 up to the first [SEP], 1 behind it].

    Args:
      words, positions, segments: rows of the three tables; no segments for 0.
      width: columns of each.
      separator: the id of [SEP].

    Call args:
      ids: int ``[B, L]``, L <= positions.

    Returns:
      ``[B, L, width]``.
    """

    def __init__(
        self, words: int, positions: int, segments: int, width: int, separator: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.words, self.positions, self.segments = words, positions, segments
        self.width, self.separator = width, separator

    def build(self, input_shape: Any) -> None:
        """Makes the tables."""
        del input_shape

        def table(name: str, rows: int) -> keras.Variable:
            return self.add_weight(
                name=name, shape=(rows, self.width), initializer=_normal(), autocast=False
            )

        self.word = table("word_embedding", self.words)
        self.position = table("position_embedding", self.positions)
        self.segment = table("segment_embedding", self.segments) if self.segments else None

    def call(self, ids: Any) -> Any:
        """See the class."""
        found = ops.take(self.word, ids, axis=0)
        found = found + self.position[: ops.shape(ids)[1]]
        if self.segment is not None:
            ends = ops.cast(ops.equal(ids, self.separator), "int32")
            behind = ops.cumsum(ends, axis=1) - ends > 0
            # Padding behind the only [SEP] counts as behind it, and is masked anyway.
            found = found + ops.where(behind[..., None], self.segment[-1], self.segment[0])
        return ops.cast(found, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "words": self.words,
            "positions": self.positions,
            "segments": self.segments,
            "width": self.width,
            "separator": self.separator,
        }


@keras.saving.register_keras_serializable(package="tltf")
class SelfAttention(keras.layers.Layer):
    """softmax(Q Kᵀ / sqrt(d) + mask) V, heads side by side, then a projection.

    Query, key and value are one matrix product, which on small batches is a third of the
    overhead of three. Vaswani et al. 2017, equation 1.

    Args:
      heads: the width is a multiple of them.
      dropout: on the attention weights, in [0, 1).
      lora_rank: of a low-rank adapter that it is built with; 0 for none (:meth:`enable_lora`).

    Call args:
      x: ``[B, L, width]``.
      present: float ``[B, L]``, 1 for tokens, 0 for padding.

    Returns:
      ``[B, L, width]``.
    """

    def __init__(
        self, heads: int, dropout: float = 0.0, seed: int = 0, lora_rank: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.heads, self.dropout, self.seed = heads, dropout, seed
        self.lora_rank, self.lora_enabled = lora_rank, False
        self._random = keras.random.SeedGenerator(seed) if dropout else None

    def build(self, x_shape: Any, present_shape: Any) -> None:
        """Makes the two projections."""
        del present_shape
        width = x_shape[-1]
        if width % self.heads:
            raise ArgumentError(f"width {width} is no multiple of {self.heads} heads")
        self.qkv_kernel = self.add_weight(
            name="qkv_kernel", shape=(width, 3 * width), initializer=_normal()
        )
        self.qkv_bias = self.add_weight(name="qkv_bias", shape=(3 * width,), initializer="zeros")
        self.output_kernel = self.add_weight(
            name="output_kernel", shape=(width, width), initializer=_normal()
        )
        self.output_bias = self.add_weight(name="output_bias", shape=(width,), initializer="zeros")
        if self.lora_rank:
            self.enable_lora(self.lora_rank)

    def enable_lora(self, rank: int) -> None:
        """As Keras' method of Dense: query, key, value and output each get factors of their own.

        ``W + A B`` with A random and B zero; both kernels are fixed. Hu et al. 2021, equation 3.

        Args:
          rank: columns of A and rows of B, at least 1.
        """
        width = self.qkv_kernel.shape[0]
        self._tracker.unlock()
        for name, shape, start in (
            ("qkv_a", (width, 3 * rank), "he_uniform"), ("qkv_b", (3, rank, width), "zeros"),
            ("output_a", (width, rank), "he_uniform"), ("output_b", (rank, width), "zeros"),
        ):  # fmt: skip
            variable = self.add_weight(
                name=f"lora_{name}", shape=shape, initializer=start, dtype="float32"
            )
            setattr(self, f"lora_{name}", variable)
        self._tracker.lock()
        self.qkv_kernel.trainable = self.output_kernel.trainable = False
        self.lora_rank, self.lora_enabled = rank, True

    def lora_changes(self) -> dict[str, Any]:
        """What the adapter adds to each kernel, by the kernel's attribute."""
        width = self.lora_output_a.shape[0]
        a = ops.reshape(self.lora_qkv_a, (width, 3, -1))
        qkv = ops.einsum("wkr,kro->wko", a, self.lora_qkv_b)
        return {
            "qkv_kernel": ops.reshape(qkv, (width, 3 * width)),
            "output_kernel": ops.matmul(self.lora_output_a, self.lora_output_b),
        }

    def call(self, x: Any, present: Any, training: bool | None = None) -> Any:
        """See the class."""
        length, width = ops.shape(x)[1], x.shape[-1]
        size = width // self.heads
        qkv_kernel, output_kernel = self._kernels()
        qkv = ops.matmul(x, qkv_kernel) + self.qkv_bias
        qkv = ops.reshape(qkv, (-1, length, 3, self.heads, size))
        query, key, value = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3, axis=0)
        scores = ops.matmul(query * (size**-0.5), ops.transpose(key, (0, 1, 3, 2)))
        hidden = (1.0 - ops.cast(present, "float32")) * MASKED
        scores = ops.cast(scores, "float32") + hidden[:, None, None, :]
        weights = ops.cast(ops.softmax(scores, axis=-1), self.compute_dtype)
        if training and self._random is not None:
            weights = keras.random.dropout(weights, self.dropout, seed=self._random)
        mixed = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        mixed = ops.reshape(mixed, (-1, length, width))
        return ops.matmul(mixed, output_kernel) + self.output_bias

    def _kernels(self) -> tuple[Any, Any]:
        if not self.lora_enabled:
            return self.qkv_kernel, self.output_kernel
        changes = self.lora_changes()
        return (
            self.qkv_kernel + changes["qkv_kernel"],
            self.output_kernel + changes["output_kernel"],
        )

    def compute_output_shape(self, x_shape: Any, present_shape: Any) -> Any:
        """That of ``x``."""
        del present_shape
        return x_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        rank = {"lora_rank": self.lora_rank} if self.lora_enabled else {}
        return {
            **super().get_config(),
            "heads": self.heads,
            "dropout": self.dropout,
            "seed": self.seed,
            **rank,
        }


@keras.saving.register_keras_serializable(package="tltf")
class PoolTokens(keras.layers.Layer):
    """Tokens ``[B, L, D]`` and their mask to one float32 vector ``[B, D]``.

    Args:
      pooling: ``mean`` or ``max`` over the tokens, or ``cls``: the first.
    """

    def __init__(self, pooling: str = "mean", **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32", "autocast": False})
        if pooling not in POOLINGS:
            raise ArgumentError(f"pooling={pooling!r}, expected one of {', '.join(POOLINGS)}")
        self.pooling = pooling

    def call(self, x: Any, present: Any) -> Any:
        """See the class."""
        x = ops.cast(x, "float32")
        if self.pooling == "cls":
            return x[:, 0]
        mask = ops.cast(present, "float32")[..., None]
        if self.pooling == "max":
            return ops.max(x + (1.0 - mask) * MASKED, axis=1)
        return ops.sum(x * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "pooling": self.pooling}


def tokens_layer(model: Any) -> Tokens | None:
    """The layer of a model, or of the Backbone in it, that carries the tokenizer."""
    for layer in model.layers:
        if isinstance(layer, Tokens):
            return layer
        found = tokens_layer(layer) if isinstance(layer, keras.Model) else None
        if found is not None:
            return found
    return None


def _normal() -> keras.initializers.Initializer:
    return keras.initializers.TruncatedNormal(stddev=0.02)

"""Texts as Unicode code points, for modules that take strings and split them themselves.

Everything between a table and a backbone works on int32 rows. A string module reads the same
rows: the text is put together again inside the network, character by character, unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import keras
import tensorflow as tf

from tltf.backbones.tokens import Tokens
from tltf.data.wordpiece import Encoded

PAD = 0
REPLACEMENT = 0xFFFD
MAX_LENGTH = 4096


class CodePoints:
    """Texts to code points, with the interface of :class:`tltf.data.wordpiece.WordPiece`.

    Bytes that are no UTF-8, and NUL, are read as U+FFFD.

    Example::

      CodePoints().encode(["ab"], max_length=8).ids  # [[97, 98]]
    """

    pad = PAD
    vocabulary: tuple[str, ...] = ()

    def encode(
        self, texts: tf.Tensor | Sequence[str], *, pairs: tf.Tensor | None = None, max_length: int
    ) -> Encoded:
        """The first ``max_length`` characters; of a pair, both with a blank between them."""
        texts = tf.convert_to_tensor(texts, tf.string)
        if pairs is not None:
            texts = tf.strings.join([texts, pairs], " ")
        ids = tf.strings.unicode_decode(texts, "UTF-8", replacement_char=REPLACEMENT)
        ids = tf.ragged.map_flat_values(lambda x: tf.where(x == PAD, REPLACEMENT, x), ids)
        return Encoded(ids[:, :max_length], ids.row_lengths() > max_length)

    def padded(self, encoded: Encoded, length: int | None = None) -> tf.Tensor:
        """int32 ``[n, length]``; None for the longest of the batch."""
        shape = None if length is None else [None, length]
        return encoded.ids.to_tensor(PAD, shape=shape)


@keras.saving.register_keras_serializable(package="tltf")
class CodePointTokens(Tokens):
    """As :class:`tltf.backbones.tokens.Tokens`, for code points.

    Args:
      max_length: the most characters of a text.
    """

    def __init__(self, max_length: int = MAX_LENGTH, **kwargs: Any) -> None:
        super().__init__("[PAD]", False, max_length, **kwargs)

    @cached_property
    def tokenizer(self) -> CodePoints:  # type: ignore[override]
        """From strings to code points."""
        return CodePoints()

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = super().get_config()
        return {k: v for k, v in config.items() if k not in ("vocabulary", "lowercase")}


@keras.saving.register_keras_serializable(package="tltf")
class Strings(keras.layers.Layer):
    """Code points int ``[B, L]`` and their mask to strings ``[B]``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.supports_jit = False

    def call(self, ids: Any, present: Any) -> Any:
        """See the class."""
        lengths = tf.reduce_sum(tf.cast(present > 0, tf.int32), axis=1)
        rows = tf.RaggedTensor.from_tensor(tf.cast(ids, tf.int32), lengths=lengths)
        return tf.strings.unicode_encode(rows, "UTF-8")

    def compute_output_spec(self, ids: Any, present: Any) -> Any:
        """Strings, which Keras' tracing has no dtype for."""
        del present
        return keras.KerasTensor(ids.shape[:1], dtype="string")

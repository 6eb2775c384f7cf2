"""Texts in a request: strings, tokenized inside the graph, or token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tltf.data.wordpiece import WordPiece

INVENTED = ("A plain sentence.", "", "Ünïcödé, 中文 and 😀!", "word " * 600, "\xff\xfe bytes")


@dataclass(frozen=True, kw_only=True)
class TextIntake:
    """UTF-8 strings of any length, or token ids ``[B, L]``; see :class:`Intake`.

    Args:
      tokenizer: of the backbone; its vocabulary becomes an asset.
      max_length: tokens of a text; what is longer is cut.
    """

    tokenizer: WordPiece
    max_length: int

    key = "text"

    @property
    def tensors(self) -> tuple[tf.TensorSpec, ...]:
        return (tf.TensorSpec([None, None], tf.int32, name="token_ids"),)

    @property
    def tracked(self) -> Sequence[Any]:
        return (self.tokenizer.table,)

    def read(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """int32 ``[B, L]``, padded to the longest text; every text can be read."""
        encoded = self.tokenizer.encode(rows, max_length=self.max_length)
        return self.tokenizer.padded(encoded), tf.ones([tf.size(rows)], tf.bool)

    def convert(self, *tensors: tf.Tensor) -> tf.Tensor:
        return tensors[0]

    def invented(self, count: int) -> list[bytes]:
        texts = [text.encode("latin-1" if "\xff" in text else "utf-8") for text in INVENTED]
        return [texts[i % len(texts)] for i in range(count)]

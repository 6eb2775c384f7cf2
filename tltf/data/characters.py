"""What BERT does to single characters, as small tables that a graph can gather from.

Lower case, accents, control characters, spaces, and blanks round punctuation and CJK: for each
code point one of five actions. The table is a file of the package, made once from the reference
implementation (``tests/data/make_characters.py``) and frozen: Python's ``unicodedata`` changes
with every Python, and a model must read a text tomorrow as it did today.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import tensorflow as tf

FILE = Path(__file__).with_name("characters.npz")
TOP, PAGE = 0x110000, 128
IDENTITY, REMOVED, SPACE, ISOLATED, REPLACED = range(5)
BLANK = 32


class Characters:
    """The table of one kind of vocabulary, applied to ragged code points.

    Args:
      lowercase: with lower case and accents stripped, as for uncased vocabularies.
    """

    def __init__(self, *, lowercase: bool) -> None:
        name = "uncased" if lowercase else "cased"
        arrays = _arrays()
        self._index = arrays[f"{name}_index"]
        self._pages = arrays[f"{name}_pages"]
        splits = arrays[f"{name}_splits"]
        # One entry more than there are, so that gathering from an empty table is legal.
        self._values = np.append(arrays[f"{name}_values"], BLANK).astype(np.int32)
        self._starts = np.append(splits[:-1], 0).astype(np.int32)
        # How many characters each action makes of one.
        self._lengths = np.concatenate([[1, 0, 1, 3], np.diff(splits)]).astype(np.int32)

    def normalize(self, words: tf.Tensor) -> tf.Tensor:
        """Strings ``[n]`` in UTF-8 to strings ``[n]`` with blanks between what must be split.

        Invalid bytes are read as U+FFFD, which BERT removes.
        """
        points = tf.strings.unicode_decode(words, "UTF-8", errors="replace")
        flat, before = points.flat_values, points.row_splits
        page = tf.gather(self._index, flat // PAGE)
        code = tf.gather_nd(self._pages, tf.stack([page, flat % PAGE], axis=1))
        lengths = tf.gather(self._lengths, code)
        ends = tf.cumsum(lengths)
        source = tf.repeat(tf.range(tf.size(flat)), lengths)
        offset = tf.range(tf.size(source)) - tf.gather(ends - lengths, source)
        made = self._made(tf.gather(flat, source), tf.gather(code, source), offset)
        after = tf.gather(tf.concat([[0], ends], axis=0), before)
        return tf.strings.unicode_encode(tf.RaggedTensor.from_row_splits(made, after), "UTF-8")

    def _made(self, point: tf.Tensor, code: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        """The ``offset``-th character of what ``code`` makes of ``point``."""
        blank = (code == SPACE) | ((code == ISOLATED) & (offset != 1))
        own = tf.where(blank, BLANK, point)
        row = tf.maximum(code - REPLACED, 0)
        place = tf.gather(self._starts, row) + tf.where(code >= REPLACED, offset, 0)
        return tf.where(code >= REPLACED, tf.gather(self._values, place), own)


@cache
def _arrays() -> dict[str, np.ndarray]:
    with np.load(FILE, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}

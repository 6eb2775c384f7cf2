"""``vectors:<file>``: word vectors as a bag of embeddings, the baseline that is often enough.

A text file of GloVe or word2vec: a word and its numbers on each line, after an optional first line
of counts. A text is the mean of its words' vectors; unknown words are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
from keras import layers

from tltf.backbones.network import Backbone, mark
from tltf.backbones.tokens import PoolTokens, Tokens
from tltf.data.wordpiece import SPECIAL
from tltf.errors import ArgumentError, DataError, InputMissingError, named_list

MAX_LENGTH = 512


def load(file: Path, *, weights: str, pooling: str = "mean") -> Backbone:
    """The backbone of a file of word vectors.

    Args:
      file: UTF-8 text.
      weights: ``none`` for fresh vectors; anything else for those of the file.
      pooling: ``mean`` or ``max``.

    Returns:
      int32 word ids ``[B, L]`` to float32 ``[B, D]``, with the one block ``embeddings``.

    Raises:
      InputMissingError: no such file.
      DataError: lines that are no word and numbers, or of another width; they are named.
      ArgumentError: another pooling.
    """
    if pooling not in ("mean", "max"):
        raise ArgumentError(
            f"pooling={pooling!r} with word vectors, which have no first token",
            where="--pooling",
            next_action="use avg or max",
        )
    words, table = read_vectors(file)
    ids = keras.Input((None,), dtype="int32", name="tokens")
    vocabulary = "\n".join((*SPECIAL, *words))
    # Neither padding nor [CLS], [SEP] and unknown words are part of the mean.
    present = Tokens(vocabulary, lowercase(words), MAX_LENGTH, skipped=len(SPECIAL), name="mask")(
        ids
    )
    embedding = layers.Embedding(len(SPECIAL) + len(words), table.shape[1], name="embeddings")
    x = PoolTokens(pooling, name="pool_tokens")(embedding(ids), present)
    model = Backbone(ids, mark(x, family="vectors"), name="vectors")
    if weights != "none":
        zeros = np.zeros((len(SPECIAL), table.shape[1]), np.float32)
        embedding.set_weights([np.concatenate([zeros, table])])
    return model


def read_vectors(file: Path) -> tuple[list[str], np.ndarray]:
    """The words, the first of doubled ones, and their vectors float32 ``[n, D]``."""
    if not file.is_file():
        raise InputMissingError(
            "no such file of word vectors", where=file, next_action="pass vectors:<file>"
        )
    found: dict[str, np.ndarray] = {}
    bad: list[str] = []
    width = 0
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            word, _, rest = line.rstrip().partition(" ")
            if number == 1 and re.fullmatch(r"\d+ \d+", line.strip()):
                continue
            try:
                vector = np.array(rest.split(), np.float32)
            except ValueError:
                vector = np.zeros(0, np.float32)
            width = width or len(vector)
            if not word or not len(vector) or len(vector) != width or not np.isfinite(vector).all():
                bad.append(str(number))
            elif word not in found and word not in SPECIAL:
                found[word] = vector
    if bad or not found:
        raise DataError(
            f"{len(bad)} lines are no word with {width} numbers: {named_list(bad)}",
            where=file,
            next_action="pass a text file of GloVe or word2vec, not a binary one",
        )
    return list(found), np.stack(list(found.values()))


def lowercase(words: list[str]) -> bool:
    """Whether no word has a capital, so that texts are to be read in lower case."""
    return all(word == word.lower() for word in words)

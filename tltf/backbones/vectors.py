"""``vectors:<file>``: word vectors as a bag of embeddings, the baseline that is often enough.

A text file of GloVe or word2vec: a word and its numbers on each line, after an optional first line
of counts. A text is the mean of its words' vectors; unknown words are left out. A file without
capitals is read as uncased: texts in lower case and without accents, and of words that differ by
accents only the one without them, or else the first, has its vector.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tltf.backbones.network import Backbone, mark
from tltf.backbones.tokens import PoolTokens, Tokens
from tltf.data.characters import Characters
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
            if number == 1 and re.fullmatch(r"\d+ \d+", line.strip()):
                continue
            parts = [part for part in line.rstrip().split(" ") if part]
            width = width or len(parts) - 1
            word, *others = parts[: max(0, len(parts) - width)] or [""]
            vector = _numbers(parts[len(parts) - width :])
            if not word or len(vector) != max(1, width) or any(map(_is_number, others)):
                bad.append(str(number))
            elif word not in found and word not in SPECIAL and not others:
                # A word with blanks inside, as GloVe's largest file has some, is none of any text.
                found[word] = vector
    if bad or not found:
        raise DataError(
            f"{len(bad)} lines are no word with {width} numbers: {named_list(bad)}",
            where=file,
            next_action="pass a text file of GloVe or word2vec, not a binary one",
        )
    words = list(found)
    return _unaccented(words) if lowercase(words) else words, np.stack(list(found.values()))


def _numbers(parts: Sequence[str]) -> np.ndarray:
    """float32; empty where one is not a finite number."""
    try:
        vector = np.array(parts, np.float32)
    except ValueError:
        return np.zeros(0, np.float32)
    return vector if np.isfinite(vector).all() else np.zeros(0, np.float32)


def _is_number(part: str) -> bool:
    return len(_numbers([part])) == 1


def _unaccented(words: list[str]) -> list[str]:
    """The words as the uncased tokenizer finds them in a text, where that is free."""
    plain = Characters(lowercase=True).normalize(tf.constant(words)).numpy()
    taken, found = set(words), []
    for word, other in zip(words, (w.decode("utf-8") for w in plain), strict=True):
        free = other not in taken and other and " " not in other and other not in SPECIAL
        found.append(other if free else word)
        taken.add(found[-1])
    return found


def lowercase(words: list[str]) -> bool:
    """Whether no word has a capital, so that texts are to be read in lower case."""
    return all(word == word.lower() for word in words)

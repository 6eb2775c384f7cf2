"""BERT's WordPiece in core TensorFlow ops: the same code in a data set and inside a servable.

Three things make it fast. A batch is cut at blanks first, and everything after that is done once
for each different word. Most words are in the vocabulary as they are, which one look-up tells.
The rest is matched greedily with one look-up per possible length, and only up to the length of
the longest word piece.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tensorflow as tf

from tltf.data.characters import Characters
from tltf.errors import DataError, InputMissingError, named_list

CLS, SEP, PAD, UNKNOWN = "[CLS]", "[SEP]", "[PAD]", "[UNK]"
SPECIAL = (PAD, UNKNOWN, CLS, SEP)
CONTINUED = "##"
MAX_WORD = 100
PAIR_WORDS = 64


@dataclass(frozen=True)
class Encoded:
    """Token ids of some texts.

    Args:
      ids: ragged int32 ``[n, (tokens)]``, with [CLS] and [SEP].
      truncated: bool ``[n]``, whether something was cut off.
    """

    ids: tf.RaggedTensor
    truncated: tf.Tensor


class WordPiece:
    """Texts to token ids, equal to the reference tokenizer's (``tokenizers``).

    [CLS], [SEP] and the like in a text are ordinary characters here: what people write does not
    become structure. Bytes that are no UTF-8 are read as U+FFFD, which BERT leaves out.

    Args:
      vocabulary: word pieces in the order of their ids, with [PAD], [UNK], [CLS] and [SEP].
      lowercase: with lower case and accents stripped, as for uncased vocabularies.

    Raises:
      DataError: a special token is missing, a piece is there twice or is not one line.

    Example::

      tokens = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##real"])
      tokens.encode(["Unreal"], max_length=8).ids  # [[2, 4, 5, 3]]
    """

    def __init__(self, vocabulary: Sequence[str], *, lowercase: bool = True) -> None:
        self.vocabulary = tuple(vocabulary)
        self.lowercase = lowercase
        ids = {piece: i for i, piece in enumerate(self.vocabulary)}
        _check(self.vocabulary, ids)
        self.pad, self.unknown, self.cls, self.sep = (ids[piece] for piece in SPECIAL)
        pieces = [piece for piece in self.vocabulary if piece not in SPECIAL]
        self._longest = max((len(p.removeprefix(CONTINUED)) for p in pieces), default=1)
        self._longest = min(self._longest, MAX_WORD)
        self._characters = Characters(lowercase=lowercase)

    def __len__(self) -> int:
        return len(self.vocabulary)

    @cached_property
    def table(self) -> tf.lookup.StaticHashTable:
        """Piece -> id; its file travels as an asset of every SavedModel that uses it."""
        self._folder = tempfile.TemporaryDirectory(prefix="tltf-vocabulary-")
        path = Path(self._folder.name, "vocab.txt")
        path.write_text("".join(f"{piece}\n" for piece in self.vocabulary), "utf-8")
        initializer = tf.lookup.TextFileInitializer(
            str(path),
            key_dtype=tf.string,
            key_index=tf.lookup.TextFileIndex.WHOLE_LINE,
            value_dtype=tf.int64,
            value_index=tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        with tf.init_scope():
            return tf.lookup.StaticHashTable(initializer, default_value=-1)

    def encode(
        self, texts: tf.Tensor | Sequence[str], *, pairs: tf.Tensor | None = None, max_length: int
    ) -> Encoded:
        """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP], of at most ``max_length`` tokens.

        Args:
          texts: strings ``[n]``, UTF-8.
          pairs: second texts ``[n]``; of a pair the longer one is cut first.
          max_length: with the special tokens, >= 3 (4 for pairs).
        """
        # Which of two texts is longer is to be known beyond the cut.
        most = max_length if pairs is None else PAIR_WORDS * max_length
        first = self.pieces(tf.convert_to_tensor(texts, tf.string), most=most)
        if pairs is None:
            kept = first[:, : max_length - 2]
            truncated = first.row_lengths() > max_length - 2
            return Encoded(self._joined(self.cls, kept, self.sep), truncated)
        second = self.pieces(tf.convert_to_tensor(pairs, tf.string), most=most)
        a, b = _longest_first(first.row_lengths(), second.row_lengths(), max_length - 3)
        truncated = first.row_lengths() + second.row_lengths() > max_length - 3
        kept = tf.concat([_head(first, a), self._column(self.sep, a), _head(second, b)], axis=1)
        return Encoded(self._joined(self.cls, kept, self.sep), truncated)

    def padded(self, encoded: Encoded, length: int | None = None) -> tf.Tensor:
        """int32 ``[n, length]``; None for the longest of the batch."""
        shape = None if length is None else [None, length]
        return encoded.ids.to_tensor(self.pad, shape=shape)

    def pieces(self, texts: tf.Tensor, *, most: int) -> tf.RaggedTensor:
        """int32 ``[n, (tokens)]`` without special tokens.

        Args:
          texts: strings ``[n]``.
          most: words after the first ``most`` are left out (punctuation counts as words), which
            bounds the time that a long text takes.
        """
        # \v and \f are control characters to BERT, which it removes, and blanks to the split.
        text = tf.strings.regex_replace(texts, r"[\v\f]", "")
        blanks = tf.strings.split(text)
        blanks = blanks[:, : 8 * most + 64]
        different, index = tf.unique(blanks.flat_values)
        words = tf.strings.split(self._characters.normalize(different))
        index, splits = _limited(words.row_lengths(), index, blanks.row_splits, most)
        different, place = tf.unique(words.flat_values)
        pieces = tf.gather(self._matched(different), place)
        of_blank = tf.RaggedTensor.from_row_splits(
            pieces.flat_values, tf.gather(pieces.row_splits, words.row_splits)
        )
        of_text = tf.gather(of_blank, index)
        return tf.RaggedTensor.from_row_splits(
            of_text.flat_values, tf.gather(of_text.row_splits, splits)
        )

    def _matched(self, words: tf.Tensor) -> tf.RaggedTensor:
        """int32 ``[n, (pieces)]`` of different words ``[n]``."""
        whole = tf.cast(self.table.lookup(words), tf.int32)
        length = tf.strings.length(words, unit="UTF8_CHAR")
        whole = tf.where(length > MAX_WORD, self.unknown, whole)
        hard = tf.where(whole < 0)[:, 0]
        found = self._greedy(tf.gather(words, hard), tf.gather(length, hard))
        # Rows of the easy words first, those of the hard ones behind them, then into order.
        easy = tf.where(whole >= 0)[:, 0]
        rows = tf.concat(
            [tf.RaggedTensor.from_tensor(tf.gather(whole, easy)[:, None]), found], axis=0
        )
        order = tf.math.invert_permutation(tf.cast(tf.concat([easy, hard], axis=0), tf.int32))
        return tf.gather(rows, order)

    def _greedy(self, words: tf.Tensor, length: tf.Tensor) -> tf.RaggedTensor:
        """Longest piece first, left to right; [UNK] alone where a rest matches nothing.

        One turn finds the next piece of every unfinished word. ``columns[k]`` are the k-th
        pieces of all words, -1 where a word has fewer.
        """
        n = tf.size(words)
        sizes = tf.range(self._longest, 0, -1)

        def unfinished(at: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
            return tf.reduce_any(at < length)

        def turn(at: tf.Tensor, columns: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = tf.where(at < length)
            here = tf.gather_nd(at, rows)[:, None]
            left = tf.gather_nd(length, rows)[:, None] - here
            shape = tf.stack([tf.shape(rows)[0], tf.size(sizes)])
            candidates = tf.strings.substr(
                tf.broadcast_to(tf.gather_nd(words, rows)[:, None], shape),
                tf.broadcast_to(here, shape),
                tf.broadcast_to(sizes[None, :], shape),
                unit="UTF8_CHAR",
            )
            prefix = tf.broadcast_to(tf.where(here > 0, CONTINUED, ""), shape)
            ids = tf.cast(self.table.lookup(tf.strings.join([prefix, candidates])), tf.int32)
            fits = (ids >= 0) & (sizes[None, :] <= left)
            best = tf.argmax(fits, axis=1, output_type=tf.int32)
            matched = tf.reduce_any(fits, axis=1)
            piece = tf.gather(ids, best, axis=1, batch_dims=1)
            step = tf.where(matched, tf.gather(sizes, best), 2 * MAX_WORD)
            at = tf.tensor_scatter_nd_add(at, rows, step)
            column = tf.fill([n], -1)
            column = tf.tensor_scatter_nd_update(
                column, rows, tf.where(matched, piece, self.unknown)
            )
            return at, tf.concat([columns, column[None, :]], axis=0)

        at, columns = tf.while_loop(
            unfinished,
            turn,
            (tf.zeros_like(length), tf.zeros([0, n], tf.int32)),
            shape_invariants=(tf.TensorShape([None]), tf.TensorShape([None, None])),
        )
        table = tf.transpose(columns)
        failed = at > length
        first = tf.concat([tf.fill([n, 1], self.unknown), tf.fill(tf.shape(table), -1)], axis=1)
        table = tf.concat([table, tf.fill([n, 1], -1)], axis=1)
        table = tf.where(failed[:, None], first, table)
        return tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(table, table >= 0),
            tf.reduce_sum(tf.cast(table >= 0, tf.int64), axis=1),
        )

    def _joined(self, begin: int, rows: tf.RaggedTensor, end: int) -> tf.RaggedTensor:
        lengths = rows.row_lengths()
        return tf.concat([self._column(begin, lengths), rows, self._column(end, lengths)], axis=1)

    def _column(self, token: int, like: tf.Tensor) -> tf.RaggedTensor:
        return tf.RaggedTensor.from_tensor(tf.fill([tf.size(like), 1], token))


def _limited(
    counts: tf.Tensor, index: tf.Tensor, splits: tf.Tensor, most: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Leaves out of each text what follows its first ``most`` words.

    Args:
      counts: words in each different blank-separated part.
      index, splits: the parts of all texts, one after the other, and where each text begins.
    """
    own = tf.gather(counts, index)
    before = tf.cumsum(own, exclusive=True)
    lengths = splits[1:] - splits[:-1]
    at_start = tf.gather(tf.concat([before, [0]], axis=0), splits[:-1])
    kept = before - tf.repeat(at_start, lengths) < most
    sums = tf.concat([[0], tf.cumsum(tf.cast(kept, tf.int64))], axis=0)
    return tf.boolean_mask(index, kept), tf.gather(sums, splits)


def _longest_first(a: tf.Tensor, b: tf.Tensor, most: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Lengths to keep of two texts, as the reference cuts ``longest_first``."""
    short, long = tf.minimum(a, b), tf.maximum(a, b)
    long = tf.where(short > most, short, tf.maximum(short, tf.minimum(long, most - short)))
    over = short + long > most
    short = tf.where(over, most // 2, short)
    long = tf.where(over, most // 2 + most % 2, long)
    swapped = a > b
    return tf.where(swapped, long, short), tf.where(swapped, short, long)


def _head(rows: tf.RaggedTensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    within = tf.ragged.range(rows.row_lengths()).flat_values
    kept = within < tf.repeat(lengths, rows.row_lengths())
    return tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(rows.flat_values, kept), tf.minimum(lengths, rows.row_lengths())
    )


def _check(vocabulary: Sequence[str], ids: dict[str, int]) -> None:
    missing = [piece for piece in SPECIAL if piece not in ids]
    if missing:
        raise DataError(
            f"the vocabulary has no {named_list(missing)}",
            where="vocab.txt",
            next_action="use the vocab.txt that belongs to the weights",
        )
    broken = [i for i, piece in enumerate(vocabulary) if "\n" in piece or "\r" in piece]
    if broken or len(ids) < len(vocabulary):
        doubled = [piece for i, piece in enumerate(vocabulary) if ids[piece] != i]
        what = f"lines {named_list(broken)} are not one line" if broken else ""
        raise DataError(
            what or f"the vocabulary has pieces twice: {named_list(doubled)}", where="vocab.txt"
        )


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """The pieces of a ``vocab.txt``, one a line.

    Raises:
      InputMissingError: no such file.
      DataError: not UTF-8.
    """
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise InputMissingError("no vocabulary file", where=path) from error
    except UnicodeDecodeError as error:
        raise DataError("the vocabulary is not UTF-8", where=path) from error
    lines = text.split("\n")
    return tuple(line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines))

"""Batches of token ids, each padded to the longest of its own texts.

Every epoch is shuffled, then texts of like length are put together within windows of many
batches, then the batches are shuffled: short texts cost little, and the order stays random.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tltf.data.batches import Batches, Chooser, derived_seed
from tltf.data.manifest import Record
from tltf.data.readahead import read_ahead
from tltf.data.textbytes import text_bytes
from tltf.data.wordpiece import WordPiece
from tltf.errors import ArgumentError, DataError, named_list

STEP = 8
"""Lengths are rounded up to multiples of this: fewer shapes, each traced once."""
LEAST = 3
"""Tokens of a text that is read at all."""
WINDOW = 50
ENCODED_AT_ONCE = 1024
REMEMBERED = 4
"""Splits whose ids are kept: those of a run, and one more."""


class TextBatches(Batches):
    """Text records as batches of ``(ids, y, sample_weight)``; see :class:`Batches`.

    ``ids`` are int32 ``[b, L]`` with L the length of the batch's longest text, rounded up.

    Args:
      records: text records.
      tokenizer: of the backbone.
      max_length: tokens of a text, [CLS] and [SEP] included; ``truncated`` counts the longer.
      classes, task, batch_size, seed, class_weights, soft_targets: as for :class:`Batches`.
      encoded: of the records' texts, where they were encoded before.

    Raises:
      ArgumentError: as :class:`Batches`, and a length that leaves nothing of a text.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        tokenizer: WordPiece,
        max_length: int,
        classes: Sequence[str],
        task: str,
        batch_size: int,
        seed: int = 0,
        class_weights: Mapping[str, float] | None = None,
        soft_targets: np.ndarray | None = None,
        encoded: EncodedTexts | None = None,
    ) -> None:
        if max_length < LEAST:
            raise ArgumentError(
                f"max_length={max_length}, expected at least {LEAST}: [CLS], a token and [SEP]",
                where="TextBatches",
            )
        self.tokenizer, self.max_length = tokenizer, max_length
        self._encoded = encoded
        super().__init__(
            records,
            classes=classes,
            task=task,
            image_size=0,
            batch_size=batch_size,
            seed=seed,
            class_weights=class_weights,
            views=1,
            soft_targets=soft_targets,
        )

    def train_dataset(self, epoch: int, start_step: int = 0, *, epochs: int = 1) -> tf.data.Dataset:
        """As :meth:`Batches.train_dataset`."""
        if min(epoch, epochs) < 0 or not 0 <= start_step <= self.steps_per_epoch:
            raise ArgumentError(
                f"epoch={epoch}, start_step={start_step}, epochs={epochs}, expected numbers >= 0"
                f" and start_step in [0, {self.steps_per_epoch}]",
                where="train_dataset",
            )
        choose, per_epoch = self.chooser(epoch, epochs), self.steps_per_epoch

        def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            chosen = choose(step // per_epoch, step % per_epoch)
            return self.ids(chosen), *self.train_targets(chosen)

        steps = tf.data.Dataset.range(start_step, epochs * per_epoch)
        return read_ahead(steps.map(batch, 2, deterministic=True))

    def eval_dataset(self) -> tf.data.Dataset:
        """As :meth:`Batches.eval_dataset`: in the order of the records."""

        def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            first = step * self.batch_size
            chosen = tf.range(first, tf.minimum(first + self.batch_size, self.n))
            return self.ids(chosen), self._target(chosen), tf.gather(self._weights, chosen)

        steps = tf.data.Dataset.range(self.steps_per_epoch)
        return read_ahead(steps.map(batch, 2, deterministic=True))

    def view_dataset(self, view: int) -> tf.data.Dataset:
        """Texts have one view."""
        del view
        return self.eval_dataset()

    def hashed_dataset(self, view: int | None) -> tf.data.Dataset:
        """As :meth:`Batches.hashed_dataset`: a text stands in its record, beside its hash.

        A batch ends where the padded length changes, so that what is computed of a text does not
        depend on the texts beside it; :meth:`for_extraction` puts equal ones together.
        """
        del view
        ends = np.flatnonzero(np.diff(self.padded_lengths())) + 1
        parts = np.split(np.arange(self.n), ends)
        spans = [
            (part[i], min(part[i] + self.batch_size, part[-1] + 1))
            for part in parts
            for i in range(0, len(part), self.batch_size)
        ]
        hashes = tf.constant([record.sha256 for record in self.records])

        def batch(span: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            chosen = tf.range(span[0], span[1])
            return self.ids(chosen), tf.gather(hashes, chosen)

        steps = tf.data.Dataset.from_tensor_slices(np.array(spans, np.int64))
        return read_ahead(steps.map(batch, 2, deterministic=True))

    def with_records(self, records: Sequence[Record]) -> TextBatches:
        """The same settings for other records; what was encoded here is not encoded again."""
        place = {record.text: i for i, record in enumerate(self.records)}
        known = [place[record.text] for record in records if record.text in place]
        encoded = self._encoded
        return TextBatches(
            records,
            encoded=encoded.rows(known) if encoded and len(known) == len(records) else None,
            tokenizer=self.tokenizer,
            max_length=self.max_length,
            classes=self.classes,
            task=self.task,
            batch_size=self.batch_size,
            seed=self.seed,
            class_weights=self._given_class_weights,
        )

    def chooser(self, epoch: int, epochs: int) -> Chooser:
        """As :meth:`Batches.chooser`."""
        orders = [self._order(e) for e in range(epoch, epoch + epochs)]
        table, size = (
            tf.constant(np.array(orders, np.int64).reshape(epochs, self.n)),
            self.batch_size,
        )
        return lambda e, k: table[e, k * size : (k + 1) * size]

    def ids(self, chosen: tf.Tensor) -> tf.Tensor:
        """int32 ``[b, L]`` of the examples ``chosen``."""
        rows = tf.gather(self._ids, chosen)
        most = tf.reduce_max(rows.row_lengths())
        length = tf.minimum(-(-most // STEP) * STEP, self.max_length)
        padded = rows.to_tensor(self.tokenizer.pad, shape=tf.stack([-1, length]))
        return tf.ensure_shape(padded, (None, None))

    def row_shape(self, shape: Sequence[int | None]) -> tuple[int, ...]:
        """As :meth:`Batches.row_shape`: every text padded to ``max_length``."""
        return tuple(self.max_length if side is None else int(side) for side in shape)

    @property
    def input_size(self) -> int:
        """As :attr:`Batches.input_size`: the most tokens of a text."""
        return self.max_length

    def batch_length(self, chosen: np.ndarray) -> int:
        """As :meth:`Batches.batch_length`."""
        return rounded(int(self.lengths[chosen].max()), self.max_length)

    def for_extraction(self, records: Sequence[Record]) -> list[int]:
        """Texts of like length together, see :meth:`hashed_dataset`."""
        lengths = self.with_records(records).padded_lengths()
        return np.argsort(lengths, kind="stable").tolist()

    def padded_lengths(self) -> np.ndarray:
        """Tokens of each text, rounded up to the steps that batches are padded to."""
        return np.minimum(-(-self.lengths // STEP) * STEP, self.max_length)

    def _open(self) -> None:
        without = [record.id for record in self.records if record.text is None]
        if without:
            raise DataError(f"records without a text: {named_list(without)}", where="data")
        if self._encoded is None:
            texts = [r.text or "" for r in self.records]
            self._encoded = encode(self.tokenizer, texts, max_length=self.max_length)
        self._ids = self._encoded.ids
        self.truncated = int(self._encoded.cut.sum())
        self.lengths = self._ids.row_lengths().numpy()

    def _order(self, epoch: int) -> np.ndarray:
        """int64 ``[n]``: the examples of an epoch, one batch behind the other."""
        seed = [abs(part) for part in derived_seed(self.seed, "order", epoch)]
        random = np.random.default_rng(seed)
        shuffled = random.permutation(self.n)
        window = WINDOW * self.batch_size
        parts = [shuffled[i : i + window] for i in range(0, self.n, window)]
        near = np.concatenate([p[np.argsort(self.lengths[p], kind="stable")] for p in parts])
        # The smaller last batch stays last, as for images.
        whole = self.n // self.batch_size * self.batch_size
        batches = near[:whole].reshape(-1, self.batch_size)
        return np.concatenate([*random.permutation(batches), near[whole:]])


@dataclass(frozen=True)
class EncodedTexts:
    """Ids of many texts, ragged int32 ``[n, (tokens)]``, and which texts were cut, bool ``[n]``."""

    ids: tf.RaggedTensor
    cut: np.ndarray

    def rows(self, chosen: Sequence[int]) -> EncodedTexts:
        """Of the texts ``chosen``, in that order."""
        return EncodedTexts(tf.gather(self.ids, chosen), self.cut[list(chosen)])


def encode(tokenizer: WordPiece, texts: Sequence[str], *, max_length: int) -> EncodedTexts:
    """Ids of many texts, each of at most ``max_length`` tokens; the processors share them.

    The splits of a run are read by several of its stages, and counted before the length is chosen;
    what was encoded of the last few is remembered, and cut to the length that is asked for.
    """
    kept = _remembered(tokenizer, tuple(texts))
    if kept.found is None or kept.max_length < max_length:
        kept.found = _encoded(tokenizer, texts, max_length=max_length)
        kept.max_length = max_length
    return _shortened(kept.found, max_length, getattr(tokenizer, "sep", None))


@dataclass
class _Remembered:
    found: EncodedTexts | None = None
    max_length: int = 0


@functools.lru_cache(maxsize=REMEMBERED)
def _remembered(tokenizer: WordPiece, texts: tuple[str, ...]) -> _Remembered:
    del tokenizer, texts
    return _Remembered()


def _shortened(found: EncodedTexts, length: int, sep: int | None) -> EncodedTexts:
    """As if so many tokens had been asked for: a text that is cut still ends with [SEP], where the
    tokenizer has one."""
    longer = found.ids.row_lengths().numpy() > length
    if not longer.any():
        return found
    head = found.ids[:, :length]
    ends = np.cumsum(head.row_lengths().numpy())[longer] - 1
    values = head.flat_values.numpy().copy()
    if sep is not None:
        values[ends] = sep
    return EncodedTexts(head.with_flat_values(tf.constant(values)), found.cut | longer)


def _encoded(tokenizer: WordPiece, texts: Sequence[str], *, max_length: int) -> EncodedTexts:
    some, threads = _encoder(tokenizer, max_length), os.cpu_count() or 1
    size = max(1, min(ENCODED_AT_ONCE, -(-len(texts) // threads)))

    def encoded(start: int) -> list[np.ndarray]:
        part = [text_bytes(text) for text in texts[start : start + size]]
        return [found.numpy() for found in some(tf.constant(part))]

    with ThreadPoolExecutor(threads) as pool:
        parts = pool.map(encoded, range(0, len(texts), size))
        values, lengths, cut = zip(*parts, strict=True)
    ids = tf.RaggedTensor.from_row_lengths(
        tf.constant(np.concatenate(values)), tf.constant(np.concatenate(lengths))
    )
    return EncodedTexts(ids, np.concatenate(cut))


@functools.lru_cache(maxsize=8)
def _encoder(tokenizer: WordPiece, max_length: int) -> Callable[[tf.Tensor], tuple[Any, Any, Any]]:
    """Traced once for all texts of a run: tracing takes as long as encoding thousands of them."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def some(part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        found = tokenizer.encode(part, max_length=max_length)
        return found.ids.flat_values, found.ids.row_lengths(), found.truncated

    return some


def rounded(length: int, most: int) -> int:
    """The next multiple of :data:`STEP`, at most ``most``.

    >>> rounded(17, 512), rounded(511, 500)
    (24, 500)
    """
    return min(most, -(-length // STEP) * STEP)


def token_counts(tokenizer: WordPiece, texts: Sequence[str], *, most: int) -> np.ndarray:
    """int64 ``[n]``: tokens of each text, [CLS] and [SEP] included, ``most`` for longer ones."""
    return encode(tokenizer, texts, max_length=most).ids.row_lengths().numpy()

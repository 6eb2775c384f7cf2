"""Batches as a pure function of (seed, epoch, step).

Nothing here keeps a position: whoever knows the seed, the epoch and the step gets the same
examples with the same pixels, whether the epoch was begun at step 0 or resumed at step 40.
That is what makes an interrupted run end bit for bit like an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from tltf.data.augmentation import Policy, augmenter, cutmix, mixup, policy
from tltf.data.columns import Rows
from tltf.data.contents import content_keys, hashed_reader, looked_up, unreadable_error
from tltf.data.decoding import image_reader
from tltf.data.manifest import Record
from tltf.data.readahead import READERS, read_ahead
from tltf.data.scan import find_unreadable
from tltf.data.targets import factor_array, label_array, weight_array
from tltf.errors import ArgumentError, DataError, named_list, nearest

Chooser = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
_MIXES = {"none": None, "mixup": mixup, "cutmix": cutmix}


class Batches:
    """Image records as ``tf.data`` batches of ``(x, y, sample_weight)``.

    ``x`` is float32 ``[b, size, size, 3]`` in [0, 255]; ``y`` float32 ``[b, C]``, one-hot
    (single_label), multi-hot (multi_label), or ``[b, 1]`` (regression); ``sample_weight``
    float32 ``[b]``. The last batch of an epoch may be smaller; nothing is dropped.

    Args:
      records: image records with labels; the order is that of :meth:`eval_dataset`.
        Either all have a label or none has (for prediction: then ``y`` is all zeros).
      classes: names in the order of the columns of ``y``; empty for regression.
      task: ``single_label``, ``multi_label`` or ``regression``.
      image_size: side of the images in pixels.
      batch_size: examples per step, >= 1.
      seed: root seed of order, augmentation and mixing.
      augment: a :class:`~tltf.data.augmentation.Policy`, or its name.
      mix: ``none``, ``mixup`` or ``cutmix``.
      class_weights: class name -> weight, as :func:`~tltf.data.targets.class_weights` gives;
        None for 1 each.
      views: epoch e is augmented as epoch ``e mod views``, so that as many augmented views of
        an example can be kept; 0 for a new one every epoch.
      soft_targets: float ``[n, C]`` to train on instead of the labels; evaluation keeps those.

    Raises:
      ArgumentError: a batch size below 1, an unknown mix or policy, a mix that does not fit the
        task, class weights for a regression.
      DataError: no records, a record without an image or with an unknown label.

    Example::

      batches = Batches(
          manifest.split("train"), classes=manifest.classes, task=manifest.task,
          image_size=224, batch_size=32, augment="light",
      )
      model.fit(batches.train_dataset(0))
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        classes: Sequence[str],
        task: str,
        image_size: int,
        batch_size: int,
        seed: int = 0,
        augment: Policy | str = "none",
        mix: str = "none",
        class_weights: Mapping[str, float] | None = None,
        views: int = 0,
        soft_targets: np.ndarray | None = None,
    ) -> None:
        _check(records, task=task, batch_size=batch_size, mix=mix, class_weights=class_weights)
        self.records = records if isinstance(records, Rows) else tuple(records)
        self.classes = tuple(classes)
        self.task = task
        self.image_size = image_size
        self.batch_size = batch_size
        self.seed = seed
        self.policy = policy(augment) if isinstance(augment, str) else augment
        self.mix = mix
        self.views = views
        self._given_class_weights = class_weights
        self._open()
        keys, weights = content_keys(self.records), weight_array(self.records)
        factors = factor_array(self.records, class_weights or {})
        self._keys = tf.constant(keys)
        self._weights = tf.constant(weights)
        self._train_weights = tf.constant(weights * factors)
        self._labels = tf.constant(label_array(self.records, classes=self.classes, task=task))
        self._soft = None if soft_targets is None else tf.constant(soft_targets, tf.float32)

    @property
    def n(self) -> int:
        """How many examples there are."""
        return len(self.records)

    @property
    def hashed(self) -> bool:
        """Whether the content of every example is known, so that its features can be kept."""
        return isinstance(self.records, Rows) or all(r.sha256 for r in self.records)

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch, the smaller last one included."""
        return -(-self.n // self.batch_size)

    def targets(self) -> np.ndarray:
        """float32 ``[n, C]`` (or ``[n, 1]``): ``y`` of :meth:`eval_dataset` in one piece."""
        return np.asarray(self._target(tf.range(self.n)))

    def train_dataset(self, epoch: int, start_step: int = 0, *, epochs: int = 1) -> tf.data.Dataset:
        """The batches of some epochs in a row, shuffled, augmented, mixed and weighted.

        One data set for all epochs of a phase: building one costs a tenth of a second, and the
        next epoch's first batches are decoded while the last one's are trained on.

        Args:
          epoch: the first, >= 0; each epoch has its own order and augmentation.
          start_step: batches of the first epoch to leave out; they are not even read.
          epochs: how many, >= 0.

        Raises:
          ArgumentError: a negative number, or a start step beyond the epoch.
        """
        if min(epoch, epochs) < 0 or not 0 <= start_step <= self.steps_per_epoch:
            raise ArgumentError(
                f"epoch={epoch}, start_step={start_step}, epochs={epochs}, expected numbers >= 0"
                f" and start_step in [0, {self.steps_per_epoch}]",
                where="train_dataset",
            )
        order, augmenting, mixing = self._epoch_seeds(epoch, epochs)

        def one_epoch(e: tf.Tensor) -> tf.data.Dataset:
            def example(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
                i = tf.random.experimental.index_shuffle(position, order[e], self.n - 1)
                seed = tf.stack([augmenting[e], self._keys[i]])
                return self._image(i, seed), self._target(i, soft=True), self._train_weights[i]

            first = tf.where(e == 0, tf.constant(start_step, tf.int64), 0)
            positions = tf.data.Dataset.range(first * self.batch_size, self.n)
            examples = positions.map(example, READERS, deterministic=True)
            return self._mixed(self._batched(examples), mixing[e], first)

        return read_ahead(tf.data.Dataset.range(epochs).flat_map(one_epoch))

    def step_dataset(self, epoch: int, epochs: int) -> Callable[[tf.Tensor], tf.data.Dataset]:
        """Single batches of :meth:`train_dataset`, for whoever does not read them in a row.

        Returns:
          From the number of a batch, counted over the epochs, to a data set of one element: that
          number and the batch. Batches that are mixed are not given.
        """
        order, augmenting, _ = self._epoch_seeds(epoch, epochs)
        n, size, per_epoch = self.n, self.batch_size, self.steps_per_epoch

        def one(step: tf.Tensor) -> tf.data.Dataset:
            e, k = step // per_epoch, step % per_epoch

            def example(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
                i = tf.random.experimental.index_shuffle(position, order[e], n - 1)
                seed = tf.stack([augmenting[e], self._keys[i]])
                return self._image(i, seed), self._target(i, soft=True), self._train_weights[i]

            positions = tf.data.Dataset.range(
                k * size, tf.minimum(tf.cast(n, k.dtype), (k + 1) * size)
            )
            examples = positions.map(example, READERS, deterministic=True)
            return self._batched(examples).map(lambda *batch: (step, batch))

        return one

    def chooser(self, epoch: int, epochs: int) -> Chooser:
        """Which examples a batch of :meth:`train_dataset` holds.

        Returns:
          A function of int64 tensors: how many epochs after the first, and which batch of it;
          its result are int64 numbers of examples ``[b]``, in the order of the batch.
        """
        order, n, size = self._epoch_seeds(epoch, epochs)[0], self.n, self.batch_size

        def choose(e: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
            positions = tf.range(k * size, tf.minimum(tf.cast(n, tf.int64), (k + 1) * size))
            return tf.random.experimental.index_shuffle(positions, order[e], n - 1)

        return choose

    def row_shape(self, shape: Sequence[int | None]) -> tuple[int, ...]:
        """The shape in which features of these examples are stored; None is the tokens' axis."""
        return tuple(int(side or 0) for side in shape)

    @property
    def input_size(self) -> int:
        """What a stored feature depends on beside the content: the side in pixels."""
        return self.image_size

    def batch_length(self, chosen: np.ndarray) -> int:
        """Tokens that a batch of the examples ``chosen`` is padded to; 0 for images."""
        del chosen
        return 0

    def for_extraction(self, records: Sequence[Record]) -> list[int]:
        """The order in which features of some records are computed fastest."""
        return list(range(len(records)))

    def train_targets(self, i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """``y`` and ``sample_weight`` of the training examples ``i``, int ``[b]``."""
        return self._target(i, soft=True), tf.gather(self._train_weights, i)

    def record_weights(self) -> np.ndarray:
        """float32 ``[n]``: ``sample_weight`` of :meth:`eval_dataset`."""
        return np.asarray(self._weights)

    def with_records(self, records: Sequence[Record]) -> Batches:
        """The same settings for other records."""
        return Batches(
            records,
            classes=self.classes,
            task=self.task,
            image_size=self.image_size,
            batch_size=self.batch_size,
            seed=self.seed,
            augment=self.policy,
            mix=self.mix,
            class_weights=self._given_class_weights,
            views=self.views,
        )

    def eval_dataset(self) -> tf.data.Dataset:
        """Every example once, in the order of the records, unchanged.

        ``sample_weight`` is the record's own weight: class weights steer the training, they are
        no part of what is measured.
        """

        def example(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return self._image(i, None), self._target(i), self._weights[i]

        examples = tf.data.Dataset.range(self.n).map(example, READERS, deterministic=True)
        return read_ahead(self._batched(examples))

    def view_dataset(self, view: int) -> tf.data.Dataset:
        """As :meth:`eval_dataset`, with the augmentation of epoch ``view``: for stored features.

        The change depends on (seed, view, content) only, so that a row computed today fits the
        photo when others have joined it.
        """
        changes = derived_seed(self.seed, "augment", view)[0]

        def example(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            image = self._image(i, tf.stack([changes, self._keys[i]]))
            return image, self._target(i), self._weights[i]

        examples = tf.data.Dataset.range(self.n).map(example, READERS, deterministic=True)
        return read_ahead(self._batched(examples))

    def hashed_dataset(self, view: int | None) -> tf.data.Dataset:
        """``(x, sha256)`` of :meth:`view_dataset`, or of :meth:`eval_dataset` for None: strings
        ``[b]`` in hex, of the bytes that were decoded. A row is stored under no other."""
        read = hashed_reader(self.image_size)
        changes = derived_seed(self.seed, "augment", view or 0)[0]

        def example(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            image, sha256 = read(self._path(i))
            if view is None:
                return image, sha256
            return self._changed(image, tf.stack([changes, self._keys[i]])), sha256

        examples = tf.data.Dataset.range(self.n).map(example, READERS, deterministic=True)
        return read_ahead(self._batched(examples))

    @contextmanager
    def naming_unreadable(self) -> Iterator[None]:
        """Around a loop over batches: a failure to read or decode names the file.

        TensorFlow's own message does not, and the scan before training cannot foresee a file
        that vanishes or changes during it.

        Raises:
          BadInputsError: TensorFlow failed and at least one file cannot be read or has changed.
        """
        try:
            yield
        except tf.errors.OpError as error:
            bad = find_unreadable(self.records)
            if not bad:
                raise
            raise unreadable_error(bad, n=self.n) from error

    def _open(self) -> None:
        """What :meth:`_image` reads from."""
        if isinstance(self.records, Rows):
            self._path = looked_up(self.records)
            return
        without = [record.id for record in self.records if record.path is None]
        if without:
            raise DataError(f"records without an image file: {named_list(without)}", where="data")
        paths = tf.constant([os.fsencode(str(record.path)) for record in self.records])
        self._path = lambda i: paths[i]

    def _batched(self, examples: tf.data.Dataset) -> tf.data.Dataset:
        return examples.batch(self.batch_size, drop_remainder=False)

    def _image(self, i: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        image = image_reader(self.image_size)(self._path(i))
        return image if seed is None else self._changed(image, seed)

    def _changed(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return augmenter(self.policy, self.image_size)(image, seed)

    def _target(self, i: tf.Tensor, *, soft: bool = False) -> tf.Tensor:
        soft = soft and self._soft is not None
        labels = tf.gather(self._soft if soft else self._labels, i)
        if self.task == "single_label" and not soft:
            return tf.one_hot(labels, len(self.classes), dtype=tf.float32)
        return labels

    def _epoch_seeds(self, epoch: int, epochs: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """int32 ``[epochs, 2]``, ``[epochs]``, ``[epochs]``: of order, augmentation and mixing."""

        def seeds(name: str, period: int = 0) -> np.ndarray:
            numbers = [epoch + e for e in range(epochs)]
            every = [derived_seed(self.seed, name, x % period if period else x) for x in numbers]
            return np.array(every, np.int32).reshape(epochs, 2)

        return (
            tf.constant(seeds("order")),
            tf.constant(seeds("augment", self.views)[:, 0]),
            tf.constant(seeds("mix")[:, 0]),
        )

    def _mixed(
        self, batches: tf.data.Dataset, changes: tf.Tensor, first: tf.Tensor
    ) -> tf.data.Dataset:
        mix = _MIXES[self.mix]
        if mix is None:
            return batches

        def mixed(step: tf.Tensor, batch: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            x, y, weight = batch
            seed = tf.stack([changes, tf.cast(step, tf.int32)])
            # The weight is mixed like one more target: half of a heavy example is half as heavy.
            x, both = mix(x, tf.concat([y, weight[:, None]], axis=1), seed=seed)
            return x, both[:, :-1], both[:, -1]

        return batches.enumerate(first).map(mixed, READERS, deterministic=True)


def derived_seed(seed: int, name: str, *numbers: int) -> tuple[int, int]:
    """Two int32 for one use of randomness, derived by name from the root seed.

    >>> derived_seed(0, "order", 1) == derived_seed(0, "order", 1)
    True
    >>> derived_seed(0, "order", 1) == derived_seed(0, "augment", 1)
    False
    """
    digest = hashlib.sha256(repr((seed, name, numbers)).encode()).digest()
    first, second = np.frombuffer(digest[:8], "<i4")
    return int(first), int(second)


def _check(
    records: Sequence[Record],
    *,
    task: str,
    batch_size: int,
    mix: str,
    class_weights: Mapping[str, float] | None,
) -> None:
    if not records:
        raise DataError("no records to make batches of", where="data")
    if batch_size < 1:
        raise ArgumentError(f"batch_size={batch_size}, expected at least 1", where="--batch_size")
    if mix not in _MIXES:
        raise ArgumentError(
            f"mix={mix!r}, expected one of {', '.join(_MIXES)}{nearest(mix, _MIXES)}",
            where="--mix",
        )
    if task == "regression" and (class_weights or mix == "cutmix"):
        what = "class weights" if class_weights else "cutmix"
        raise ArgumentError(f"{what} with task='regression'", where="--task")

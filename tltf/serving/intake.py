"""How a request becomes what the model takes: one class for each modality.

A servable of another modality is an :class:`Intake` of its own; signatures, gate, warm-up and
server ask it and know nothing else about images or texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tltf.data import decoding
from tltf.data.graph_headers import pixel_count

MAX_PIXELS = 64_000_000


class Intake(Protocol):
    """From the bytes of a request to the model's input, inside the graph."""

    @property
    def key(self) -> str:
        """Name of the string input: ``image_bytes`` or ``text``; also the tf.Example feature."""

    @property
    def tensors(self) -> Sequence[tf.TensorSpec]:
        """The inputs of ``predict``, batch first, each with a name."""

    @property
    def tracked(self) -> Sequence[Any]:
        """Lookup tables and assets that the SavedModel must keep; variables need not be named."""

    def read(self, rows: tf.Tensor) -> tuple[Any, tf.Tensor]:
        """String ``[B]`` to the model's input and bool ``[B]``: which rows could be read.

        A row that cannot is filled with something harmless and fails no other.
        """

    def convert(self, *tensors: tf.Tensor) -> Any:
        """The inputs of ``predict``, in the order of ``tensors``, to the model's input."""

    def invented(self, count: int) -> list[bytes]:
        """Made-up inputs for a comparison when there are no real ones; the same every time."""


@dataclass(frozen=True, kw_only=True)
class ImageIntake:
    """Image files of any size, or float images ``[B, H, W, 3]`` in [0, 255].

    Args:
      image_size: side in pixels of what the model takes.
      max_pixels: a file whose header promises more is not decoded.
    """

    image_size: int
    max_pixels: int = MAX_PIXELS

    key = "image_bytes"
    tracked = ()

    @property
    def tensors(self) -> tuple[tf.TensorSpec, ...]:
        return (tf.TensorSpec([None, None, None, 3], tf.float32, name="images"),)

    def read(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Images float32 ``[B, S, S, 3]``, black where undecodable, and bool ``[B]``."""
        side = self.image_size
        return tf.map_fn(
            self._one,
            rows,
            fn_output_signature=(
                tf.TensorSpec([side, side, 3], tf.float32),
                tf.TensorSpec([], tf.bool),
            ),
        )

    def convert(self, *tensors: tf.Tensor) -> tf.Tensor:
        return decoding.resize(tensors[0], self.image_size)

    def invented(self, count: int) -> list[bytes]:
        random = np.random.default_rng(0)
        shape = (count, self.image_size, self.image_size, 3)
        images = random.integers(0, 256, shape, dtype=np.uint8)
        return [tf.io.encode_png(image).numpy() for image in images]

    def _one(self, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        black = tf.zeros([self.image_size, self.image_size, 3]), tf.constant(False)
        # An op that fails ends a whole graph; a data set can pass over the failed element.
        rows = tf.data.Dataset.from_tensors(data).map(self._decoded).ignore_errors()
        rows = rows.concatenate(tf.data.Dataset.from_tensors(black)).take(1)
        return rows.get_single_element()

    def _decoded(self, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        small = tf.debugging.assert_less_equal(
            pixel_count(data), tf.constant(self.max_pixels, tf.int64)
        )
        with tf.control_dependencies([small]):
            data = tf.identity(data)
        return decoding.resize(decoding.decode(data), self.image_size), tf.constant(True)

"""From the bytes of an image file to pixels: the one path for training, evaluation and serving.

Every rule is a choice made once, here, so that what was tested is what is served:

* JPEG is decoded with the accurate integer DCT (what libjpeg and Pillow use by default).
* Grey is replicated to three channels; a palette is looked up; CMYK becomes RGB by
  ``channel * black / 255``; of 16 bits the upper 8 are kept.
* Alpha is dropped, not composited: the stored colours of transparent pixels count.
* Of a GIF the first frame counts, with its transparent pixels black; an animated WebP is refused.
* EXIF orientation is ignored, in training as in the exported graph.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from tltf.data.graph_headers import first_bytes, has, little_endian


def decode(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes one image file by its content, never by its name.

    Works eagerly, in ``tf.data``, in ``tf.map_fn`` and inside an exported SavedModel.

    Args:
      image_bytes: string scalar: a JPEG, PNG, GIF, BMP or WebP file.

    Returns:
      uint8 ``[H, W, 3]``, RGB in 0..255.

    Raises:
      tf.errors.InvalidArgumentError: the bytes are truncated, corrupt or of another format.

    Example::

      pixels = decode(tf.io.read_file("cat.jpg"))
    """
    image_bytes = tf.convert_to_tensor(image_bytes, tf.string)
    start = first_bytes(image_bytes)
    image = tf.case(
        [
            (has(start, 0, b"\xff\xd8\xff"), lambda: _decode_jpeg(image_bytes)),
            (has(start, 8, b"WEBP"), lambda: _decode_webp(image_bytes, start)),
            (has(start, 0, b"BM"), lambda: _decode_bmp(image_bytes, start)),
            (has(start, 0, b"GIF"), lambda: _decode_first_frame(image_bytes)),
        ],
        default=lambda: tf.io.decode_png(image_bytes, channels=3),
        exclusive=False,
    )
    return tf.ensure_shape(image, [None, None, 3])


def decode_kind(image_bytes: tf.Tensor, kind: str) -> tf.Tensor:
    """As :func:`decode`, for whoever knows the format: eagerly a third faster on a JPEG.

    Args:
      image_bytes: string scalar.
      kind: of :func:`tltf.data.headers.kind_of`.
    """
    if kind == "JPEG":
        return _decode_jpeg(image_bytes)
    return tf.io.decode_png(image_bytes, channels=3) if kind == "PNG" else decode(image_bytes)


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """Bilinear, antialiased, stretched to a square.

    Stretched rather than cropped or padded: nothing of the picture is lost, no crop has to be
    chosen at serving time, and the whole picture is what the label was given for.

    Args:
      image: ``[H, W, 3]`` or ``[B, H, W, 3]``, any numeric dtype, 0..255.
      size: side of the result in pixels.

    Returns:
      float32 ``[size, size, 3]`` or ``[B, size, size, 3]`` with static height and width,
      in [0, 255].
    """
    # Without antialias, small photos of large originals are up to 14 grey levels off.
    image = tf.image.resize(image, (size, size), method="bilinear", antialias=True)
    image = tf.clip_by_value(tf.cast(image, tf.float32), 0.0, 255.0)
    image.set_shape([*image.shape[:-3], size, size, 3])
    return image


def load_image(path: str | os.PathLike[str] | tf.Tensor, size: int) -> tf.Tensor:
    """Reads, decodes and resizes one file.

    Args:
      path: of the file; a string scalar inside a graph.
      size: side of the result in pixels.

    Returns:
      float32 ``[size, size, 3]`` in [0, 255].

    Raises:
      tf.errors.NotFoundError: there is no such file.
      tf.errors.InvalidArgumentError: it cannot be decoded.
    """
    if isinstance(path, str | Path):
        path = tf.constant(os.fsencode(path))
    return resize(decode(tf.io.read_file(path)), size)


@functools.cache
def image_reader(size: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """:func:`load_image` of one size, traced once for all data sets and not once for each."""
    path = tf.TensorSpec([], tf.string)
    return tf.function(lambda p: load_image(p, size), input_signature=[path], autograph=False)


def _decode_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_webp(image_bytes: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    # A bit of the extended header; the scan refuses such a file too (tltf.data.headers).
    moving = has(start, 12, b"VP8X") & (start[20] // 2 % 2 == 1)
    still = tf.debugging.assert_equal(moving, False, "an animated WebP")
    with tf.control_dependencies([still]):
        image_bytes = tf.identity(image_bytes)
    # The op refuses channels=3 for a WebP with alpha, so take what there is and drop the rest.
    return tf.io.decode_webp(image_bytes, channels=0)[0, :, :, :3]


def _decode_first_frame(image_bytes: tf.Tensor) -> tf.Tensor:
    frame = tf.io.decode_image(image_bytes, channels=3, expand_animations=False)
    return tf.ensure_shape(frame, [None, None, 3])


def _decode_bmp(image_bytes: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """The op returns the *indices* of an 8-bit BMP as if they were grey: look the colours up."""

    def with_palette() -> tf.Tensor:
        indices = tf.io.decode_bmp(image_bytes, channels=0)[:, :, 0]
        palette_offset = 14 + little_endian(start, 14, 4)
        length = (little_endian(start, 10, 4) - palette_offset) // 4 * 4
        palette = tf.strings.substr(image_bytes, palette_offset, length)
        colours = tf.reshape(tf.io.decode_raw(palette, tf.uint8), [-1, 4])[:256, 2::-1]
        missing = 256 - tf.shape(colours)[0]
        return tf.gather(tf.pad(colours, [[0, missing], [0, 0]]), tf.cast(indices, tf.int32))

    bits = little_endian(start, 28, 2)
    return tf.cond(bits == 8, with_palette, lambda: tf.io.decode_bmp(image_bytes, channels=3))

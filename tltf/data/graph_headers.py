"""Width times height of an image file, read from its header inside a graph.

The counterpart of :mod:`tltf.data.headers` for a server, which has no Python: a 400 KB file that
unpacks to gigabytes is refused while it is still 400 KB.
"""

from __future__ import annotations

import tensorflow as tf

_HEADER = 64


def pixel_count(image_bytes: tf.Tensor) -> tf.Tensor:
    """Pixels that decoding the file would make.

    Args:
      image_bytes: string scalar: a JPEG, PNG, GIF, BMP or WebP file.

    Returns:
      int64 scalar; 0 when the bytes show none of these formats.

    Raises:
      tf.errors.InvalidArgumentError: a JPEG without a readable header.
    """
    start = first_bytes(image_bytes)
    return tf.case(
        [
            (has(start, 0, b"\xff\xd8\xff"), lambda: _jpeg(image_bytes)),
            (has(start, 8, b"WEBP"), lambda: _webp(start)),
            (has(start, 0, b"BM"), lambda: _bmp(start)),
            (
                has(start, 0, b"GIF"),
                lambda: _area(little_endian(start, 6, 2), little_endian(start, 8, 2)),
            ),
            (has(start, 1, b"PNG"), lambda: _area(_big(start, 16, 4), _big(start, 20, 4))),
        ],
        default=lambda: tf.constant(0, tf.int64),
        exclusive=False,
    )


def first_bytes(image_bytes: tf.Tensor) -> tf.Tensor:
    """The first bytes as int64 ``[64]``, padded with zeros when the file is shorter."""
    # substr() refuses to start behind the end, so a short file is padded first.
    start = tf.strings.join([tf.strings.substr(image_bytes, 0, _HEADER), b"\0" * _HEADER])
    start = tf.io.decode_raw(tf.strings.substr(start, 0, _HEADER), tf.uint8)
    return tf.cast(tf.ensure_shape(start, [_HEADER]), tf.int64)


def has(start: tf.Tensor, offset: int, magic: bytes) -> tf.Tensor:
    """Whether ``magic`` stands at ``offset``."""
    return tf.reduce_all(start[offset : offset + len(magic)] == tf.constant(list(magic), tf.int64))


def little_endian(start: tf.Tensor, offset: int, length: int) -> tf.Tensor:
    """The unsigned number of ``length`` bytes at ``offset``, int64."""
    powers = tf.constant([256**i for i in range(length)], tf.int64)
    return tf.reduce_sum(start[offset : offset + length] * powers)


def _jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    return tf.reduce_prod(tf.image.extract_jpeg_shape(image_bytes, output_type=tf.int64)[:2])


def _bmp(start: tf.Tensor) -> tf.Tensor:
    # Signed: a negative height means that the rows run from top to bottom.
    width, height = (little_endian(start, offset, 4) for offset in (18, 22))
    sign = tf.constant(1 << 31, tf.int64)
    return _area(*(tf.where(side < sign, side, 2 * sign - side) for side in (width, height)))


def _webp(start: tf.Tensor) -> tf.Tensor:
    """The three kinds of WebP: extended (VP8X), lossless (VP8L) and lossy (VP8)."""
    low = tf.constant(0x3FFF, tf.int64)
    bits = little_endian(start, 21, 4)
    return tf.case(
        [
            (
                has(start, 12, b"VP8X"),
                lambda: _area(1 + little_endian(start, 24, 3), 1 + little_endian(start, 27, 3)),
            ),
            (
                has(start, 12, b"VP8L"),
                lambda: _area(1 + tf.bitwise.bitwise_and(bits, low),
                              1 + tf.bitwise.bitwise_and(bits // (1 << 14), low)),
            ),
        ],
        default=lambda: _area(
            *(tf.bitwise.bitwise_and(little_endian(start, offset, 2), low) for offset in (26, 28))
        ),
    )  # fmt: skip


def _area(width: tf.Tensor, height: tf.Tensor) -> tf.Tensor:
    return width * height


def _big(start: tf.Tensor, offset: int, length: int) -> tf.Tensor:
    powers = tf.constant([256**i for i in reversed(range(length))], tf.int64)
    return tf.reduce_sum(start[offset : offset + length] * powers)

"""Random changes to training images: stateless, in the graph, the same for the same seed.

All geometry is one affine map and so one resampling: three resamplings in a row would blur
the picture three times and cost three times as much. Keras' augmentation layers are not used,
since with a seed in a parallel ``map`` they are not reproducible.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import tensorflow as tf

from tltf.errors import ArgumentError
from tltf.policies import POLICIES, Policy, policy

__all__ = ["POLICIES", "Policy", "augment", "augmenter", "cutmix", "mixup", "policy"]


def augment(image: tf.Tensor, policy: Policy, *, seed: tf.Tensor) -> tf.Tensor:
    """Changes one image at random, within the ranges of the policy.

    Args:
      image: float32 ``[H, W, 3]``, 0..255.
      policy: what may change and by how much.
      seed: int32 ``[2]``; the same seed gives the same pixels, in eager code and in any graph.

    Returns:
      float32 ``[H, W, 3]`` in [0, 255]; under ``Policy()`` the image itself.

    Example::

      augment(image, policy("light"), seed=(0, 1))
    """
    if policy == Policy(fill=policy.fill):
        return image
    # One draw for everything, each change at its own place: switching one off moves no other.
    draws = tf.random.stateless_uniform([7], seed, -1.0, 1.0, alg="philox")
    flipped = policy.flip & (draws[0] < 0.0)
    if policy.moves:
        moved = _affine(image, _matrix(draws, policy, flipped, tf.shape(image)), policy.fill)
    else:
        moved = tf.where(flipped, tf.reverse(image, axis=[1]), image)
    if policy.recolours:
        middle = tf.reduce_mean(moved)
        shift = 255.0 * policy.brightness * draws[5]
        moved = (moved - middle) * (1.0 + policy.contrast * draws[6]) + middle + shift
    return tf.clip_by_value(tf.ensure_shape(moved, image.shape), 0.0, 255.0)


@functools.cache
def augmenter(policy: Policy, size: int) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """:func:`augment` of ``(image, seed)`` for one size, traced once for all data sets."""
    inputs = [tf.TensorSpec([size, size, 3]), tf.TensorSpec([2], tf.int32)]
    return tf.function(
        lambda image, seed: augment(image, policy, seed=seed),
        input_signature=inputs,
        autograph=False,
    )


def mixup(
    images: tf.Tensor, targets: tf.Tensor, *, seed: tf.Tensor, alpha: float = 0.2
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blends every example with another one of the batch, targets alike.

    ``x' = s x + (1 - s) x_partner`` with ``s = max(t, 1 - t)``, ``t ~ Beta(alpha, alpha)``
    drawn per example: the larger share stays with the example itself.
    (Zhang et al., 2018, "mixup: Beyond Empirical Risk Minimization", equation 1.)

    Args:
      images: float32 ``[B, H, W, 3]``.
      targets: float32 ``[B, C]``.
      seed: int32 ``[2]``.
      alpha: > 0; the smaller, the less is mixed.

    Returns:
      Images and targets of the same shapes.

    Raises:
      ArgumentError: alpha is not positive.
    """
    batch = tf.shape(images)[0]
    share = _shares(batch, seed, alpha)
    partner = _partners(batch, seed)
    wide = share[:, None, None, None]
    images = wide * images + (1.0 - wide) * tf.gather(images, partner)
    targets = share[:, None] * targets + (1.0 - share[:, None]) * tf.gather(targets, partner)
    return images, targets


def cutmix(
    images: tf.Tensor, targets: tf.Tensor, *, seed: tf.Tensor, alpha: float = 1.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pastes a rectangle of another example of the batch into every example.

    The rectangle covers the share ``1 - s`` of the picture before it is cut off at the border;
    targets are mixed by the area that is really covered.
    (Yun et al., 2019, "CutMix", equations 1 and 2.)

    Args, Returns, Raises: as :func:`mixup`.
    """
    shape = tf.shape(images)
    batch, height, width = shape[0], shape[1], shape[2]
    side = tf.sqrt(1.0 - _shares(batch, seed, alpha))
    partner = _partners(batch, seed)
    centre = tf.random.stateless_uniform([2, batch], _apart(seed, 3), alg="philox")
    rows = _inside(centre[0], side, height)
    columns = _inside(centre[1], side, width)
    pasted = tf.cast(rows[:, :, None] & columns[:, None, :], tf.float32)
    covered = tf.reduce_mean(pasted, axis=[1, 2])[:, None]
    pasted = pasted[..., None]
    images = images * (1.0 - pasted) + tf.gather(images, partner) * pasted
    targets = targets * (1.0 - covered) + tf.gather(targets, partner) * covered
    return images, targets


def _matrix(draws: tf.Tensor, policy: Policy, flipped: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """The eight numbers that take a place in the *output* to its place in the input.

    About the centre c the map is  in = c + A (out - c),  A = F R S / z  with the flip
    F = diag(+-1, 1), the rotation R, the shear S = [[1, s], [0, 1]] and the zoom z.
    """
    angle = math.radians(policy.rotation) * draws[1]
    zoom = 1.0 + policy.zoom * draws[2]
    shear = policy.shear * draws[3]
    mirror = tf.where(flipped, -1.0, 1.0)
    cos, sin = tf.cos(angle) / zoom, tf.sin(angle) / zoom
    a, b = mirror * cos, mirror * (shear * cos - sin)
    c, d = sin, shear * sin + cos
    middle_y = (tf.cast(shape[0], tf.float32) - 1.0) / 2.0
    middle_x = (tf.cast(shape[1], tf.float32) - 1.0) / 2.0
    shift_x = middle_x - a * middle_x - b * middle_y
    shift_y = middle_y - c * middle_x - d * middle_y
    return tf.stack([a, b, shift_x, c, d, shift_y, 0.0, 0.0])


def _affine(image: tf.Tensor, matrix: tf.Tensor, fill: str) -> tf.Tensor:
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=matrix[None],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode=fill.upper(),
    )[0]


def _shares(batch: tf.Tensor, seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """float32 ``[B]`` in [0.5, 1]: the share that each example keeps of itself."""
    if not alpha > 0.0:
        raise ArgumentError(f"alpha={alpha!r}, expected a number above 0", where="mix")
    # Beta(a, a) is g / (g + h) of two Gamma(a) draws. For tiny alpha both may round to 0:
    # then 0/0 counts as 0, an end of the range, which is where such a Beta lives.
    g, h = tf.unstack(tf.random.stateless_gamma([2, batch], _apart(seed, 1), alpha))
    share = tf.math.divide_no_nan(g, g + h)
    return tf.maximum(share, 1.0 - share)


def _partners(batch: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """int ``[B]``: a cyclic shift by a random distance, so nobody meets itself if B > 1."""
    most = tf.maximum(batch, 2)
    shift = tf.random.stateless_uniform([], _apart(seed, 2), 1, most, tf.int32, alg="philox")
    return (tf.range(batch) + shift) % batch


def _inside(centre: tf.Tensor, side: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """bool ``[B, length]``: which pixels of an axis lie in an interval given in shares of it."""
    place = (tf.cast(tf.range(length), tf.float32) + 0.5) / tf.cast(length, tf.float32)
    return tf.abs(place[None] - centre[:, None]) < side[:, None] / 2.0


def _apart(seed: tf.Tensor, stream: int) -> tf.Tensor:
    """A seed of its own for each use, so that two draws of one step are independent."""
    return tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), stream, alg="philox")

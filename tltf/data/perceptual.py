"""What a picture looks like in 264 numbers: copies that were saved again have nearly the same ones.

The picture is averaged down to 12 by 12 grey cells; what counts is how much darker or brighter a
cell is than its right and its lower neighbour, as a square root with its sign, so that a few hard
edges do not decide everything. Two pictures are as near as the cosine between their numbers, which
scaling, stretching, another JPEG quality, brightness and colour leave above 0.92, and which stays
below 0.90 between different photos, even those of one hand before one wall (docs/evidence.md).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CELLS = 12
SMALLEST_SIDE = 33
"""Below, pictures of different things share most of their few pixels: of 600 MNIST digits of 28
pixels 55 pairs were copies of one another."""
FLATTEST = 12.0
"""Standard deviation of the cells (sums of three channels) below which noise is compared."""
NEAR = 0.92
MOST_COMPARED = 40_000
_BLOCK = 2048

Floats = NDArray[np.float32]
Pair = tuple[int, int, float]
"""Positions of two pictures, and their cosine."""


def fingerprint(pixels: NDArray[np.uint8]) -> str:
    """The numbers of a picture uint8 ``[H, W, 3]`` as text; "" if it is too small or too flat.

    >>> fingerprint(np.zeros((64, 64, 3), np.uint8))
    ''
    """
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        return ""
    # A hundred pixels a side are enough for twelve cells, and ten times cheaper.
    step = max(1, min(height, width) // 96)
    few = pixels[::step, ::step]
    # Channel by channel: an average over the last, short axis takes ten times as long.
    grey = few[:, :, 0].astype(np.float32) + few[:, :, 1] + few[:, :, 2]
    cells = _block_means(_block_means(grey, axis=0), axis=1)
    if float(cells.std()) < FLATTEST:
        return ""
    right, down = cells[:, 1:] - cells[:, :-1], cells[1:] - cells[:-1]
    steps = np.concatenate([right.ravel(), down.ravel()])
    roots = np.sign(steps) * np.sqrt(np.abs(steps))
    small = np.round(roots * (127 / np.abs(roots).max())).astype(np.int8)
    return base64.b64encode(small.tobytes()).decode("ascii")


def near_pairs(
    fingerprints: Sequence[str], *, groups: Sequence[object] | None = None, near: float = NEAR
) -> list[Pair]:
    """Which pictures look alike.

    Args:
      fingerprints: of :func:`fingerprint`; an empty one is near nothing.
      groups: one for each; if given, only pairs of two different groups count.
      near: the least cosine of a pair.

    Returns:
      ``(i, j, cosine)`` with i < j, the nearest first. Beyond 40,000 pictures only the first are
      looked at: it is a comparison of each with each.
    """
    places = [i for i, text in enumerate(fingerprints) if text][:MOST_COMPARED]
    if len(places) < 2:
        return []
    vectors = _unit_vectors([fingerprints[i] for i in places])
    kind = _numbered([groups[i] for i in places]) if groups is not None else None
    pairs: list[Pair] = []
    starts = range(0, len(places), _BLOCK)
    for low, high in ((a, b) for a in starts for b in starts if a <= b):
        cosines = vectors[low : low + _BLOCK] @ vectors[high : high + _BLOCK].T
        alike = cosines >= near
        if kind is not None:
            alike &= kind[low : low + _BLOCK, None] != kind[None, high : high + _BLOCK]
        for row, column in np.argwhere(alike):
            if low + row < high + column:
                cosine = min(1.0, float(cosines[row, column]))
                pairs.append((places[low + row], places[high + column], cosine))
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def _unit_vectors(texts: Sequence[str]) -> Floats:
    data = b"".join(base64.b64decode(text) for text in texts)
    vectors = np.frombuffer(data, np.int8).reshape(len(texts), -1).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / lengths, dtype=np.float32)


def _block_means(grey: Floats, *, axis: int) -> Floats:
    """Twelve means of equal stretches along one axis."""
    length = grey.shape[axis]
    edges = np.arange(CELLS) * length // CELLS
    sizes = np.diff(np.append(edges, length)).astype(np.float32)
    sums = np.add.reduceat(grey, edges, axis=axis)
    means = sums / (sizes[:, None] if axis == 0 else sizes)
    return np.asarray(means, dtype=np.float32)


def _numbered(groups: Sequence[object]) -> NDArray[np.int64]:
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)

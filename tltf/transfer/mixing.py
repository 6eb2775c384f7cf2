"""Mixing domains: MixUp and CutMix between source and target, and several sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tltf.errors import ArgumentError, DataError
from tltf.transfer import distances, kernels
from tltf.transfer.kernels import Floats

Arrays = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class DomainMixing:
    """What :class:`tltf.transfer.DomainEpochs` makes of the source half of each batch.

    Args:
      kind: ``mixup``, at the model's inputs whatever their shapes, or ``cutmix``, of one map.
      answers: what takes the place of the target's labels ``[n, C]``, one-hot or soft.
    """

    kind: str
    answers: np.ndarray

    def __call__(
        self, source: Sequence[np.ndarray], y: np.ndarray, target: Sequence[np.ndarray],
        rows: np.ndarray, *, seed: Sequence[int],
    ) -> tuple[list[np.ndarray], np.ndarray]:  # fmt: skip
        """Inputs and labels of the source examples, each mixed with one of the target's.

        Args:
          source, target: inputs of a batch, each ``[b, ...]``.
          y: of the source ``[b, C]``.
          rows: which of ``answers`` are those of the batch ``[b]``.
          seed: of the batch.
        """
        said = self.answers[rows]
        if self.kind == "cutmix":
            x, y = cutmix_domains((source[0], y), (target[0], said), seed=seed)
            return [x], y
        flat = [np.concatenate([a.reshape(len(a), -1) for a in side], axis=1)
                for side in (source, target)]  # fmt: skip
        x, y = mixup_domains((flat[0], y), (flat[1], said), seed=seed)
        widths = np.cumsum([int(np.prod(a.shape[1:])) for a in source])[:-1]
        parts = np.split(x, widths, axis=1)
        return [p.reshape(a.shape) for p, a in zip(parts, source, strict=True)], y


def mixup_domains(
    source: Arrays, target: Arrays, *, alpha: float = 0.2, seed: int | Sequence[int] = 0
) -> Arrays:
    """``(l x_s + (1 - l) x_t, l y_s + (1 - l) y_t)``, l from Beta(alpha, alpha), one for each pair.

    Zhang et al., *mixup* (ICLR 2018), section 2; across domains Xu et al. (AAAI 2020) with
    pseudo-labels or soft predictions as the target's y.

    Args:
      source, target: ``(x, y)`` of the same shapes, y one-hot or soft ``[n, C]``.
      alpha: > 0.
      seed: of l and of the pairing; every source example is used once.
    """
    (x_s, y_s), (x_t, y_t), rng = *_checked(source, target, alpha), np.random.default_rng(seed)
    partner = rng.integers(0, len(x_t), len(x_s))
    share = rng.beta(alpha, alpha, len(x_s)).astype(np.float32)
    l_x = share.reshape(-1, *(1,) * (x_s.ndim - 1))
    x = l_x * x_s + (1 - l_x) * x_t[partner]
    return x, share[:, None] * y_s + (1 - share[:, None]) * y_t[partner]


def cutmix_domains(
    source: Arrays, target: Arrays, *, alpha: float = 1.0, seed: int | Sequence[int] = 0
) -> Arrays:
    """A box of a target image is pasted into a source image; labels mix by the areas.

    Yun et al., *CutMix* (ICCV 2019), equations 1 and 2.

    Args:
      source, target: ``(images [n, h, w, c], y [n, C])``.
      alpha, seed: as :func:`mixup_domains`.
    """
    (x_s, y_s), (x_t, y_t), rng = *_checked(source, target, alpha), np.random.default_rng(seed)
    if x_s.ndim != 4:
        raise ArgumentError(f"shape {list(x_s.shape)}, expected [n, h, w, c]", where="cutmix")
    x, y = x_s.copy(), y_s.astype(np.float64).copy()
    height, width = x_s.shape[1:3]
    for i, j in enumerate(rng.integers(0, len(x_t), len(x_s))):
        cut = np.sqrt(1.0 - rng.beta(alpha, alpha))
        h, w = int(height * cut), int(width * cut)
        top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        x[i, top : top + h, left : left + w] = x_t[j, top : top + h, left : left + w]
        kept = 1.0 - h * w / (height * width)
        y[i] = kept * y_s[i] + (1.0 - kept) * y_t[j]
    return x, y


def source_shares(sources: Sequence[ArrayLike], target: ArrayLike, *, seed: int = 0) -> Floats:
    """How much of each of several sources to train on, by its nearness to the target.

    ``exp(-d_k) / sum_k' exp(-d_k')`` with d_k the proxy A-distance; after Zhao et al.,
    *Adversarial Multiple Source Domain Adaptation* (NeurIPS 2018), where sources are weighed by a
    softmax of their distances.

    Args:
      sources: features ``[n_k, D]`` of each source.
      target: features ``[n, D]``.
      seed: of the distances.

    Returns:
      Shares float64 ``[k]``, sum 1.
    """
    if not len(sources):
        raise ArgumentError("no sources", where="source_shares")
    t = kernels.matrix(target, what="target")
    apart = np.array([distances.proxy_a_distance(s, t, seed=seed).value for s in sources])
    nearness = np.exp(-apart)
    return nearness / nearness.sum()


def mixed_sources(sizes: Sequence[int], shares: ArrayLike, *, n: int, seed: int = 0) -> np.ndarray:
    """``[n, 2]``: source and row of each drawn example, sources by their shares.

    Args:
      sizes: examples of each source.
      shares: non-negative, one for each source.
      n: examples to draw, with replacement within a source.
      seed: of the drawing.
    """
    p = np.asarray(shares, np.float64)
    if len(p) != len(sizes) or (p < 0).any() or p.sum() <= 0 or min(sizes) < 1:
        raise ArgumentError(f"sizes={list(sizes)}, shares={p.tolist()}", where="mixed_sources")
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(p), n, p=p / p.sum())
    rows = (rng.random(n) * np.asarray(sizes)[chosen]).astype(int)
    return np.stack([chosen, rows], axis=1)


def _checked(source: Arrays, target: Arrays, alpha: float) -> tuple[Arrays, Arrays]:
    if alpha <= 0:
        raise ArgumentError(f"alpha={alpha:g}, expected more than 0", where="mixing")
    shapes = [[np.asarray(a).shape[1:] for a in pair] for pair in (source, target)]
    if shapes[0] != shapes[1] or not len(target[0]):
        raise DataError(f"source of {shapes[0]} and target of {shapes[1]}", where="mixing")
    return source, target

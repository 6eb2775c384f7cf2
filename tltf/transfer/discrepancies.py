"""Distances between the features of two domains, as loss terms: MMD, joint MMD, CORAL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tltf.errors import ArgumentError, nearest
from tltf.transfer.terms import DomainTerm, masked_mean

ESTIMATORS = ("biased", "unbiased", "linear")
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


@keras.saving.register_keras_serializable(package="tltf")
class MMD(DomainTerm):
    """Squared maximum mean discrepancy with a mean of Gaussian kernels.

    With ``k(x, y) = mean_f exp(-|x - y|**2 / (2 f sigma**2))``, f over ``factors``:

    - ``biased``: ``sum k(s, s') / m**2 + sum k(t, t') / n**2 - 2 sum k(s, t) / (m n)``
      (Gretton et al., JMLR 2012, equation 5, squared);
    - ``unbiased``: the same without equal pairs, over ``m (m-1)`` and ``n (n-1)`` (equation 3);
    - ``linear``: mean over quadruples of ``k(s1, s2) + k(t1, t2) - k(s1, t2) - k(s2, t1)``, cost
      linear in the batch (Lemma 14; Long et al., *Deep Adaptation Networks*, ICML 2015, section
      3.2), on the first ``2 floor(min(m, n) / 2)`` examples of each domain.

    Args:
      weight, ramp_steps: as :class:`~tltf.transfer.terms.DomainTerm`.
      estimator: ``biased``, ``unbiased`` or ``linear``.
      factors: of the bandwidths, each > 0.
      bandwidth: sigma**2; None for half the median squared distance of the batch (for ``linear``
        half the mean over the quadruples), through which no gradient flows.

    Example::

      features = tltf.transfer.MMD(weight=1.0)(features, domain)
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        estimator: str = "biased",
        factors: Sequence[float] = FACTORS,
        bandwidth: float | None = None,
        ramp_steps: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(weight, ramp_steps=ramp_steps, **kwargs)
        if estimator not in ESTIMATORS:
            raise ArgumentError(
                f"estimator={estimator!r}, expected one of {', '.join(ESTIMATORS)}"
                f"{nearest(estimator, ESTIMATORS)}",
                where="MMD",
            )
        if not factors or min(factors) <= 0 or (bandwidth is not None and bandwidth <= 0):
            raise ArgumentError(
                f"factors={list(factors)}, bandwidth={bandwidth}, expected numbers > 0", where="MMD"
            )
        self.estimator, self.factors, self.bandwidth = estimator, tuple(factors), bandwidth

    def value(self, features: Any, source: Any, target: Any, *, ramp: Any) -> Any:
        if self.estimator == "linear":
            return self._linear(flat(features), source, target)
        gram = kernel_of(features, factors=self.factors, bandwidth=self.bandwidth)
        return mmd_of_kernel(gram, source, target, biased=self.estimator == "biased")

    def get_config(self) -> dict[str, Any]:
        own = {
            "estimator": self.estimator, "factors": list(self.factors), "bandwidth": self.bandwidth
        }  # fmt: skip
        return {**super().get_config(), **own}

    def _linear(self, x: Any, source: Any, target: Any) -> Any:
        """Quadruples of rows, sources first by a stable sort, so that shapes stay static."""
        size = ops.shape(x)[0]
        rows = ops.arange(size)
        order = ops.argsort(ops.cast(target, "int32") * size + rows)
        n_s = ops.cast(ops.sum(source), "int32")
        n_t = ops.cast(ops.sum(target), "int32")
        first = 2 * ops.arange(size // 2)
        s1, s2, t1, t2 = (
            ops.take(x, ops.take(order, ops.minimum(first + offset, size - 1)), axis=0)
            for offset in (0, 1, n_s, n_s + 1)
        )
        used = ops.cast(first + 1 < 2 * (ops.minimum(n_s, n_t) // 2), "float32")
        squared = [
            ops.sum((a - b) ** 2, axis=1) for a, b in ((s1, s2), (t1, t2), (s1, t2), (s2, t1))
        ]
        width = self.bandwidth
        if width is None:
            mean = sum(ops.sum(d * used) for d in squared) / (4.0 * ops.maximum(ops.sum(used), 1.0))
            width = ops.stop_gradient(ops.where(mean > 0, mean / 2.0, 1.0))
        k = [gaussians(d, factors=self.factors, bandwidth=width) for d in squared]
        h = k[0] + k[1] - k[2] - k[3]
        return ops.sum(h * used) / ops.maximum(ops.sum(used), 1.0)


@keras.saving.register_keras_serializable(package="tltf")
class JointMMD(DomainTerm):
    """MMD of the joint distribution of several layers: the kernel is the product of theirs.

    ``sum K(s, s') / m**2 + sum K(t, t') / n**2 - 2 sum K(s, t) / (m n)``, ``K = prod_l k_l``.
    Long et al., *Deep Transfer Learning with Joint Adaptation Networks* (ICML 2017), equation 9.

    Call it with a list, usually ``[bottleneck, logits]`` and ``logits=True``; it is passed on.

    Args:
      weight, ramp_steps: as :class:`~tltf.transfer.terms.DomainTerm`.
      factors: of the bandwidths of every layer's kernel.
      logits: the last of the list are logits, whose softmax is compared.
    """

    AT = "joint"

    def __init__(
        self,
        weight: float = 1.0,
        *,
        factors: Sequence[float] = FACTORS,
        logits: bool = False,
        ramp_steps: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(weight, ramp_steps=ramp_steps, **kwargs)
        self.factors, self.logits = tuple(factors), logits

    def value(self, features: Any, source: Any, target: Any, *, ramp: Any) -> Any:
        gram: Any = 1.0
        layers = list(features)
        if self.logits:
            layers[-1] = ops.softmax(layers[-1])
        for layer in layers:
            gram = gram * kernel_of(layer, factors=self.factors, bandwidth=None)
        return mmd_of_kernel(gram, source, target, biased=True)

    def get_config(self) -> dict[str, Any]:
        own = {"factors": list(self.factors), "logits": self.logits}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="tltf")
class CORAL(DomainTerm):
    """Distance of the covariances: ``|C_S - C_T|_F**2 / (4 d**2)``.

    Sun & Saenko, *Deep CORAL* (ECCV 2016), equations 1 to 3; each covariance is divided by its
    number of examples less one. Fewer than two examples of a domain give zero.
    """

    def value(self, features: Any, source: Any, target: Any, *, ramp: Any) -> Any:
        x = flat(features)
        difference = _covariance(x, source) - _covariance(x, target)
        enough = ops.logical_and(ops.sum(source) > 1.5, ops.sum(target) > 1.5)
        value = ops.sum(difference**2) / (4.0 * x.shape[1] ** 2)
        return ops.cast(enough, "float32") * value


def kernel_of(features: Any, *, factors: Sequence[float], bandwidth: float | None) -> Any:
    """Mean of Gaussian kernels ``[B, B]`` of features ``[B, ...]``."""
    x = flat(features)
    # Distances do not change, and far fewer digits cancel in float32.
    x = x - ops.stop_gradient(ops.mean(x, axis=0, keepdims=True))
    length = ops.sum(x * x, axis=1)
    squared = length[:, None] + length[None, :] - 2.0 * ops.matmul(x, ops.transpose(x))
    squared = ops.maximum(squared, 0.0) * (1.0 - ops.eye(ops.shape(x)[0]))
    width = median_bandwidth(squared) if bandwidth is None else bandwidth
    return gaussians(squared, factors=factors, bandwidth=width)


def gaussians(squared: Any, *, factors: Sequence[float], bandwidth: Any) -> Any:
    """``mean_f exp(-squared / (2 f bandwidth))``."""
    return sum(ops.exp(-squared / (2.0 * f * bandwidth)) for f in factors) / float(len(factors))


def median_bandwidth(squared: Any) -> Any:
    """Half the median of the off-diagonal squared distances, without a gradient.

    The mean stands in where the median is 0, and 1 where all examples coincide.
    """
    size = ops.shape(squared)[0]
    pairs = size * (size - 1)
    # The zeros of the diagonal come first in order.
    ordered = ops.sort(ops.reshape(squared, (-1,)))
    last = size * size - 1
    low, high = (ops.minimum(size + (pairs + odd) // 2, last) for odd in (-1, 0))
    median = (ops.take(ordered, low) + ops.take(ordered, high)) / 2.0
    mean = ops.sum(squared) / ops.maximum(ops.cast(pairs, "float32"), 1.0)
    found = ops.where(median > 0, median, mean)
    return ops.stop_gradient(ops.where(found > 0, found / 2.0, 1.0))


def mmd_of_kernel(gram: Any, source: Any, target: Any, *, biased: bool) -> Any:
    """The statistic as quadratic forms in the masks, so that every shape is static."""
    n_s, n_t = ops.sum(source), ops.sum(target)
    if biased:
        w = source / ops.maximum(n_s, 1.0) - target / ops.maximum(n_t, 1.0)
        return ops.sum(w * ops.sum(gram * w[None, :], axis=1))
    inner = gram * (1.0 - ops.eye(ops.shape(gram)[0]))

    def form(a: Any, b: Any, pairs: Any) -> Any:
        return ops.sum(a * ops.sum(inner * b[None, :], axis=1)) / ops.maximum(pairs, 1.0)

    within = form(source, source, n_s * (n_s - 1)) + form(target, target, n_t * (n_t - 1))
    return within - 2.0 * form(source, target, n_s * n_t)


def flat(features: Any) -> Any:
    """``[B, ...]`` as float32 ``[B, D]``."""
    size = 1
    for side in features.shape[1:]:
        size *= side
    return ops.reshape(ops.cast(features, "float32"), (-1, size))


def _covariance(x: Any, mask: Any) -> Any:
    centred = (x - masked_mean(x, mask)[None, :]) * mask[:, None]
    return ops.matmul(ops.transpose(centred), centred) / ops.maximum(ops.sum(mask) - 1.0, 1.0)

"""Terms on the target's own answers and on feature norms: MCC, entropy, AFN."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tltf.errors import ArgumentError
from tltf.transfer.discrepancies import flat
from tltf.transfer.terms import DomainTerm, entropy, masked_mean


@keras.saving.register_keras_serializable(package="tltf")
class Entropy(DomainTerm):
    """Mean entropy of the target's predictions: ``-mean_t sum_c p_c log p_c``.

    Grandvalet & Bengio, *Semi-supervised Learning by Entropy Minimization* (NIPS 2004), equation
    6. By itself it is smallest where every example gets the same answer; ``diversity`` times the
    entropy of the mean prediction, ``-sum_c q_c log q_c`` with ``q = mean_t p``, is subtracted
    against that (Liang et al., *Do We Really Need to Access the Source Data?*, ICML 2020,
    equations 3 and 4). Call it with logits ``[B, C]``.

    Args:
      weight, ramp_steps: as :class:`~tltf.transfer.terms.DomainTerm`.
      diversity: >= 0; 0 for the entropy alone.
    """

    AT = "logits"

    def __init__(
        self, weight: float = 1.0, *, diversity: float = 0.0, ramp_steps: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(weight, ramp_steps=ramp_steps, **kwargs)
        if diversity < 0:
            raise ArgumentError(f"diversity={diversity:g}, expected >= 0", where="Entropy")
        self.diversity = diversity

    def value(self, features: Any, source: Any, target: Any, *, ramp: Any) -> Any:
        p = ops.softmax(features)
        return masked_mean(entropy(p), target) - self.diversity * entropy(masked_mean(p, target))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "diversity": self.diversity}


@keras.saving.register_keras_serializable(package="tltf")
class MinimumClassConfusion(DomainTerm):
    """How much pairs of classes are confused on the target.

    With ``Y = softmax(Z / T)`` of the target (equation 2), weights ``W_ii = B (1 + exp(-H_i)) /
    sum_i' (1 + exp(-H_i'))`` (equations 4 and 5), ``C = Y^T W Y`` (equation 5) and rows of C
    scaled to sum to one (equation 6), the value is ``sum_{j != j'} C_jj' / n_classes``
    (equation 7). Jin et al., *Minimum Class Confusion for Versatile Domain Adaptation* (ECCV
    2020). No gradient flows through W, as in the authors' code. Call it with logits ``[B, C]``.

    Args:
      weight, ramp_steps: as :class:`~tltf.transfer.terms.DomainTerm`.
      temperature: T > 0; 2.5 in the paper.
    """

    AT = "logits"

    def __init__(
        self, weight: float = 1.0, *, temperature: float = 2.5, ramp_steps: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(weight, ramp_steps=ramp_steps, **kwargs)
        if temperature <= 0:
            raise ArgumentError(f"temperature={temperature:g}, expected > 0", where="MCC")
        self.temperature = temperature

    def value(self, features: Any, source: Any, target: Any, *, ramp: Any) -> Any:
        y = ops.softmax(features / self.temperature)
        certainty = ops.stop_gradient(1.0 + ops.exp(-entropy(y))) * target
        w = ops.sum(target) * certainty / ops.maximum(ops.sum(certainty), 1e-12)
        confusion = ops.matmul(ops.transpose(y * w[:, None]), y)
        rows = ops.sum(confusion, axis=1, keepdims=True)
        confusion = confusion / ops.maximum(rows, 1e-12)
        return (ops.sum(confusion) - ops.sum(ops.diagonal(confusion))) / y.shape[1]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}


@keras.saving.register_keras_serializable(package="tltf")
class AdaptiveFeatureNorm(DomainTerm):
    """Features of both domains grow to larger norms.

    Stepwise (``radius=None``): ``mean (|h| - (|h|_before + step))**2`` with ``|h|_before`` a
    constant; hard: ``mean (|h| - radius)**2``; each the sum over the two domains. Xu et al.,
    *Larger Norm More Transferable* (ICCV 2019), section 3.3, equations 3 and 6.

    Args:
      weight, ramp_steps: as :class:`~tltf.transfer.terms.DomainTerm`; 0.05 in the paper.
      step: residual of the stepwise form, 1 in the paper.
      radius: of the hard form; None for the stepwise one.
    """

    def __init__(
        self,
        weight: float = 0.05,
        *,
        step: float = 1.0,
        radius: float | None = None,
        ramp_steps: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(weight, ramp_steps=ramp_steps, **kwargs)
        self.step, self.radius = step, radius

    def value(self, features: Any, source: Any, target: Any, *, ramp: Any) -> Any:
        # The root of zero has no finite slope.
        norm = ops.sqrt(ops.sum(flat(features) ** 2, axis=1) + 1e-12)
        wanted = ops.stop_gradient(norm) + self.step if self.radius is None else self.radius
        gap = (norm - wanted) ** 2
        return masked_mean(gap, source) + masked_mean(gap, target)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "step": self.step, "radius": self.radius}

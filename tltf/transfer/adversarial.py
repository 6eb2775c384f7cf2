"""Adversarial terms: gradient reversal, DANN, CDAN with and without entropy weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tltf.errors import ArgumentError
from tltf.transfer.discrepancies import flat
from tltf.transfer.terms import DomainTerm, entropy

MOST_PRODUCT = 4096


def reverse_gradient(x: Any, strength: Any) -> Any:
    """``x`` forward, ``-strength`` times the gradient backward (Ganin et al., equation 17).

    Written as ``x + (c' - c)`` with ``c = (1 + strength) x`` and c' its constant copy: exact
    forward, and it compiles, saves and exports like any arithmetic.
    """
    c = (1.0 + strength) * x
    return x + (ops.stop_gradient(c) - c)


@keras.saving.register_keras_serializable(package="tltf")
class DANN(DomainTerm):
    """A discriminator learns to tell the domains apart, the features learn to prevent it.

    Adds ``mean_s -log(1 - d(f)) + mean_t -log d(f)``, halved, where the discriminator d sees the
    features through a gradient reversal of strength lambda. Ganin et al., *Domain-Adversarial
    Training of Neural Networks* (JMLR 2016), equations 9 and 17 to 18; the published ramp of
    lambda (section 5.2.2) is ``ramp_steps``, and it leaves the discriminator's own rate alone.

    Args:
      weight: of the discriminator's loss.
      hidden: units of its hidden ReLU layers.
      strength: lambda at the end of the ramp.
      ramp_steps: training steps until then, usually all; 0 for full strength at once.
      normalize: the discriminator sees features of length sqrt(D), so that they cannot run away
        from it by growing; False in the paper.
      seed: of its initial weights.

    Example::

      features = tltf.transfer.DANN(ramp_steps=steps)(features, domain)
    """

    RAMPS_INSIDE = True

    def __init__(
        self,
        weight: float = 1.0,
        *,
        hidden: Sequence[int] = (256, 256),
        strength: float = 1.0,
        ramp_steps: int = 0,
        normalize: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(weight, ramp_steps=ramp_steps, **kwargs)
        self.normalize = normalize
        if strength < 0:
            raise ArgumentError(f"strength={strength:g}, expected >= 0", where=type(self).__name__)
        self.hidden, self.strength, self.seed = tuple(hidden), strength, seed
        he = keras.initializers.HeNormal
        self.discriminator = [
            keras.layers.Dense(
                units, activation="relu", dtype="float32", kernel_initializer=he(seed + i)
            )
            for i, units in enumerate(self.hidden)
        ]
        self.discriminator.append(
            keras.layers.Dense(
                1,
                dtype="float32",
                kernel_initializer=keras.initializers.GlorotUniform(seed + len(self.hidden)),
            )
        )

    def build(self, features_shape: Any, *_: Any) -> None:
        size = self.seen(features_shape)
        for layer in self.discriminator:
            layer.build((None, size))
            size = layer.units
        super().build(features_shape)

    def seen(self, features_shape: Any) -> int:
        """Numbers per example that the discriminator sees."""
        size = 1
        for side in features_shape[1:]:
            size *= side
        return size

    def value(self, features: Any, source: Any, target: Any, *, ramp: Any) -> Any:
        ones = ops.ones_like(source)
        return self.domain_loss(self.scaled(features), ones, source, target, ramp=ramp)

    def scaled(self, features: Any) -> Any:
        """Features ``[B, D]`` as the discriminator takes them."""
        x = flat(features)
        if not self.normalize:
            return x
        # The root of zero has no finite slope.
        return x * x.shape[1] ** 0.5 / ops.sqrt(ops.sum(x * x, axis=1, keepdims=True) + 1e-12)

    def domain_loss(self, x: Any, weights: Any, source: Any, target: Any, *, ramp: Any) -> Any:
        """Binary cross-entropy of the domains on reversed features, weighted in each domain."""
        x = reverse_gradient(x, self.strength * ramp)
        for layer in self.discriminator:
            x = layer(x)
        logit = x[:, 0]
        s, t = source * weights, target * weights
        on_source = ops.sum(s * ops.softplus(logit)) / ops.maximum(ops.sum(s), 1e-12)
        on_target = ops.sum(t * ops.softplus(-logit)) / ops.maximum(ops.sum(t), 1e-12)
        return (on_source + on_target) / 2.0

    def get_config(self) -> dict[str, Any]:
        own = {"hidden": list(self.hidden), "strength": self.strength, "seed": self.seed,
               "normalize": self.normalize}  # fmt: skip
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="tltf")
class CDAN(DANN):
    """DANN on the product of features and predictions, so that classes are aligned too.

    The discriminator sees ``f (x) g``, the outer product of features ``[B, D]`` and probabilities
    ``g = softmax(logits)``; above 4,096 numbers the randomised ``(R_f f) * (R_g g) / sqrt(d)``.
    With ``entropy_weights`` each example counts ``1 + exp(-H(g))`` (CDAN+E). Long et al.,
    *Conditional Adversarial Domain Adaptation* (NeurIPS 2018), equations 5 to 8. As in the
    authors' code no gradient flows through g.

    Call it with ``[features, logits]``; the list is passed on.

    Args:
      entropy_weights: CDAN+E.
      others: as :class:`DANN`.
    """

    AT = "joint"

    def __init__(
        self,
        weight: float = 1.0,
        *,
        entropy_weights: bool = True,
        hidden: Sequence[int] = (256, 256),
        strength: float = 1.0,
        ramp_steps: int = 0,
        normalize: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            weight, hidden=hidden, strength=strength, ramp_steps=ramp_steps, normalize=normalize,
            seed=seed, **kwargs,
        )  # fmt: skip
        self.entropy_weights = entropy_weights
        self.random: list[Any] = []

    def build(self, features_shape: Any, *_: Any) -> None:
        (_, d), (_, c) = features_shape
        if d * c > MOST_PRODUCT:
            self.random = [
                self.add_weight(
                    shape=(size, MOST_PRODUCT // 4),
                    initializer=keras.initializers.RandomNormal(0.0, 1.0, seed=self.seed + i),
                    trainable=False,
                    name=f"random_{i}",
                )
                for i, size in enumerate((d, c))
            ]
        super().build(features_shape)

    def seen(self, features_shape: Any) -> int:
        (_, d), (_, c) = features_shape
        return MOST_PRODUCT // 4 if d * c > MOST_PRODUCT else d * c

    def value(self, features: Any, source: Any, target: Any, *, ramp: Any) -> Any:
        f, logits = self.scaled(features[0]), features[1]
        g = ops.stop_gradient(ops.softmax(logits))
        if self.random:
            r_f, r_g = self.random
            x = ops.matmul(f, r_f) * ops.matmul(g, r_g) / (MOST_PRODUCT // 4) ** 0.5
        else:
            x = flat(f[:, :, None] * g[:, None, :])
        weights = ops.ones_like(source)
        if self.entropy_weights:
            weights = 1.0 + ops.exp(-entropy(g))
        return self.domain_loss(x, weights, source, target, ramp=ramp)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "entropy_weights": self.entropy_weights}

"""What all loss terms on two domains share: they pass features on and add to the loss.

A term is a layer that is called as ``layer(features, domain)``, where ``domain`` is ``[B]`` or
``[B, 1]`` with 0 for a source example and 1 for a target example of one mixed batch. It returns
the features unchanged and adds ``weight * ramp * value`` to the model's loss, so that a plain
``compile`` and ``fit`` train it. A batch without one of the two domains adds zero.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tltf.errors import ArgumentError

RAMP_STEEPNESS = 10.0


class DomainTerm(keras.layers.Layer):
    """A loss term between source and target examples of a batch.

    Args:
      weight: factor of the value in the loss, >= 0.
      ramp_steps: training steps in which the factor rises as ``2 / (1 + exp(-10 p)) - 1`` with
        ``p = step / ramp_steps`` (Ganin et al., JMLR 2016, section 5.2.2); 0 for none.

    Raises:
      ArgumentError: a negative weight or number of steps.
    """

    AT = "features"
    """What :func:`tltf.adapt.training_model` calls it with: features, logits, or joint."""

    RAMPS_INSIDE = False
    """Adversarial terms ramp the reversed gradient, not the discriminator's own."""

    def __init__(self, weight: float = 1.0, *, ramp_steps: int = 0, **kwargs: Any) -> None:
        # float32 whatever the policy: distances of features overflow float16 at once.
        super().__init__(**{"dtype": "float32", **kwargs})
        if weight < 0 or ramp_steps < 0:
            raise ArgumentError(
                f"weight={weight:g}, ramp_steps={ramp_steps}, expected numbers >= 0",
                where=type(self).__name__,
            )
        self.weight, self.ramp_steps = weight, ramp_steps
        if ramp_steps:
            self.ramp_step = self.add_weight(
                shape=(), initializer="zeros", trainable=False, name="ramp_step"
            )

    def call(self, features: Any, domain: Any, training: bool | None = None) -> Any:
        """Adds the term; returns ``features`` (one tensor, or a list of them) as they are."""
        target = ops.reshape(ops.cast(domain, "float32"), (-1,))
        source = 1.0 - target
        both = ops.cast(ops.logical_and(ops.any(source > 0.5), ops.any(target > 0.5)), "float32")
        ramp = self._ramp()
        value = self.value(features, source, target, ramp=ramp)
        factor = 1.0 if self.RAMPS_INSIDE else ramp
        self.add_loss(self.weight * factor * both * value)
        if self.ramp_steps and training:
            self.ramp_step.assign(self.ramp_step + 1.0)
        return features

    def value(self, features: Any, source: Any, target: Any, *, ramp: Any) -> Any:
        """The scalar value; ``source`` and ``target`` are 0/1 masks ``[B]`` that sum to 1."""
        raise NotImplementedError

    def compute_output_shape(self, features_shape: Any, *_: Any, **__: Any) -> Any:
        return features_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight, "ramp_steps": self.ramp_steps}

    def _ramp(self) -> Any:
        if not self.ramp_steps:
            return 1.0
        progress = ops.minimum(self.ramp_step / float(self.ramp_steps), 1.0)
        return 2.0 / (1.0 + ops.exp(-RAMP_STEEPNESS * progress)) - 1.0


def masked_mean(values: Any, mask: Any) -> Any:
    """Mean of ``values [B, ...]`` over the rows of the mask ``[B]``; 0 where there are none."""
    mask = ops.reshape(mask, (-1, *(1 for _ in values.shape[1:])))
    return ops.sum(values * mask, axis=0) / ops.maximum(ops.sum(mask), 1.0)


def entropy(probabilities: Any) -> Any:
    """``-sum_c p_c log p_c`` of each row, 0 log 0 = 0."""
    return -ops.sum(probabilities * ops.log(ops.maximum(probabilities, 1e-12)), axis=-1)

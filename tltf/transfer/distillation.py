"""What a small network learns from a large one: answers, features, and relations of examples.

Each is a layer ``layer(student, teacher)`` that returns the student's tensor and adds its value
to the loss; no gradient flows into the teacher.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tltf.errors import ArgumentError
from tltf.transfer.discrepancies import flat


class DistillationTerm(keras.layers.Layer):
    """A loss term between the tensors of a student and a teacher.

    Args:
      weight: factor of the value in the loss, >= 0.
    """

    def __init__(self, weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        if weight < 0:
            raise ArgumentError(f"weight={weight:g}, expected >= 0", where=type(self).__name__)
        self.weight = weight

    def call(self, student: Any, teacher: Any) -> Any:
        self.add_loss(self.weight * self.value(student, ops.stop_gradient(teacher)))
        return student

    def value(self, student: Any, teacher: Any) -> Any:
        """The scalar value."""
        raise NotImplementedError

    def compute_output_shape(self, student_shape: Any, *_: Any) -> Any:
        return student_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight}


@keras.saving.register_keras_serializable(package="tltf")
class LogitDistillation(DistillationTerm):
    """``T**2 mean KL(softmax(teacher / T) | softmax(student / T))`` of logits ``[B, C]``.

    Hinton, Vinyals, Dean, *Distilling the Knowledge in a Neural Network* (2015), section 2.

    Args:
      weight: as :class:`DistillationTerm`.
      temperature: T > 0.
    """

    def __init__(self, weight: float = 1.0, *, temperature: float = 2.0, **kwargs: Any) -> None:
        super().__init__(weight, **kwargs)
        if temperature <= 0:
            raise ArgumentError(f"temperature={temperature:g}, expected > 0")
        self.temperature = temperature

    def value(self, student: Any, teacher: Any) -> Any:
        p = ops.log_softmax(teacher / self.temperature)
        q = ops.log_softmax(student / self.temperature)
        divergence = ops.sum(ops.exp(p) * (p - q), axis=1)
        return self.temperature**2 * _mean(divergence)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}


@keras.saving.register_keras_serializable(package="tltf")
class FeatureDistillation(DistillationTerm):
    """``mean |r(student) - teacher|**2 / D``, r a trained linear map to the teacher's width.

    Romero et al., *FitNets* (ICLR 2015), equation 3.
    """

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        self.regressor = keras.layers.Dense(
            teacher_shape[-1], use_bias=False, dtype="float32", name="regressor",
            kernel_initializer=keras.initializers.GlorotUniform(0),
        )  # fmt: skip
        self.regressor.build(student_shape)
        super().build(student_shape)

    def value(self, student: Any, teacher: Any) -> Any:
        return ops.mean((self.regressor(student) - teacher) ** 2)


@keras.saving.register_keras_serializable(package="tltf")
class RelationalDistance(DistillationTerm):
    """Distances between examples, in units of their mean, are those of the teacher.

    ``sum_{i != j} huber(|t_i - t_j| / mu_t - |s_i - s_j| / mu_s)``, as the mean over pairs. Park et
    al., *Relational Knowledge Distillation* (CVPR 2019), equations 4 to 7. 25 is the authors'
    weight.
    """

    def value(self, student: Any, teacher: Any) -> Any:
        s, t = _scaled_distances(student), _scaled_distances(teacher)
        size = ops.cast(ops.shape(s)[0], "float32")
        return ops.sum(_huber(t - s)) / ops.maximum(size * (size - 1.0), 1.0)


@keras.saving.register_keras_serializable(package="tltf")
class RelationalAngle(DistillationTerm):
    """Angles at each example between all pairs of others are those of the teacher.

    ``huber(<e_ij, e_kj>_t - <e_ij, e_kj>_s)`` with ``e_ij = (x_i - x_j) / |x_i - x_j|``, the mean
    over all triples. Park et al. (CVPR 2019), equations 8 to 10. 50 is the authors' weight.
    """

    def value(self, student: Any, teacher: Any) -> Any:
        return ops.mean(_huber(_angles(teacher) - _angles(student)))


@keras.saving.register_keras_serializable(package="tltf")
class SimilarityPreserving(DistillationTerm):
    """Similarities within the batch are those of the teacher.

    ``|G_t - G_s|_F**2 / B**2`` with ``G = F F^T``, its rows scaled to length 1. Tung & Mori,
    *Similarity-Preserving Knowledge Distillation* (ICCV 2019), equations 2 to 4. 3000 is the
    authors' weight.
    """

    def value(self, student: Any, teacher: Any) -> Any:
        gap = (_similarities(teacher) - _similarities(student)) ** 2
        return ops.mean(gap)


def _mean(values: Any) -> Any:
    size = ops.maximum(ops.cast(ops.shape(values)[0], "float32"), 1.0)
    return ops.sum(values) / size


def _huber(x: Any) -> Any:
    size = ops.abs(x)
    return ops.where(size <= 1.0, 0.5 * x * x, size - 0.5)


def _scaled_distances(features: Any) -> Any:
    """``|x_i - x_j| / mean_{i != j}``, 0 on the diagonal."""
    x = flat(features)
    squared = ops.sum((x[:, None, :] - x[None, :, :]) ** 2, axis=2)
    # The root has no slope at zero: coinciding examples get none.
    apart = ops.cast(squared > 0, "float32")
    distance = ops.sqrt(ops.where(squared > 0, squared, 1.0)) * apart
    count = ops.cast(ops.shape(x)[0] * (ops.shape(x)[0] - 1), "float32")
    mean = ops.sum(distance) / ops.maximum(count, 1.0)
    return distance / ops.where(mean > 0, mean, 1.0)


def _angles(features: Any) -> Any:
    """``[j, i, k]``: the cosine at example j between i and k."""
    x = flat(features)
    e = x[None, :, :] - x[:, None, :]
    length = ops.sum(e * e, axis=2, keepdims=True)
    e = e / ops.sqrt(ops.where(length > 0, length, 1.0))
    return ops.matmul(e, ops.transpose(e, (0, 2, 1)))


def _similarities(features: Any) -> Any:
    x = flat(features)
    gram = ops.matmul(x, ops.transpose(x))
    length = ops.sum(gram * gram, axis=1, keepdims=True)
    return gram / ops.sqrt(ops.where(length > 0, length, 1.0))

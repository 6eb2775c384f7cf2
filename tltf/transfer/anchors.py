"""Data loss + lambda R(w): L2-SP, DELTA and BSS, and which weights train: LoRA, gradual phases."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tltf.errors import ArgumentError
from tltf.spec import Phase
from tltf.training import freezing, phases


class StartingPoint(keras.regularizers.Regularizer):
    """``alpha / 2 |w - w0|**2``, w0 the value that the variable has now."""

    def __init__(self, alpha: float, start: Any) -> None:
        self.alpha, self.start = alpha, start

    def __call__(self, x: Any) -> Any:
        return 0.5 * self.alpha * ops.sum((x - ops.cast(self.start, x.dtype)) ** 2)


def l2_sp(model: keras.Model, alpha: float = 0.01, *, beta: float = 0.01) -> int:
    """Pulls pretrained weights to where they started, new ones to zero.

    ``R(w) = alpha / 2 |w_S - w_S^0|**2 + beta / 2 |w_new|**2``; Li, Grandvalet, Davoine, *Explicit
    Inductive Bias for Transfer Learning with Convolutional Networks* (ICML 2018), equation 2. It
    is in ``model.losses`` from now on, for each variable while that trains.

    Args:
      model: a :func:`tltf.classifier`, or any model whose first nested model is pretrained.
      alpha: of the pretrained weights, >= 0.
      beta: of the others' kernels, >= 0.

    Returns:
      How many variables are anchored.

    Example::

      model = tltf.classifier(tltf.backbone("MobileNetV2"), tltf.head(3))
      tltf.transfer.l2_sp(model, 0.01)
    """
    if alpha < 0 or beta < 0:
        raise ArgumentError(f"alpha={alpha:g}, beta={beta:g}, expected >= 0", where="l2_sp")
    blocks = freezing.model_blocks(model)
    layers = [
        leaf for below in blocks.values() for layer in below for leaf in freezing.leaves(layer)
    ]
    anchored = {id(v): v for layer in layers for v in layer.weights if not _is_statistic(layer, v)}
    for variable in anchored.values():
        variable.regularizer = StartingPoint(alpha, ops.convert_to_numpy(variable.value))
    for leaf in freezing.leaves(model):
        for variable in leaf.trainable_variables:
            if id(variable) not in anchored and len(variable.shape) >= 2 and beta:
                variable.regularizer = keras.regularizers.L2(beta / 2.0)
    return len(anchored)


def _is_statistic(layer: Any, variable: Any) -> bool:
    kinds = ("moving_mean", "moving_variance", "seed_generator_state")
    return variable.name in kinds or variable.dtype not in ("float32", "bfloat16", "float16")


@keras.saving.register_keras_serializable(package="tltf")
class FeatureAnchor(keras.layers.Layer):
    """Features stay near those of the pretrained network: DELTA.

    Adds ``weight * mean_b sum_c a_c |F_c - F0_c|**2`` with the channels' attention a (1 by
    default) and returns F. Li et al., *DELTA: Deep Learning Transfer using Feature Map with
    Attention* (ICLR 2019), equations 4 and 5. No gradient flows into F0.

    Call it as ``layer(features, features_of_the_pretrained_network)``.

    Args:
      weight: >= 0.
      attention: factor of each channel ``[C]``; None for 1 each.
    """

    def __init__(
        self, weight: float = 0.01, *, attention: Sequence[float] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.weight = weight
        self.attention = list(attention) if attention is not None else None

    def call(self, features: Any, reference: Any) -> Any:
        gap = (features - ops.stop_gradient(reference)) ** 2
        gap = gap if self.attention is None else gap * ops.convert_to_tensor(self.attention)
        per_example = ops.sum(gap, axis=tuple(range(1, len(gap.shape))))
        total = ops.sum(per_example) / ops.maximum(ops.cast(ops.shape(gap)[0], "float32"), 1.0)
        self.add_loss(self.weight * total)
        return features

    def compute_output_shape(self, features_shape: Any, *_: Any) -> Any:
        return features_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight, "attention": self.attention}


@keras.saving.register_keras_serializable(package="tltf")
class BatchSpectralShrinkage(keras.layers.Layer):
    """Suppresses the smallest singular values of a batch of features, which hardly transfer.

    Adds ``weight * sum_{i=1..k} sigma_{-i}**2``, the k smallest of the ``min(B, D)`` singular
    values of F ``[B, D]``, while training, and returns F. Chen et al., *Catastrophic Forgetting
    Meets
    Negative Transfer: Batch Spectral Shrinkage* (NeurIPS 2019), equation 5.

    Args:
      weight: eta >= 0; 0.001 in the paper.
      k: how many, at least 1.
    """

    def __init__(self, weight: float = 0.001, *, k: int = 1, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        if weight < 0 or k < 1:
            raise ArgumentError(
                f"weight={weight:g}, k={k}, expected >= 0 and >= 1", where="BatchSpectralShrinkage"
            )
        self.weight, self.k = weight, k

    def call(self, features: Any, training: bool | None = None) -> Any:
        if training:
            rows, columns = ops.shape(features)
            # In `fit` the graph does not know the size of a batch: it decides when it has one.
            if isinstance(rows, int) and isinstance(columns, int):
                smallest = self._smallest(features if rows <= columns else ops.transpose(features))
            else:
                smallest = ops.cond(
                    rows <= columns,
                    lambda: self._smallest(features),
                    lambda: self._smallest(ops.transpose(features)),
                )
            self.add_loss(self.weight * smallest)
        return features

    def _smallest(self, f: Any) -> Any:
        """The sum of the k smallest squares of singular values of f, no more rows than columns."""
        # sigma**2 = |f^T u|**2 for a left vector u: with u held fixed value and gradient are
        # exact, and no difference of eigenvalues is divided by.
        gram = ops.stop_gradient(ops.matmul(f, ops.transpose(f)))
        _, vectors = ops.eigh(gram)
        smallest = ops.stop_gradient(vectors[:, : self.k])
        return ops.sum(ops.matmul(ops.transpose(smallest), f) ** 2)

    def compute_output_shape(self, features_shape: Any) -> Any:
        return features_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight, "k": self.k}


def enable_lora(model: keras.Model, rank: int = 4, *, unfreeze: str = "all") -> list[str]:
    """Adds low-rank adapters to the backbone's layers and fixes everything else in it.

    ``h = W0 x + (alpha / r) B A x`` with alpha = r; Hu et al., *LoRA: Low-Rank Adaptation of Large
    Language Models* (2021, arXiv 2106.09685), equation 3. Keras' own ``enable_lora`` of Dense,
    EinsumDense, Embedding and convolutions, and that of tltf's self-attention. Compile afterwards;
    :func:`merge_lora` makes an ordinary model of it again.

    Args:
      model: a :func:`tltf.classifier`, or any model; the head trains as before.
      rank: r, at least 1.
      unfreeze: which blocks, as in :class:`tltf.Phase`.

    Returns:
      Names of the layers that have an adapter now.

    Raises:
      ArgumentError: no layer can have one, or a rank below 1.

    Example::

      model = tltf.classifier(tltf.backbone("minilm"), tltf.head(2))
      tltf.transfer.enable_lora(model, rank=8, unfreeze="last:2")
      model.compile("adamw", keras.losses.CategoricalCrossentropy(from_logits=True))
      model.fit(data)
      tltf.transfer.merge_lora(model)
    """
    found = phases.adapted(model, unfreeze, rank)
    freezing.set_trainable(model, unfreeze)
    return found


def merge_lora(model: keras.Model) -> int:
    """Takes the adapters of :func:`enable_lora` off: ``W = W0 + A B``, with the same answers.

    What is left is an ordinary model. It has to be compiled again.

    Returns:
      How many adapters those were.
    """
    count = phases.merged(model)
    if count:
        model.compiled = False
    return count


def gradual_phases(
    last: int, *, epochs: int, learning_rate: float, block_lr_decay: float = 1.0, step: int = 1
) -> tuple[Phase, ...]:
    """Phases that unfreeze from the top: the head, then the last ``step``, ``2 step``, ... blocks.

    Howard & Ruder, *Universal Language Model Fine-tuning* (ACL 2018), section 3.3; with
    ``block_lr_decay`` (1 / 2.6 there) lower blocks learn more slowly.

    Args:
      last: blocks that train in the end.
      epochs: of each phase.
      learning_rate: of the head phase; the others take a tenth.
      block_lr_decay: as in :class:`tltf.Phase`.
      step: blocks added by each phase.

    >>> [phase.unfreeze for phase in gradual_phases(3, epochs=1, learning_rate=1e-3, step=2)]
    ['none', 'last:2', 'last:3']
    """
    counts = sorted({min(n, last) for n in range(step, last + step, step)})
    head = Phase("head", epochs, learning_rate, unfreeze="none")
    tune = Phase("tune", epochs, learning_rate / 10, block_lr_decay=block_lr_decay)
    return (
        head,
        *(dataclasses.replace(tune, name=f"tune{n}", unfreeze=f"last:{n}") for n in counts),
    )

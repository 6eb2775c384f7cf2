"""What a phase's loss has beside the labels: the starting network's features, or a teacher's.

Composed around the layers that the phase trains, and silent outside training, so that the best
epoch is chosen by the labels alone and the model that is saved knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tltf.backbones.network import Backbone
from tltf.errors import ArgumentError
from tltf.models import heads
from tltf.models.classifier import backbone_of
from tltf.training import adapters, freezing
from tltf.training.boundary import Boundary
from tltf.transfer import distillation
from tltf.transfer.anchors import FeatureAnchor

TERMS: Mapping[str, type[distillation.DistillationTerm]] = {
    "features": distillation.FeatureDistillation,
    "distances": distillation.RelationalDistance,
    "angles": distillation.RelationalAngle,
    "similarity": distillation.SimilarityPreserving,
}
UPPER = "upper"
"""The name of the part above a boundary, in its tail."""


class Guidance:
    """Terms on the features of a :func:`tltf.classifier`; a :class:`tltf.training.guided.Guidance`.

    Args:
      model: as it is before any training: its features are what an anchor holds on to.
      anchor: weight of DELTA, :class:`tltf.transfer.FeatureAnchor`, between the backbone's last
        feature maps and those that the starting network gives of the same input; 0 for none.
      terms: (key of :data:`TERMS`, weight) of a teacher's pooled features, in this order.
      columns: width of those features, which follow the targets; 0 without terms.

    Raises:
      ArgumentError: a model without a Backbone, whose features are not known.

    Example::

      tltf.fit_phases(model, plan, train, guidance=Guidance(model, anchor=0.01))
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        anchor: float = 0.0,
        terms: Sequence[tuple[str, float]] = (),
        columns: int = 0,
    ) -> None:
        backbone = backbone_of(model)
        if backbone is None:
            raise ArgumentError(
                f"{model.name} has no Backbone layer, so its features are not known",
                where="Guidance",
                next_action="build it with tltf.classifier",
            )
        self.anchor, self.terms, self.columns = anchor, tuple(terms), columns
        self._start: dict[int, np.ndarray] = {}
        if anchor:
            self._start = {id(v): keras.ops.convert_to_numpy(v.value) for v in backbone.variables}

    def compose(self, model: keras.Model, boundary: Boundary | None) -> keras.Model | None:
        """As :meth:`tltf.training.guided.Guidance.compose`; None where the features are fixed."""
        body = _body(model, boundary)
        if body is None or not body.trainable_variables:
            return None
        inputs = [keras.Input(t.shape[1:], dtype=t.dtype) for t in body.inputs]
        given = inputs if len(inputs) > 1 else inputs[0]
        x = body(given)
        if self.anchor:
            anchor = WhileTraining(FeatureAnchor(self.anchor), name="anchor")
            x = anchor(x, self._starting(body)(given))
        pool, *rest = model.get_layer(heads.HEAD).layers
        x = pool(x)
        said = [keras.Input((self.columns,), name="teacher")] if self.columns else []
        for kind, weight in self.terms:
            x = WhileTraining(TERMS[kind](weight), name=kind)(x, said[0])
        for layer in rest:
            x = layer(x)
        # One image comes as a tensor, what crosses a boundary as a list.
        every = given if boundary is None and not said else [*inputs, *said]
        return keras.Model(every, x, name=f"{model.name}_guided")

    def _starting(self, body: Backbone) -> Backbone:
        """A frozen copy of ``body`` with the values that its variables had at the start."""
        copy = keras.models.clone_model(body)
        adapters.merge(freezing.leaves(copy), keep=False)
        learned = {id(v) for leaf in freezing.leaves(body) for v in adapters.factors(leaf)}
        held = [v for v in body.variables if id(v) not in learned]
        for own, new in zip(held, copy.variables, strict=True):
            new.assign(self._start[id(own)])
        start = Backbone(copy.inputs, copy.outputs[0], name="start")
        start.trainable = False
        return start


def _body(model: keras.Model, boundary: Boundary | None) -> Backbone | None:
    """What makes the backbone's output of the phase's inputs; None if those are behind it."""
    if boundary is None:
        return backbone_of(model)
    return None if boundary.pooled else boundary.tail.get_layer(UPPER)


class WhileTraining(keras.layers.Layer):
    """A term ``layer(features, reference)`` that an evaluation does not have in its loss."""

    def __init__(self, term: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.term = term

    def call(self, features: Any, reference: Any, training: bool | None = None) -> Any:
        return features if training is False else self.term(features, reference)

    def compute_output_shape(self, features_shape: Any, *_: Any) -> Any:
        return features_shape

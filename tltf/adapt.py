"""Domain adaptation of any Keras model: the same layers, trained with terms on two domains.

The training model is composed around the given model's own layers: what it learns, the given
model has learned. Compile and fit it like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tltf.errors import ArgumentError, named_list, nearest
from tltf.transfer.adversarial import CDAN, DANN
from tltf.transfer.confidence import AdaptiveFeatureNorm, Entropy, MinimumClassConfusion
from tltf.transfer.discrepancies import CORAL, MMD, JointMMD
from tltf.transfer.domain_norm import DomainBatchNormalization
from tltf.transfer.domains import Domain, DomainEpochs
from tltf.transfer.terms import DomainTerm

__all__ = ["Domain", "DomainEpochs", "terms_for", "training_model"]


def training_model(
    model: keras.Model, *terms: DomainTerm, features: str | None = None
) -> keras.Model:
    """``[*inputs, domain]`` -> logits, with the terms in its loss and the model's own variables.

    Terms on features see what goes into the last layer with weights (dropout aside); terms on
    predictions see the logits; joint terms see both.

    Args:
      model: any functional or Sequential model that ends in logits, a :func:`tltf.classifier` too.
      terms: layers of :mod:`tltf.transfer`, in the order in which they are applied.
      features: name of the layer whose output is aligned, for another choice.

    Returns:
      A model to compile and fit on mixed batches: inputs and ``domain`` ``[B]`` (0 source, 1
      target), targets, and ``sample_weight`` 0 where there is no label.
      :class:`DomainEpochs` makes them.

    Raises:
      ArgumentError: no such layer, or a model without layers that can be seen.

    Example::

      model = tltf.classifier(tltf.backbone("MobileNetV2"), tltf.head(3, hidden=(256,)))
      training = tltf.adapt.training_model(model, tltf.transfer.MMD())
      training.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True))
      training.fit((x, domain), y, sample_weight=1 - domain)
      model.predict(x_target)
    """
    tensor, body, top = _parts(model, features)
    domain = keras.Input((), name="domain", dtype="float32")
    x = _applied(body, tensor, domain)
    for term in terms:
        if term.AT == "features":
            x = term(x, domain)
    logits = _applied(top, x, domain)
    for term in terms:
        if term.AT == "logits":
            logits = term(logits, domain)
        elif term.AT == "joint":
            _, logits = term([x, logits], domain)
    return keras.Model([*model.inputs, domain], logits, name=f"{model.name}_training")


def terms_for(
    method: str, *, weight: float | None = None, steps: int = 0, seed: int = 0
) -> tuple[DomainTerm, ...]:
    """The terms of a method's name with our default weights.

    Args:
      method: a key of :data:`TERMS`; ``source_only`` and ``dsbn`` have none.
      weight: of the term; None for the default of :data:`TERMS`.
      steps: training steps in all, over which terms ramp up; 0 for no ramp.
      seed: of a discriminator.

    Raises:
      ArgumentError: an unknown method.
    """
    if method in ("source_only", "dsbn"):
        return ()
    if method not in TERMS:
        raise ArgumentError(
            f"method={method!r}, expected one of {', '.join(TERMS)}{nearest(method, TERMS)}",
            where="--method",
        )
    row = TERMS[method]
    settings = dict(row.settings)
    if issubclass(row.kind, DANN):
        settings["seed"] = seed
    return (row.kind(row.weight if weight is None else weight, ramp_steps=steps, **settings),)


@dataclass(frozen=True)
class _Row:
    kind: type[Any]
    weight: float
    settings: tuple[tuple[str, Any], ...] = ()


# At lambda = 1 the adversary of a small network forgets the task, and held-out source examples
# and the reverse accuracy show it. The product of features and predictions says more about the
# domain than the features do, and takes less: docs/transfer.md has the measurements.
_DANN = (("strength", 0.3), ("normalize", True))
_CDAN = (("strength", 0.03), ("normalize", True))

TERMS = {
    "mmd": _Row(MMD, 1.0),
    "dan": _Row(MMD, 1.0, (("estimator", "unbiased"),)),
    "jan": _Row(JointMMD, 1.0, (("logits", True),)),
    "deep_coral": _Row(CORAL, 10.0),
    "dann": _Row(DANN, 1.0, _DANN),
    "cdan": _Row(CDAN, 1.0, (*_CDAN, ("entropy_weights", False))),
    "cdan_e": _Row(CDAN, 1.0, _CDAN),
    "mcc": _Row(MinimumClassConfusion, 1.0),
    "entropy": _Row(Entropy, 0.1, (("diversity", 1.0),)),
    "afn": _Row(AdaptiveFeatureNorm, 0.005),
}


def _applied(layers: Sequence[Any], x: Any, domain: Any) -> Any:
    for layer in layers:
        x = layer(x, domain) if isinstance(layer, DomainBatchNormalization) else layer(x)
    return x


def _parts(model: keras.Model, features: str | None) -> tuple[Any, list[Any], list[Any]]:
    """A tensor of the model, the layers from it to the features, and those above."""
    if not getattr(model, "outputs", None):
        raise ArgumentError(
            f"{type(model).__name__} shows no graph, expected a functional or Sequential model",
            where="training_model",
            next_action="begin it with keras.Input, or wrap it in a functional model",
        )
    tensor, layers = model.outputs[0], []
    # Down to below the last layer with weights, or to the layer that was named. A tensor that
    # several others make ends the chain: what lies below it is left as it is.
    while True:
        found = _step_down(tensor)
        weighted = any(layer.weights for layer in layers)
        named = features is None or features in [layer.name for layer in layers]
        quiet = found is not None and all(_is_dropout(layer) for layer in found[1])
        if found is None or (weighted and named and not quiet):
            break
        tensor, layers = found[0], [*found[1], *layers]
    names = [layer.name for layer in layers]
    if features is not None and features not in names:
        raise ArgumentError(
            f"features={features!r} is not among the layers in a row at the end of {model.name}:"
            f" {named_list(names, most=12)}{nearest(features, names)}",
            where="training_model",
        )
    if features is not None:
        cut = names.index(features) + 1
    else:
        cut = max((i for i, layer in enumerate(layers) if layer.weights), default=0)
        while cut and _is_dropout(layers[cut - 1]):
            cut -= 1
    return tensor, layers[:cut], layers[cut:]


def _step_down(tensor: Any) -> tuple[Any, list[Any]] | None:
    """What a layer read to make a tensor, and the layer; None at an input or a junction.

    seam: KerasTensor._keras_history, Operation._inbound_nodes
    """
    history = tensor._keras_history
    node = history.operation._inbound_nodes[history.node_index]
    operation = history.operation
    if node.is_input or len(node.input_tensors) != 1 or not isinstance(operation, keras.Layer):
        return None
    layers = list(operation.layers) if isinstance(operation, keras.Sequential) else [operation]
    return node.input_tensors[0], layers


def _is_dropout(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Dropout | keras.layers.GaussianDropout)

"""Which layers a phase trains, set leaf by leaf and then checked.

Keras' ``trainable`` has two traps: assigning True where it already is True does nothing, so
that children frozen one by one stay frozen; and a container's False hides its children's
True. So every leaf and every container above it is set explicitly here, and the resulting
list of variables is compared with the intention.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import keras

from tltf.backbones.hub.layer import SavedModelLayer
from tltf.backbones.hub.parts import ModulePart
from tltf.backbones.network import as_backbone
from tltf.errors import ArgumentError, TrainabilityError, named_list
from tltf.models.classifier import backbone_of
from tltf.spec import BATCH_NORMS, check_unfreeze
from tltf.training import adapters

Blocks = Mapping[str, list[keras.layers.Layer]]


@dataclass(frozen=True)
class Trainability:
    """Paths of the variables that a phase trains, and of those that it must not change.

    ``adapting`` are BatchNorm statistics that move without a gradient (batch_norm=adapt).
    ``blocks`` are the backbone's unfrozen blocks, bottom to top.
    """

    trainable: tuple[str, ...]
    frozen: tuple[str, ...]
    adapting: tuple[str, ...]
    blocks: tuple[str, ...]

    def summary(self) -> str:
        """One line for the log."""
        what = f"head and {named_list(self.blocks)}" if self.blocks else "head only"
        return f"{what}: {len(self.trainable)} variables train, {len(self.frozen)} are frozen"


def set_trainable(model: keras.Model, unfreeze: str, *, batch_norm: str = "frozen") -> Trainability:
    """Freezes and unfreezes the model's layers, without compiling.

    Args:
      model: any ``keras.Model``. Its Backbone layer, or else its first nested model, or else
        its layers but the last one with weights, make the blocks; the rest is the head,
        which always trains.
      unfreeze: as in :class:`tltf.spec.Phase`.
      batch_norm: ``frozen`` leaves BatchNorm of unfrozen blocks in inference mode with fixed
        gamma and beta, ``adapt`` trains it.

    Where a layer that ``unfreeze`` names has a low-rank adapter (:mod:`tltf.training.adapters`),
    of all that it names only adapters train: kernels, biases and LayerNormalization stay fixed.
    Layers without weights, as Dropout, are as usual.

    Raises:
      ArgumentError: nothing in the model matches; the blocks are listed.
      TrainabilityError: Keras did not take the setting.
    """
    if batch_norm not in BATCH_NORMS:
        raise ArgumentError(f"batch_norm={batch_norm!r}, expected one of {BATCH_NORMS}")
    blocks = model_blocks(model)
    chosen = select(blocks, unfreeze)
    body = {id(leaf) for layers in blocks.values() for layer in layers for leaf in leaves(layer)}
    wanted = {id(leaf) for layer in chosen for leaf in leaves(layer)}
    _reset(model)
    for leaf in leaves(model):
        fixed_norm = batch_norm == "frozen" and is_batch_norm(leaf)
        leaf.trainable = id(leaf) not in body or (id(leaf) in wanted and not fixed_norm)
    low_rank = [leaf for leaf in leaves(model) if id(leaf) in wanted and not is_batch_norm(leaf)]
    if any(adapters.has(leaf) for leaf in low_rank):
        for leaf in low_rank:
            adapters.only_factors(leaf)
    if not wanted:
        for container in _containers_of(model, body):
            container.trainable = False
    if batch_norm == "adapt" and wanted:
        _check_modules(model, unfreeze)
    found = _checked(model, blocks, wanted)
    if chosen and not found.blocks:
        why = "it holds only BatchNorm, which batch_norm='frozen' keeps fixed"
        raise _no_match(unfreeze, blocks, why)
    return found


def model_blocks(model: keras.Model) -> Blocks:
    """The named blocks of whatever stands for the backbone in ``model``, bottom to top."""
    backbone = backbone_of(model)
    if backbone is not None:
        return backbone.blocks
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    if nested:
        return as_backbone(nested[0]).blocks
    found: dict[str, list[keras.layers.Layer]] = {}
    for layer in [layer for layer in model.layers if layer.weights][:-1]:
        # A layer without a matrix, as BatchNorm, belongs to the one below it.
        own = any(len(weight.shape) >= 2 for weight in layer.weights) or not found
        name = layer.name if own else next(reversed(found))
        found.setdefault(name, []).append(layer)
    return found


def select(blocks: Blocks, unfreeze: str) -> list[keras.layers.Layer]:
    """The layers that ``unfreeze`` names.

    Raises:
      ArgumentError: the pattern is malformed or matches nothing with weights.
    """
    check_unfreeze(unfreeze)
    weighted = [name for name, layers in blocks.items() if any(_has_weights(x) for x in layers)]
    kind, _, rest = unfreeze.partition(":")
    if kind == "none":
        return []
    if kind == "regex":
        return _by_pattern(blocks, rest)
    if kind == "all":
        names = list(blocks)
    elif kind == "last":
        if int(rest) > len(weighted):
            raise _no_match(unfreeze, blocks, f"there are {len(weighted)} blocks")
        names = list(blocks)[list(blocks).index(weighted[-int(rest)]) :]
    else:
        names = [name.strip() for name in rest.split(",")]
        unknown = [name for name in names if name not in blocks]
        if unknown:
            raise _no_match(unfreeze, blocks, f"there is no block {unknown[0]!r}")
    return [layer for name in names for layer in blocks[name]]


def leaves(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers without sub-layers at or below ``layer``; a layer with own weights counts too."""
    below = [leaf for sub in sublayers(layer) for leaf in leaves(sub)]
    own = not below or _owns_weights(layer)
    return [*below, layer] if own else below


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Direct children, of models and of composite layers alike."""
    if isinstance(layer, keras.Model):
        return list(layer.layers)
    # seam: Layer._flatten_layers
    return [sub for sub in layer._flatten_layers(include_self=False, recursive=False)]


def is_batch_norm(layer: keras.layers.Layer) -> bool:
    """A BatchNorm layer, or the variables of one in a SavedModel."""
    return isinstance(layer, keras.layers.BatchNormalization) or (
        isinstance(layer, ModulePart) and layer.is_batch_norm
    )


def norm_statistics(layers: Iterable[keras.layers.Layer]) -> list[keras.Variable]:
    """Moving mean and variance of the BatchNorm layers that are in training mode."""
    return [
        variable
        for layer in layers
        if is_batch_norm(layer) and layer.trainable
        for variable in layer.non_trainable_variables
    ]


def _check_modules(model: keras.Model, unfreeze: str) -> None:
    """A SavedModel has one switch for all its statistics."""
    # seam: Layer._flatten_layers
    for layer in model._flatten_layers():
        if isinstance(layer, SavedModelLayer) and not layer.whole:
            raise ArgumentError(
                f"batch_norm='adapt' with unfreeze={unfreeze!r}: a SavedModel's statistics move"
                " only when all of it trains",
                where="--batch_norm",
                next_action="use --unfreeze=all, or batch_norm='frozen'",
            )


def _by_pattern(blocks: Blocks, pattern: str) -> list[keras.layers.Layer]:
    named = [x for layers in blocks.values() for x in layers if re.search(pattern, x.name)]
    if not named:
        raise _no_match(f"regex:{pattern}", blocks, "no layer has such a name")
    if not any(_has_weights(layer) for layer in named):
        names = named_list([layer.name for layer in named])
        raise _no_match(f"regex:{pattern}", blocks, f"it matches only {names}, without weights")
    return named


def _no_match(unfreeze: str, blocks: Blocks, why: str) -> ArgumentError:
    return ArgumentError(
        f"unfreeze={unfreeze!r} selects nothing to train: {why};"
        f" blocks, bottom to top: {named_list(blocks, most=24)}",
        where="--unfreeze",
        next_action="name one of the blocks, or use last:N",
    )


def _reset(model: keras.Model) -> None:
    """Sets every container's own flag to True, by way of False (see the module's text)."""
    model.trainable = False
    model.trainable = True


def _containers_of(model: keras.Model, body: set[int]) -> list[keras.layers.Layer]:
    return [
        layer
        for layer in model.layers
        if sublayers(layer) and all(id(leaf) in body for leaf in leaves(layer))
    ]


def _checked(model: keras.Model, blocks: Blocks, wanted: set[int]) -> Trainability:
    trainable = model.trainable_variables
    adapting = norm_statistics(leaves(model))
    moving = {id(v) for v in (*trainable, *adapting)}
    states = {id(v) for layer in leaves(model) for v in _seed_states(layer)}
    for leaf in leaves(model):
        for variable in leaf.trainable_variables:
            if id(variable) not in moving:
                raise TrainabilityError(
                    f"{variable.path} should train, but a layer above it is frozen",
                    where=model.name,
                    next_action="report this model to tltf with its summary",
                )
    return Trainability(
        trainable=tuple(v.path for v in trainable),
        frozen=tuple(
            v.path for v in model.variables if id(v) not in moving and id(v) not in states
        ),
        adapting=tuple(v.path for v in adapting),
        blocks=tuple(
            name
            for name, layers in blocks.items()
            if any(
                id(leaf) in wanted and leaf.trainable_variables
                for layer in layers
                for leaf in leaves(layer)
            )
        ),
    )


def _seed_states(layer: keras.layers.Layer) -> list[keras.Variable]:
    """State of random generators: it moves with every step of dropout, frozen or not."""
    return [v for v in layer.variables if v.path.endswith("seed_generator_state")]


def _has_weights(layer: keras.layers.Layer) -> bool:
    return bool(layer.weights)


def _owns_weights(layer: keras.layers.Layer) -> bool:
    below = {id(v) for sub in sublayers(layer) for v in sub.weights}
    return any(id(v) not in below for v in layer.weights)

"""Entering a phase: freeze, compile afresh, assert what trains, as one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras

from tltf.errors import ArgumentError, TrainabilityError, named_list
from tltf.methods import average
from tltf.spec import Phase
from tltf.training import adapters, freezing, objectives
from tltf.training.freezing import Trainability
from tltf.training.optimizers import build_optimizer


def enter_phase(
    model: keras.Model,
    phase: Phase,
    *,
    steps_per_epoch: int = 1,
    task: str = "single_label",
    loss: keras.losses.Loss | str | None = None,
    metrics: Sequence[keras.metrics.Metric | str] | None = None,
    label_smoothing: float = 0.0,
    jit_compile: bool | str = False,
) -> Trainability:
    """Makes ``model`` ready to train ``phase`` by anyone's ``fit``.

    Sets every layer's ``trainable`` as ``phase.unfreeze`` says, compiles with a fresh
    optimizer (warm-up included) and checks that exactly the intended variables train.
    Low-rank adapters stay until :func:`tltf.transfer.merge_lora`; of ``average="ema:M"`` Keras'
    ``fit`` leaves the mean at its end, and ``keras.callbacks.SwapEMAWeights`` judges it.

    Args:
      model: any built ``keras.Model``; :func:`tltf.classifier` gives one whose frozen layers
        also run in inference mode inside ``fit``.
      phase: with ``unfreeze``, ``epochs`` and ``learning_rate`` set.
      steps_per_epoch: batches per epoch, for the length of the schedule.
      task: which loss and metrics to use when ``loss`` or ``metrics`` is None; they expect
        one-hot float targets (:mod:`tltf.training.objectives`).
      loss, metrics: as for ``model.compile``; sparse integer labels want
        ``keras.losses.SparseCategoricalCrossentropy(from_logits=True)``.
      jit_compile: passed to ``compile``.

    Returns:
      What trains and what is frozen; give it to :class:`tltf.TrainabilityGuard`.

    Raises:
      ArgumentError: the phase leaves a field to the recipe, or selects nothing, or has
        ``average="swa"``, for which :func:`tltf.fit_phases` counts the steps.
      TrainabilityError: the compiled model would train something else.

    Example::

      tltf.enter_phase(model, tltf.Phase("tune", 5, 1e-4, unfreeze="last:2"), steps_per_epoch=20)
      model.fit(data, epochs=5)
    """
    if average(phase.average)[0] == "swa":
        raise ArgumentError(
            f"average={phase.average!r}, which only tltf.fit_phases counts the steps for",
            where=f"phase {phase.name!r}",
            next_action="use tltf.fit_phases, or average='ema:0.99'",
        )
    trainability = freeze(model, phase)
    blocks = freezing.model_blocks(model)
    compile_phase(
        model,
        phase,
        trainability,
        blocks={name: blocks[name] for name in trainability.blocks},
        steps_per_epoch=steps_per_epoch,
        loss=loss if loss is not None else objectives.loss_for(
            task, label_smoothing=label_smoothing
        ),
        metrics=list(metrics) if metrics is not None else objectives.metrics_for(task),
        jit_compile=jit_compile,
    )  # fmt: skip
    return trainability


def freeze(model: keras.Model, phase: Phase) -> Trainability:
    """Sets the flags that ``phase`` asks for, without compiling; with its low-rank adapters."""
    if phase.unfreeze is None or phase.epochs is None:
        raise ArgumentError(
            "the phase leaves epochs or unfreeze to the recipe",
            where=f"phase {phase.name!r}",
            next_action="set both, for example Phase('head', 10, 1e-3, unfreeze='none')",
        )
    if phase.lora and phase.epochs:
        adapted(model, phase.unfreeze, phase.lora)
    return freezing.set_trainable(model, phase.unfreeze, batch_norm=phase.batch_norm)


def adapted(model: keras.Model, unfreeze: str, rank: int) -> list[str]:
    """Puts low-rank adapters on the layers that ``unfreeze`` names; returns the names of those.

    Raises:
      ArgumentError: a rank below 1, or no layer that takes one.
    """
    blocks = freezing.model_blocks(model)
    named = [x for layer in freezing.select(blocks, unfreeze) for x in freezing.leaves(layer)]
    found = adapters.add(dict.fromkeys(named), rank)
    if not found:
        kinds = sorted({type(layer).__name__ for layer in named if layer.weights})
        raise ArgumentError(
            f"no layer that unfreeze={unfreeze!r} names takes a low-rank adapter: it has weights in"
            f" {named_list(kinds) or 'no layer'}; adapters are for {adapters.KINDS}",
            where="--lora",
            next_action="unfreeze blocks with such layers, or leave lora out and tune the weights",
        )
    return [layer.name for layer in found]


def merged(model: keras.Model) -> int:
    """Takes all adapters off, kernels changed by what they learned; returns how many those were.

    The model is an ordinary one then, with the same answers. It has to be compiled again.
    """
    return adapters.merge(freezing.leaves(model))


def compile_phase(
    model: keras.Model,
    phase: Phase,
    trainability: Trainability,
    *,
    blocks: Mapping[str, list[keras.layers.Layer]],
    steps_per_epoch: int,
    loss: keras.losses.Loss | str,
    metrics: Sequence[keras.metrics.Metric | str],
    jit_compile: bool | str = False,
) -> None:
    """Compiles ``model``, or the tail of one, whose flags are set, and checks what trains."""
    model.compile(
        optimizer=build_optimizer(
            phase, steps=max(1, (phase.epochs or 0) * steps_per_epoch), blocks=blocks
        ),
        loss=loss,
        metrics=list(metrics),
        jit_compile=jit_compile,
    )
    # Built here, on exactly this list: a later change of `trainable` is then a mismatch
    # that TrainabilityGuard sees, instead of a silent change of what is trained.
    model.optimizer.build(model.trainable_variables)
    check_trainable(model, trainability)


def check_trainable(model: keras.Model, trainability: Trainability) -> None:
    """Raises TrainabilityError unless exactly the intended variables train."""
    intended, actual = set(trainability.trainable), {v.path for v in model.trainable_variables}
    if intended != actual:
        raise TrainabilityError(
            f"the trainable set changed: {named_list(sorted(intended ^ actual), most=3)}",
            where=model.name,
            next_action="call tltf.enter_phase (or compile) after changing `trainable`",
        )
    compiled = compiled_variables(model)
    if compiled is not None and compiled != {id(v) for v in model.trainable_variables}:
        raise TrainabilityError(
            "`trainable` was changed after `compile`: the optimizer still has the old list, so"
            " the newly unfrozen layers would silently not train",
            where=model.name,
            next_action="call tltf.enter_phase (or compile) again, then fit",
        )


def compiled_variables(model: keras.Model) -> set[int] | None:
    """ids of the variables that the compiled optimizer was built for; None if not built yet."""
    optimizer = getattr(model, "optimizer", None)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if optimizer is None or not optimizer.built:
        return None
    # seam: Optimizer._trainable_variables
    return {id(v) for v in optimizer._trainable_variables}

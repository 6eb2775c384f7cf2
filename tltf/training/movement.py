"""What moved and what did not: digests of variables before and after a phase."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import keras
import tensorflow as tf

from tltf.errors import TrainabilityError, named_list
from tltf.training import adapters
from tltf.training.freezing import Trainability

Digests = dict[str, str]

GRADIENT_FLOOR = 1e-6
"""A smaller gradient may be lost in the rounding of the weight that it is to move."""


@dataclass(frozen=True)
class Movement:
    """The outcome of one phase's check.

    ``moved``: intended variables that changed. ``without_gradient``: intended variables to
    which the loss has, or had in a phase of one step, no gradient path, or none above 1e-6; listed,
    no error.
    """

    moved: tuple[str, ...]
    without_gradient: tuple[str, ...]


def digests(variables: Iterable[keras.Variable]) -> Digests:
    """Hex digest of each variable's bytes, keyed by ``path#position``: stable across processes."""
    return {
        f"{v.path}#{i}": hashlib.blake2b(
            keras.ops.convert_to_numpy(v.value).tobytes(), digest_size=16
        ).hexdigest()
        for i, v in enumerate(variables)
    }


def check_movement(
    model: keras.Model,
    before: Digests,
    trainability: Trainability,
    *,
    batch: Callable[[], tuple],
    part: keras.Model | None = None,
    steps: int | None = None,
) -> Movement:
    """Frozen means frozen, unfrozen means moved.

    Call it before best weights are restored. BatchNorm statistics under ``adapt`` are exempt.

    Args:
      model: compiled, at the end of the phase.
      before: :func:`digests` of ``model.variables`` at the start of the phase.
      batch: gives one ``(x, y)`` or ``(x, y, sample_weight)``, to see whether a variable that
        did not move has a gradient.
      part: what was compiled and trained, if that is not ``model``; ``batch`` is for it.
      steps: of the optimizer in this phase; after a single one half of a low-rank adapter still
        stands where it began.

    Raises:
      TrainabilityError: a frozen variable changed, or one with a gradient did not.
    """
    after = digests(model.variables)
    changed = {key.rpartition("#")[0] for key in after if before.get(key) != after[key]}
    broken = sorted(changed & set(trainability.frozen))
    if broken:
        raise TrainabilityError(
            f"frozen variables changed during the phase: {named_list(broken, most=3)}",
            where=model.name,
            next_action="report this model to tltf",
        )
    still = [v for v in model.trainable_variables if v.path not in changed]
    due = [v for v in still if steps != 1 or not adapters.waits(v)]
    stuck = _with_gradient(part or model, due, batch()) if due else []
    if stuck:
        raise TrainabilityError(
            f"variables that should train did not move: {named_list(stuck, most=3)}",
            where=model.name,
            next_action="check that nothing sets `trainable` after tltf.enter_phase",
        )
    moved = tuple(v.path for v in model.trainable_variables if v.path in changed)
    return Movement(moved=moved, without_gradient=tuple(v.path for v in still))


def _with_gradient(model: keras.Model, variables: list[keras.Variable], batch: tuple) -> list[str]:
    """Paths of those variables to which the loss has a gradient that must show."""
    x, y, weight = (*batch, None)[:3]

    def largest() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weight)
        gradients = tape.gradient(loss, [v.value for v in variables])
        return [
            tf.zeros(()) if g is None else tf.reduce_max(tf.abs(tf.convert_to_tensor(g)))
            for g in gradients
        ]

    # Variables of several devices have a gradient only where each replica computes.
    strategy = tf.distribute.get_strategy()
    found = [strategy.experimental_local_results(g)[0] for g in strategy.run(largest)]
    return [v.path for v, g in zip(variables, found, strict=True) if float(g) > GRADIENT_FLOOR]

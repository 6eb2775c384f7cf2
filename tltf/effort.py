"""How much a run tries, decided from its specification alone: before any data is read.

``fast`` is one pass and the stacked probe; ``default`` tries tuning beside it where the sizes say
that it can pay; ``best`` tries more of both. ``plan`` is what the phases of the specification say,
two of them if nothing else is asked for: whoever says how to train gets exactly that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tltf.backbones.catalog import SCRATCH
from tltf.data.manifest import is_index
from tltf.errors import ArgumentError
from tltf.recipes import Choice
from tltf.spec import AUTO, HeadSpec, TransferSpec, two_phases

FAST, DEFAULT, BEST, PLAN = "fast", "default", "best", "plan"
FOLDS = 5
FOLDS_BELOW = 2000
"""From so many labelled examples on, a carved validation split says as much as folds do, to a
fraction of a point, at a fifth of the work."""

MOST_PROBED = 20_000
"""With more examples the heads of a probe take longer to solve than to train."""


def decided(spec: TransferSpec) -> tuple[str, Choice | None]:
    """The effort of a specification, and why, where it was left open.

    Example::

      effort, choice = decided(TransferSpec(data=data, backbone=backbone))
    """
    if spec.effort is not None:
        return spec.effort, None
    said, other = says_how(spec), impossible(spec)
    if said:
        return PLAN, Choice("effort", PLAN, f"{', '.join(said)} say how to train")
    if other:
        why = f"{', '.join(other)}: only a plan of phases can do that"
        return PLAN, Choice("effort", PLAN, why)
    why = "a probe of all depths; tuning is kept only where it is shown to help"
    return DEFAULT, Choice("effort", DEFAULT, why)


def check(spec: TransferSpec, *, execution: Sequence[str] = ()) -> None:
    """Raises ArgumentError where an effort was asked for, and something under which there is none.

    Args:
      spec: as it was asked for, not resolved.
      execution: flags about where it runs that only a plan of phases knows, such as ``strategy``.
    """
    if spec.effort in (None, PLAN):
        return
    said = says_how(spec)
    clashes = said or [*impossible(spec), *execution]
    if not clashes:
        return
    names = ", ".join(f"--{name}" for name in clashes)
    why = "which says how to train" if said else "which only a plan of phases can do"
    raise ArgumentError(
        f"effort={spec.effort!r} with {names}, {why}",
        where="--effort",
        next_action=f"leave --effort out, or {names}",
    )


def says_how(spec: TransferSpec) -> list[str]:
    """The given fields that say how something is trained, by the names of their flags."""
    fresh, usual = two_phases(), TransferSpec(data=spec.data, backbone=spec.backbone)
    named = [
        name
        for name in (
            "head_solver", "augment", "mix", "batch_size", "label_smoothing", "early_stop",
            "restore", "views", "regularizer", "teacher", "distill",
        )
        if getattr(spec, name) != getattr(usual, name)
    ]  # fmt: skip
    named += [
        field.name
        for field in dataclasses.fields(HeadSpec)
        if getattr(spec.head, field.name) != getattr(usual.head, field.name)
    ]
    if [phase.name for phase in spec.phases] != [phase.name for phase in fresh]:
        return [*named, "phases"]
    for phase, plain in zip(spec.phases, fresh, strict=True):
        for field in dataclasses.fields(phase):
            if getattr(phase, field.name) != getattr(plain, field.name):
                own = {"epochs": f"{phase.name}_epochs", "learning_rate": f"{phase.name}_lr"}
                named.append(own.get(field.name, field.name))
    return list(dict.fromkeys(named))


def impossible(spec: TransferSpec) -> list[str]:
    """What there is no probe for: nothing pretrained, another domain, a table of millions."""
    found = []
    if spec.backbone.weights == "none" or spec.backbone.name.partition(":")[0] in SCRATCH:
        found.append("weights=none")
    if spec.adapt.target:
        found.append("target")
    if is_index(spec.data.source):
        found.append("an index")
    return found


def wants_folds(spec: TransferSpec) -> int:
    """Below how many labelled examples no validation split is carved; 0 for never.

    A split that the data names is respected, whatever this says.
    """
    if decided(spec)[0] == PLAN or spec.validation == "split":
        return 0
    return FOLDS_BELOW if spec.validation == AUTO else 2**62

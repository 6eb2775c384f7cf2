"""From data size and backbone to a plan: plain rules, each with the reason that is printed.

Every rule fills in one field that the specification left open (None). They are simple on
purpose: a person can read them, disagree, and set the field. No TensorFlow here.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TypeVar

from tltf.methods import average
from tltf.spec import Phase, TransferSpec, not_convex

_T = TypeVar("_T")

SMALL_SIDE = 48
HEAD_STEPS, TUNE_STEPS = 200, 200
HEAD_EPOCHS, TUNE_EPOCHS = (3, 20), (3, 15)
TUNED_SHARE = 0.4
VIEWS = 4
MAX_TOKENS = 256
TEXT_DECAY, TEXT_CLIPNORM = 0.01, 1.0
FEW = 128
"""Below so many examples a linear head is solved: too few steps to reach its optimum otherwise."""
NEW_RATES = {"sgd": 1e-2}
PRETRAINED_RATES = {"sgd": 1e-3, "adamw": 5e-5}
BERT_WIDTH, NARROWEST = 768, 384
"""Under Adam the best rate falls with the width of the layers (Yang et al. 2022), so a rate that is
usual for BERT-base is low for encoders of half its width."""
LORA_RATES = {"sgd": 1e-2, "adamw": 4e-4}
"""Adapters begin at zero and bear a higher rate than weights; under AdamW Hu et al. 2021 take
4e-4 to 5e-4 for RoBERTa-base (table 9)."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules look at.

    Args:
      n_train: examples in the training split, >= 1.
      median_side: median of the shorter sides of the training images, in pixels.
      input_size: the side in pixels that the backbone was built for.
      n_blocks: its named blocks with weights.
      pretrained: whether it starts from learned weights.
      tokens: lengths of texts in the training split: (99th percentile, longest, the most that the
        backbone reads); None for images.
      width: numbers in a feature vector.
    """

    n_train: int
    median_side: int
    input_size: int
    n_blocks: int
    pretrained: bool
    tokens: tuple[int, int, int] | None = None
    width: int = BERT_WIDTH


@dataclass(frozen=True)
class Choice:
    """One field that a rule filled in, and why."""

    field: str
    value: object
    reason: str

    def __str__(self) -> str:
        return f"{self.field} = {self.value}: {self.reason}"


@dataclass(frozen=True)
class Plan:
    """A resolved specification, and the choices that were made for it."""

    spec: TransferSpec
    choices: tuple[Choice, ...]


def resolve(spec: TransferSpec, facts: Facts) -> Plan:
    """Fills in every field that is None; what is set stays as it is.

    Example::

      plan = resolve(spec, Facts(n_train=210, median_side=375, ...))
      print(*plan.choices, sep="\\n")
    """
    decide = _Decisions()
    size, length = spec.backbone.image_size, spec.backbone.max_length
    if facts.tokens is None:
        size = decide("image_size", *_image_size(spec, facts))
    else:
        length = decide("max_length", *_max_length(spec, facts.tokens))
    batch = decide("batch_size", *_batch_size(spec, facts))
    augment = decide("augment", *_augment(spec, facts))
    steps = math.ceil(facts.n_train / batch)
    solver = decide("head_solver", *_head_solver(spec, facts))
    phases = tuple(_phase(phase, facts, steps, decide, solver) for phase in spec.phases)
    means = [choice for phase in phases if (choice := averaged(phase, steps, solver))]
    resolved = dataclasses.replace(
        spec,
        backbone=dataclasses.replace(spec.backbone, image_size=size, max_length=length),
        batch_size=batch,
        augment=augment,
        phases=phases,
        views=decide("views", *_views(spec, augment)),
        early_stop=decide("early_stop", *_early_stop(spec, phases, facts)),
        restore=decide("restore", *_restore(spec, facts)),
        head_solver=solver,
    )
    return Plan(resolved, (*decide.choices, *means))


def with_choice(plan: Plan, choice: Choice) -> Plan:
    """The plan with the learning rate of a phase, ``<phase>.learning_rate``, that was measured."""
    phases = tuple(
        dataclasses.replace(phase, learning_rate=float(str(choice.value)))
        if choice.field == f"{phase.name}.learning_rate" else phase
        for phase in plan.spec.phases
    )  # fmt: skip
    return Plan(dataclasses.replace(plan.spec, phases=phases), (*plan.choices, choice))


class _Decisions:
    """Takes what was given, or else the rule's value, and keeps the choice."""

    def __init__(self) -> None:
        self.choices: list[Choice] = []

    def __call__(self, name: str, value: _T, given: _T | None, why: str) -> _T:
        if given is not None:
            return given
        self.choices.append(Choice(name, value, why))
        return value


def scratch_size(*, median_side: int, default: int, minimum: int) -> int:
    """The input side for a network without pretrained weights: the images' own, within limits."""
    return min(default, max(minimum, median_side))


def _image_size(spec: TransferSpec, facts: Facts) -> tuple[int, int | None, str]:
    given = spec.backbone.image_size
    if facts.pretrained:
        why = f"{spec.backbone.name} was pretrained at this size, and its features are best there"
        return facts.input_size, given, why
    why = f"no pretrained weights; the images' shorter side is {facts.median_side}"
    return facts.input_size, given, why


def _max_length(spec: TransferSpec, tokens: tuple[int, int, int]) -> tuple[int, int | None, str]:
    common, longest, most = tokens
    length = min(most, MAX_TOKENS, -(-longest // 8) * 8)
    why = f"99 % of the texts have at most {common} tokens, the longest {longest}"
    return length, spec.backbone.max_length, why


def _batch_size(spec: TransferSpec, facts: Facts) -> tuple[int, int | None, str]:
    size = 32 if facts.n_train >= 128 else 16 if facts.n_train >= 48 else 8
    why = f"{facts.n_train} training examples give {math.ceil(facts.n_train / size)} steps an epoch"
    return size, spec.batch_size, why


def _augment(spec: TransferSpec, facts: Facts) -> tuple[str, str | None, str]:
    if facts.tokens is not None:
        return "none", spec.augment, "texts are taken as they are"
    if facts.median_side < SMALL_SIDE:
        why = f"images of {facts.median_side} px are often characters, which flips would change"
        return "none", spec.augment, why
    if not facts.pretrained:
        return "medium", spec.augment, "training from scratch needs the variety"
    return "light", spec.augment, "photos; small flips, turns and zooms keep the label"


def _views(spec: TransferSpec, augment: str) -> tuple[int, int | None, str]:
    if augment == "none":
        return 1, spec.views, "without augmentation every view of an example is the same"
    if spec.cache == "off" or spec.mix != "none":
        return 0, spec.views, "without stored features every epoch can have its own"
    return (
        VIEWS,
        spec.views,
        "augmented views of each image are kept, and epochs cycle through them",
    )


def _early_stop(
    spec: TransferSpec, phases: tuple[Phase, ...], facts: Facts
) -> tuple[int, int | None, str]:
    if facts.tokens is not None:
        return 0, spec.early_stop, "a few epochs of a falling rate: the last ones are the best"
    longest = max((phase.epochs or 0) for phase in phases)
    patience = max(5, math.ceil(longest / 3))
    why = f"a phase ends after {patience} epochs without a lower validation loss"
    return patience, spec.early_stop, why


def _restore(spec: TransferSpec, facts: Facts) -> tuple[str, str | None, str]:
    if facts.tokens is None:
        return "best", spec.restore or "best", ""
    why = "accuracy on texts often still rises when the validation loss does too"
    return "last", spec.restore, why


def _head_solver(spec: TransferSpec, facts: Facts) -> tuple[str, str | None, str]:
    """L-BFGS for few examples, unless something was said about how the head is trained."""
    if spec.head_solver != "auto":
        return spec.head_solver, spec.head_solver, ""
    heads = [phase for phase in spec.phases if phase.unfreeze == "none"]
    said = any(phase.epochs is not None or phase.learning_rate is not None for phase in heads)
    fits = facts.pretrained and heads and not said and not not_convex(spec)
    if facts.n_train >= FEW or not fits:
        return "gradient", "gradient", ""
    why = f"{facts.n_train} examples give too few steps to reach a linear head's optimum"
    return "lbfgs", None, why


def _phase(phase: Phase, facts: Facts, steps: int, decide: _Decisions, solver: str) -> Phase:
    """Rules for one phase: a phase that trains only the head, or one that tunes."""
    name = phase.name
    phase = _with_optimizer(phase, facts, decide)
    phase = dataclasses.replace(
        phase, unfreeze=decide(f"{name}.unfreeze", *_unfreeze(phase, facts))
    )
    head = phase.unfreeze == "none"
    target, (least, most) = (HEAD_STEPS, HEAD_EPOCHS) if head else (TUNE_STEPS, TUNE_EPOCHS)
    epochs = min(most, max(least, math.ceil(target / steps)))
    why = f"{epochs * steps} steps of {steps} an epoch, aiming at {target}"
    if head and solver == "lbfgs":
        epochs, why = 1, "L-BFGS takes the head to its optimum at once"
    return dataclasses.replace(
        phase,
        epochs=decide(f"{name}.epochs", epochs, phase.epochs, why),
        learning_rate=decide(f"{name}.learning_rate", *_learning_rate(phase, facts, head)),
    )


def _with_optimizer(phase: Phase, facts: Facts, decide: _Decisions) -> Phase:
    """Adam for images; for texts AdamW as BERT is tuned: decay, and clipped gradients."""
    decay = phase.weight_decay
    if phase.optimizer is not None or facts.tokens is None:
        optimizer = phase.optimizer or "adam"
        return dataclasses.replace(phase, optimizer=optimizer, weight_decay=decay or 0.0)
    why = "networks that read texts are tuned so: decoupled decay, gradients clipped"
    return dataclasses.replace(
        phase,
        optimizer=decide(f"{phase.name}.optimizer", "adamw", None, why),
        weight_decay=TEXT_DECAY if decay is None else decay,
        clipnorm=phase.clipnorm if phase.clipnorm is not None else TEXT_CLIPNORM,
    )


def _unfreeze(phase: Phase, facts: Facts) -> tuple[str, str | None, str]:
    if not facts.pretrained:
        return "all", phase.unfreeze, "nothing was learned yet that freezing would keep"
    if facts.tokens is not None and facts.n_blocks > 1:
        count, why = facts.n_blocks - 1, "all layers above the embeddings, as BERT is tuned"
    else:
        count = max(1, round(TUNED_SHARE * facts.n_blocks))
        why = f"the upper {TUNED_SHARE:.0%} of {facts.n_blocks} blocks; lower ones are general"
    return f"last:{count}", phase.unfreeze, why


def usual_rate(optimizer: str | None, *, new: bool, lora: bool = False) -> float:
    """The learning rate without measurement: of new layers, of adapters, or of pretrained ones."""
    rates, other = (NEW_RATES, 1e-3) if new else (PRETRAINED_RATES, 1e-4)
    if lora:
        rates, other = LORA_RATES, 1e-3
    return rates.get(optimizer or "", other)


def averaged(phase: Phase, steps_per_epoch: int, solver: str = "gradient") -> Choice | None:
    """What ``average`` means in this phase: how much of it the mean looks back on."""
    kind, number = average(phase.average)
    steps = (phase.epochs or 0) * steps_per_epoch
    if kind == "none":
        return None
    if not steps or (solver == "lbfgs" and phase.unfreeze == "none"):
        why = "changes nothing: the phase has no steps"
    elif kind == "swa":
        why = f"the mean of the weights after the last {max(1, math.ceil(number * steps))}"
        why += f" of {steps} steps"
    else:
        first = number ** (steps - 1)
        why = f"of {steps} steps; the weights after the first still count {first:.1%}"
        if first > 0.1:
            why += ", which is much: a lower momentum forgets them"
    return Choice(f"{phase.name}.average", phase.average, why)


def _learning_rate(
    phase: Phase, facts: Facts, head: bool
) -> tuple[float | str, float | str | None, str]:
    new = head or not facts.pretrained
    rate = usual_rate(phase.optimizer, new=new, lora=bool(phase.lora))
    if phase.lora and not head:
        return rate, phase.learning_rate, "low-rank adapters, which begin at zero"
    if new:
        return rate, phase.learning_rate, f"new layers under {phase.optimizer}"
    why = "pretrained layers: slowly, or they forget"
    if facts.tokens is not None and phase.optimizer == "adamw":
        rate = float(f"{rate * BERT_WIDTH / max(NARROWEST, facts.width):.2g}")
        why += f"; {PRETRAINED_RATES['adamw']:g} at a width of {BERT_WIDTH}, here {facts.width}"
    return rate, phase.learning_rate, why


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How tuning is tried beside the stacked probe: its phase, its views, on how many folds."""

    phase: Phase
    augment: str
    views: int
    folds: int


LEAST_TO_TUNE = 200
"""Fewer photos were not seen to gain from tuning beside a probe of all depths; they lose."""
LEAST_LOSS = 0.05
"""Nats an example of the probe out of fold below which nothing is left that tuning could gain."""
MANY_TO_TUNE = 400
CANDIDATE_EPOCHS, CANDIDATE_FOLDS = 8, {"default": 2, "best": 5}
CANDIDATE_RATES = (1e-4, 3e-4)


def tuning(spec: TransferSpec, *, labelled: int, loss: float, texts: bool) -> Tuning | None:
    """What is tried beside the probe; None where the sizes say that it cannot pay.

    Args:
      spec: resolved.
      labelled: examples to learn from.
      loss: of the probe out of fold; tuning can gain no more than that.
      texts: encoders of texts gain from tuning at every size, and their texts are taken as they
        are.
    """
    if spec.effort not in CANDIDATE_FOLDS or (labelled < LEAST_TO_TUNE and not texts):
        return None
    if loss < LEAST_LOSS and spec.data.task != "regression" and spec.effort != "best":
        return None
    phase, folds = spec.phases[-1], CANDIDATE_FOLDS[spec.effort]
    if texts:
        return Tuning(phase=phase, augment="none", views=1, folds=folds)
    rate = CANDIDATE_RATES[labelled >= MANY_TO_TUNE]
    epochs = min(CANDIDATE_EPOCHS, phase.epochs or CANDIDATE_EPOCHS)
    phase = dataclasses.replace(phase, epochs=epochs, learning_rate=rate)
    flips = spec.augment not in (None, "none")
    return Tuning(
        phase=phase, augment="flip" if flips else "none", views=2 if flips else 1, folds=folds
    )

"""One head trained on stored features of two domains, with a method of adaptation."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tltf import adapt
from tltf.errors import ArgumentError
from tltf.evaluation import calibration
from tltf.spec import Phase
from tltf.training import loop, objectives
from tltf.training.interrupts import StopRequest
from tltf.training.optimizers import build_optimizer
from tltf.transfer import distances, manifold, pseudolabels, reweighting, shallow, unlabelled
from tltf.transfer.boosting import TrAdaBoost
from tltf.transfer.domains import Domain, DomainEpochs
from tltf.transfer.kernels import Floats
from tltf.transfer.mixing import DomainMixing
from tltf.transfer.shallow import Labels

Scores = Callable[[Floats, Labels, Floats], Floats]

MOST_SHALLOW = 5000
"""Rows of both domains together beyond which an n x n system takes minutes."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Inputs of the tail for each part, the source's labels, and pooled vectors for kernels.

    ``shots`` are target examples whose labels may be learned from; ``target`` has none of them.
    """

    train: tuple[np.ndarray, ...]
    labels: Labels
    val: tuple[np.ndarray, ...]
    val_labels: Labels
    target: tuple[np.ndarray, ...]
    shots: tuple[np.ndarray, ...] = ()
    shot_labels: Labels = field(default_factory=lambda: np.empty(0, np.int64))

    def pooled(self, arrays: tuple[np.ndarray, ...]) -> Floats:
        """``[n, D]``: the mean over positions of a map."""
        first = arrays[0].astype(np.float64)
        return first.mean(axis=tuple(range(1, first.ndim - 1))) if first.ndim > 2 else first


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a method left: the tail's weights, its answers, and what it said about itself."""

    method: str
    weights: list[np.ndarray]
    val_logits: np.ndarray
    target_logits: np.ndarray
    history: list[dict[str, Any]]
    notes: tuple[str, ...] = ()


def fit_method(
    method: str,
    tail: keras.Model,
    features: Features,
    *,
    phase: Phase,
    n_classes: int,
    batch_size: int,
    seed: int,
    weight: float | None,
    stop: StopRequest | None,
    mix: str = "none",
    answers: np.ndarray | None = None,
) -> Fitted:
    """Trains ``tail`` from the weights it has, by ``method``.

    Terms of :mod:`tltf.adapt` train with both domains; shallow methods give the target labels to
    learn from beside the source's; density ratios and boosting weigh the source. Shots are
    labelled examples for all of them.

    Args:
      mix: ``mixup`` or ``cutmix`` of source and target examples.
      answers: the target's labels in it ``[m, C]``, where the method gives none.

    Raises:
      ArgumentError: a shallow method with more examples than its square matrix allows.
      DivergenceError, InterruptedRun: from the loop.
    """
    taught = _taught(method, features, n_classes=n_classes, mix=mix, answers=answers)
    data = DomainEpochs(
        taught.source, taught.target, batch_size=batch_size, seed=seed, mixing=taught.mixing
    )
    steps = (phase.epochs or 0) * data.steps_per_epoch
    terms = ()
    if method in adapt.TERMS:
        terms = adapt.terms_for(method, weight=weight, steps=steps, seed=seed)
    training = adapt.training_model(tail, *terms)
    training.compile(
        optimizer=build_optimizer(phase, steps=max(1, steps)),
        loss=objectives.loss_for("single_label"),
        jit_compile=False,
    )
    training.optimizer.build(training.trainable_variables)
    recorder = _History(method)
    callbacks = keras.callbacks.CallbackList([recorder], model=training, epochs=phase.epochs)
    loop.run_epochs(training, data, epochs=phase.epochs or 0, callbacks=callbacks, stop=stop)
    return Fitted(
        method=method,
        weights=[np.array(v.numpy()) for v in tail.variables],
        val_logits=_predicted(training, (*features.val, np.zeros(len(features.val_labels)))),
        target_logits=_predicted(training, (*features.target, np.ones(len(features.target[0])))),
        history=recorder.rows,
        notes=taught.notes,
    )


@dataclass(frozen=True, kw_only=True)
class _Taught:
    """Both domains with the labels and weights to learn from, and what is said of those."""

    source: Domain
    target: Domain
    mixing: DomainMixing | None
    notes: tuple[str, ...]


def _taught(
    method: str, features: Features, *, n_classes: int, mix: str, answers: np.ndarray | None
) -> _Taught:
    """What ``method`` makes of the examples before anything trains; see :func:`fit_method`."""
    one_hot = np.eye(n_classes, dtype=np.float32)
    weights, notes, pseudo = None, (), None
    on_shots = np.ones(len(features.shot_labels))
    if method in WEIGHTINGS:
        weights, notes = _source_weights(method, features)
    elif method == "tradaboost":
        (weights, on_shots), notes = _boosted_weights(features)
    elif method in SHALLOW:
        pseudo = _pseudo_labels(method, features, n_classes)
    mixing = None
    if mix != "none" and answers is not None:
        answers = answers if pseudo is None else one_hot[pseudo]
        mixing = DomainMixing(mix, np.concatenate([answers, one_hot[features.shot_labels]]))
    return _Taught(
        source=Domain(features.train, one_hot[features.labels], weights=weights),
        target=_target(features, one_hot, pseudo, on_shots=on_shots),
        mixing=mixing,
        notes=notes,
    )


def _target(
    features: Features, one_hot: np.ndarray, pseudo: Labels | None, *, on_shots: np.ndarray
) -> Domain:
    """The target with the labels that a method gave it, and behind it the shots with theirs."""
    n, shots = len(features.target[0]), len(features.shot_labels)
    if pseudo is None and not shots:
        return Domain(features.target)
    y = one_hot[np.zeros(n, np.int64) if pseudo is None else pseudo]
    weights = np.full(n, float(pseudo is not None))
    if not shots:
        return Domain(features.target, y, weights=weights)
    x = (np.concatenate(pair) for pair in zip(features.target, features.shots, strict=True))
    y = np.concatenate([y, one_hot[features.shot_labels]])
    return Domain(tuple(x), y, weights=np.concatenate([weights, on_shots]))


def _standardized_pair(features: Features) -> tuple[Floats, Floats]:
    return (
        shallow.standardized(features.pooled(features.train)),
        shallow.standardized(features.pooled(features.target)),
    )


def _pseudo_labels(method: str, features: Features, n_classes: int) -> Labels:
    """Labels of the target by a shallow method."""
    s, t = _standardized_pair(features)
    if len(s) + len(t) > MOST_SHALLOW and method in ("tca", "jda", "bda", "meda", "propagation"):
        raise ArgumentError(
            f"{len(s) + len(t)} examples with method={method!r}, whose work grows with their cube;"
            f" at most {MOST_SHALLOW}",
            where="--method",
            next_action="use --method=coral or --method=mmd, or fewer examples",
        )
    scores = SHALLOW[method](s, features.labels, t)
    full = np.zeros((len(t), n_classes))
    full[:, : scores.shape[1]] = scores
    return full.argmax(axis=1)


def _head(aligned: shallow.Aligned, labels: Labels) -> Floats:
    return pseudolabels.self_training(aligned.source, labels, aligned.target, rounds=0)


def _votes(labels: Labels) -> Floats:
    return np.eye(int(labels.max()) + 1)[labels]


SHALLOW: dict[str, Scores] = {
    "coral": lambda s, y, t: _head(shallow.coral_align(s, t), y),
    "subspace": lambda s, y, t: _head(shallow.subspace_align(s, t), y),
    "tca": lambda s, y, t: _head(shallow.tca(s, t), y),
    "jda": lambda s, y, t: _votes(shallow.jda(s, y, t).labels),
    "bda": lambda s, y, t: _votes(shallow.jda(s, y, t, balance=0.5).labels),
    "meda": lambda s, y, t: manifold.meda(s, y, t, balance=0.5),
    "propagation": lambda s, y, t: pseudolabels.label_propagation(s, y, t),
    "self_training": lambda s, y, t: pseudolabels.self_training(s, y, t, strength=0.01),
}


WEIGHTINGS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "domain_classifier": reweighting.domain_classifier_weights,
    "kmm": reweighting.kmm,
    "kliep": reweighting.kliep,
    "ulsif": reweighting.ulsif,
}


def _source_weights(method: str, features: Features) -> tuple[np.ndarray, tuple[str, ...]]:
    s, t = features.pooled(features.train), features.pooled(features.target)
    scale = np.concatenate([s, t]).std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    # Kernels want few dimensions: the leading directions of both domains together.
    axes = shallow.principal_axes(np.concatenate([s, t]) / scale)[:, :20]
    w = WEIGHTINGS[method](s / scale @ axes, t / scale @ axes)
    return w, _sample_size(w)


def _boosted_weights(
    features: Features,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[str, ...]]:
    """How much TrAdaBoost makes of each source example and of each shot, in one scale for both."""
    s, few, t = (features.pooled(x) for x in (features.train, features.shots, features.target))
    both = np.concatenate([s, few, t])
    middle, scale = both.mean(axis=0), both.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    s, few = ((x - middle) / scale for x in (s, few))
    w = TrAdaBoost().fit(s, features.labels, few, features.shot_labels).weights
    notes = _sample_size(w[: len(s)])
    share = w[: len(s)].sum() / w.sum()
    return (w[: len(s)], w[len(s) :]), (
        f"{notes[0]}, which have {share:.0%} of the weight beside {len(few)} shots",
        *notes[1:],
    )


def _sample_size(weights: np.ndarray) -> tuple[str, ...]:
    """Said of the weights of the source, with the warning if they leave next to nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        size = reweighting.effective_sample_size(weights)
    note = f"effective sample size {size:.1f} of {len(weights)} source examples"
    return (note, *(str(warning.message) for warning in caught))


def importance(features: Features) -> Floats:
    """Density ratios of the held-out source examples, for the weighted risk."""
    val, target = features.pooled(features.val), features.pooled(features.target)
    rng = np.random.default_rng(0)
    return reweighting.domain_classifier_weights(
        val, distances.drawn(target, 2000, rng), strength=0.01
    )


def judged(fitted: Fitted, features: Features, *, weights: Floats) -> dict[str, float]:
    """Every criterion without target labels: those of the answers, and the reverse accuracy."""
    val, answers = (
        calibration.apply_temperature(z, 1.0, task="single_label")
        for z in (fitted.val_logits, fitted.target_logits)
    )
    found = unlabelled.criteria(val, features.val_labels, answers, weights=weights).as_dict()
    back = unlabelled.reverse_accuracy(
        features.pooled(features.train), features.labels, features.pooled(features.target),
        answers.argmax(axis=1),
    )  # fmt: skip
    return {**found, "reverse": back}


def _predicted(model: keras.Model, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    rows = len(inputs[0])
    parts = []
    for start in range(0, rows, 256):
        batch = [np.asarray(a[start : start + 256], np.float32) for a in inputs]
        parts.append(np.asarray(model(batch, training=False)))
    return np.concatenate(parts) if parts else np.empty((0, model.output_shape[-1]))


class _History(keras.callbacks.Callback):
    """Rows of history.jsonl."""

    def __init__(self, phase: str) -> None:
        super().__init__()
        self.phase_name, self.rows = phase, list[dict[str, Any]]()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.rows.append(
            {"phase": self.phase_name, "epoch": epoch + 1, "loss": float(logs["loss"])}
        )


def restored(tail: keras.Model, weights: list[np.ndarray]) -> None:
    """Puts weights back that :class:`Fitted` or a copy of ``tail.variables`` holds."""
    for variable, value in zip(tail.variables, weights, strict=True):
        variable.assign(value)

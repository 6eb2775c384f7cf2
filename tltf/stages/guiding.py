"""What guides a training beside its labels: a teacher, or the network that it started from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tltf import methods
from tltf.data.manifest import Manifest, Record
from tltf.errors import ArgumentError, named_list
from tltf.evaluation import calibration
from tltf.rundir import existing
from tltf.spec import TransferSpec
from tltf.trained import Trained
from tltf.trained import load as load_trained
from tltf.transfer.guidance import Guidance

Say = Callable[[str], None]
LOGITS = "logits"


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What the teacher says of every training example, unchanged, after one look at each.

    Args:
      targets: float32 ``[n, C + columns]`` to train on: labels, mixed with the teacher's answers or
        not, and behind them its pooled features; None without a teacher.
      columns: how many of them are features.
      terms: what is learned of those, as :class:`tltf.transfer.guidance.Guidance` takes it.
    """

    targets: np.ndarray | None = None
    columns: int = 0
    terms: tuple[tuple[str, float], ...] = ()


def lesson(spec: TransferSpec, student: Trained, manifest: Manifest, say: Say) -> Lesson:
    """The lesson of ``--teacher`` and ``--distill``.

    With ``logits`` the targets are the mean of the labels and the teacher's probabilities:
    cross-entropy with it is Hinton's sum of both losses at temperature 1.

    Raises:
      ArgumentError: no teacher; one of other classes or another task, whose answers say nothing
        here; or one that reads something else.
    """
    if not spec.teacher:
        _check_alone(spec)
        return Lesson()
    kinds = dict(methods.distillation(spec.distill))
    answers = kinds.pop(LOGITS, None) is not None
    teacher = load_trained(existing(spec.teacher).weights)
    records = manifest.split("train")
    _check(teacher, spec, manifest, records, answers=answers)
    features, said = teacher.features_and_logits(
        teacher.batches(records if answers else _unlabelled(records))
    )
    targets = student.batches(records).targets()
    if answers:
        said = calibration.apply_temperature(said, 1.0, task=teacher.task)
        right = (said.argmax(axis=1) == targets.argmax(axis=1)).mean()
        say(f"teacher: {spec.teacher}, right on {right:.1%} of the training examples")
        targets = (targets + said.astype(np.float32)) / 2.0
    if not kinds:
        return Lesson(targets=targets)
    say(f"teacher: {features.shape[1]} features of each training example, for {', '.join(kinds)}")
    return Lesson(
        targets=np.concatenate([targets, features.astype(np.float32)], axis=1),
        columns=features.shape[1],
        terms=tuple(kinds.items()),
    )


def guidance(spec: TransferSpec, model: keras.Model, learned: Lesson, say: Say) -> Guidance | None:
    """The further terms of the loss, on ``model`` as it is before training; None for none."""
    kind, factor = methods.regularizer(spec.regularizer)
    anchor = factor if kind == "delta" else 0.0
    if not anchor and not learned.terms:
        return None
    if not any(phase.epochs and phase.unfreeze != "none" for phase in spec.phases):
        what = spec.regularizer if anchor else spec.distill
        say(f"{what} changes nothing: no phase trains the backbone, so its features stay")
    return Guidance(model, anchor=anchor, terms=learned.terms, columns=learned.columns)


def _check_alone(spec: TransferSpec) -> None:
    if spec.distill != LOGITS:
        raise ArgumentError(
            f"distill={spec.distill!r} without a teacher",
            where="--distill",
            next_action="add --teacher=RUN",
        )


def _check(
    teacher: Trained,
    spec: TransferSpec,
    manifest: Manifest,
    records: Sequence[Record],
    *,
    answers: bool,
) -> None:
    where = f"--teacher={spec.teacher}"
    if answers and (teacher.task != "single_label" or teacher.classes != manifest.classes):
        raise ArgumentError(
            f"the teacher is {teacher.task} with {named_list(teacher.classes)}, the data"
            f" {manifest.task} with {named_list(manifest.classes)}",
            where=where,
            next_action="name a run on the same classes, or use --distill=features",
        )
    kinds, texts = ("images", "texts"), records[0].path is None
    if (teacher.tokenizer is not None) != texts:
        raise ArgumentError(
            f"the teacher reads {kinds[not texts]}, the data are {kinds[texts]}",
            where=where,
            next_action=f"name a run on {kinds[texts]}",
        )


def _unlabelled(records: Sequence[Record]) -> Sequence[Record]:
    """For a teacher that may never have heard of these labels."""
    return [dataclasses.replace(record, label=None) for record in records]

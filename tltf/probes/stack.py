"""The stacked probe: a linear head for each group of taps, and their weighted sum as one layer.

Each group g is cross-validated by itself; z_g are its logits out of fold. Their combination

    z = sum_g w_g z_g,    w_g >= 0,    sum_g w_g = 1

has the least loss out of fold, less a little for leaving equal shares (Wolpert 1992; Breiman 1996
on why the weights must not be negative). In a softmax the normalisers of log-probabilities cancel,
so a weighted sum of log-probabilities of linear heads *is* a linear head on all taps together,
with the kernel ``sum_g w_g kernel_g``: the model that is kept is an ordinary Dense layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, softmax
from threadpoolctl import threadpool_limits

from tltf.probes.linear import (
    Basis,
    CrossFit,
    Fold,
    Head,
    Targets,
    cross_fit,
    fitted,
    learnable,
    mean_loss,
)

Floats = NDArray[np.floating]
Rows = Mapping[str, Floats]
"""Tap -> float32 ``[n, width]``."""

SCALE_SPREAD = 0.2
"""Standard deviation of the logarithm of the sum of the weights before anything is known: the
prior of :mod:`tltf.evaluation.calibration` for a temperature."""
EVENNESS = 3.0
"""What leaving equal shares costs, in nats per squared distance: as little as a handful of
examples can outweigh, and enough that twenty of them do not put everything on one group."""
LEAST_SHARE = 0.02
"""Groups with less of the weight are left out, and so are their taps, if no other group reads
them."""


LOGISTIC, RIDGE = "logistic", "ridge"
HEADS = (LOGISTIC, RIDGE)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Taps that one head reads together, and which head: ``logistic``, or ``ridge``.

    A ridge regression on one-hot targets (a regularised linear discriminant but for the scale of
    its answers) errs elsewhere than a logistic one, which is what a sum gains from. Its answers
    become logits by the one factor that brings them nearest to the mean of the logistic ones.
    """

    name: str
    taps: tuple[str, ...]
    head: str = LOGISTIC


@dataclass(frozen=True, kw_only=True)
class Member:
    """A group, how it did out of fold, and its share of the sum (0 when it was left out).

    ``scale`` is what its head's answers were multiplied by; those of ``found`` are.
    """

    group: Group
    found: CrossFit
    share: float
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What :func:`stacked` found.

    Args:
      members: of all groups that were tried, in their order.
      logits: of the weighted sum, ``[n, C]`` out of fold; NaN where nothing was predicted.
      loss: mean loss of those.
      taps: what the head reads, in the order of the rows.
      head: from the taps side by side to logits, fitted on ``fitted`` rows.
      scored: rows whose logits count in ``loss``.
    """

    members: tuple[Member, ...]
    logits: Floats
    loss: float
    taps: tuple[str, ...]
    head: Head
    scored: NDArray[np.int64]


def stacked(
    rows: Rows,
    targets: Targets,
    folds: Sequence[Fold],
    groups: Sequence[Group],
    *,
    final: NDArray[np.int64] | None = None,
    always: str = "",
    progress: Callable[[str], None] | None = None,
) -> Stack:
    """Cross-validates each group, weighs them, and fits what is kept anew.

    Args:
      rows: of every tap that a group names, the same examples in the same order.
      targets: of those examples.
      folds: which examples to fit on and which to predict; one for a fixed validation split.
      groups: at least one.
      final: the examples that the kept heads are fitted on; None for all.
      always: a tap that is read whatever its weight, for what else its numbers are good for.
      progress: told the name of each group that is done.

    Example::

      found = stacked(rows, targets, folds, [Group(name="last", taps=("Conv_1",))])
      logits = found.head(np.concatenate([rows[tap] for tap in found.taps], axis=1))
    """
    scored = learnable(targets, folds)
    tried = []
    # Two threads wait for one another at every one of some hundred small products: beside other
    # work on the machine they took 40 to 130 times as long as one.
    with threadpool_limits(limits=1):
        for group in groups:
            basis = _basis(rows, group)
            aims = _aims(targets, group)
            tried.append(cross_fit(basis.rows, aims, folds, width=len(basis.mean)))
            if progress is not None:
                progress(group.name)
    tried, scales = _scaled(tried, groups, targets, scored)
    shares = _shares([found.logits[scored] for found in tried], targets[scored])
    members = tuple(
        Member(group=group, found=found, share=float(share), scale=scale)
        for group, found, share, scale in zip(groups, tried, shares, scales, strict=True)
    )
    kept = [member for member in members if member.share > 0]
    logits = np.asarray(sum(member.share * member.found.logits for member in kept))
    named = {tap for member in kept for tap in member.group.taps}
    taps = tuple(tap for tap in rows if tap in named or tap == always)
    return Stack(
        members=members,
        logits=logits,
        loss=mean_loss(logits[scored], targets[scored]),
        taps=taps,
        head=refitted(rows, targets, kept, taps, final),
        scored=scored,
    )


def refitted(
    rows: Rows,
    targets: Targets,
    members: Sequence[Member],
    taps: Sequence[str],
    chosen: NDArray[np.int64] | None = None,
) -> Head:
    """The weighted sum with every head fitted anew, at its strength, on some of the examples.

    Args:
      rows: of the taps.
      targets: of all rows.
      members: those with a share.
      taps: what the head reads, in this order.
      chosen: the examples to fit on; None for all.
    """
    kept = [member for member in members if member.share > 0]
    with threadpool_limits(limits=1):
        heads = [_refitted(rows, targets, member, chosen) for member in kept]
    return _folded(rows, taps, list(zip(kept, heads, strict=True)))


def weights(logits: Sequence[Floats], targets: Targets) -> Floats:
    """Non-negative weights ``[G]`` of the groups' logits, each ``[n, C]``, with the least

    ``sum_i loss(y_i, sum_g w_g z_gi) + (log sum w)^2 / (2 s^2) + e |w / sum w - 1 / G|^2``,

    s = 0.2 and e = 3: the sum of the weights is a temperature, which few examples must not drive
    to where twenty right answers would like it, and shares are equal unless something speaks
    against it. By L-BFGS within bounds.
    """
    z = np.stack(logits)
    count = len(z)
    if count == 1:
        return np.ones(1)
    objective = _objective(z, targets)
    found = minimize(
        objective,
        np.full(count, 1 / count),
        jac=True,
        bounds=[(1e-6, None)] * count,
        method="L-BFGS-B",
    )
    return np.asarray(found.x)


def _shares(logits: Sequence[Floats], targets: Targets) -> Floats:
    """Weights that add up to one, 0 for groups that hardly count."""
    found = weights(logits, targets)
    share = found / found.sum()
    kept = np.flatnonzero(share >= LEAST_SHARE)
    if len(kept) < len(share):
        again = weights([logits[int(k)] for k in kept], targets)
        share = np.zeros(len(share))
        share[kept] = again / again.sum()
    return share


def _objective(z: Floats, targets: Targets) -> Callable[[Floats], tuple[float, Floats]]:
    """Value and gradient of what :func:`weights` minimises."""
    values, count, task = targets.values, len(z), targets.task
    sample = targets.weights if targets.weights.any() else np.ones(len(values))
    spread = 1.0
    if task == "regression":
        # Squared errors in units of the best group's: then a nat is a nat.
        spread = max(1e-12, min(float(((one - values) ** 2).mean()) for one in z))
    each = values.shape[1]

    def objective(w: Floats) -> tuple[float, Floats]:
        mixed = np.tensordot(w, z, axes=1)
        total = w.sum()
        away = w / total - 1 / count
        value = float(sample.sum()) * mean_loss(mixed, targets)
        if task == "regression":
            slope = (mixed - values) / (each * spread)
            value /= 2 * spread
        elif task == "single_label":
            slope = softmax(mixed, axis=1) - values
        else:
            slope = (expit(mixed) - values) / each
        gradient = np.einsum("n,nc,gnc->g", sample, slope, z)
        value += np.log(total) ** 2 / (2 * SCALE_SPREAD**2) + EVENNESS * float((away**2).sum())
        gradient += np.log(total) / (SCALE_SPREAD**2 * total)
        gradient += 2 * EVENNESS * (away - (away * w).sum() / total) / total
        return value, gradient

    return objective


def _basis(rows: Rows, group: Group) -> Basis:
    parts = [rows[tap] for tap in group.taps]
    return Basis.of(np.concatenate(parts, axis=1), [part.shape[1] for part in parts])


def _aims(targets: Targets, group: Group) -> Targets:
    """What the group's head is fitted to and judged by: a ridge's are numbers."""
    if group.head == LOGISTIC:
        return targets
    # Of labels that are there or not the middle is no answer, as 0 is no answer of a logit.
    middle = 0.5 if targets.task == "multi_label" else 0.0
    return Targets(values=targets.values - middle, weights=targets.weights, task="regression")


def _scaled(
    tried: Sequence[CrossFit],
    groups: Sequence[Group],
    targets: Targets,
    scored: NDArray[np.int64],
) -> tuple[list[CrossFit], list[float]]:
    """The answers of ridges as logits (see :class:`Group`), and the factors."""
    logistic = [
        _centred(one.logits, targets.task)
        for one, group in zip(tried, groups, strict=True)
        if group.head == LOGISTIC
    ]
    found, scales = [], []
    for one, group in zip(tried, groups, strict=True):
        scale = 1.0
        if group.head == RIDGE and targets.task != "regression" and logistic:
            own = _centred(one.logits, targets.task)
            aim = np.mean(logistic, axis=0)[scored]
            square = float((own[scored] ** 2).sum())
            scale = max(0.0, float((own[scored] * aim).sum())) / max(square, 1e-12)
            logits = scale * own
            loss = mean_loss(logits[scored], targets[scored])
            one = CrossFit(strength=one.strength, logits=logits, loss=loss)
        found.append(one)
        scales.append(scale)
    return found, scales


def _centred(answers: Floats, task: str) -> Floats:
    """Logits of classes about their mean, which a softmax does not see."""
    if task == "single_label":
        return np.asarray(answers - answers.mean(axis=1, keepdims=True))
    return answers


def _refitted(
    rows: Rows, targets: Targets, member: Member, final: NDArray[np.int64] | None
) -> Head:
    """The group's head at its chosen strength, on all rows or the ``final`` ones."""
    basis = _basis(rows, member.group)
    chosen = np.arange(len(targets)) if final is None else final
    aims = _aims(targets, member.group)[chosen]
    found = fitted(basis.rows[chosen], aims, member.found.strength, width=len(basis.mean))
    head = basis.head(found)
    return Head(kernel=member.scale * head.kernel, bias=member.scale * head.bias)


def _folded(rows: Rows, taps: Sequence[str], parts: Sequence[tuple[Member, Head]]) -> Head:
    """The weighted sum as one head on ``taps`` side by side."""
    widths = [rows[tap].shape[1] for tap in taps]
    starts = dict(zip(taps, np.cumsum([0, *widths[:-1]]), strict=True))
    outputs = parts[0][1].bias.shape[0]
    kernel, bias = np.zeros((sum(widths), outputs)), np.zeros(outputs)
    for member, head in parts:
        at = 0
        for tap in member.group.taps:
            width = rows[tap].shape[1]
            place = slice(starts[tap], starts[tap] + width)
            kernel[place] += member.share * head.kernel[at : at + width]
            at += width
        bias += member.share * head.bias
    return Head(kernel=kernel, bias=bias)

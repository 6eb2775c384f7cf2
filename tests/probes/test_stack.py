"""The stacked probe: weights, folding, and what it must not do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax

from tltf.probes.folds import stratified
from tltf.probes.linear import Targets, losses
from tltf.probes.stack import EVENNESS, RIDGE, SCALE_SPREAD, Group, stacked, weights


def rows_of(n=90, classes=3, seed=0):
    """Three taps: a good one, one that helps a little, and noise."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = draw.normal(size=(classes, 20))
    found = {
        "noise": draw.normal(size=(n, 30)),
        "weak": 0.4 * centres[labels] + draw.normal(size=(n, 20)),
        "good": centres[labels][:, ::-1] * 0.9 + draw.normal(size=(n, 20)),
    }
    rows = {name: x.astype(np.float32) for name, x in found.items()}
    targets = Targets(values=np.eye(classes)[labels], weights=np.ones(n), task="single_label")
    folds = stratified(list(labels), [[i] for i in range(n)], count=5, seed=seed)
    return rows, targets, folds


GROUPS = (
    Group(name="good", taps=("good",)),
    Group(name="both", taps=("weak", "good")),
    Group(name="noise", taps=("noise",)),
    Group(name="ridge", taps=("weak", "good"), head=RIDGE),
)


def test_one_dense_layer_is_the_weighted_sum_of_the_heads():
    rows, targets, folds = rows_of()
    found = stacked(rows, targets, folds, GROUPS)
    together = np.concatenate([rows[tap] for tap in found.taps], axis=1)
    whole = found.head(together)
    parts = np.zeros_like(whole)
    for member in found.members:
        if not member.share:
            continue
        alone = stacked(rows, targets, folds, [member.group])
        x = np.concatenate([rows[tap] for tap in alone.taps], axis=1)
        parts += member.share * member.scale * alone.head(x)
    np.testing.assert_allclose(log_softmax(whole, axis=1), log_softmax(parts, axis=1), atol=1e-5)


def test_the_sum_is_better_out_of_fold_than_its_parts_and_noise_has_no_part_in_it():
    rows, targets, folds = rows_of()
    found = stacked(rows, targets, folds, GROUPS)
    assert found.loss <= min(member.found.loss for member in found.members) + 0.01
    shares = {member.group.name: member.share for member in found.members}
    assert shares["noise"] < 0.1
    assert sum(shares.values()) == pytest.approx(1.0)


def test_the_weights_have_the_least_loss_of_their_formula():
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 3, 50)
    values = np.eye(3)[labels]
    logits = [2 * values + draw.normal(size=(50, 3)) * spread for spread in (1.0, 2.0, 4.0)]
    targets = Targets(values=values, weights=np.ones(50), task="single_label")

    def slow(w):
        total = 0.0
        for i in range(50):
            mixed = sum(weight * z[i] for weight, z in zip(w, logits, strict=True))
            total -= log_softmax(mixed)[labels[i]]
        share = np.asarray(w) / sum(w)
        return (
            total + np.log(sum(w)) ** 2 / (2 * SCALE_SPREAD**2)
            + EVENNESS * ((share - 1 / 3) ** 2).sum()
        )  # fmt: skip

    found = weights(logits, targets)
    best = slow(found)
    for nudge in np.vstack([np.eye(3), -np.eye(3)]) * 0.02:
        assert best <= slow(np.maximum(found + nudge, 1e-6)) + 1e-6
    assert found[0] > found[2]


def test_twenty_right_answers_do_not_drive_the_weights_to_the_sky():
    values = np.eye(2)[np.arange(20) % 2]
    logits = [4 * (values - 0.5), 3 * (values - 0.5)]
    targets = Targets(values=values, weights=np.ones(20), task="single_label")
    found = weights(logits, targets)
    assert 0.8 < found.sum() < 1.6


@pytest.mark.parametrize("task", ["regression", "multi_label"])
def test_numbers_and_several_labels_are_stacked_too(task):
    rows, single, folds = rows_of()
    numbers = rows["good"] @ np.linspace(-1, 1, 20)[:, None].astype(np.float32)
    values = numbers if task == "regression" else single.values
    targets = Targets(values=values.astype(float), weights=np.ones(90), task=task)
    found = stacked(rows, targets, folds, GROUPS[:3])
    trivial = np.tile(values.mean(axis=0), (90, 1))
    if task == "multi_label":
        trivial = np.log(trivial / (1 - trivial))
    assert found.loss < 0.7 * losses(trivial, targets).mean()
    together = np.concatenate([rows[tap] for tap in found.taps], axis=1)
    assert losses(found.head(together), targets).mean() < found.loss


def test_shuffled_labels_fall_to_chance():
    rows, targets, folds = rows_of(n=150)
    order = np.random.default_rng(3).permutation(150)
    shuffled = Targets(values=targets.values[order], weights=np.ones(150), task="single_label")
    labels = list(shuffled.values.argmax(axis=1))
    folds = stratified(labels, [[i] for i in range(150)], count=5, seed=0)
    found = stacked(rows, shuffled, folds, GROUPS)
    right = (found.logits.argmax(axis=1) == shuffled.values.argmax(axis=1)).mean()
    assert abs(right - 1 / 3) < 0.12
    assert found.loss > 0.97 * np.log(3)


def test_a_tap_is_read_although_nothing_weighs_it():
    rows, targets, folds = rows_of()
    found = stacked(rows, targets, folds, GROUPS[:1], always="noise")
    assert found.taps == ("noise", "good")
    assert not found.head.kernel[:30].any()


def test_only_the_final_examples_are_fitted_in_the_end():
    rows, targets, _ = rows_of()
    fit, held = np.arange(60), np.arange(60, 90)
    found = stacked(rows, targets, [(fit, held)], GROUPS[:1], final=fit)
    assert np.isnan(found.logits[fit]).all()
    assert np.isfinite(found.logits[held]).all()
    np.testing.assert_allclose(found.head(rows["good"])[held], found.logits[held], atol=1e-4)

"""The convex head: its optimum, by an independent minimiser; its edge cases."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from scipy import optimize

import tltf
from tltf.errors import ArgumentError
from tltf.training import convex
from tltf.training.convex import Rows
from tltf.training.fit import fit_phases


def rows(n: int, classes: int, *, seed: int = 0, width: int = 6) -> Rows:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    features = random.normal(size=(n, width)) + 1.5 * np.eye(classes, width)[labels]
    weights = random.uniform(0.5, 2.0, n)
    return Rows(features.astype(np.float32), np.eye(classes, dtype=np.float32)[labels], weights)


@pytest.mark.parametrize("classes", [2, 4])
def test_no_other_head_has_less_loss(classes: int) -> None:
    """The penalised loss of the module's formula, minimised by SciPy from another start."""
    train, strength = rows(60, classes), 1.0
    mean, deviation = train.features.mean(0), train.features.std(0)
    z, y, w = (train.features - mean) / deviation, train.targets, train.weights
    kernel, bias = convex._fitted(z, y, w, "single_label", strength)

    def loss(flat: np.ndarray) -> float:
        a, b = flat[classes:].reshape(-1, classes), flat[:classes]
        logits = z @ a + b
        each = np.logaddexp.reduce(logits, axis=1) - (y * logits).sum(axis=1)
        # Two classes are one logit: |w|^2 / 2 with w the difference of both columns.
        penalty = (a**2).sum() * (1.0 if classes == 2 else 0.5) / strength
        return float((w * each).sum() + penalty)

    ours = loss(np.concatenate([bias, kernel.ravel()]))
    start = np.random.default_rng(1).normal(size=classes * (1 + z.shape[1]))
    best = optimize.minimize(loss, start, method="L-BFGS-B", options={"maxiter": 5000}).fun
    assert (ours - best) / best <= 1e-3


def test_the_strength_has_the_least_validation_loss() -> None:
    train, validation = rows(30, 3), rows(30, 3, seed=1)
    found = convex.solve(train, validation, task="single_label")
    assert found.strength in convex.STRENGTHS
    logits = validation.features @ found.kernel + found.bias
    assert convex.mean_loss(logits, validation, "single_label") == pytest.approx(found.loss)
    assert found.loss < np.log(3)


def test_classes_and_labels_that_nobody_has() -> None:
    train = rows(40, 4)
    absent = np.where(train.targets.argmax(1) == 3)[0]
    few = Rows(
        *(np.delete(x, absent, axis=0) for x in (train.features, train.targets, train.weights))
    )
    found = convex.solve(few, train, task="single_label")
    logits = few.features @ found.kernel + found.bias
    assert (logits.argmax(axis=1) != 3).all()
    labels = np.stack([np.ones(30), np.zeros(30), np.arange(30) % 2], axis=1)
    many = Rows(rows(30, 2).features, labels, np.ones(30))
    found = convex.solve(many, many, task="multi_label")
    logits = many.features @ found.kernel + found.bias
    assert (logits[:, 0] > 5).all()
    assert (logits[:, 1] < -5).all()


def test_regression_is_ridge() -> None:
    train = rows(50, 2)
    numbers = train.features @ np.arange(6.0)[:, None] + 3.0
    given = Rows(train.features, numbers, train.weights)
    found = convex.solve(given, given, task="regression")
    np.testing.assert_allclose(given.features @ found.kernel + found.bias, numbers, atol=0.5)


def test_a_phase_is_one_epoch_at_the_optimum_and_the_next_starts_from_there() -> None:
    model, data = tiny.classifier(head_dropout=0.2), tiny.dataset(24)
    plan = [
        tltf.Phase("head", 5, 1e-2, unfreeze="none"),
        tltf.Phase("tune", 1, 1e-4, unfreeze="last:1"),
    ]
    fit = fit_phases(model, plan, data, validation=data, head_solver="lbfgs", progress=False)
    assert [(row["phase"], row["epoch"]) for row in fit.history] == [("head", 1), ("tune", 1)]
    assert fit.history[0]["strength"] in convex.STRENGTHS
    by_gradient = fit_phases(tiny.classifier(head_dropout=0.2), plan[:1], data, validation=data,
                             progress=False)  # fmt: skip
    assert fit.history[0]["val_loss"] < by_gradient.history[-1]["val_loss"]


def test_a_hidden_layer_is_not_convex() -> None:
    model = tltf.classifier(tiny.backbone(), tltf.head(2, hidden=(4,)))
    with pytest.raises(ArgumentError, match="more than one minimum"):
        convex.linear_layer(model)

"""Alignment in closed form: the papers' equations by loops, residuals and integrals."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import transfer as oracle
from scipy import linalg

from tltf.errors import ArgumentError, DataError
from tltf.transfer import manifold, pseudolabels, shallow, unlabelled

C = 3


def domains(n: int = 30, m: int = 24, d: int = 6, *, seed: int = 0):
    """Three classes, turned and scaled in the target: ``(source, labels, target, truth)``."""
    rng = np.random.default_rng(seed)
    centres = 4 * np.eye(C, d)
    y, truth = np.arange(n) % C, np.arange(m) % C
    turn, r = np.linalg.qr(np.eye(d) + 0.2 * rng.normal(size=(d, d)))
    turn *= np.sign(np.diag(r))
    source = centres[y] + rng.normal(size=(n, d))
    target = (centres[truth] + rng.normal(size=(m, d))) @ turn + 1.0
    return source, y, target, truth


def test_standardised_columns() -> None:
    x = shallow.standardized(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_allclose(x, [[-1, 0], [1, 0]])


def test_coral_gives_the_source_the_targets_covariance() -> None:
    source, _, target, _ = domains(200, 150)
    aligned = shallow.coral_align(source, target, ridge=1e-9)
    np.testing.assert_allclose(np.cov(aligned.source.T), np.cov(target.T), atol=1e-6)
    np.testing.assert_array_equal(aligned.target, target)
    # With the paper's C + I: whitened by one root, coloured by the other.
    c_s, c_t = (np.cov(x.T) + np.eye(6) for x in (source, target))
    ours = np.linalg.lstsq(source, shallow.coral_align(source, target).source, rcond=None)[0]
    np.testing.assert_allclose(ours.T @ c_s @ ours, c_t, atol=1e-6)


def test_subspaces_are_aligned_by_the_papers_product() -> None:
    source, _, target, _ = domains()
    aligned = shallow.subspace_align(source, target, dimensions=2)
    axes = []
    for x in (source, target):
        values, vectors = np.linalg.eigh(np.cov(x.T))
        axes.append(vectors[:, np.argsort(-values)[:2]])
    p_s, p_t = axes
    expected = source @ p_s @ p_s.T @ p_t
    # The sign of an axis is free; inner products are not.
    np.testing.assert_allclose(aligned.source @ aligned.source.T, expected @ expected.T, atol=1e-8)
    cross = expected @ (target @ p_t).T
    np.testing.assert_allclose(aligned.source @ aligned.target.T, cross, atol=1e-8)


def test_the_matrices_of_jda() -> None:
    rng = np.random.default_rng(0)
    y, pseudo = np.array([0, 0, 1, 1, 1]), np.array([1, 2, 1, 0])
    m0, mc = oracle.marginal_and_conditional(y, pseudo)
    np.testing.assert_allclose(shallow.marginal(5, 4), m0, atol=1e-12)
    np.testing.assert_allclose(shallow.conditional(y, pseudo), mc, atol=1e-12)
    x = rng.normal(size=(9, 2))
    gap = x[:5].mean(0) - x[5:].mean(0)
    assert np.trace(x.T @ m0 @ x) == pytest.approx(gap @ gap)


def test_tca_solves_the_papers_eigenproblem() -> None:
    source, _, target, _ = domains()
    aligned = shallow.tca(source, target, dimensions=3, regularizer=0.5)
    x = np.concatenate([source, target])
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    m, _ = oracle.marginal_and_conditional(np.zeros(30), np.zeros(24))
    m = m / np.linalg.norm(m)
    h = np.eye(54) - 1 / 54
    k = x @ x.T
    z = np.concatenate([aligned.source, aligned.target])
    # In the span of the rows, as the smallest solutions are.
    a = np.linalg.pinv(k, rcond=1e-9) @ z
    left, right = (k @ m @ k + 0.5 * np.eye(54)) @ a, k @ h @ k @ a
    phi = np.array([p @ q / (q @ q) for p, q in zip(left.T, right.T, strict=True)])
    # The regulariser outside the span of K never vanishes, so the equation holds inside it.
    inside = np.linalg.pinv(k, rcond=1e-9) @ k
    np.testing.assert_allclose(inside @ left, right * phi, atol=1e-8)
    every = linalg.eigh(k @ h @ k, k @ m @ k + 0.5 * np.eye(54), eigvals_only=True)
    np.testing.assert_allclose(np.sort(1 / phi), every[-3:], rtol=1e-6)


@pytest.mark.parametrize("balance", [None, 0.0, 0.5])
def test_jda_finds_classes_that_the_nearest_neighbour_loses(balance) -> None:
    source, y, target, truth = domains(60, 60)
    s, t = shallow.standardized(source), shallow.standardized(target)
    found = shallow.jda(s, y, t, dimensions=3, balance=balance)
    before = (shallow.nearest_neighbour(source, y, target) == truth).mean()
    assert (found.labels == truth).mean() >= before
    assert found.aligned.source.shape == (60, 3)


def test_the_geodesic_flow_kernel_is_the_integral() -> None:
    source, _, target, _ = domains()
    found = manifold.geodesic_flow_kernel(source, target, dimensions=2)
    p_s, p_t = (shallow.principal_axes(x)[:, :2] for x in (source, target))
    np.testing.assert_allclose(found, oracle.geodesic_kernel(p_s, p_t), atol=1e-5)
    np.testing.assert_allclose(
        manifold.geodesic_flow_kernel(source, source, dimensions=2), p_s @ p_s.T, atol=1e-6
    )
    x = manifold.manifold_features(source, target, dimensions=2)
    np.testing.assert_allclose(x.source @ x.target.T, source @ found @ target.T, atol=1e-6)


def test_meda_satisfies_its_equation() -> None:
    source, y, target, truth = domains(40, 30)
    s, t = shallow.standardized(source), shallow.standardized(target)
    scores = manifold.meda(s, y, t, dimensions=2, iterations=1, balance=0.3, neighbours=5)
    found = manifold.manifold_features(s, t, dimensions=2)
    x = shallow.unit_rows(np.concatenate([found.source, found.target]))
    pseudo = shallow.nearest_neighbour(x[:40], y, x[40:])
    m0, mc = oracle.marginal_and_conditional(y, pseudo)
    m = 0.7 * C * m0 + 0.3 * mc
    m = m / np.linalg.norm(m)
    k = np.array([[oracle.gaussian(a, b, 1.0) for b in x] for a in x])
    mark = np.diag([1.0] * 40 + [0.0] * 30)
    labels = np.concatenate([np.eye(C)[y], np.zeros((30, C))])
    left = (mark + 10 * m + manifold.laplacian(x, neighbours=5)) @ k + 0.1 * np.eye(70)
    beta = np.linalg.inv(left) @ mark @ labels
    np.testing.assert_allclose(scores, (k @ beta)[40:], atol=1e-5)
    estimated = manifold.meda(s, y, t, dimensions=3).argmax(1)
    assert (estimated == truth).mean() > 0.5


def test_the_balance_lies_between_its_ends() -> None:
    source, y, target, truth = domains(60, 60)
    assert 0 <= manifold.balance_factor(source, y, target, truth) <= 1
    few = np.array([0] * 57 + [1, 1, 2])
    assert manifold.balance_factor(source[1::3], y[1::3], target, few) == 0.5


def test_propagation_is_the_limit_of_the_papers_iteration() -> None:
    source, y, target, _ = domains(12, 9)
    found = pseudolabels.label_propagation(source, y, target, neighbours=4, alpha=0.8)
    graph = manifold.normalized_graph(np.concatenate([source, target]), neighbours=4)
    known = np.concatenate([np.eye(C)[y], np.zeros((9, C))])
    known = known / known.sum(0)
    f = known.copy()
    for _ in range(500):
        f = 0.8 * graph @ f + 0.2 * known
    expected = f[12:] / f[12:].sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_self_training_takes_the_surest_of_each_class() -> None:
    p = np.array([[0.95, 0.05], [0.9, 0.1], [0.85, 0.15], [0.4, 0.6], [0.1, 0.9]])
    chosen = pseudolabels.confident(p, share=0.5, confidence=0.8)
    assert chosen.tolist() == [True, True, False, False, True]
    source, y, target, truth = domains(60, 60)
    aligned = shallow.coral_align(source - source.mean(0), target - target.mean(0))
    found = pseudolabels.self_training(aligned.source, y, aligned.target)
    np.testing.assert_allclose(found.sum(1), 1)
    assert (found.argmax(1) == truth).mean() > 0.8


def test_criteria_without_target_labels() -> None:
    rng = np.random.default_rng(0)
    p = oracle.softmax(rng.normal(size=(8, C)))
    q = oracle.softmax(3 * rng.normal(size=(9, C)))
    y = np.arange(8) % C
    found = unlabelled.criteria(p, y, q, weights=np.arange(8))
    losses = [-np.log(p[i, c]) for i, c in enumerate(y)]
    assert found.source_risk == pytest.approx(np.mean(losses))
    assert found.weighted_risk == pytest.approx(np.average(losses, weights=np.arange(8)))
    assert found.entropy == pytest.approx(np.mean([oracle.entropy(row) for row in q]))
    assert found.density == pytest.approx(oracle.neighbourhood_density(q, 0.05), abs=1e-9)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda s, y, t: shallow.coral_align(s, t, ridge=0), ArgumentError, "ridge=0"),
        (lambda s, y, t: shallow.tca(s, t, dimensions=0), ArgumentError, "dimensions=0"),
        (lambda s, y, t: shallow.tca(s, t, regularizer=0), ArgumentError, "regularizer=0"),
        (lambda s, y, t: shallow.jda(s, y, t, balance=2), ArgumentError, "balance=2"),
        (lambda s, y, t: shallow.jda(s, y[:3], t), DataError, "30 class indices"),
        (lambda s, y, t: pseudolabels.self_training(s, y, t, rounds=-1), ArgumentError, "rounds"),
        (lambda s, y, t: pseudolabels.label_propagation(s, y, t, alpha=1), ArgumentError, "alpha"),
    ],
)
def test_wrong_arguments_are_said(call, error, text) -> None:
    source, y, target, _ = domains()
    with pytest.raises(error, match=text):
        call(source, y, target)


def test_reverse_accuracy_tells_right_answers_from_wrong_ones() -> None:
    rng = np.random.default_rng(0)
    y, truth = np.arange(90) % 3, np.arange(60) % 3
    s = np.eye(3, 5)[y] * 3 + rng.normal(size=(90, 5))
    t = np.eye(3, 5)[truth] * 3 + rng.normal(size=(60, 5)) + 2.0
    found = [
        unlabelled.reverse_accuracy(s, y, t, answers)
        for answers in (truth, np.where(rng.random(60) < 0.5, truth, 0), (truth + 1) % 3)
    ]
    assert found[0] > 0.9
    assert found[0] > found[1] + 0.05
    assert found[2] < 0.1
    order = rng.permutation(60)
    assert unlabelled.reverse_accuracy(s, y, t[order], truth[order]) == pytest.approx(found[0])
    # One answer for all is the share of that class in the source.
    assert unlabelled.reverse_accuracy(s, y, t, np.full(60, 2)) == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="expected 60 class indices"):
        unlabelled.reverse_accuracy(s, y, t, truth[:7])

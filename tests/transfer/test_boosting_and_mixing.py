"""TrAdaBoost against its update written out, and mixing of domains."""

from __future__ import annotations

import numpy as np
import pytest

from tltf import transfer
from tltf.errors import ArgumentError, DataError


def two_tasks(n: int = 200, *, seed: int = 0):
    """The target's boundary is turned; half of the source agrees with it."""
    rng = np.random.default_rng(seed)
    source, target, test = (rng.normal(size=(size, 2)) for size in (n, 20, 400))

    def rule(x):
        return (x[:, 0] + 0.2 * x[:, 1] > 0).astype(int)

    labels = rule(source)
    labels[: n // 2] = (source[: n // 2, 1] > 0).astype(int)
    return source, labels, target, rule(target), test, rule(test)


class Stump:
    """Predicts by one fixed column, so that the update can be followed by hand."""

    def fit(self, x, y, sample_weight):
        self.sign = (
            1 if (sample_weight * ((x[:, 0] > 0) == y)).sum() >= sample_weight.sum() / 2 else 0
        )
        return self

    def predict(self, x):
        return ((x[:, 0] > 0) == self.sign).astype(int)


def test_tradaboost_follows_the_papers_update() -> None:
    source, labels, target, few, *_ = two_tasks(30)
    model = transfer.TrAdaBoost(Stump, rounds=3).fit(source, labels, target, few)
    beta = 1 / (1 + np.sqrt(2 * np.log(30) / 3))
    w_s, w_t = np.ones(30), np.ones(20)
    for _ in range(3):
        wrong_s, wrong_t = ((x[:, 0] > 0) != y for x, y in ((source, labels), (target, few)))
        error = min(max(w_t[wrong_t].sum() / w_t.sum(), 1e-3), 0.499)
        w_s = np.array([w * beta if bad else w for w, bad in zip(w_s, wrong_s, strict=True)])
        factor = (1 - error) / error
        w_t = np.array([w * factor if bad else w for w, bad in zip(w_t, wrong_t, strict=True)])
    w = np.concatenate([w_s, w_t])
    np.testing.assert_allclose(model.weights, w / w.mean(), rtol=1e-9)


class Scripted:
    """The i-th that is made answers by a plan, whatever it is trained on."""

    def __init__(self, answer: float) -> None:
        self.answer = answer

    def fit(self, x, y, sample_weight):
        return self

    def predict(self, x):
        return np.full(len(x), self.answer)


@pytest.mark.parametrize(
    ("rounds", "first"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3), (20, 10)]
)
def test_the_rounds_from_half_of_them_vote(rounds: int, first: int) -> None:
    """Dai et al. 2007, figure 1, and Pardoe & Stone 2010: t = ceil(N / 2) to N."""
    for voter in range(1, rounds + 1):
        # One round says 1, and loudly; all others say 0, in a whisper.
        plan = iter([float(t == voter) for t in range(1, rounds + 1)])
        x, y = np.zeros((4, 1)), np.array([0, 1, 0, 1])
        model = transfer.TrAdaBoost(lambda p=plan: Scripted(next(p)), rounds=rounds)
        model.fit(x, y, x, y)
        model.betas = [1e-6 if t == voter else 0.99 for t in range(1, rounds + 1)]
        assert (model.predict(x) == 1).all() == (voter >= first)
        plan = iter([float(t == voter) for t in range(1, rounds + 1)])
        numbers = transfer.TrAdaBoostR2(lambda p=plan: Scripted(next(p)), rounds=rounds)
        numbers.fit(x, y, x, y)
        numbers.betas = [1e-6 if t == voter else 0.99 for t in range(1, rounds + 1)]
        assert (numbers.predict(x) == 1).all() == (voter >= first)


def test_tradaboost_beats_both_domains_together() -> None:
    gains = []
    for seed in range(5):
        source, labels, target, few, test, truth = two_tasks(seed=seed)
        model = transfer.TrAdaBoost().fit(source, labels, target, few)
        plain = model.make().fit(np.concatenate([source, target]), np.concatenate([labels, few]))
        gains.append((model.predict(test) == truth).mean() - (plain.predict(test) == truth).mean())
    assert np.mean(gains) > 0
    # The half of the source that disagrees counts less.
    assert model.weights[:100].mean() < model.weights[100:200].mean()


def test_tradaboost_for_numbers_beats_both_domains_together() -> None:
    rng = np.random.default_rng(0)
    source, target, test = (rng.normal(size=(n, 2)) for n in (200, 25, 300))

    def truth(x):
        return x[:, 0] - x[:, 1]

    values = truth(source)
    values[:120] = -3 * source[:120, 1] + 2
    model = transfer.TrAdaBoostR2(rounds=15).fit(source, values, target, truth(target))
    plain = model.make().fit(
        np.concatenate([source, target]), np.concatenate([values, truth(target)])
    )
    ours, theirs = (np.mean((m.predict(test) - truth(test)) ** 2) for m in (model, plain))
    assert ours < theirs


def test_mixup_is_a_convex_combination_of_both() -> None:
    x_s, x_t = np.zeros((6, 2, 2, 1), "float32"), np.ones((4, 2, 2, 1), "float32")
    y_s, y_t = np.tile([1.0, 0.0], (6, 1)), np.tile([0.0, 1.0], (4, 1))
    x, y = transfer.mixup_domains((x_s, y_s), (x_t, y_t), seed=1)
    np.testing.assert_allclose(x[:, 0, 0, 0], y[:, 1], rtol=1e-5)
    np.testing.assert_allclose(y.sum(1), 1)
    assert x.shape == x_s.shape


def test_cutmix_mixes_labels_by_area() -> None:
    x_s, x_t = np.zeros((6, 8, 8, 3), "float32"), np.ones((4, 8, 8, 3), "float32")
    y_s, y_t = np.tile([1.0, 0.0], (6, 1)), np.tile([0.0, 1.0], (4, 1))
    x, y = transfer.cutmix_domains((x_s, y_s), (x_t, y_t), seed=1)
    np.testing.assert_allclose(x.mean(axis=(1, 2, 3)), y[:, 1], atol=1e-6)
    assert not x_s.any()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_batch_of_two_domains_is_mixed_by_the_answers(kind: str) -> None:
    """Source maps are 0 of class 0, target maps 1 of class 1: label and pixels agree."""
    x_s, x_t = np.zeros((12, 4, 4, 2), "float32"), np.ones((8, 4, 4, 2), "float32")
    extra = () if kind == "cutmix" else (np.zeros((12, 3), "float32"),)
    extra_t = tuple(np.ones((8, 3), "float32") for _ in extra)
    y = np.tile([1.0, 0.0], (12, 1))
    mixing = transfer.DomainMixing(kind, np.tile([0.0, 1.0], (8, 1)))
    data = transfer.DomainEpochs(
        transfer.Domain((x_s, *extra), y), transfer.Domain((x_t, *extra_t)), batch_size=8,
        mixing=mixing,
    )  # fmt: skip
    epochs = [[[np.asarray(t) for t in (*x, labels, weight)] for x, labels, weight
               in data.train_dataset(e)] for e in (0, 1)]  # fmt: skip
    for *x, domain, labels, weight in epochs[0]:
        assert (weight > 0).tolist() == (domain == 0).tolist() == [True] * 4 + [False] * 4
        for part in x:
            seen = part[:4].reshape(4, -1).mean(axis=1)
            np.testing.assert_allclose(seen, labels[:4, 1], atol=1e-5)
            np.testing.assert_array_equal(part[4:], np.ones_like(part[4:]))
    assert any((labels[:4] % 1 != 0).any() for *_, labels, _ in epochs[0])
    assert not np.array_equal(epochs[0][0][-2], epochs[1][0][-2])
    again = next(iter(data.train_dataset(0)))
    np.testing.assert_array_equal(again[1], epochs[0][0][-2])


def test_nearer_sources_get_larger_shares() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(60, 3))
    shares = transfer.source_shares(
        [rng.normal(0.2, 1, (60, 3)), rng.normal(4, 1, (60, 3))], target
    )
    assert shares.sum() == pytest.approx(1)
    assert shares[0] > 2 * shares[1]
    rows = transfer.mixed_sources([5, 7], shares, n=2000)
    assert (rows[:, 0] == 0).mean() == pytest.approx(shares[0], abs=0.05)
    assert rows[rows[:, 0] == 1, 1].max() < 7
    assert rows[rows[:, 0] == 0, 1].max() < 5


def test_wrong_arguments_are_said() -> None:
    x, y = np.ones((2, 3)), np.ones((2, 2))
    for call, error, text in (
        (lambda: transfer.TrAdaBoost(rounds=0), ArgumentError, "rounds=0"),
        (lambda: transfer.mixup_domains((x, y), (x, y), alpha=0), ArgumentError, "alpha=0"),
        (lambda: transfer.mixup_domains((x, y), (x[:, :2], y)), DataError, "source of"),
        (lambda: transfer.cutmix_domains((x, y), (x, y)), ArgumentError, "expected \\[n, h"),
        (lambda: transfer.source_shares([], x), ArgumentError, "no sources"),
        (lambda: transfer.mixed_sources([1], [1, 2], n=2), ArgumentError, "sizes"),
    ):
        with pytest.raises(error, match=text):
            call()

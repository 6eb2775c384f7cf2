"""Episodes, heads on few labels, and learning to learn."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from oracles import transfer as oracle

from tltf import transfer
from tltf.errors import ArgumentError, DataError
from tltf.transfer import fewshot


def blobs(classes: int = 8, n: int = 20, d: int = 6, *, noise: float = 0.7, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), n)
    return (rng.normal(size=(classes, d))[y] + noise * rng.normal(size=(len(y), d))), y


def test_episodes_are_tasks_without_overlap_and_a_function_of_their_number() -> None:
    _, y = blobs()
    sampler = transfer.EpisodeSampler(y, ways=3, shots=2, queries=4, seed=5)
    e = sampler.episode(7)
    assert not set(e.support) & set(e.query)
    assert len(set(e.support)) == 6
    classes = y[e.support][::2]
    assert len(set(classes)) == 3
    np.testing.assert_array_equal(y[e.query], classes[e.query_labels])
    again = transfer.EpisodeSampler(y, ways=3, shots=2, queries=4, seed=5).episode(7)
    np.testing.assert_array_equal(again.query, e.query)
    assert not np.array_equal(sampler.episode(8).query, e.query)


@pytest.mark.parametrize("head", fewshot.HEADS)
def test_a_head_on_good_features_beats_chance(head: str) -> None:
    x, y = blobs()
    sampler = transfer.EpisodeSampler(y, ways=4, shots=3, queries=5)
    e = sampler.episode(0)
    scores = fewshot.HEADS[head](x[e.support], e.support_labels, x[e.query])
    assert scores.shape == (20, 4)
    right = [
        (fewshot.HEADS[head](x[e.support], e.support_labels, x[e.query]).argmax(1)
         == e.query_labels).mean() for e in sampler.episodes(20)
    ]  # fmt: skip
    assert np.mean(right) > 0.6


def test_six_hundred_episodes_have_an_interval() -> None:
    x, y = blobs()
    sampler = transfer.EpisodeSampler(y, ways=3, shots=1, queries=3)
    found = transfer.evaluate_episodes(x, sampler)
    assert found.episodes == 600
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.06


def test_the_prototypical_loss_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    s, q = rng.normal(size=(6, 3)).astype("float32"), rng.normal(size=(5, 3)).astype("float32")
    ys, yq = np.array([0, 1, 2, 0, 1, 2]), np.array([2, 0, 1, 1, 0])
    found = float(transfer.prototypical_loss(s, ys, q, yq, ways=3))
    assert found == pytest.approx(oracle.prototypical(s, ys, q, yq), abs=1e-5)


def encoder(out: int, *, seed: int = 0) -> keras.Model:
    layers = [
        keras.layers.Dense(8, "relu", kernel_initializer=keras.initializers.HeNormal(seed)),
        keras.layers.Dense(out, kernel_initializer=keras.initializers.GlorotUniform(seed + 1)),
    ]
    return keras.Sequential([keras.Input((6,)), *layers])


def test_episodic_training_lowers_the_loss() -> None:
    x, y = blobs(noise=1.0)
    sampler = transfer.EpisodeSampler(y, ways=4, shots=2, queries=4)
    losses = transfer.train_prototypical(
        encoder(4), x, sampler, episodes=60, optimizer=keras.optimizers.Adam(0.01)
    )
    assert np.mean(losses[-15:]) < np.mean(losses[:15])


@pytest.mark.parametrize("method", ["reptile", "first_order_maml"])
def test_learning_to_learn_helps_a_new_task(method: str) -> None:
    """Tasks of two directions in one plane: what is shared can be learned once."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(10), 20)
    centres = np.zeros((10, 6))
    centres[:, :2] = 2 * np.stack([np.cos(np.arange(10)), np.sin(np.arange(10))], 1)
    x = centres[y] + np.concatenate(
        [0.3 * rng.normal(size=(200, 2)), 2 * rng.normal(size=(200, 4))], 1
    )
    train = transfer.EpisodeSampler(y[:160], ways=2, shots=5, queries=5)
    test = transfer.EpisodeSampler(y, ways=2, shots=3, queries=8, seed=9)

    def after(model: keras.Model) -> float:
        return float(np.mean([
            transfer.adapted_accuracy(model, x, e, inner_steps=5, inner_rate=0.05)
            for e in test.episodes(25)
        ]))  # fmt: skip

    model = encoder(2)
    before = after(model)
    getattr(transfer, method)(
        model, x, train, episodes=120, inner_steps=5, inner_rate=0.05,
        **({"optimizer": keras.optimizers.Adam(0.01)} if method != "reptile" else {}),
    )  # fmt: skip
    weights = [v.numpy() for v in model.variables]
    assert after(model) > before
    for old, variable in zip(weights, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x, y: transfer.EpisodeSampler(y, ways=1), ArgumentError, "ways=1"),
        (lambda x, y: transfer.EpisodeSampler(y, shots=90), DataError, "0 classes have 105"),
        (lambda x, y: transfer.evaluate_episodes(
            x, transfer.EpisodeSampler(y, queries=3), episodes=5), ArgumentError, "at least 600"),
        (lambda x, y: transfer.evaluate_episodes(
            x, transfer.EpisodeSampler(y, queries=3), "cosin"), ArgumentError, "'cosine'"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_said(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call(*blobs())

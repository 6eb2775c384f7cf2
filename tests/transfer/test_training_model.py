"""The training model: the given model's own layers, with terms where they belong."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tiny

from tltf import adapt, transfer
from tltf.errors import ArgumentError, DataError
from tltf.transfer.domains import Domain, DomainEpochs


def net() -> keras.Model:
    """A functional model with a bottleneck and dropout before its logits."""
    x = inputs = keras.Input((6,), name="x")
    x = keras.layers.Dense(5, activation="relu", name="bottleneck")(x)
    x = keras.layers.Dropout(0.1, seed=1)(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))


def mixed(n: int = 12) -> tuple:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 6)).astype("float32")
    domain = (np.arange(n) % 2).astype("float32")
    y = np.eye(3, dtype="float32")[np.arange(n) % 3]
    return [x, domain], y, 1 - domain


MODELS = {
    "functional": net,
    "sequential": lambda: keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(5, name="bottleneck"), keras.layers.Dense(3)]
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", [*adapt.TERMS, "source_only"])
def test_every_method_trains_the_given_models_variables(name: str, method: str) -> None:
    model = MODELS[name]()
    terms = adapt.terms_for(method, steps=10)
    training = adapt.training_model(model, *terms)
    owned = {id(v) for v in training.variables}
    assert {id(v) for v in model.variables} <= owned
    training.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    before = tiny.values(model)
    x, y, weight = mixed()
    training.fit(x, y, sample_weight=weight, verbose=0, batch_size=12)
    assert len(tiny.moved(before, tiny.values(model))) == 4
    np.testing.assert_allclose(training(x), model(x[0]), rtol=1e-5)


def test_a_classifier_is_aligned_at_its_bottleneck() -> None:
    import tltf

    model = tltf.classifier(tiny.backbone(), tltf.head(2, hidden=(7,), dropout=0.1))
    seen = []

    class Spy(transfer.MMD):
        def value(self, features, *args, **kwargs):
            seen.append(features.shape)
            return super().value(features, *args, **kwargs)

    images = tiny.arrays(6)[0]
    both = [images, np.zeros(6, "float32")]
    training = adapt.training_model(model, Spy())
    np.testing.assert_allclose(training(both), model(images), rtol=1e-5, atol=1e-6)
    assert seen[-1] == (6, 7)
    adapt.training_model(model, Spy(), features="pool")(both)
    assert seen[-1] == (6, 4)


def test_the_task_gradient_reaches_everything_below_the_terms() -> None:
    """One published encoder never receives it: without target rows a term changes nothing."""
    x, y, _ = mixed()
    x = [x[0], np.zeros(12, "float32")]
    moved = []
    for terms in ((), (transfer.CORAL(),), (transfer.DANN(hidden=(4,)),)):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5), keras.layers.Dense(3)])
        training = adapt.training_model(model, *terms)
        training.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
        training.fit(x, y, verbose=0, batch_size=12)
        moved.append([np.array(v) for v in model.variables])
    for others in moved[1:]:
        for a, b in zip(moved[0], others, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_batches_are_a_function_of_seed_epoch_and_step() -> None:
    rng = np.random.default_rng(0)
    source = Domain((rng.normal(size=(7, 2)),), np.eye(3)[np.arange(7) % 3])
    target = Domain((rng.normal(size=(10, 2)),))
    data = DomainEpochs(source, target, batch_size=6, seed=4)
    assert data.steps_per_epoch == 4
    whole = list(data.train_dataset(0, epochs=2).as_numpy_iterator())
    late = list(data.train_dataset(1, 2).as_numpy_iterator())
    for (xa, ya, wa), (xb, yb, wb) in zip(whole[6:], late, strict=True):
        for a, b in ((xa[0], xb[0]), (xa[1], xb[1]), (ya, yb), (wa, wb)):
            np.testing.assert_array_equal(a, b)
    x, y, weight = whole[0]
    assert x[1].tolist() == [0, 0, 0, 1, 1, 1]
    assert not y[3:].any()
    # The mean over the labelled examples, however many rows have no label.
    assert weight.tolist() == [2, 2, 2, 0, 0, 0]
    seen = np.concatenate([b[0][0][b[0][1] == 1] for b in whole[:4]])
    assert {tuple(r) for r in seen} == {tuple(np.float32(r)) for r in target.x[0]}


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: adapt.training_model(net(), features="botleneck"), ArgumentError, "bottleneck"),
        (lambda: adapt.terms_for("cdann"), ArgumentError, "did you mean 'c?dan"),
        (lambda: adapt.training_model(keras.Sequential([keras.layers.Dense(2)])), ArgumentError,
         "shows no graph"),
        (lambda: DomainEpochs(Domain((np.ones((3, 2)),)), Domain((np.ones((3, 2)),))), DataError,
         "source labels"),
        (lambda: DomainEpochs(Domain((np.ones((3, 2)),), np.ones((3, 2))),
                              Domain((np.ones((3, 2)),)), batch_size=1), ArgumentError,
         "at least 2"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_said(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call()

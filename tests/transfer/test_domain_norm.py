"""Batch normalisation that knows domains."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tiny

from tltf import transfer
from tltf.errors import ArgumentError


def two_domains() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (8, 5, 3)), rng.normal(4, 2, (6, 5, 3))])
    return x.astype("float32"), np.repeat([0.0, 1.0], [8, 6]).astype("float32")


def test_each_domain_is_normalised_by_its_own_moments() -> None:
    x, domain = two_domains()
    layer = transfer.DomainBatchNormalization(epsilon=0.0, momentum=0.0)
    y = np.asarray(layer(x, domain, training=True))
    for d in (0, 1):
        own = x[domain == d].reshape(-1, 3)
        expected = (x[domain == d] - own.mean(0)) / own.std(0)
        np.testing.assert_allclose(y[domain == d], expected, atol=1e-4)
        np.testing.assert_allclose(layer.moving_mean[d], own.mean(0), atol=1e-4)
        np.testing.assert_allclose(layer.moving_variance[d], own.var(0), rtol=1e-4)
    np.testing.assert_allclose(layer(x, domain), y, atol=1e-4)
    # Without a domain, which is how a servable calls it, everything is target.
    np.testing.assert_allclose(np.asarray(layer(x))[domain == 1], y[domain == 1], atol=1e-4)


def test_a_missing_domain_keeps_its_statistics() -> None:
    x, domain = two_domains()
    layer = transfer.DomainBatchNormalization()
    y = layer(x[domain == 0], domain[domain == 0], training=True)
    assert np.isfinite(y).all()
    np.testing.assert_array_equal(layer.moving_mean[1], np.zeros(3))
    assert np.any(np.asarray(layer.moving_mean[0]))


def test_a_frozen_layer_stands_still() -> None:
    x, domain = two_domains()
    layer = transfer.DomainBatchNormalization()
    layer(x, domain)
    layer.trainable = False
    layer(x, domain, training=True)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros((2, 3)))


def test_adabn_gives_the_targets_moments_and_touches_nothing_else() -> None:
    model = tiny.classifier()
    model.layers[1].trainable = False
    flags = [layer.trainable for layer in model._flatten_layers()]
    before = tiny.values(model)
    images = 255 * tiny.arrays(16)[0]
    assert transfer.adapt_batch_norm(model, [images[:8], images[8:]]) == 3
    changed = tiny.moved(before, tiny.values(model))
    assert changed
    assert all("moving" in path for path in changed)
    assert [layer.trainable for layer in model._flatten_layers()] == flags
    first = next(v for v in model.variables if v.path.endswith("low_1_bn/moving_mean"))
    conv = keras.Model(model.layers[1].input, model.layers[1].get_layer("low_1_conv").output)
    np.testing.assert_allclose(
        first, np.asarray(conv(images)).mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("sizes", [(8, 1), (8, 2, 6), (3, 3, 3), (9,), (4, 7)])
def test_adabn_counts_examples_and_not_batches(sizes: tuple[int, ...]) -> None:
    """A last batch of one once halved the variance."""
    x = np.random.default_rng(0).normal(3, 2, (sum(sizes), 4)).astype("float32")
    norm = keras.layers.BatchNormalization(momentum=0.9)
    model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(2)])
    parts = np.split(x, np.cumsum(sizes)[:-1])
    assert transfer.adapt_batch_norm(model, iter(parts)) == 1
    np.testing.assert_allclose(norm.moving_mean, x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, x.var(axis=0), rtol=1e-4)
    assert norm.momentum == 0.9


def test_adabn_needs_something_to_adapt_and_something_to_adapt_to() -> None:
    with pytest.raises(ArgumentError, match="no BatchNormalization"):
        transfer.adapt_batch_norm(tiny.classifier(norm=False), [])
    with pytest.raises(ArgumentError, match="no batches"):
        transfer.adapt_batch_norm(tiny.classifier(), [])

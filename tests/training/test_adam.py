"""Adam and AdamW by one kernel for each variable: Keras' numbers, states and configurations."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tltf.training.adam import Adam, AdamW

PAIRS = [(Adam, keras.optimizers.Adam, {}), (AdamW, keras.optimizers.AdamW, {"weight_decay": 0.1})]
STEPS = 25


def variables() -> list[keras.Variable]:
    random = np.random.default_rng(0)
    shapes = {"kernel": (7, 5), "bias": (5,), "scale": ()}
    return [
        keras.Variable(random.normal(size=shape).astype("float32"), name=name)
        for name, shape in shapes.items()
    ]


def gradients(step: int) -> list[tf.Tensor]:
    random = np.random.default_rng(100 + step)
    return [tf.constant(random.normal(size=v.shape), tf.float32) for v in variables()]


def trained(optimizer: keras.optimizers.Optimizer, *, compiled: bool) -> list[np.ndarray]:
    """The variables after some steps, and behind them the optimizer's own."""
    own = variables()
    if hasattr(optimizer, "weight_decay") and optimizer.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(own)

    def apply(grads: list[tf.Tensor]) -> None:
        optimizer.apply(grads, own)

    apply = tf.function(apply, autograph=False) if compiled else apply
    for step in range(STEPS):
        apply(gradients(step))
    return [np.asarray(v) for v in (*own, *optimizer.variables)]


@pytest.mark.parametrize(("ours", "keras_own", "options"), PAIRS)
@pytest.mark.parametrize(
    "further", [{}, {"global_clipnorm": 0.5, "use_ema": True}, {"epsilon": 0.1}]
)
@pytest.mark.parametrize("compiled", [True, False], ids=["graph", "eager"])
def test_the_numbers_are_those_of_keras(
    ours: Any, keras_own: Any, options: dict[str, Any], further: dict[str, Any], compiled: bool
) -> None:
    def made(kind: Any) -> list[np.ndarray]:
        rate = keras.optimizers.schedules.CosineDecay(0.1, STEPS)
        return trained(kind(rate, **options, **further), compiled=compiled)

    for found, expected in zip(made(ours), made(keras_own), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


def test_decay_is_not_left_out_and_not_doubled() -> None:
    """Without gradients AdamW is the decay alone: w (1 - rate decay)^n."""
    weight = keras.Variable(np.ones((3,), "float32"), name="kernel")
    optimizer = AdamW(0.1, weight_decay=0.5)
    optimizer.build([weight])
    for _ in range(4):
        optimizer.apply([tf.zeros(3)], [weight])
    np.testing.assert_allclose(weight, np.full(3, 0.95**4), rtol=1e-6)


def test_rows_of_an_embedding() -> None:
    """Slices of one row are summed before they are squared, which Keras leaves out."""
    slices = tf.IndexedSlices(tf.ones((3, 2)), tf.constant([0, 2, 0]), tf.constant([4, 2]))

    def rows(kind: Any, gradient: Any) -> np.ndarray:
        table = keras.Variable(np.zeros((4, 2), "float32"))
        optimizer = kind(0.1, epsilon=1.0)
        optimizer.build([table])
        for _ in range(3):
            optimizer.apply([gradient], [table])
        return np.asarray(table)

    dense = tf.convert_to_tensor(slices)
    found = rows(Adam, slices)
    np.testing.assert_allclose(found, rows(keras.optimizers.Adam, dense), rtol=1e-5, atol=1e-7)
    assert (found[[1, 3]] == 0).all()


@pytest.mark.parametrize(("kind", "options"), [pair[::2] for pair in PAIRS])
def test_it_is_saved_and_read(kind: Any, options: dict[str, Any]) -> None:
    optimizer = kind(0.1, global_clipnorm=1.0, **options)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is kind
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_it_compiles_under_xla(kind: Any) -> None:
    own = variables()
    optimizer = kind(0.1)
    optimizer.build(own)
    before, grads = np.asarray(own[0]), gradients(0)
    tf.function(lambda: optimizer.apply(grads, own), jit_compile=True, autograph=False)()
    assert np.abs(np.asarray(own[0]) - before).max() > 0.05

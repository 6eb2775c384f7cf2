"""L2-SP, DELTA, BSS, LoRA, gradual phases."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tltf
from tltf import transfer
from tltf.errors import ArgumentError
from tltf.spec import Phase


def test_l2_sp_is_the_papers_sum_and_zero_at_the_start() -> None:
    model = tiny.classifier()
    assert transfer.l2_sp(model, 0.3, beta=0.0) == 12
    tltf.enter_phase(model, Phase("tune", 1, 1e-3, unfreeze="all", batch_norm="adapt"))
    assert float(sum(model.losses)) == 0
    start = tiny.values(model)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable.numpy() + rng.normal(size=variable.shape))
    expected = sum(
        0.15 * np.sum((v.numpy().astype(np.float64) - start[v.path]) ** 2)
        for v in model.trainable_variables
        if "head" not in v.path and "logits" not in v.path
    )
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


def test_l2_sp_holds_back_what_trains_and_says_nothing_of_what_is_frozen() -> None:
    moved = {}
    for alpha in (0.0, 1000.0):
        keras.utils.set_random_seed(0)
        model = tiny.classifier()
        transfer.l2_sp(model, alpha)
        before = tiny.values(model)
        tltf.enter_phase(model, Phase("tune", 3, 1e-2, unfreeze="last:1", optimizer="adam"))
        assert len(model.losses) == 3
        model.fit(tiny.dataset(), epochs=3, verbose=0)
        kernel = next(v for v in model.variables if v.path.endswith("top_3_conv/kernel"))
        moved[alpha] = np.abs(kernel.numpy() - before[kernel.path]).mean()
    assert moved[1000.0] < 0.5 * moved[0.0]


def test_delta_is_the_papers_sum() -> None:
    rng = np.random.default_rng(0)
    f, f0 = (rng.normal(size=(3, 2, 2, 4)).astype("float32") for _ in range(2))
    attention = [1.0, 2.0, 0.0, 0.5]
    layer = transfer.FeatureAnchor(0.1, attention=attention)
    layer(f, f0)
    expected = 0.0
    for b in range(3):
        for c in range(4):
            expected += attention[c] * np.sum((f[b, :, :, c] - f0[b, :, :, c]) ** 2) / 3
    assert float(layer.losses[-1]) == pytest.approx(0.1 * expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(5, 8), (8, 3)])
def test_bss_is_the_papers_sum_with_its_gradient(shape) -> None:
    rng = np.random.default_rng(0)
    f = rng.normal(size=shape).astype("float32")
    layer = transfer.BatchSpectralShrinkage(0.5, k=2)
    x = tf.constant(f)
    with tf.GradientTape() as tape:
        tape.watch(x)
        layer(x, training=True)
        loss = layer.losses[-1]
    u, sizes, vt = np.linalg.svd(f.astype(np.float64), full_matrices=False)
    assert float(loss) == pytest.approx(0.5 * np.sum(sizes[-2:] ** 2), rel=1e-4)
    expected = (u[:, -2:] * sizes[-2:]) @ vt[-2:]
    np.testing.assert_allclose(tape.gradient(loss, x), expected, atol=1e-4)


@pytest.mark.parametrize(("n", "batch"), [(16, 16), (12, 8), (5, 5)])
def test_bss_does_the_same_in_fit_where_the_graph_knows_no_batch_size(n: int, batch: int) -> None:
    """More examples than features, fewer, and both in one epoch."""
    x = np.random.default_rng(0).normal(size=(n, 6)).astype("float32")
    model = keras.Sequential([keras.Input((6,)), transfer.BatchSpectralShrinkage(1.0, k=2),
                              keras.layers.Dense(1, kernel_initializer="zeros")])  # fmt: skip
    model.compile(keras.optimizers.SGD(0.0), lambda y, z: 0.0 * tf.reduce_sum(z, axis=-1))
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros((n, 1), "float32"))).batch(batch)
    parts = [x[i : i + batch] for i in range(0, n, batch)]
    squares = [np.linalg.svd(p.astype(np.float64), compute_uv=False)[-2:] ** 2 for p in parts]
    expected = sum(len(p) * s.sum() for p, s in zip(parts, squares, strict=True)) / n
    found = model.fit(data, epochs=1, verbose=0).history["loss"][0]
    assert found == pytest.approx(expected, rel=1e-3)


def test_bss_is_silent_when_it_does_not_train() -> None:
    layer = transfer.BatchSpectralShrinkage()
    x = np.ones((4, 3), "float32")
    np.testing.assert_array_equal(layer(x), x)
    assert layer.losses == []
    layer(np.zeros((4, 3), "float32"), training=True)
    assert float(layer.losses[-1]) == 0


def test_lora_trains_little_and_starts_where_the_model_was() -> None:
    model = tiny.classifier()
    images = tiny.arrays(4)[0]
    before = model(images).numpy()
    assert transfer.enable_lora(model, 2) == ["low_1_conv", "mid_2_conv", "top_3_conv"]
    np.testing.assert_allclose(model(images), before, atol=1e-6)
    names = [v.path for v in model.trainable_variables]
    assert all("lora" in n or "logits" in n or "bias" in n for n in names), names
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    start = tiny.values(model)
    model.fit(tiny.dataset(), epochs=1, verbose=0)
    changed = tiny.moved(start, tiny.values(model))
    assert any("lora" in path for path in changed)
    assert not any(path.endswith("conv/kernel") for path in changed)


def test_wrong_arguments_are_said() -> None:
    for call, text in (
        (lambda: transfer.enable_lora(tiny.classifier(), 0), "rank=0"),
        (lambda: transfer.l2_sp(tiny.classifier(), -1), "alpha=-1"),
        (lambda: transfer.BatchSpectralShrinkage(k=0), "k=0"),
    ):
        with pytest.raises(ArgumentError, match=text):
            call()

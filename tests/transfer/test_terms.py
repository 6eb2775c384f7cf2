"""Loss terms on two domains: the papers' equations, laws, gradients, and awkward batches."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import transfer as oracle

from tltf import transfer
from tltf.errors import ArgumentError
from tltf.transfer import discrepancies

FACTORS = list(discrepancies.FACTORS)
M, N, D, C = 7, 5, 3, 4


def batch(m: int = M, n: int = N, d: int = D, *, shift: float = 0.8, seed: int = 0):
    """Features ``[m + n, d]`` and domains ``[m + n]``, mixed."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(size=(m, d)), rng.normal(shift, 1.3, (n, d))])
    order = rng.permutation(m + n)
    return x[order].astype("float32"), np.repeat([0, 1], [m, n])[order].astype("float32")


def value(layer: keras.layers.Layer, features, domain, *, training: bool = False) -> float:
    layer(features, domain, training=training)
    return float(layer.losses[-1])


def sides(x: np.ndarray, domain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = x.astype(np.float64)
    return x[domain == 0], x[domain == 1]


def sigma2s(x: np.ndarray) -> list[float]:
    width = oracle.median_sigma2(x.astype(np.float64))
    return [f * width for f in FACTORS]


# term -> (layer, what of (features, logits) it is called with, oracle)
TERMS = {
    "mmd_biased": (
        lambda: transfer.MMD(), "x", lambda s, t, x: oracle.mmd_biased(s, t, sigma2s(x))
    ),
    "mmd_unbiased": (
        lambda: transfer.MMD(estimator="unbiased"), "x",
        lambda s, t, x: oracle.mmd_unbiased(s, t, sigma2s(x)),
    ),
    "mmd_linear": (
        lambda: transfer.MMD(estimator="linear"), "x",
        lambda s, t, x: oracle.mmd_linear(s, t, FACTORS),
    ),
    "coral": (lambda: transfer.CORAL(), "x", lambda s, t, x: oracle.coral(s, t)),
    "entropy": (lambda: transfer.Entropy(), "x", lambda s, t, x: oracle.mean_entropy(t)),
    "information": (
        lambda: transfer.Entropy(diversity=0.7), "x",
        lambda s, t, x: oracle.mean_entropy(t) - 0.7 * oracle.entropy_of_mean(t),
    ),
    "mcc": (
        lambda: transfer.MinimumClassConfusion(), "x",
        lambda s, t, x: oracle.class_confusion(t, 2.5),
    ),
    "afn_hard": (
        lambda: transfer.AdaptiveFeatureNorm(1.0, radius=4.0), "x",
        lambda s, t, x: oracle.feature_norm(s, t, 4.0),
    ),
    "afn_stepwise": (lambda: transfer.AdaptiveFeatureNorm(1.0, step=0.7), "x",
                     lambda s, t, x: 2 * 0.7**2),
    "dann": (lambda: transfer.DANN(hidden=(6,)), "x", None),
    "jan": (lambda: transfer.JointMMD(), "pair", None),
    "cdan": (lambda: transfer.CDAN(hidden=(6,)), "pair", None),
}  # fmt: skip


def inputs(kind: str, **sizes):
    x, domain = batch(**sizes)
    if kind == "x":
        return x, domain
    logits, _ = batch(**{**sizes, "d": C, "seed": 1})
    return [x, logits], domain


@pytest.mark.parametrize("name", [name for name, row in TERMS.items() if row[2]])
@pytest.mark.parametrize(("m", "n"), [(M, N), (4, 4), (3, 8)])
def test_the_papers_equation(name: str, m: int, n: int) -> None:
    make, kind, expected = TERMS[name]
    x, domain = inputs(kind, m=m, n=n)
    assert value(make(), x, domain) == pytest.approx(expected(*sides(x, domain), x), abs=1e-5)


def test_joint_mmd_is_the_papers_equation() -> None:
    (x, logits), domain = inputs("pair")
    (s, t), (ls, lt) = sides(x, domain), sides(logits, domain)
    found = value(transfer.JointMMD(), [x, logits], domain)
    assert found == pytest.approx(oracle.joint_mmd([s, ls], [t, lt], FACTORS), abs=1e-5)


@pytest.mark.parametrize("entropy_weights", [True, False])
def test_adversarial_losses_are_the_papers_equations(entropy_weights: bool) -> None:
    (x, logits), domain = inputs("pair")

    def answers(layer, seen: np.ndarray) -> np.ndarray:
        for dense in layer.discriminator:
            seen = dense(seen)
        return np.asarray(tf.sigmoid(seen), np.float64)[:, 0]

    dann = transfer.DANN(hidden=(6,))
    found = value(dann, x, domain)
    assert found == pytest.approx(oracle.domain_loss(*sides(answers(dann, x), domain)), abs=1e-5)
    cdan = transfer.CDAN(hidden=(6,), entropy_weights=entropy_weights)
    found = value(cdan, [x, logits], domain)
    g = oracle.softmax(logits.astype(np.float64))
    seen = np.stack([np.outer(a, b).ravel() for a, b in zip(x, g, strict=True)]).astype("float32")
    d = sides(answers(cdan, seen), domain)
    expected = oracle.domain_loss(*d)
    if entropy_weights:
        expected = oracle.weighted_domain_loss(*d, *sides(g, domain))
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", [transfer.DANN, transfer.CDAN])
def test_normalised_features_cannot_run_away_from_the_discriminator(kind) -> None:
    (x, logits), domain = inputs("pair")
    layer = kind(hidden=(6,), normalize=True)
    given = [x, logits] if kind is transfer.CDAN else x
    longer = [7 * x, logits] if kind is transfer.CDAN else 7 * x
    found = value(layer, given, domain)
    assert value(layer, longer, domain) == pytest.approx(found, abs=1e-5)
    assert value(kind(hidden=(6,)), longer, domain) != pytest.approx(found, abs=1e-2)
    if kind is transfer.DANN:
        seen = x / np.linalg.norm(x, axis=1, keepdims=True) * np.sqrt(x.shape[1])
        plain = transfer.DANN(hidden=(6,))
        assert found == pytest.approx(value(plain, seen.astype("float32"), domain), abs=1e-5)
    # No gradient along the features themselves, and a finite one where they are zero.
    by_x, _ = gradients(layer, given, domain)
    along = np.sum(np.asarray(by_x[0]) * x, axis=1)
    np.testing.assert_allclose(along, 0, atol=1e-5)
    zero = keras.tree.map_structure(np.zeros_like, given)
    by_zero, _ = gradients(layer, zero, domain)
    assert np.isfinite(np.asarray(by_zero[0])).all()
    assert layer.get_config()["normalize"] is True


def test_a_large_product_is_randomised() -> None:
    layer = transfer.CDAN(hidden=(4,))
    x, domain = batch(d=600)
    logits, _ = batch(d=10)
    assert np.isfinite(value(layer, [x, logits], domain))
    assert [tuple(r.shape) for r in layer.random] == [(600, 1024), (10, 1024)]


@pytest.mark.parametrize("name", TERMS)
def test_laws(name: str) -> None:
    make, kind, _ = TERMS[name]
    x, domain = inputs(kind)
    layer = make()
    found = value(layer, x, domain)
    # The order of the batch says nothing; the linear estimator pairs neighbours.
    if name != "mmd_linear":
        order = np.random.default_rng(5).permutation(M + N)
        mixed = keras.tree.map_structure(lambda a: a[order], x)
        assert value(layer, mixed, domain[order]) == pytest.approx(found, abs=1e-5)
    if name.startswith(("mmd", "coral", "jan", "afn")):
        assert value(layer, x, 1 - domain) == pytest.approx(found, abs=1e-5)
    out = layer(x, domain)
    for a, b in zip(keras.tree.flatten(out), keras.tree.flatten(x), strict=True):
        np.testing.assert_array_equal(np.asarray(a), b)


@pytest.mark.parametrize("name", ["mmd_biased", "mmd_linear", "coral", "jan"])
def test_equal_domains_are_at_distance_zero(name: str) -> None:
    make, kind, _ = TERMS[name]
    x, _ = inputs(kind, m=6, n=0)
    twice = keras.tree.map_structure(lambda a: np.concatenate([a, a]), x)
    domain = np.repeat([0.0, 1.0], 6).astype("float32")
    # In the linear estimator equal pairs give k(x, x) nowhere, and h = 0.
    assert value(make(), twice, domain) == pytest.approx(0, abs=1e-6)


def test_scale_behaviour() -> None:
    x, domain = batch()
    assert value(transfer.MMD(), 3 * x, domain) == pytest.approx(
        value(transfer.MMD(), x, domain), abs=1e-5
    )
    assert value(transfer.CORAL(), 3 * x, domain) == pytest.approx(
        81 * value(transfer.CORAL(), x, domain), rel=1e-4
    )
    assert value(transfer.MMD(weight=2.5), x, domain) == pytest.approx(
        2.5 * value(transfer.MMD(), x, domain), abs=1e-5
    )


def gradients(layer, x, domain):
    x = keras.tree.map_structure(tf.constant, x)
    with tf.GradientTape() as tape:
        flat = keras.tree.flatten(x)
        tape.watch(flat)
        layer(x, domain, training=True)
        loss = layer.losses[-1]
    own = layer.trainable_variables
    found = tape.gradient(loss, [*flat, *(v.value for v in own)])
    return found[: len(flat)], found[len(flat) :]


@pytest.mark.parametrize("name", TERMS)
def test_a_step_against_the_gradient_does_what_the_term_is_for(name: str) -> None:
    """Discrepancies fall; against an adversary the discriminator's loss rises."""
    make, kind, _ = TERMS[name]
    x, domain = inputs(kind)
    layer = make()
    before = value(layer, x, domain)
    by_features, by_own = gradients(layer, x, domain)
    assert by_features[0] is not None
    moved = [
        a - 0.01 * (0 if g is None else np.asarray(g))
        for a, g in zip(keras.tree.flatten(x), by_features, strict=True)
    ]
    if name == "afn_stepwise":
        assert np.linalg.norm(moved[0], axis=1).mean() > np.linalg.norm(x, axis=1).mean()
        return
    after = value(layer, keras.tree.pack_sequence_as(x, moved), domain)
    if name in ("dann", "cdan"):
        assert after > before
        for variable, g in zip(layer.trainable_variables, by_own, strict=True):
            variable.assign_sub(0.01 * g)
        assert value(layer, x, domain) < before
        return
    assert by_own == []
    assert after < before


def test_entropy_and_confusion_leave_the_source_alone() -> None:
    x, domain = batch()
    for layer in (transfer.Entropy(), transfer.MinimumClassConfusion()):
        (g,), _ = gradients(layer, x, domain)
        assert not np.any(np.asarray(g)[domain == 0])
        assert np.any(np.asarray(g)[domain == 1])


def test_no_gradient_flows_through_the_predictions_that_condition_the_adversary() -> None:
    x, domain = inputs("pair")
    (by_features, by_logits), _ = gradients(transfer.CDAN(hidden=(6,)), x, domain)
    assert np.any(np.asarray(by_features))
    assert by_logits is None or not np.any(np.asarray(by_logits))


def test_no_gradient_flows_through_the_bandwidth() -> None:
    x, domain = batch()
    fixed = transfer.MMD(bandwidth=oracle.median_sigma2(x.astype(np.float64)))
    (a,), _ = gradients(fixed, x, domain)
    (b,), _ = gradients(transfer.MMD(), x, domain)
    np.testing.assert_allclose(a, b, atol=1e-5)


AWKWARD = {
    "no target": {"m": 6, "n": 0},
    "no source": {"m": 0, "n": 6},
    "one each": {"m": 1, "n": 1},
    "one row": {"m": 1, "n": 0},
    "uneven": {"m": 9, "n": 2},
}


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("sizes", AWKWARD.values(), ids=AWKWARD)
def test_awkward_batches_give_finite_values_and_gradients(name: str, sizes) -> None:
    make, kind, _ = TERMS[name]
    x, domain = inputs(kind, **sizes)
    layer = make()
    found = value(layer, x, domain)
    assert np.isfinite(found)
    if 0 in (sizes["m"], sizes["n"]):
        assert found == 0
    for g in [g for group in gradients(layer, x, domain) for g in group]:
        assert g is None or np.isfinite(np.asarray(g)).all()


@pytest.mark.parametrize("name", TERMS)
def test_degenerate_features_give_finite_gradients(name: str) -> None:
    make, kind, _ = TERMS[name]
    x, domain = inputs(kind)
    for constant in (0.0, 1e4):
        same = keras.tree.map_structure(lambda a: np.full_like(a, constant), x)  # noqa: B023
        layer = make()
        assert np.isfinite(value(layer, same, domain))
        for g in [g for group in gradients(layer, same, domain) for g in group]:
            assert g is None or np.isfinite(np.asarray(g)).all()


QUICK = ("mmd_linear", "mcc", "cdan")
"""Compiling takes seconds for each; the rest of them run in `make test-all`."""


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TERMS]
)
def test_terms_train_under_jit_and_mixed_precision(name: str) -> None:
    """In a plain ``compile`` and ``fit``, with the ramp; and equal to the eager value."""
    make, kind, _ = TERMS[name]
    features = keras.Input((D,), name="x")
    domain = keras.Input((), name="domain")
    dtype = keras.DTypePolicy("mixed_bfloat16")
    h = keras.layers.Dense(6, activation="relu", dtype=dtype)(features)
    logits = keras.layers.Dense(C, dtype="float32")(h)
    layer = make()
    if kind == "x":
        uses = logits if name in ("entropy", "mcc") else h
        passed = layer(uses, domain)
        logits = passed if uses is logits else keras.layers.Dense(C, dtype="float32")(passed)
    else:
        _, logits = layer([h, logits], domain)
    model = keras.Model([features, domain], logits)
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=True)
    x, d = batch(m=8, n=8)
    y = np.eye(C, dtype="float32")[np.arange(16) % C] * (1 - d[:, None])
    before = [np.array(v.numpy()) for v in model.trainable_variables]
    loss = model.fit([x, d], y, batch_size=16, epochs=1, verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    assert all(np.any(a != v.numpy()) for a, v in
               zip(before[:2], model.trainable_variables[:2], strict=True))  # fmt: skip
    copy = keras.models.model_from_json(model.to_json())
    copy.set_weights(model.get_weights())
    np.testing.assert_allclose(copy([x, d]), model([x, d]), rtol=1e-3, atol=1e-3)


def test_the_published_ramp() -> None:
    layer = transfer.MMD(ramp_steps=10)
    x, domain = batch()
    full = value(transfer.MMD(), x, domain)
    seen = [value(layer, x, domain, training=True) for _ in range(13)]
    expected = [full * (2 / (1 + np.exp(-10 * min(i / 10, 1))) - 1) for i in range(13)]
    np.testing.assert_allclose(seen, expected, atol=1e-6)
    assert value(layer, x, domain) == pytest.approx(expected[-1], abs=1e-6)


def test_the_ramp_of_an_adversary_is_that_of_the_reversal_only() -> None:
    x, domain = batch()
    layer = transfer.DANN(hidden=(6,), ramp_steps=10)
    assert value(layer, x, domain, training=True) > 0
    layer.ramp_step.assign(0.0)
    (by_features,), by_own = gradients(layer, x, domain)
    assert not np.any(np.asarray(by_features))
    assert all(np.any(np.asarray(g)) for g in by_own)


def test_reversal_is_exact_forward_and_negative_backward() -> None:
    x = tf.constant(np.random.default_rng(0).normal(size=(5, 3)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = transfer.reverse_gradient(x, 0.3)
        total = tf.reduce_sum(2 * y)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_allclose(tape.gradient(total, x), np.full((5, 3), -0.6), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: transfer.MMD(estimator="linaer"), "did you mean 'linear'"),
        (lambda: transfer.MMD(factors=[0.0]), "numbers > 0"),
        (lambda: transfer.MMD(-1.0), "weight=-1"),
        (lambda: transfer.CORAL(ramp_steps=-1), "ramp_steps=-1"),
        (lambda: transfer.DANN(strength=-1.0), "strength=-1"),
        (lambda: transfer.MinimumClassConfusion(temperature=0), "temperature=0"),
    ],
)
def test_wrong_arguments_are_said(make, text) -> None:
    with pytest.raises(ArgumentError, match=text):
        make()

"""Augmentation: exact where it can be, the same for the same seed, in range always."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from pictures import pixels

from tltf.data.augmentation import POLICIES, Policy, augment, cutmix, mixup, policy
from tltf.errors import ArgumentError

IMAGE = pixels(0, height=20, width=30).astype(np.float32)
SEEDS = [(7, i) for i in range(12)]


def flipped(seed: tuple[int, int]) -> bool:
    return not np.array_equal(augment(IMAGE, Policy(flip=True), seed=seed), IMAGE)


def test_none_changes_nothing() -> None:
    assert augment(IMAGE, policy("none"), seed=(0, 0)) is IMAGE


def test_flip_mirrors_some_and_only_mirrors() -> None:
    results = [np.asarray(augment(IMAGE, Policy(flip=True), seed=seed)) for seed in SEEDS]
    mirrored = [np.array_equal(result, IMAGE[:, ::-1]) for result in results]
    same = [np.array_equal(result, IMAGE) for result in results]
    assert all(m or s for m, s in zip(mirrored, same, strict=True))
    assert 0 < sum(mirrored) < len(SEEDS)


def test_a_flip_inside_the_affine_map_is_the_same_flip() -> None:
    barely = Policy(flip=True, zoom=1e-12)
    for seed in SEEDS:
        expected = augment(IMAGE, Policy(flip=True), seed=seed)
        np.testing.assert_allclose(augment(IMAGE, barely, seed=seed), expected, atol=1e-3)


@pytest.mark.parametrize("name", POLICIES)
def test_same_seed_same_pixels_eager_and_in_a_graph(name: str) -> None:
    graph = tf.function(lambda x, s: augment(x, policy(name), seed=s))
    for seed in SEEDS[:3]:
        first = np.asarray(augment(IMAGE, policy(name), seed=seed))
        np.testing.assert_array_equal(first, augment(IMAGE, policy(name), seed=seed))
        np.testing.assert_allclose(first, graph(IMAGE, tf.constant(seed)), atol=1e-3)
        assert first.dtype == np.float32
        assert first.shape == IMAGE.shape
        assert first.min() >= 0.0
        assert first.max() <= 255.0
    if name != "none":
        assert not np.array_equal(first, augment(IMAGE, policy(name), seed=(8, 0)))


def test_switching_one_change_off_moves_no_other() -> None:
    for seed in SEEDS:
        with_more = augment(IMAGE, Policy(flip=True, brightness=1e-9), seed=seed)
        expected = IMAGE[:, ::-1] if flipped(seed) else IMAGE
        np.testing.assert_allclose(with_more, expected, atol=1e-3)


def test_rotation_turns_about_the_centre() -> None:
    disc = np.zeros((21, 21, 3), np.float32)
    disc[10, 10] = 255.0
    for seed in SEEDS:
        turned = np.asarray(augment(disc, Policy(rotation=180.0), seed=seed))
        np.testing.assert_allclose(turned[10, 10], 255.0, atol=0.1)


def test_brightness_and_contrast_follow_their_formula() -> None:
    flat = np.full((4, 4, 3), 100.0, np.float32)
    brighter = [augment(flat, Policy(brightness=0.1), seed=s)[0, 0, 0] for s in SEEDS]
    assert all(74.4 < value < 125.6 for value in brighter)
    assert np.std(brighter) > 5.0
    # Around its own mean a flat picture has no contrast to scale.
    np.testing.assert_allclose(augment(flat, Policy(contrast=0.9), seed=(1, 1)), flat, atol=1e-3)


def test_the_shape_stays_static() -> None:
    traced = tf.function(lambda x: augment(x, policy("strong"), seed=(0, 0)))
    spec = tf.TensorSpec([32, 32, 3], tf.float32)
    assert traced.get_concrete_function(spec).output_shapes == (32, 32, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rotation": -1.0}, r"rotation=-1.0, expected a number in \[0, 180\]"),
        ({"zoom": 1.0}, r"zoom=1.0, expected a number in \[0, 1\)"),
        ({"shear": 2.0}, "shear=2.0"),
        ({"brightness": float("nan")}, "brightness=nan"),
        ({"contrast": 1.5}, "contrast=1.5"),
        ({"fill": "reflekt"}, "did you mean 'reflect'"),
    ],
)
def test_a_policy_out_of_range_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Policy(**fields)  # type: ignore[arg-type]


def test_an_unknown_policy_names_the_nearest() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'medium'"):
        policy("mediun")


IMAGES = np.stack([np.full((8, 8, 3), 10.0 * i, np.float32) for i in range(5)])
TARGETS = np.eye(5, dtype=np.float32)


def test_mixup_blends_images_and_targets_alike() -> None:
    images, targets = mixup(IMAGES, TARGETS, seed=(1, 2), alpha=1.0)
    np.testing.assert_allclose(np.sum(targets, axis=1), 1.0, rtol=1e-6)
    assert (np.diag(targets) >= 0.5).all()
    assert (np.count_nonzero(targets, axis=1) == 2).all()
    # Image i is flat 10 i, so the blend of the images can be read off the targets.
    expected = np.asarray(targets) @ (10.0 * np.arange(5))
    np.testing.assert_allclose(images[:, 3, 4, 1], expected, rtol=1e-5)


def test_cutmix_mixes_targets_by_the_pasted_area() -> None:
    images, targets = cutmix(IMAGES, TARGETS, seed=(3, 4), alpha=1.0)
    for i, image in enumerate(np.asarray(images)):
        kept = np.mean(image[:, :, 0] == 10.0 * i)
        np.testing.assert_allclose(targets[i, i], kept, rtol=1e-5)
    assert 0.0 < np.mean(np.diag(targets)) < 1.0


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_mixing_is_repeatable_and_takes_a_batch_of_one(mix) -> None:  # type: ignore[no-untyped-def]
    for a, b in zip(
        mix(IMAGES, TARGETS, seed=(1, 1)), mix(IMAGES, TARGETS, seed=(1, 1)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    images, targets = mix(IMAGES[:1], TARGETS[:1], seed=(1, 1))
    np.testing.assert_allclose(images, IMAGES[:1])
    np.testing.assert_allclose(targets, TARGETS[:1])
    with pytest.raises(ArgumentError, match=r"alpha=0\.0, expected a number above 0"):
        mix(IMAGES, TARGETS, seed=(1, 1), alpha=0.0)


def test_mixing_with_a_tiny_alpha_is_finite() -> None:
    images, targets = mixup(IMAGES, TARGETS, seed=(0, 0), alpha=1e-4)
    assert np.isfinite(images).all()
    assert np.isfinite(targets).all()

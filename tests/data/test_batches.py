"""Batches: the same for the same (seed, epoch, step), complete, and rightly labelled."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tltf.data.augmentation import Policy
from tltf.data.batches import Batches, derived_seed
from tltf.data.manifest import BadInputsError, Manifest, Record
from tltf.data.scan import scan
from tltf.data.sources import load
from tltf.data.targets import class_weights
from tltf.errors import ArgumentError, DataError


@pytest.fixture
def manifest(photos: Path) -> Manifest:
    return scan(load(str(photos)), max_image_pixels=10**6)


def batches(manifest: Manifest, **options: object) -> Batches:
    given = {"image_size": 8, "batch_size": 8, "seed": 1, **options}
    return Batches(manifest.records, classes=manifest.classes, task=manifest.task, **given)  # type: ignore[arg-type]


def content(dataset: tf.data.Dataset) -> list[tuple[np.ndarray, ...]]:
    return [tuple(np.asarray(part) for part in batch) for batch in dataset]


def assert_same(first: list[tuple[np.ndarray, ...]], second: list[tuple[np.ndarray, ...]]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("mix", ["none", "cutmix", pytest.param("mixup", marks=pytest.mark.slow)])
def test_an_epoch_is_the_same_from_wherever_it_is_begun(manifest: Manifest, mix: str) -> None:
    data = batches(manifest, augment="strong", mix=mix)
    whole = content(data.train_dataset(3))
    assert len(whole) == data.steps_per_epoch == 7
    assert sum(len(x) for x, _, _ in whole) == data.n == 50
    for start in (0, 1, 6, 7):
        assert_same(content(data.train_dataset(3, start)), whole[start:])
    assert_same(content(batches(manifest, augment="strong", mix=mix).train_dataset(3)), whole)


def test_skipped_steps_are_not_read(manifest: Manifest) -> None:
    data = batches(manifest)
    lost = next(iter(data.eval_dataset()))[0][0].numpy()
    step = next(
        i
        for i, (x, _, _) in enumerate(content(data.train_dataset(0)))
        if (x == lost).all((1, 2, 3)).any()
    )
    Path(str(manifest.records[0].path)).unlink()
    assert len(content(data.train_dataset(0, step + 1))) == data.steps_per_epoch - step - 1
    with pytest.raises(tf.errors.NotFoundError):
        content(data.train_dataset(0, step))


def test_epochs_and_seeds_differ_in_order_and_each_has_every_example(manifest: Manifest) -> None:
    data = batches(manifest)

    def images(dataset: tf.data.Dataset) -> np.ndarray:
        return np.concatenate([x for x, _, _ in content(dataset)])

    all_images = images(data.eval_dataset())
    first, second = images(data.train_dataset(0)), images(data.train_dataset(1))
    other_seed = images(batches(manifest, seed=2).train_dataset(0))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other_seed)
    for epoch in (first, second, other_seed):
        assert sorted(map(np.sum, epoch)) == pytest.approx(sorted(map(np.sum, all_images)))


def test_images_and_labels_stay_together(manifest: Manifest) -> None:
    data = batches(manifest)
    by_image = {
        x.tobytes(): y for b in content(data.eval_dataset()) for x, y in zip(*b[:2], strict=True)
    }
    for x, y, _ in content(data.train_dataset(5)):
        for image, target in zip(x, y, strict=True):
            np.testing.assert_array_equal(by_image[image.tobytes()], target)


def test_evaluation_is_in_order_and_unchanged(manifest: Manifest) -> None:
    plain = content(batches(manifest).eval_dataset())
    assert_same(content(batches(manifest, augment="strong", mix="mixup").eval_dataset()), plain)
    y = np.concatenate([y for _, y, _ in plain])
    np.testing.assert_array_equal(y, batches(manifest).targets())
    np.testing.assert_array_equal(y[:, 0], [r.label == "cat" for r in manifest.records])


def test_the_batches_have_the_promised_types(manifest: Manifest) -> None:
    spec = batches(manifest, augment="light", mix="mixup").train_dataset(0).element_spec
    assert [part.dtype for part in spec] == [tf.float32] * 3
    assert spec[0].shape.as_list() == [None, 8, 8, 3]
    assert spec[1].shape.as_list() == [None, 2]
    assert spec[2].shape.as_list() == [None]


def test_augmentation_goes_by_content_not_by_place(manifest: Manifest) -> None:
    fewer = dataclasses.replace(manifest, records=manifest.records[10:])
    views = content(batches(manifest, augment="strong", batch_size=50).view_dataset(4))[0][0]
    again = content(batches(fewer, augment="strong", batch_size=50).view_dataset(4))[0][0]
    np.testing.assert_array_equal(views[10:], again)
    other = content(batches(fewer, augment="strong", batch_size=50).view_dataset(5))[0][0]
    assert not np.array_equal(again, other)


def test_weights_are_record_times_class_in_training_only(manifest: Manifest) -> None:
    records = tuple(dataclasses.replace(r, weight=2.0) for r in manifest.records)
    data = batches(
        dataclasses.replace(manifest, records=records), class_weights={"cat": 0.5, "dog": 3.0}
    )
    for _, y, weight in content(data.train_dataset(0)):
        np.testing.assert_allclose(weight, np.where(y[:, 0] == 1.0, 1.0, 6.0))
    assert {w for _, _, weight in content(data.eval_dataset()) for w in weight} == {2.0}


def relabelled(manifest: Manifest, labels: list[object]) -> tuple[Record, ...]:
    return tuple(
        dataclasses.replace(record, label=label)  # type: ignore[arg-type]
        for record, label in zip(manifest.records, labels, strict=False)
    )


def test_multi_label_and_regression_targets(manifest: Manifest) -> None:
    several = relabelled(manifest, [("red", "round"), (), ("round",)])
    options = {"image_size": 8, "batch_size": 2, "class_weights": None}
    data = Batches(several, classes=("red", "round"), task="multi_label", **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(data.targets(), [[1, 1], [0, 0], [0, 1]])
    numbers = relabelled(manifest, [1.5, -2.0, 0.0])
    data = Batches(numbers, classes=(), task="regression", **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(data.targets(), [[1.5], [-2.0], [0.0]])
    assert content(data.train_dataset(0))[0][1].shape == (2, 1)


def test_without_labels_the_targets_are_zero(manifest: Manifest) -> None:
    unknown = relabelled(manifest, [None, None])
    data = Batches(unknown, classes=("a", "b"), task="single_label", image_size=8, batch_size=2)
    np.testing.assert_array_equal(data.targets(), np.zeros((2, 2)))


def test_one_example_is_an_epoch(manifest: Manifest) -> None:
    one = dataclasses.replace(manifest, records=manifest.records[:1])
    assert [len(x) for x, _, _ in content(batches(one).train_dataset(0))] == [1]


def test_a_vanished_and_a_changed_file_are_named(manifest: Manifest) -> None:
    data = batches(manifest)
    Path(str(manifest.records[3].path)).unlink()
    Path(str(manifest.records[5].path)).write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(BadInputsError, match=r"2 of 50 files .*cat/03\.png.*cat/05\.png") as caught:  # noqa: SIM117
        with data.naming_unreadable():
            content(data.eval_dataset())
    reasons = [excluded.reason for excluded in caught.value.excluded]
    assert reasons == ["cannot be read: No such file or directory", "changed since it was scanned"]


def test_other_tensorflow_errors_pass_through(manifest: Manifest) -> None:
    with pytest.raises(tf.errors.AbortedError), batches(manifest).naming_unreadable():
        raise tf.errors.AbortedError(None, None, "something else")


def test_contradictions_are_refused(manifest: Manifest) -> None:
    records = manifest.records
    for options, error, message in [
        ({"batch_size": 0}, ArgumentError, "batch_size=0, expected at least 1"),
        ({"mix": "mixap"}, ArgumentError, "did you mean 'mixup'"),
        ({"augment": "hevy"}, ArgumentError, "augment='hevy': unknown 'hevy', expected one of"),
    ]:
        with pytest.raises(error, match=message):
            batches(manifest, **options)
    common = {"image_size": 8, "batch_size": 8}
    for given, task, more, message in [
        ([], "single_label", {}, "no records"),
        ([Record(id="t", text="hi", label="a")], "single_label", {}, "without an image file: t"),
        (records, "single_label", {"classes": ("cat", "dig")}, "'dog' is none .* mean 'dig'"),
        (records, "regression", {}, "label 'cat', expected a number"),
        (relabelled(manifest, ["cat", None]), "single_label", {}, "1 of 2 records have no label"),
        (records, "regression", {"mix": "cutmix"}, "cutmix with task='regression'"),
        (records, "regression", {"class_weights": {"a": 1.0}}, "class weights with task"),
    ]:
        with pytest.raises((DataError, ArgumentError), match=message):
            Batches(given, task=task, **{"classes": ("cat", "dog"), **common, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(("epoch", "step"), [(-1, 0), (0, -1), (0, 8)])
def test_a_place_outside_the_epoch_is_refused(manifest: Manifest, epoch: int, step: int) -> None:
    with pytest.raises(ArgumentError, match=r"expected numbers >= 0 and start_step in \[0, 7\]"):
        batches(manifest).train_dataset(epoch, step)


def test_class_weights(manifest: Manifest) -> None:
    records, classes = manifest.records, manifest.classes
    assert class_weights(records, classes=classes, mode="none") == {"cat": 1.0, "dog": 1.0}
    # n / (k n_c) with n = 50, k = 2 and 30 cats, 20 dogs.
    auto = class_weights(records, classes=classes, mode="auto")
    assert auto == pytest.approx({"cat": 50 / 60, "dog": 50 / 40})
    assert class_weights(records, classes=classes, mode='{"dog": 2}') == {"cat": 1.0, "dog": 2.0}
    with pytest.raises(ArgumentError, match="unknown class 'dogs'; did you mean 'dog'"):
        class_weights(records, classes=classes, mode={"dogs": 2.0})
    with pytest.raises(ArgumentError, match="which has no classes"):
        class_weights(records, classes=(), mode="auto")


def test_seeds_are_derived_by_name() -> None:
    seeds = {derived_seed(s, n, e) for s in (0, 1) for n in ("order", "mix") for e in (0, 1)}
    assert len(seeds) == 8


def test_a_custom_policy_is_used(manifest: Manifest) -> None:
    flat = batches(manifest, augment=Policy())
    assert_same(content(flat.view_dataset(1)), content(flat.eval_dataset()))

"""Training on stored features is training: the same losses, the same answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tltf
from tltf.data.batches import Batches
from tltf.data.manifest import Record
from tltf.data.reading import reading
from tltf.errors import ArgumentError
from tltf.models.classifier import feature_model
from tltf.models.initial import seeded_initializers
from tltf.storage import file_sha256
from tltf.training import boundary, featureepochs, features, freezing
from tltf.training.caching import Cache
from tltf.training.featureepochs import FeatureEpochs, eval_features, held
from tltf.training.fit import FitResult, fit_phases

SIDE, N = 16, 22
PLAN = (
    tltf.Phase("head", 3, 1e-2, unfreeze="none"),
    tltf.Phase("tune", 3, 1e-3, unfreeze="last:1", batch_norm="adapt"),
)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Twenty-two noisy squares, dark and bright."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    found = []
    for i in range(N):
        pixels = random.integers(0, 120, (20, 20, 3)) + 130 * (i % 2)
        path = folder / f"{i:02d}.png"
        keras.utils.save_img(path, pixels, scale=False)
        digest = file_sha256(path)
        found.append(Record(id=path.name, path=str(path), label="ab"[i % 2], sha256=digest))
    return found


def batches(records: list[Record], **changes: Any) -> Batches:
    settings = {"augment": "none", "views": 1} | changes
    return Batches(
        records, classes=("a", "b"), task="single_label", image_size=SIDE, batch_size=4, **settings
    )


def model() -> keras.Model:
    with seeded_initializers(0):
        body = tltf.backbone("small_cnn", weights="none", input_size=SIDE)
    return tltf.classifier(body, tltf.head(2, dropout=0.3, seed=1))


def trained(
    records: list[Record], folder: Path | None, *, dtype: str = "float32", **changes: Any
) -> tuple[FitResult, np.ndarray]:
    net = model()
    validation = batches(records[-6:])
    result = fit_phases(
        net,
        PLAN,
        batches(records[:-6], **changes),
        validation=validation,
        cache=Cache(folder=folder, dtype=dtype) if folder else None,
        progress=False,
    )
    images = np.concatenate([x for x, _, _ in validation.eval_dataset()])
    return result, net(images).numpy()


def numbers(result: FitResult) -> list[list[float]]:
    return [
        [value for key, value in row.items() if isinstance(value, float) and "seconds" not in key]
        for row in result.history
    ]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="one view", marks=pytest.mark.slow),
        pytest.param({"augment": "light", "views": 2}, id="two views"),
        pytest.param(
            {"augment": "medium", "views": 0},
            id="as many views as epochs",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_stored_features_give_the_same_losses(
    records: list[Record], tmp_path: Path, changes: dict[str, Any]
) -> None:
    plain, answers = trained(records, None, **changes)
    views = changes | {"views": changes.get("views", 1) or 3}
    stored, stored_answers = trained(records, tmp_path, **views)
    np.testing.assert_allclose(numbers(stored), numbers(plain), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stored_answers, answers, rtol=1e-3, atol=1e-4)


def test_rows_in_memory_are_those_of_the_store(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = model()
    freezing.set_trainable(net, "none")
    cut = boundary.split(net)
    data = batches(records, augment="light", views=2)
    store = features.opened_store(tmp_path, cut, reading=reading(data), dtype="float16")
    compute = features.compiled(cut.prefix)
    for view in (0, 1, None):
        features.extract(store, compute, data, view=view)

    def read() -> list[Any]:
        epochs = FeatureEpochs(data, store, shapes=cut.shapes)
        assert bool(epochs._held) == held(store, 2 * data.n, cut.shapes)
        sets = epochs.train_dataset(1, start_step=1, epochs=3), eval_features(data, store)
        return [keras.tree.map_structure(np.asarray, batch) for x in sets for batch in x]

    assert held(store, 2 * data.n, cut.shapes)
    from_memory = read()
    monkeypatch.setattr(featureepochs, "HELD_BYTES", 0)
    from_store = read()
    assert len(from_memory) == len(from_store) == 4 * data.steps_per_epoch - 1
    keras.tree.map_structure(np.testing.assert_array_equal, from_memory, from_store)
    assert not held(store, 0, [(None, 4)])


@pytest.mark.slow
def test_without_views_every_epoch_is_new_and_nothing_is_stored(
    records: list[Record], tmp_path: Path
) -> None:
    changes = {"augment": "medium", "views": 0}
    plain, answers = trained(records, None, **changes)
    stored, same = trained(records, tmp_path / "cache", **changes)
    assert numbers(stored) == numbers(plain)
    np.testing.assert_array_equal(same, answers)
    assert not (tmp_path / "cache").exists()


def test_a_second_run_computes_nothing(records: list[Record], tmp_path: Path) -> None:
    trained(records, tmp_path)
    said: list[str] = []
    net = model()
    fit_phases(
        net,
        PLAN[:1],
        batches(records[:-6]),
        validation=batches(records[-6:]),
        cache=Cache(folder=tmp_path, dtype="float32", say=said.append),
        progress=False,
    )
    assert any("0 rows computed" in sentence for sentence in said), said


def test_features_of_training_examples_are_those_that_were_stored(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, _ = trained(records, tmp_path, augment="light", views=2)
    monkeypatch.setattr(features, "extract", None)  # nothing is left to compute
    found = fit.stored.pooled_as_trained(records[:5])
    view = batches(records[:5], augment="light").view_dataset(0)
    images = np.concatenate([x for x, _, _ in view])
    wanted = feature_model(fit.stored.model)(images)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_peoples_callbacks_see_the_whole_model(records: list[Record], tmp_path: Path) -> None:
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append(self.model.predict(np.zeros((1, SIDE, SIDE, 3)), verbose=0).shape)
            self.model.stop_training = epoch == 1

    result = fit_phases(
        model(),
        PLAN,
        batches(records[:-6]),
        validation=batches(records[-6:]),
        cache=Cache(folder=tmp_path),
        callbacks=[Look()],
        progress=False,
    )
    assert seen == [(1, 2)] * 4
    assert [row["epoch"] for row in result.history] == [1, 2, 1, 2]


def test_a_cache_needs_to_know_the_examples(records: list[Record], tmp_path: Path) -> None:
    data = batches(records).eval_dataset()
    with pytest.raises(ArgumentError, match="a cache needs to know the examples"):
        fit_phases(model(), PLAN, data, validation=data, cache=Cache(folder=tmp_path))


def test_without_space_it_trains_on_images_and_says_so(
    records: list[Record], tmp_path: Path
) -> None:
    said: list[str] = []
    result = fit_phases(
        model(),
        PLAN[:1],
        batches(records[:-6]),
        validation=batches(records[-6:]),
        cache=Cache(folder=tmp_path, cap_bytes=10, say=said.append),
        progress=False,
    )
    assert len(result.history) == 3
    assert "cache: off for head" in said[0]


def head_only(records: list[Record], cache: Cache) -> FitResult:
    return fit_phases(
        model(), PLAN[:1], batches(records[:-6]), validation=batches(records[-6:]), cache=cache,
        progress=False,
    )  # fmt: skip


def test_an_unwritable_folder_is_no_reason_to_stop(records: list[Record], tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").write_text("not a folder")
    result = head_only(records, Cache(folder=tmp_path / "file" / "cache", say=said.append))
    assert len(result.history) == 3
    assert said[0].startswith("cache: off for head: ")


def test_a_damaged_shard_is_computed_again(records: list[Record], tmp_path: Path) -> None:
    cache = Cache(folder=tmp_path, dtype="float32")
    before = numbers(head_only(records, cache))
    shard = next(iter(tmp_path.glob("*/shard-*/t0.bin")))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(bytes(data))
    said: list[str] = []
    again = head_only(records, dataclasses.replace(cache, say=said.append))
    assert numbers(again) == before
    assert not any("22 found" in sentence for sentence in said)


def test_one_more_photo_costs_one_more_row(records: list[Record], tmp_path: Path) -> None:
    cache = Cache(folder=tmp_path, dtype="float32")
    head_only(records[:-1], cache)
    said: list[str] = []
    head_only(records, dataclasses.replace(cache, say=said.append))
    assert any(": 1 rows computed" in sentence for sentence in said), said


def digest_of(net: keras.Model, **changes: Any) -> str:
    unfreeze = changes.pop("unfreeze", "last:1")
    freezing.set_trainable(net, unfreeze)
    cut = boundary.split(net)
    assert cut is not None
    folder = changes.pop("folder")
    reading = {"image_size": changes.pop("image_size", SIDE)}
    store = features.opened_store(folder, cut, reading=reading, **({"dtype": "float32"} | changes))
    return store.folder.name


def test_any_change_of_the_prefix_is_a_miss_and_none_above_it(tmp_path: Path) -> None:
    def named(net: keras.Model, **changes: Any) -> str:
        return digest_of(net, folder=tmp_path, **changes)

    base = named(model())
    assert named(model()) == base

    above = model()
    above.get_layer("head").get_layer("logits").kernel.assign_add(np.ones((128, 2)))
    top = above.layers[1].get_layer("block3_conv1")
    top.kernel.assign(top.kernel * 2.0)
    assert named(above) == base

    below = model()
    kernel = below.layers[1].get_layer("block1_conv1").kernel
    touched = kernel.numpy().copy()
    touched[0, 0, 0, 0] = np.nextafter(touched[0, 0, 0, 0], np.float32(9))
    kernel.assign(touched)
    misses = {
        "one weight": named(below),
        "another boundary": named(model(), unfreeze="last:2"),
        "another size": named(model(), image_size=SIDE + 1),
        "another dtype": named(model(), dtype="float16"),
    }
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        misses["another precision"] = named(model())
    finally:
        keras.config.set_dtype_policy(before)
    assert len({base, *misses.values()}) == len(misses) + 1, misses


def test_a_changed_pixel_policy_seed_or_view_is_another_row(records: list[Record]) -> None:
    base = features.view_keys(batches(records, augment="light", views=2), 0)
    changed = [dataclasses.replace(records[0], sha256="f" * 64), *records[1:]]
    others = {
        "one pixel": features.view_keys(batches(changed, augment="light", views=2), 0),
        "policy": features.view_keys(batches(records, augment="medium", views=2), 0),
        "seed": features.view_keys(batches(records, augment="light", views=2, seed=1), 0),
        "view": features.view_keys(batches(records, augment="light", views=2), 1),
    }
    assert set(others["one pixel"]) & set(base) == set(base[1:])
    for name in ("policy", "seed", "view"):
        assert not set(others[name]) & set(base), name


def test_names_that_differ_from_build_to_build_do_not_count() -> None:
    """Keras numbers unnamed layers, so the second network of a process has other names."""

    def description() -> list[Any]:
        inputs = keras.Input((4,))
        x = keras.layers.Add()([keras.layers.Dense(3)(inputs), keras.layers.Dense(3)(inputs)])
        return features.describe_graph(keras.Model(inputs, x * 2.0))

    def other_factor() -> list[Any]:
        inputs = keras.Input((4,))
        x = keras.layers.Add()([keras.layers.Dense(3)(inputs), keras.layers.Dense(3)(inputs)])
        return features.describe_graph(keras.Model(inputs, x * 3.0))

    assert description() == description() != other_factor()

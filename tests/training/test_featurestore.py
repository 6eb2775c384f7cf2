"""FeatureStore: rows by key, shards that verify, nothing of a killed writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tltf import storage
from tltf.errors import StorageError
from tltf.training.featurestore import FeatureStore, evict, prefix_digest, stored_prefixes

SHAPES = ((2, 2, 3), (5,))


def store_in(folder: Path, digest: str = "a" * 64, dtype: str = "float32") -> FeatureStore:
    return FeatureStore(folder, digest, shapes=SHAPES, dtype=dtype)


def rows(n: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=(n, *shape)).astype(np.float32) for shape in SHAPES]


def filled(folder: Path, keys: list[str], seed: int = 0) -> list[np.ndarray]:
    values = rows(len(keys), seed)
    with store_in(folder).writer() as writer:
        writer.append(keys, values)
    return values


def test_rows_come_back_in_the_order_asked_for_across_shards(tmp_path: Path) -> None:
    first, second = filled(tmp_path, ["a", "b"]), filled(tmp_path, ["c"], seed=1)
    store = store_in(tmp_path)
    found = store.gather(["c", "a", "c", "b"])
    for i in range(2):
        expected = [second[i][0], first[i][0], second[i][0], first[i][1]]
        np.testing.assert_array_equal(found[i], np.stack(expected))
    assert len(store) == 3
    assert store.missing(["z", "a", "z"]) == ["z"]


def test_float16_is_half_the_bytes_and_close(tmp_path: Path) -> None:
    store = store_in(tmp_path, dtype="float16")
    values = rows(4)
    with store.writer() as writer:
        writer.append(["a", "b", "c", "d"], values)
    assert store.row_bytes == 2 * (12 + 5)
    for found, value in zip(store.gather(["a", "b", "c", "d"]), values, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-3)


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = store_in(tmp_path)

    def write_and_fail() -> None:
        with store.writer() as writer:
            writer.append(["a"], rows(1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert list(store.folder.glob("shard-*")) == []
    assert list(store.folder.glob(f"{storage.TEMPORARY}*")) == []
    assert "a" not in store_in(tmp_path)


@pytest.mark.parametrize("what", ["flipped", "cut", "no header"])
def test_a_damaged_shard_is_found_and_removed(tmp_path: Path, what: str) -> None:
    filled(tmp_path, ["a", "b"])
    filled(tmp_path, ["c"], seed=1)
    shard = store_in(tmp_path)._where["a"][0]
    folder = store_in(tmp_path).folder / shard
    data = bytearray((folder / "t0.bin").read_bytes())
    if what == "no header":
        (folder / "shard.json").unlink()
    else:
        data[7] ^= 1
        (folder / "t0.bin").write_bytes(bytes(data if what == "flipped" else data[:-1]))
    store = store_in(tmp_path)
    assert store.missing(["a", "b", "c"]) == ["a", "b"]
    assert not folder.exists()


def test_values_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    store = store_in(tmp_path, dtype="float16")
    values = rows(1)
    values[0][0, 0, 0, 0] = 1e6
    with pytest.raises(StorageError, match="too large for float16"), store.writer() as writer:
        writer.append(["a"], values)
    assert len(store) == 0


def test_the_digest_changes_with_every_ingredient() -> None:
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.float32(1)]
    ingredients = {"graph": ["Conv2D"], "image_size": 224}
    base = prefix_digest(ingredients, arrays)
    assert base == prefix_digest(dict(reversed(ingredients.items())), arrays)
    touched = arrays[0].copy()
    touched[1, 2] = np.nextafter(touched[1, 2], np.float32(9))
    others = [
        prefix_digest({**ingredients, "image_size": 225}, arrays),
        prefix_digest({**ingredients, "graph": ["Conv3D"]}, arrays),
        prefix_digest(ingredients, [touched, arrays[1]]),
        prefix_digest(ingredients, [arrays[0].reshape(3, 2), arrays[1]]),
        prefix_digest(ingredients, [arrays[0].astype(np.float64), arrays[1]]),
    ]
    assert len({base, *others}) == 6


def test_the_longest_unused_prefix_is_evicted_first(tmp_path: Path) -> None:
    import os

    for i, digest in enumerate("abc"):
        store = store_in(tmp_path, digest * 64)
        storage.write_json(store.folder / "prefix.json", {"about": digest})
        with store.writer() as writer:
            writer.append(["x"], rows(1))
        os.utime(store.folder / "used", (i, i))
    before = stored_prefixes(tmp_path)
    assert [prefix.about for prefix in before] == ["a", "b", "c"]
    assert [prefix.rows for prefix in before] == [1, 1, 1]
    cap = before[1].size_bytes + before[2].size_bytes
    assert evict(tmp_path, cap_bytes=cap) == [before[0].folder]
    assert evict(tmp_path, cap_bytes=0, keep=before[2].folder) == [before[1].folder]
    assert [prefix.about for prefix in stored_prefixes(tmp_path)] == ["c"]

"""FeatureStore: rows by key, shards that verify, nothing of a killed writer."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tltf import storage
from tltf.errors import StorageError
from tltf.training import featurestore, shards
from tltf.training.featurestore import FeatureStore, prefix_digest
from tltf.training.stored import clear, evict, stored_prefixes

WRITES = """
import sys, time
from pathlib import Path
import numpy as np
from tltf.training.featurestore import FeatureStore
store = FeatureStore(Path(sys.argv[1]), "a" * 64, shapes=[(5,)], dtype="float32")
print("ready", flush=True)
computed = 0
with store.locked():
    for key in store.missing(["a", "b", "c"]):
        with store.writer() as writer:
            writer.append([key], [np.full((1, 5), ord(key))])
            computed += 1
            if sys.argv[2] == "hang":
                print("writing", flush=True)
                time.sleep(60)
        time.sleep(0.1)
print(computed, flush=True)
"""
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
    opened = store_in(tmp_path)
    folder = opened.folder / opened._order[opened._where["a"][0]]
    data = bytearray((folder / "t0.bin").read_bytes())
    if what == "no header":
        (folder / "shard.json").unlink()
    else:
        data[7] ^= 1
        (folder / "t0.bin").write_bytes(bytes(data if what == "flipped" else data[:-1]))
    store = store_in(tmp_path)
    assert store.missing(["a", "b", "c"]) == ["a", "b"]
    assert not folder.exists()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES, errno.EIO, errno.ENOMEM])
@pytest.mark.parametrize("name", ["shard.json", "t0.bin"])
def test_what_cannot_be_read_now_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, name: str
) -> None:
    values = filled(tmp_path, ["a", "b"])
    (shard,) = store_in(tmp_path).folder.glob("shard-*")
    (shard / featurestore.VERIFIED).unlink()
    real = Path.open

    def refused(self: Path, *given: Any, **more: Any) -> Any:
        if self.name == name:
            raise OSError(code, os.strerror(code), str(self))
        return real(self, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refused)
        store = store_in(tmp_path)
        assert store.missing(["a", "b"]) == ["a", "b"]
    assert (shard / "shard.json").exists()
    store.refresh()
    np.testing.assert_array_equal(store.gather(["a", "b"])[0], values[0])


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


@pytest.mark.parametrize(
    ("dtype", "row_bytes", "tolerance"),
    [
        ("float32", 4 * 17, 0.0),
        ("float16", 2 * 17, 2**-11),
        ("bfloat16", 2 * 17, 2**-8),
        ("uint8", 17 + 2 * 8, None),
    ],
)
def test_each_dtype_gives_its_precision(
    tmp_path: Path, dtype: str, row_bytes: int, tolerance: float | None
) -> None:
    store, values = store_in(tmp_path, dtype=dtype), rows(6)
    with store.writer() as writer:
        writer.append(list("abcdef"), values)
    assert store.row_bytes == row_bytes
    again = store_in(tmp_path, dtype=dtype)
    for found, value in zip(again.gather(list("fedcba")), values, strict=True):
        assert found.dtype == np.float32
        error = np.abs(found[::-1] - value)
        if tolerance is None:
            flat = value.reshape(6, -1)
            step = (flat.max(axis=1) - flat.min(axis=1)) / 255
            assert (error.reshape(6, -1) <= 0.51 * step[:, None]).all()
        else:
            assert (error <= tolerance * np.abs(value)).all()


def test_a_constant_row_survives_uint8(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, "a" * 64, shapes=[(3,)], dtype="uint8")
    with store.writer() as writer:
        writer.append(["a"], [np.full((1, 3), 2.5, np.float32)])
    np.testing.assert_array_equal(store.gather(["a"])[0], [[2.5, 2.5, 2.5]])


def test_whole_numbers_are_stored_as_they_are(tmp_path: Path) -> None:
    """float16 would turn token 30521 into 30528."""
    kinds = ["int32", "bool", "float32"]
    shapes = [(4,), (4,), (2,)]
    store = FeatureStore(tmp_path, "a" * 64, shapes=shapes, dtype="float16", kinds=kinds)
    ids = np.array([[101, 30521, 2049, 0]], np.int32)
    with store.writer() as writer:
        writer.append(["a"], [ids, ids > 0, np.ones((1, 2), np.float32)])
    found = store.gather(["a"])
    assert [str(array.dtype) for array in found] == kinds
    np.testing.assert_array_equal(found[0], ids)
    np.testing.assert_array_equal(found[1], ids > 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_what_float16_cannot_hold_is_refused(tmp_path: Path, value: float) -> None:
    store = store_in(tmp_path, dtype="float16")
    values = rows(1)
    values[1][0, 0] = value
    with pytest.raises(StorageError, match="too large for float16"), store.writer() as writer:
        writer.append(["a"], values)
    assert not list(store.folder.glob("shard-*"))


def test_hashes_are_compared_once_and_again_after_any_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, ["a"])
    hashed = []
    real = storage.file_sha256
    monkeypatch.setattr(storage, "file_sha256", lambda path: hashed.append(path) or real(path))
    (shard,) = store_in(tmp_path).folder.glob("shard-*")
    hashed.clear()
    assert "a" in store_in(tmp_path)
    assert not hashed
    before = (shard / "t0.bin").stat()
    data = bytearray((shard / "t0.bin").read_bytes())
    data[3] ^= 128
    (shard / "t0.bin").write_bytes(bytes(data))
    # Not even with the old time of change: that itself is a change of the inode.
    os.utime(shard / "t0.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "a" not in store_in(tmp_path)
    assert hashed
    assert not shard.exists()


def test_after_a_week_hashes_are_compared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, ["a"])
    (shard,) = store_in(tmp_path).folder.glob("shard-*")
    seen = json.loads((shard / featurestore.VERIFIED).read_text())
    seen["time"] -= featurestore.TRUST_SECONDS + 1
    (shard / featurestore.VERIFIED).write_text(json.dumps(seen))
    hashed = []
    real = storage.file_sha256
    monkeypatch.setattr(storage, "file_sha256", lambda path: hashed.append(path) or real(path))
    assert "a" in store_in(tmp_path)
    assert len(hashed) == len(SHAPES)


def started(folder: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(folder), how], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_of_two_processes_one_computes_and_both_finish(tmp_path: Path) -> None:
    both = [started(tmp_path, "go") for _ in range(2)]
    # communicate() would lose what came in the same piece as "ready".
    computed = [int(process.stdout.read()) for process in both if process.stdout]
    assert sorted(computed) == [0, 3]
    store = FeatureStore(tmp_path, "a" * 64, shapes=[(5,)], dtype="float32")
    assert store.missing(["a", "b", "c"]) == []
    assert [process.wait(timeout=60) for process in both] == [0, 0]


def test_a_killed_writer_leaves_nothing_and_blocks_nobody(tmp_path: Path) -> None:
    process = started(tmp_path, "hang")
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.kill()
    process.wait(timeout=60)
    store = FeatureStore(tmp_path, "a" * 64, shapes=[(5,)], dtype="float32")
    assert list(store.folder.glob(f"{storage.TEMPORARY}*"))
    assert len(store) == 0
    with store.locked():
        assert not list(store.folder.glob(f"{storage.TEMPORARY}*"))


def test_a_full_disk_is_named_and_leaves_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, ["a"])
    store = store_in(tmp_path)

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None: ...

    def write() -> None:
        with store.writer() as writer:
            monkeypatch.setattr(writer, "_files", [Full() for _ in SHAPES])
            writer.append(["b"], rows(1))

    with pytest.raises(StorageError, match="disk or quota is full"):
        write()
    assert store_in(tmp_path).missing(["a", "b"]) == ["b"]
    assert not list(store.folder.glob(f"{storage.TEMPORARY}*"))


def test_a_long_computation_commits_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 100)
    store = store_in(tmp_path)

    def write_and_fail() -> None:
        with store.writer() as writer:
            for key in "abc":
                writer.append([key], rows(1))
            writer.append(["d"], [array * np.nan for array in rows(1)])

    with pytest.raises(StorageError):
        write_and_fail()
    assert store_in(tmp_path).missing("abcd") == ["c", "d"]


def test_what_a_run_is_filling_is_not_evicted(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    storage.write_json(store.folder / "prefix.json", {"about": "x"})
    with store.locked():
        assert clear(tmp_path) == []
        assert evict(tmp_path, cap_bytes=0) == []
    assert clear(tmp_path) == [store.folder]
    assert not store.folder.exists()


def test_an_evicted_store_is_read_to_the_end(tmp_path: Path) -> None:
    values = filled(tmp_path, ["a"])
    store = store_in(tmp_path)
    storage.write_json(store.folder / "prefix.json", {"about": "x"})
    clear(tmp_path)
    np.testing.assert_array_equal(store.gather(["a"])[0], values[0])


def test_memory_is_given_back_while_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(featurestore, "MAPPED_BYTES", 1)
    values = filled(tmp_path, ["a", "b"])
    store = store_in(tmp_path)
    for _ in range(3):
        np.testing.assert_array_equal(store.gather(["b", "a"])[0], values[0][::-1])

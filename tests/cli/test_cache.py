"""``tltf cache``: what is kept, and making room."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from commands import tltf

from tltf import storage
from tltf.training.featurestore import FeatureStore


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Two prefixes, the second used later; and somebody's own folder."""
    for i, digest in enumerate("ab"):
        store = FeatureStore(tmp_path, digest * 64, shapes=[(100,)], dtype="float32")
        storage.write_json(store.folder / "prefix.json", {"about": f"pool {digest}"})
        with store.writer() as writer:
            writer.append(["x", "y"], [np.ones((2, 100), np.float32)])
        os.utime(store.folder / "used", (i, i))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"mine")
    return tmp_path


def test_the_list_has_a_line_for_each_prefix(kept: Path) -> None:
    done = tltf("cache", list=True, cache=kept)
    assert done.code == 0
    first, second, total = done.out.splitlines()
    assert "pool a" in first
    assert "2 rows" in first
    assert "pool b" in second
    assert total.startswith("2 prefixes, 0.0 MB in ")


def test_clear_leaves_what_is_not_ours_and_what_shall_stay(kept: Path) -> None:
    done = tltf("cache", clear=True, cache=kept, keep_megabytes=0.0018)
    assert done.out.startswith("1 removed")
    assert "pool b" in tltf("cache", list=True, cache=kept).out
    assert tltf("cache", clear=True, cache=kept).out.startswith("1 removed")
    assert [path.name for path in kept.iterdir()] == ["mine"]
    assert (kept / "mine" / "photo.jpg").read_bytes() == b"mine"
    assert tltf("cache", list=True, cache=kept / "none").out.startswith("0 prefixes")


def test_one_of_both_is_asked_for() -> None:
    assert tltf("cache").code == 64
    assert "tltf cache --list" in tltf("cache", list=True, clear=True).last_line

"""Versions appear whole, in order, and vanish whole."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tltf.errors import ArgumentError
from tltf.serving import publish


def prepared(folder: Path, name: str) -> Path:
    temporary = folder / f".tmp-{name}"
    temporary.mkdir()
    (temporary / "saved_model.pb").write_text(name)
    return temporary


def test_versions_are_the_largest_plus_one(tmp_path: Path) -> None:
    assert publish.newest(tmp_path / "none") is None
    assert publish.commit(prepared(tmp_path, "a"), tmp_path).name == "1"
    (tmp_path / "41").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / ".tmp-99").mkdir()
    assert publish.commit(prepared(tmp_path, "b"), tmp_path).name == "42"
    assert publish.versions(tmp_path) == [1, 41, 42]
    assert publish.newest(tmp_path) == tmp_path / "42"


def test_two_publishers_get_two_numbers(tmp_path: Path) -> None:
    names = [f"p{i}" for i in range(8)]
    folders = [prepared(tmp_path, name) for name in names]
    barrier, done = threading.Barrier(len(folders)), []

    def publish_one(folder: Path) -> None:
        barrier.wait()
        done.append(publish.commit(folder, tmp_path))

    threads = [threading.Thread(target=publish_one, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert publish.versions(tmp_path) == list(range(1, 9))
    assert sorted((folder / "saved_model.pb").read_text() for folder in done) == names
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".tmp")]  # noqa: PTH208


def test_pruning_keeps_the_newest_and_what_is_not_ours(tmp_path: Path) -> None:
    for name in "abcde":
        publish.commit(prepared(tmp_path, name), tmp_path)
    (tmp_path / "notes").mkdir()
    assert publish.prune(tmp_path, keep=2) == [1, 2, 3]
    assert {item.name for item in tmp_path.iterdir()} == {"4", "5", "notes"}
    assert publish.prune(tmp_path, keep=2) == []
    with pytest.raises(ArgumentError, match="keep=0, expected at least 1"):
        publish.prune(tmp_path, keep=0)


def test_litter_of_the_dead_is_removed_and_of_the_living_is_not(tmp_path: Path) -> None:
    dead, living, young = (
        tmp_path / f".tmp-version-{pid}-0123abcd" for pid in (2**22 + 1, os.getpid(), 2**22 + 2)
    )
    for folder in (dead, living, young):
        folder.mkdir()
    before = time.time() - 2 * publish.LITTER_SECONDS
    for folder in (dead, living):
        os.utime(folder, (before, before))
    publish.remove_litter(tmp_path)
    assert {item.name for item in tmp_path.iterdir()} == {living.name, young.name}

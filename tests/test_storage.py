"""Bytes on disk: whole or not at all, and damage is found."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tltf import storage, tensorfile
from tltf.errors import DataError, InputMissingError, StorageError

RANDOM = np.random.default_rng(0)
SHAPES = ((), (0,), (3,), (2, 0, 4), (2, 3))


def everything() -> dict[str, np.ndarray]:
    """One array of every dtype and shape, with awkward names."""
    return {
        f"{name}/{shape}/ä b": (RANDOM.random(shape) * 100).astype(name)
        for name in tensorfile.DTYPES.values()
        for shape in SHAPES
    }


def test_every_dtype_and_shape_comes_back(tmp_path: Path) -> None:
    tensors = {**everything(), "turned": np.arange(6.0).reshape(2, 3).T}
    tensors["extremes"] = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324])
    tensorfile.write_tensors(tmp_path / "t", tensors, metadata={"note": "größe"})
    found, metadata = tensorfile.read_tensors(tmp_path / "t")
    assert list(found) == list(tensors)
    assert metadata["note"] == "größe"
    for name, expected in tensors.items():
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
        assert found[name].tobytes() == expected.tobytes()
    tensorfile.write_tensors(tmp_path / "none", {})
    assert tensorfile.read_tensors(tmp_path / "none")[0] == {}


def test_what_was_read_cannot_be_changed_by_accident(tmp_path: Path) -> None:
    tensorfile.write_tensors(tmp_path / "t", {"a": np.zeros(3)})
    with pytest.raises(ValueError, match="read-only"):
        tensorfile.read_tensors(tmp_path / "t")[0]["a"][0] = 1.0


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    tensors = {"a": RANDOM.random((3, 2)).astype("float32"), "b": np.array(7)}
    tensorfile.write_tensors(tmp_path / "t", tensors, metadata={"note": "x"})
    good = (tmp_path / "t").read_bytes()
    flips = RANDOM.choice(8 * len(good), size=400, replace=False)
    silent = []
    for flip in map(int, flips):
        data = bytearray(good)
        data[flip // 8] ^= 1 << flip % 8
        (tmp_path / "t").write_bytes(data)
        try:
            found, _ = tensorfile.read_tensors(tmp_path / "t")
        except StorageError:
            continue
        # A changed space of padding, or of our own note, harms no tensor.
        same = {k: v.tobytes() for k, v in found.items()} == {
            k: v.tobytes() for k, v in tensors.items()
        }
        if not same:
            silent.append(flip)
    assert silent == []


def test_every_truncation_is_found(tmp_path: Path) -> None:
    tensorfile.write_tensors(tmp_path / "t", {"a": np.arange(5), "empty": np.zeros(0)})
    good = (tmp_path / "t").read_bytes()
    for length in range(len(good)):
        (tmp_path / "t").write_bytes(good[:length])
        with pytest.raises(StorageError, match="damaged file"):
            tensorfile.read_tensors(tmp_path / "t")
    (tmp_path / "t").write_bytes(good + b"\0")
    with pytest.raises(StorageError):
        tensorfile.read_tensors(tmp_path / "t")


def test_a_header_that_lies_is_damage(tmp_path: Path) -> None:
    import hashlib
    import struct

    def written(entry: dict[str, Any], body: bytes = b"\0" * 8) -> Path:
        header: dict[str, Any] = {"a": entry}
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode() + body).hexdigest()
        header["__metadata__"] = {"sha256": digest}
        head = json.dumps(header).encode()
        (tmp_path / "t").write_bytes(struct.pack("<Q", len(head)) + head + body)
        return tmp_path / "t"

    good = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    np.testing.assert_array_equal(tensorfile.read_tensors(written(good))[0]["a"], [0.0, 0.0])
    for wrong in (
        {"dtype": "F128"},
        {"shape": [3]},
        {"shape": [-2]},
        {"data_offsets": [0, 9]},
        {"data_offsets": [8, 0]},
        {"data_offsets": [-8, 0]},
        {"data_offsets": None},
    ):
        with pytest.raises(StorageError, match="damaged file"):
            tensorfile.read_tensors(written({**good, **wrong}))


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="no such tensor file"):
        tensorfile.read_tensors(tmp_path / "t")
    with pytest.raises(InputMissingError, match="no such file"):
        storage.read_json(tmp_path / "t.json")
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(StorageError, match="cannot be read as JSON"):
        storage.read_json(tmp_path / "t.json")


def full_disk(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_full_disk_keeps_what_was_there(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    storage.write_text(path, "before")
    with monkeypatch.context() as patch:
        owner = {"fsync": os, "replace": Path}[place]
        patch.setattr(owner, place, full_disk)
        with pytest.raises(StorageError, match=r"disk or quota is full: .* MB wanted") as error:
            storage.write_bytes(path, b"x" * 100_000)
    assert error.value.exit_code == 74
    assert "free some space" in error.value.next_action
    assert path.read_text() == "before"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_another_failure_is_told_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory"):
        storage.write_text(tmp_path / "file" / "below", "x")


def test_json_is_strict_and_text_survives_odd_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()
    storage.write_json(tmp_path / "x.json", {"ä": [1, None]})
    assert storage.read_json(tmp_path / "x.json") == {"ä": [1, None]}
    storage.write_text(tmp_path / "odd", "a\udcffb")
    assert (tmp_path / "odd").read_text() == "a\\udcffb"


def test_a_folder_is_committed_whole_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "7"

    def prepared() -> Path:
        temporary = storage.sibling(final)
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "file").write_text("new")
        return temporary

    assert not prepared().name.isdecimal()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full_disk)
        with pytest.raises(StorageError, match="full"):
            storage.commit_folder(prepared(), final)
    assert not final.exists()
    storage.commit_folder(prepared(), final)
    assert (final / "inner" / "file").read_text() == "new"
    (final / "mine").write_text("kept")
    with pytest.raises(FileExistsError):
        storage.commit_folder(prepared(), final)
    assert (final / "mine").read_text() == "kept"


def test_not_finite_weights_are_named() -> None:
    tensorfile.check_finite({"a": np.ones(2), "ids": np.array([1])}, where="x")
    for bad in (np.nan, np.inf):
        with pytest.raises(DataError, match="NaN or infinity in 'b'"):
            tensorfile.check_finite({"a": np.ones(2), "b": np.array([1.0, bad])}, where="x")

"""``digits`` and ``tfds:``: written once as files, reused, repaired when damaged."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest

from tltf.data.cachefolder import cache_folder, made_once
from tltf.data.decoding import decode
from tltf.data.scan import scan
from tltf.data.sources import load
from tltf.errors import ArgumentError, DataError, DownloadError, OutputError


def test_digits_are_the_ones_of_sklearn() -> None:
    from sklearn.datasets import load_digits

    manifest = load("digits")
    assert len(manifest.records) == 1797
    assert manifest.classes == tuple("0123456789")
    assert manifest.records[1].id == "digits/0001.png"
    original = load_digits()
    for i in (0, 1, 1796):
        data = Path(str(manifest.records[i].path)).read_bytes()
        expected = np.floor(original.images[i] * 255 / 16 + 0.5)
        np.testing.assert_array_equal(decode(data)[:, :, 0], expected)
        assert manifest.records[i].label == str(original.target[i])
    assert not scan(manifest, max_image_pixels=64).excluded


def test_some_of_the_digits() -> None:
    low, high = load("digits:0-4"), load("digits:5-9")
    assert (low.classes, high.classes) == (tuple("01234"), tuple("56789"))
    assert len(low.records) + len(high.records) == 1797
    assert {r.label for r in load("digits:1, 3,7-8").records} == set("1378")
    for wrong in ("digits:", "digits:a", "digits:3", "digits:0-12", "digits:4-2"):
        with pytest.raises(ArgumentError, match="expected at least two digits"):
            load(wrong)


def test_made_once_and_repaired(tmp_path: Path) -> None:
    made = []

    def make(folder: Path) -> list[dict[str, object]]:
        made.append(folder)
        (folder / "x").write_text("12345")
        return [{"file": "x", "label": 1}]

    place = tmp_path / "a" / "b"
    assert made_once(place, make) == [{"file": "x", "label": 1, "bytes": 5}]
    assert made_once(place, make) == [{"file": "x", "label": 1, "bytes": 5}]
    assert len(made) == 1
    (place / "x").write_text("123")
    made_once(place, make)
    assert (place / "x").read_text() == "12345"
    (place / "index.json").write_text("{")
    made_once(place, make)
    assert len(made) == 3
    assert [p.name for p in place.parent.iterdir()] == ["b"]


def test_a_failed_making_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> list[dict[str, object]]:
        (folder / "x").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="cache cannot be written: No space left"):
        made_once(tmp_path / "a" / "b", fail)
    assert list((tmp_path / "a").iterdir()) == []


def test_the_cache_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLTF_CACHE_DIR", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c"
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("TLTF_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "tltf"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TLTF_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="cache folder cannot be created"):
        cache_folder()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny set, prepared without any download; one of its classes has a wicked name."""
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = tmp_path_factory.mktemp("tfds")

    class TinyShapes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):  # type: ignore[no-untyped-def]
            features = {
                "image": tfds.features.Image(shape=(8, 8, 3)),
                "label": tfds.features.ClassLabel(names=["../up", "square"]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _):  # type: ignore[no-untyped-def]
            sizes = {"train": 6, "validation": 4, "extra": 1}
            return {name: self._generate_examples(n) for name, n in sizes.items()}

        def _generate_examples(self, n):  # type: ignore[no-untyped-def]
            for i in range(n):
                label = -1 if n == 4 and i == 3 else i % 2
                yield i, {"image": np.full((8, 8, 3), 20 * i, np.uint8), "label": label}

    class TinyNumbers(TinyShapes):
        def _info(self):  # type: ignore[no-untyped-def]
            features = {"value": tfds.features.Scalar(np.int64)}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _generate_examples(self, n):  # type: ignore[no-untyped-def]
            for i in range(n):
                yield i, {"value": i}

    for builder in (TinyShapes, TinyNumbers):
        builder(data_dir=str(folder)).download_and_prepare()
    return folder


@pytest.fixture
def _offline(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("the test is offline")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))


@pytest.mark.usefixtures("_offline")
def test_tfds_becomes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLTF_CACHE_DIR", str(tmp_path))
    manifest = load("tfds:tiny_shapes")
    assert manifest.classes == ("../up", "square")
    assert manifest.notes == ("splits left out: extra",)
    assert [r.id for r in manifest.split("train")] == [f"train/{i:05d}" for i in range(6)]
    assert len(manifest.split("val")) == 3
    assert [(x.outcome, x.reason) for x in manifest.excluded] == [("ignored", "no label")]
    root = tmp_path / "tfds" / "tiny_shapes" / "1.0.0"
    for record in manifest.records:
        path = Path(str(record.path))
        assert root in path.parents
        value = int(decode(path.read_bytes())[0, 0, 0])
        assert record.label == manifest.classes[value // 20 % 2]
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*.png")}
    assert load("tfds:tiny_shapes:1.0.0") == manifest
    assert before == {p: p.stat().st_mtime_ns for p in root.rglob("*.png")}
    assert len(before) == 10
    assert len(scan(manifest, max_image_pixels=64).records) == 9


@pytest.mark.usefixtures("_offline")
def test_tfds_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no image with a class label; its features are value"):
        load("tfds:tiny_numbers")
    with pytest.raises(DownloadError, match="'no_such_set' is not on this machine") as caught:
        load("tfds:no_such_set")
    assert os.environ["TFDS_DATA_DIR"] in str(caught.value)
    for wrong in ("tfds:", "tfds:../x", "tfds:A B", "tfds:x[train]", "tfds:/etc/x"):
        with pytest.raises(ArgumentError, match="expected tfds:<name>"):
            load(wrong)

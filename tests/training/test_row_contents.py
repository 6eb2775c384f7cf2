"""A row belongs to the bytes that were decoded for it, whatever the record says of the file."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from painted import SIDE, N, painted, scanned
from tiny import classifier

from tltf.data.batches import Batches
from tltf.data.indexing import Settings, build
from tltf.data.manifest import BadInputsError, Record
from tltf.data.reading import reading
from tltf.errors import DataError
from tltf.stages import bulk
from tltf.stages.bulk import EMBED, Job, Worker
from tltf.training import boundary, features, freezing
from tltf.training.featurestore import FeatureStore


def indexed(paths: Sequence[Path]) -> Sequence[Record]:
    table = paths[0].parent / "table.csv"
    with table.open("w", newline="") as text:
        rows = csv.writer(text)
        rows.writerow(["path", "label", "split"])
        rows.writerows([path, "ab"[i % 2], "train"] for i, path in enumerate(paths))
        for split, seed in (("val", 2), ("test", 3)):
            (folder := paths[0].parent / split).mkdir()
            rows.writerow([painted(folder, seed=seed)[0], "a", split])
    return build(table, paths[0].parent / "index", Settings()).split("train")


class Rows:
    """A store below a folder, and what fills it."""

    def __init__(self, folder: Path, records: Sequence[Record], **changes: Any) -> None:
        self.model = classifier()
        freezing.set_trainable(self.model, "none")
        cut = boundary.split(self.model)
        assert cut is not None
        self.data = Batches(
            records, classes=("a", "b"), task="single_label", image_size=SIDE, batch_size=4,
            **changes,
        )  # fmt: skip
        self.store: FeatureStore = features.opened_store(
            folder, cut, reading=reading(self.data), dtype="float32"
        )
        self.compute = features.compiled(cut.prefix)

    def extract(self, view: int | None = None) -> int:
        return features.extract(self.store, self.compute, self.data, view=view)

    def rows(self) -> np.ndarray:
        return self.store.gather(features.plain_keys(self.data))[0]

    def direct(self) -> np.ndarray:
        return np.concatenate([self.compute(x)[0] for x, _, _ in self.data.eval_dataset()])


@pytest.mark.parametrize("view", [None, 0], ids=["plain", "augmented"])
@pytest.mark.parametrize("listed", [scanned, indexed])
def test_a_picture_that_was_painted_over_gets_no_row(
    tmp_path: Path, listed: Any, view: int | None
) -> None:
    records = listed(painted(tmp_path, seed=0))
    changes = {"augment": "light", "views": 1} if view is not None else {}
    painted(tmp_path, seed=1)
    with pytest.raises(BadInputsError, match=r"9 of 9 files .*changed since it was scanned") as e:
        Rows(tmp_path / "cache", records, **changes).extract(view)
    assert [x.id for x in e.value.excluded] == [record.id for record in records]
    painted(tmp_path, seed=0)
    restored = Rows(tmp_path / "cache", records, **changes)
    assert len(restored.store) == 0
    assert restored.extract(view) == N
    if view is None:
        np.testing.assert_array_equal(restored.rows(), restored.direct())


def test_one_of_many_is_named(tmp_path: Path) -> None:
    paths = painted(tmp_path, seed=0)
    records = scanned(paths)
    paths[6].write_bytes(paths[2].read_bytes())
    with pytest.raises(BadInputsError, match=r"1 of 9 files .*: 6.png \(changed since"):
        Rows(tmp_path / "cache", records).extract()


def test_what_counts_are_the_bytes_that_were_decoded(tmp_path: Path) -> None:
    """Not those that lie there a moment later: the file is back before anybody can look."""
    paths = painted(tmp_path, seed=0)
    records = scanned(paths)
    painted(tmp_path, seed=1)
    rows = Rows(tmp_path / "cache", records)
    compute = rows.compute

    def restoring(x: Any) -> Any:
        painted(tmp_path, seed=0)
        return compute(x)

    with pytest.raises(BadInputsError, match="changed since it was scanned"):
        features.extract(rows.store, restoring, rows.data, view=None)
    assert len(Rows(tmp_path / "cache", records).store) == 0


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    paths = painted(tmp_path, seed=0)
    data = Batches(
        scanned(paths), classes=("a", "b"), task="single_label", image_size=SIDE, batch_size=4
    )
    found = list(data.hashed_dataset(None))
    plain = [x for x, _, _ in data.eval_dataset()]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), np.concatenate(plain))
    hashes = [digest.decode() for _, part in found for digest in part.numpy()]
    assert hashes == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_a_record_without_a_hash_has_no_key(tmp_path: Path) -> None:
    """All of them would share one row."""
    paths = painted(tmp_path, seed=0)
    records = [Record(id=p.name, path=str(p), label="a") for p in paths]
    with pytest.raises(DataError, match=r"not hashed.*: 0.png"):
        Rows(tmp_path / "cache", records).extract()


def test_features_in_files_carry_the_hash_of_what_was_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    painted(tmp_path / "photos", seed=0)
    real = bulk.examine

    def changed_since(*given: Any, **more: Any) -> Any:
        found = real(*given, **more)
        painted(tmp_path / "photos", seed=1)
        return found

    monkeypatch.setattr(bulk, "examine", changed_since)
    job = Job(
        kind=EMBED, inputs=str(tmp_path / "photos"), out=str(tmp_path / "out"), shards=1,
        backbone="small_cnn", weights="none", image_size=SIDE, form="tfrecord",
    )  # fmt: skip
    bulk.begin(job)
    with pytest.raises(BadInputsError, match="changed since it was scanned"):
        Worker(job)(0)

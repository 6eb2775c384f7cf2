"""The index of a large table: the same rows, labels and batches as the table itself."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import tltf
from pictures import write_digit_folder

from tltf.data import columns, indexing, prepare, remote, scan, sources, splitting
from tltf.data.batches import Batches
from tltf.data.indexing import Settings, build
from tltf.data.manifest import BadInputsError, Manifest
from tltf.errors import ArgumentError, DataError, MismatchError, StorageError
from tltf.serving.inputs import items, known_count, shard_items
from tltf.spec import DataSpec


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of seven rows, so that a small table has many."""
    for module in (columns, indexing, splitting):
        monkeypatch.setattr(module, "AT_ONCE", 7)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digit_folder(tmp_path_factory.mktemp("index") / "digits", (0, 1, 2), 40)


def written(folder: Path, digits: Path, **more: Any) -> Path:
    """A table of the 120 digits; ``more`` are columns, a function of row number and path each."""
    file = folder / "table.csv"
    paths = sorted(digits.rglob("*.png"))
    with file.open("w", newline="") as text:
        table = csv.writer(text)
        table.writerow(["path", "label", *more])
        for i, path in enumerate(paths):
            values = [f(i, path) for f in more.values()]
            table.writerow([path, f"number {path.parent.name}", *values])
    return file


def named(i: int, _: Path) -> str:
    return ("train", "train", "train", "val", "test")[i % 5]


def test_every_row_is_there_once(digits: Path, tmp_path: Path) -> None:
    file = written(tmp_path, digits, split=named, weight=lambda i, _: 1 + i % 3)
    found = build(file, tmp_path / "index", Settings())
    whole = scan.scan(sources.load(str(file)), max_image_pixels=10**6)
    assert found.classes == whole.classes
    assert sorted(found.records, key=lambda r: r.id) == sorted(whole.records, key=lambda r: r.id)
    for split in ("train", "val", "test"):
        assert list(found.split(split)) == list(whole.split(split))
    assert found.sizes() == {"train": 72, "val": 24, "test": 24} == whole.sizes()
    assert found.counts() == whole.counts()
    rows = found.split("train")
    assert rows[-1] == list(rows)[-1]
    assert rows[3:60:9] == tuple(list(rows)[3:60:9])
    assert found.records[80] == list(found.records)[80]
    with pytest.raises(IndexError):
        rows[72]
    assert sources.load(str(tmp_path / "index")).digest() == found.digest()
    assert not (tmp_path / "index/rows").exists()


def test_the_same_batches(digits: Path, tmp_path: Path) -> None:
    """Bit for bit, augmented and weighted."""
    file = written(tmp_path, digits, split=named, weight=lambda i, _: 1 + i % 3)
    found = build(file, tmp_path / "index", Settings())
    settings: dict[str, Any] = {
        "classes": found.classes, "task": "single_label", "image_size": 8, "batch_size": 16,
        "seed": 3, "augment": "light", "class_weights": {"number 1": 2.0},
    }  # fmt: skip
    indexed = Batches(found.split("train"), **settings)
    plain = Batches(list(found.split("train")), **settings)
    assert isinstance(indexed.records, columns.Rows)
    assert indexed.hashed
    for one, two in zip(epoch(indexed), epoch(plain), strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(indexed.targets(), plain.targets())
    other = Batches(found.split("train"), **{**settings, "classes": found.classes[::-1]})
    np.testing.assert_array_equal(other.targets(), plain.targets()[:, ::-1])
    with pytest.raises(ArgumentError, match="an index, whose paths are looked up here"):
        remote.RemoteBatches(indexed, "grpc://localhost:1")


def epoch(batches: Batches) -> Iterator[np.ndarray]:
    for batch in batches.train_dataset(1):
        yield from (part.numpy() for part in batch)


def test_copies_and_groups_stay_together(digits: Path, tmp_path: Path) -> None:
    """And the shares are met to the error that the hash has."""
    file = written(tmp_path, digits, group=lambda i, _: f"g{i // 2}")
    lines = file.read_text().splitlines()
    ungrouped = [",".join([*line.split(",")[:2], ""]) for line in lines[1:]]
    file.write_text("\n".join([lines[0], *ungrouped, *ungrouped]))
    copies = build(file, tmp_path / "copies", Settings(val_fraction=0.2, test_fraction=0.2))
    of_content: dict[str, set[str | None]] = {}
    for record in copies.records:
        of_content.setdefault(record.sha256, set()).add(record.split)
    assert len(of_content) == 120
    assert all(len(splits) == 1 for splits in of_content.values())
    assert 10 < len(copies.split("val")) / 2 < 40  # 24 expected, standard deviation 4.4
    file.write_text("\n".join(lines))
    grouped = build(file, tmp_path / "groups", Settings(val_fraction=0.2, test_fraction=0.2))
    split_of = {int(record.id.split(":")[1]): record.split for record in grouped.records}
    assert all(split_of[line] == split_of[line + 1] for line in range(2, 122, 2))
    other = build(file, tmp_path / "other", Settings(seed=1, val_fraction=0.2, test_fraction=0.2))
    assert other.digest() != grouped.digest()


def test_a_leak_between_named_splits_is_left_out(digits: Path, tmp_path: Path) -> None:
    file = written(tmp_path, digits, split=named)
    lines = file.read_text().splitlines()
    in_test = lines[5]
    assert in_test.endswith(",test")
    file.write_text("\n".join([*lines, in_test.removesuffix("test") + "train"]) + "\n")
    found = build(file, tmp_path / "index", Settings())
    assert found.sizes() == {"train": 72, "val": 24, "test": 24}
    assert any("1 rows left out, since a stricter split" in note for note in found.notes)


def test_killed_and_started_again(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same index bit for bit, and what was done is not done again."""
    file = written(tmp_path, digits)
    whole = build(file, tmp_path / "whole", Settings())
    scanned: list[int] = []
    real = scan.examine

    def examine(manifest: Manifest, **settings: Any) -> scan.Examined:
        scanned.append(len(manifest.records))
        if len(scanned) == 5:
            raise KeyboardInterrupt
        return real(manifest, **settings)

    monkeypatch.setattr(scan, "examine", examine)
    with pytest.raises(KeyboardInterrupt):
        build(file, tmp_path / "index", Settings())
    with (tmp_path / "index/rows/sha256").open("ab") as torn:
        torn.write(b"half a row")
    again = build(file, tmp_path / "index", Settings())
    assert sum(scanned) == 120 + 7
    assert again.digest() == whole.digest()
    assert build(file, tmp_path / "index", Settings()).digest() == whole.digest()
    assert sum(scanned) == 127
    with pytest.raises(MismatchError, match="seed: 0 -> 1"):
        build(file, tmp_path / "index", Settings(seed=1))


def test_bad_rows_and_files(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    file = written(tmp_path, digits)
    with file.open("a") as text:
        text.write(f"{tmp_path / 'no.png'},number 1\nmissing.png,number 1\na,b,c\n,number 2\n")
    with pytest.raises(BadInputsError, match=r"4 of 124 inputs are bad: .*no.png"):
        build(file, tmp_path / "index", Settings())
    with pytest.raises(BadInputsError, match="more than max_bad_fraction"):
        build(file, tmp_path / "some", Settings(bad_files="skip"))
    skip = Settings(bad_files="skip", max_bad_fraction=0.1)
    found = build(file, tmp_path / "most", skip)
    assert len(found.records) == 120
    rows = [json.loads(line) for line in (tmp_path / "most/bad_inputs.jsonl").open()]
    whys = {row["id"].split()[0]: row["reason"] for row in rows}
    assert whys["table.csv:122"].startswith("not an image")
    assert "No such file" in whys["table.csv:123"]
    assert whys["table.csv:124"] == "3 fields, expected 2"
    assert whys["table.csv:125"] == "empty path"
    # what an index of the whole table says, the table says as well
    with pytest.raises(BadInputsError, match="3 fields, expected 2"):
        sources.load(str(file))


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("path,label\n", DataError, "no rows"),
        ("", DataError, "no rows"),
        ("text,label\nhello,a\n", ArgumentError, "a table of texts"),
        ("path,name\na,b\n", DataError, "no column 'label'"),
        ("path,label\nDIGIT,a\n", DataError, "1 classes"),
        ("path,label\nDIGIT,0.5\nDIGIT,1.5\n", ArgumentError, "the labels are regression"),
        ("path,label,split\nDIGIT,a,train\nDIGIT,b,test\n", DataError, "no examples"),
    ],
)
def test_what_it_refuses(
    text: str, error: type[Exception], words: str, digits: Path, tmp_path: Path
) -> None:
    file = tmp_path / "table.csv"
    file.write_text(text.replace("DIGIT", str(digits / "0/000.png")))
    with pytest.raises(error, match=words):
        build(file, tmp_path / "index", Settings())


def test_a_folder_a_damaged_and_an_adapted_index(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="expected a table"):
        build(digits, tmp_path / "index", Settings())
    found = build(written(tmp_path, digits), tmp_path / "index", Settings())
    with pytest.raises(ArgumentError, match="an index, which adaptation does not read"):
        prepare.two_domains(DataSpec(source=found.folder), "x", seed=0)
    label = tmp_path / "index/train/label"
    label.write_bytes(label.read_bytes()[:-1])
    with pytest.raises(StorageError, match="damaged file"):
        columns.opened(tmp_path / "index")


def test_json_lines(digits: Path, tmp_path: Path) -> None:
    file = written(tmp_path, digits, split=named)
    rows = list(csv.DictReader(file.open()))
    lines = tmp_path / "table.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = build(file, tmp_path / "csv", Settings())
    two = build(lines, tmp_path / "jsonl", Settings())
    assert [(r.path, r.label, r.split) for r in one.records] == [
        (r.path, r.label, r.split) for r in two.records
    ]


def test_a_run_on_an_index_is_a_run_on_its_table(digits: Path, tmp_path: Path) -> None:
    file = written(tmp_path, digits, split=named)
    done = tltf("index", data=file, out=tmp_path / "index")
    assert done.code == 0, done.err
    assert "72 train, 24 val, 24 test" in done.err
    flags = {"backbone": "small_cnn", "weights": "none", "image_size": 8, "head_epochs": 1,
             "tune_epochs": 2, "batch_size": 16, "export": "none", "cache": "off"}  # fmt: skip
    rows = {}
    for name, data in (("table", file), ("index", tmp_path / "index")):
        run = tltf("train", data=data, workdir=tmp_path / f"run-{name}", **flags)
        assert run.code == 0, run.err
        lines = (tmp_path / f"run-{name}/history.jsonl").read_text().splitlines()
        rows[name] = [{k: v for k, v in json.loads(line).items() if not k.endswith("_seconds")}
                      for line in lines]  # fmt: skip
    assert rows["index"] == rows["table"]
    assert len((tmp_path / "run-index/manifest.jsonl").read_text().splitlines()) == 1
    (tmp_path / "index/index.json").unlink()
    (tmp_path / "index").rename(tmp_path / "moved")
    again = build(file, tmp_path / "index", Settings(seed=5))
    assert again.sizes()["train"] == 72


def test_the_command_refuses(digits: Path, tmp_path: Path) -> None:
    file = written(tmp_path, digits)
    for flags, code, words in (
        ({"data": file}, 64, "--out is missing"),
        ({"data": tmp_path / "no.csv", "out": tmp_path / "i"}, 66, "no such folder or file"),
        ({"data": file, "out": tmp_path / "i", "val_fraction": 0.5, "test_fraction": 0.5}, 64,
         "leave nothing to train on"),
    ):  # fmt: skip
        done = tltf("index", **flags)
        assert done.code == code, done.err
        assert words in done.last_line


def test_shards_of_an_index(digits: Path, tmp_path: Path) -> None:
    """Each image belongs to one shard, and ``tltf embed`` takes the folder."""
    build(written(tmp_path, digits), tmp_path / "index", Settings())
    given = str(tmp_path / "index")
    paths = [[item.path for item in shard_items(given, sys.stdin, shard=i, shards=7)]
             for i in range(7)]  # fmt: skip
    assert {len(some) for some in paths} == {17, 18}
    assert sorted(path for some in paths for path in some) == sorted(
        map(str, digits.rglob("*.png"))
    )
    assert len(list(items(given, sys.stdin))) == known_count(given) == 120
    done = tltf("embed", inputs=given, backbone="small_cnn", weights="none", image_size=8,
                out=tmp_path / "out", shards=3, format="tfrecord")  # fmt: skip
    assert done.code == 0, done.err
    assert "120 done, 0 failed" in done.err

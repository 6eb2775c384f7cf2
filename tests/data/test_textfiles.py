"""Plain files of texts: encodings, label-prefixed lines, folders of .txt."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from tltf.data.sources import load
from tltf.data.textfiles import read_text
from tltf.errors import ArgumentError, DataError

LINES = "pos a good film\nneg bad\npos good again\nneg so bad\n"


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("name", ["SST.train", "x.txt", "TREC"])
def test_lines_that_begin_with_their_label(tmp_path: Path, name: str) -> None:
    manifest = load(str(write(tmp_path / name, LINES)))
    assert (manifest.task, manifest.classes) == ("single_label", ("neg", "pos"))
    assert next((r.id, r.text, r.label) for r in manifest.records) == (
        f"{name}:1", "a good film", "pos"
    )  # fmt: skip
    marked = load(str(write(tmp_path / "ft.txt", "__label__a x y\n\n__label__b z\n")))
    assert [(r.id, r.label) for r in marked.records] == [("ft.txt:1", "a"), ("ft.txt:3", "b")]
    coarse = load(str(write(tmp_path / "t.txt", "DESC:manner How ?\nENTY:cremat What ?\n")))
    assert coarse.classes == ("DESC:manner", "ENTY:cremat")


def test_lines_without_a_text_are_all_named(tmp_path: Path) -> None:
    file = write(tmp_path / "x.train", "pos good\nneg\npos\nneg bad\n")
    with pytest.raises(DataError, match=r"2 lines are no 'label text'.*x.train:2, x.train:3"):
        load(str(file))
    with pytest.raises(DataError, match=r"expected a folder or a table .*lines of label"):
        load(str(write(tmp_path / "photos.zip", b"PK\x03\x04\0\0")))


def test_folders_of_texts(tmp_path: Path) -> None:
    for name, text in (("a/1.txt", "one\n"), ("a/deep/2.txt", "two"), ("b/1.txt", "three")):
        write(tmp_path / "flat" / name, text)
    manifest = load(str(tmp_path / "flat"))
    assert [(r.id, r.text, r.label, r.split) for r in manifest.records] == [
        ("a/1.txt", "one", "a", None),
        ("a/deep/2.txt", "two", "a", None),
        ("b/1.txt", "three", "b", None),
    ]
    for name in ("train/a/1.txt", "train/b/1.txt", "dev/a/2.txt", "dev/b/2.txt"):
        write(tmp_path / "split" / name, f"text of {name}")
    assert {r.split for r in load(str(tmp_path / "split")).records} == {"train", "val"}
    write(tmp_path / "flat/b/2.txt", b"caf\xe9")
    write(tmp_path / "flat/b/3.txt", " \n")
    with pytest.raises(DataError, match=r"2 of 5 files .*b/2.txt .*b/3.txt \(an empty text\)"):
        load(str(tmp_path / "flat"))


def test_encodings(tmp_path: Path) -> None:
    text = "text,label\ncafé,a\nthé,b\n"
    for data in (
        text.encode(),
        codecs.BOM_UTF8 + text.encode(),
        text.encode("utf-16"),
        codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    ):
        records = load(str(write(tmp_path / "x.csv", data))).records
        assert [r.text for r in records] == ["café", "thé"]
    file = write(tmp_path / "x.csv", text.encode("latin-1"))
    with pytest.raises(DataError, match=r"not UTF-8 in 2 lines: 2, 3 .*--encoding=latin-1"):
        load(str(file))
    assert [r.text for r in load(str(file), encoding="latin-1").records] == ["café", "thé"]
    manifest = load(str(file), encoding="utf-8")
    assert manifest.notes == ("x.csv: 2 invalid bytes were read as U+FFFD",)
    assert read_text(write(tmp_path / "y", "\ufffd"), encoding="utf-8").replaced == 0
    for wrong in ("latin-99", "base64"):
        with pytest.raises(ArgumentError, match="encoding="):
            load(str(file), encoding=wrong)

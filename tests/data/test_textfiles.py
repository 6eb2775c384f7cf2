"""Plain files of texts: encodings, label-prefixed lines, folders of .txt."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from tltf.data.manifest import BadInputsError
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


def test_a_tab_parts_label_and_text_too(tmp_path: Path) -> None:
    manifest = load(str(write(tmp_path / "sms", "ham\tgo a b\nspam \t win it\r\n")))
    assert [(r.label, r.text) for r in manifest.records] == [("ham", "go a b"), ("spam", "win it")]


def test_several_labels_in_a_line_never_become_text(tmp_path: Path) -> None:
    lines = "__label__a __label__b How?\n__label__a Why?\nWhy? __label__b\n__label__b\n"
    with pytest.raises(
        BadInputsError, match=r"several labels: x.ft:1, x.ft:5; .*sauce\|cheese"
    ) as caught:
        load(str(write(tmp_path / "x.ft", lines + "__label__b x __label__a\n")))
    assert [(x.id, x.reason) for x in caught.value.excluded] == [
        ("x.ft:1", "several labels"),
        ("x.ft:3", "a label behind the text"),
        ("x.ft:4", "a label without a text"),
        ("x.ft:5", "several labels"),
    ]
    table = load(str(write(tmp_path / "x.csv", "text,label\nHow?,sauce|cheese\nWhy?,sauce\n")))
    assert table.records[0].label == ("cheese", "sauce")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/a", "train/b", "unsup"), r"splits \(train\) beside other folders \(unsup\)"),
        (("test/a", "val/b"), r"splits \(test, val\) without train"),
        (("train/a", "train/b", "val/a", "dev/b"), "two folders for one split"),
    ],
)
def test_splits_that_cannot_be_told(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    for name in folders:
        write(tmp_path / name / "x.txt", "a text")
    with pytest.raises(DataError, match=f"{message}.*; expected class/file, or train, val, test"):
        load(str(tmp_path))


def test_what_lies_beside_texts_is_left_out_and_counted(tmp_path: Path) -> None:
    for name in ("pos/1.txt", "neg/1.txt"):
        write(tmp_path / name, "a text")
    for name in ("pos/README.txt", "neg/README.md", "neg/.x", "neg/Thumbs.db", "neg/urls.csv"):
        write(tmp_path / name, "a note")
    manifest = load(str(tmp_path))
    assert [r.id for r in manifest.records] == ["neg/1.txt", "pos/1.txt"]
    assert [(x.id, x.outcome, x.reason) for x in manifest.excluded] == [
        ("neg/README.md", "ignored", "not a text"),
        ("neg/urls.csv", "ignored", "not a text"),
        ("pos/README.txt", "ignored", "not a text"),
    ]
    write(tmp_path / "other/README.md", "a note")
    with pytest.raises(BadInputsError, match=r"other \(empty class folder\)"):
        load(str(tmp_path))


def test_a_file_that_is_no_text_is_named_wherever_it_lies(tmp_path: Path) -> None:
    for i in range(205):
        write(tmp_path / f"a/{i}.txt", "a text")
    write(tmp_path / "b/1.txt", "a text")
    write(tmp_path / "b/x.pdf", "%PDF")
    write(tmp_path / "a/0.doc", "words")
    with pytest.raises(BadInputsError, match=r"2 of 208 .*a/0.doc \(not a .txt .*b/x.pdf \(not a"):
        load(str(tmp_path))


def test_images_with_notes_are_no_texts(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name / "x.png", b"\x89PNG\r\n\x1a\n")
        for i in range(3):
            write(tmp_path / name / f"{i}.txt", "a caption")
    assert [r.path for r in load(str(tmp_path)).records] == [
        str(tmp_path / "a/x.png"),
        str(tmp_path / "b/x.png"),
    ]

"""Image folders: layouts, junk, and everything that is wrong named at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tltf.data.manifest import BadInputsError, Manifest
from tltf.data.scan import scan
from tltf.data.sources import load
from tltf.errors import ArgumentError, DataError, InputMissingError

Make = Callable[..., Path]


def test_one_folder_per_class(photos: Path) -> None:
    manifest = load(str(photos))
    assert manifest.task == "single_label"
    assert manifest.classes == ("cat", "dog")
    assert [r.id for r in manifest.records] == sorted(r.id for r in manifest.records)
    assert manifest.records[0].path == str(photos / "cat/00.png")
    assert {r.split for r in manifest.records} == {None}
    assert load(str(photos)) == manifest


@pytest.mark.parametrize(
    ("given", "expected"),
    [("val", "val"), ("Validation", "val"), ("valid", "val"), ("test", "test")],
)
def test_named_splits(tmp_path: Path, make_picture: Make, given: str, expected: str) -> None:
    for place in ("train", given):
        for name in ("a", "b"):
            make_picture(tmp_path / place / name / "deeper" / "x.png")
    manifest = load(str(tmp_path))
    assert manifest.classes == ("a", "b")
    assert [(r.split, r.label) for r in manifest.records if r.split != "train"] == [
        (expected, "a"),
        (expected, "b"),
    ]
    assert {r.id for r in manifest.records} >= {"train/a/deeper/x.png"}


def test_a_class_may_be_called_train(tmp_path: Path, make_picture: Make) -> None:
    for name in ("boat", "train", "test"):
        make_picture(tmp_path / name / "x.png")
    assert load(str(tmp_path)).classes == ("boat", "test", "train")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/a", "train/b", "cat"), r"splits \(train\) beside other folders \(cat\)"),
        (("test/a", "val/b"), r"splits \(test, val\) without train"),
        (("train/a", "train/b", "val/a", "valid/b"), "two folders for one split"),
    ],
)
def test_unclear_layouts_are_refused(
    tmp_path: Path, make_picture: Make, folders: tuple[str, ...], message: str
) -> None:
    for folder in folders:
        make_picture(tmp_path / folder / "x.png")
    with pytest.raises(DataError, match=message):
        load(str(tmp_path))


def test_junk_is_ignored_by_rule_and_counted(photos: Path, make_picture: Make) -> None:
    junk = {
        ".hidden/x.png": "hidden or system file",
        "__MACOSX/cat/._00.png": "hidden or system file",
        "cat/.DS_Store": "hidden or system file",
        "cat/._00.png": "hidden or system file",
        "cat/Thumbs.db": "hidden or system file",
        "dog/desktop.ini": "hidden or system file",
        "README": "in no class folder",
        "labels.csv": "in no class folder",
        "loose.png": "in no class folder",
        "cat/notes.txt": "not an image",
        "dog/LICENSE": "not an image",
        "dog/deeper/meta.json": "not an image",
    }
    for name in junk:
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(b"junk")
    make_picture(photos / "cat/really an image.txt", 99)
    (photos / "cat/page.jpg").write_text("<html>")
    manifest = load(str(photos))
    assert {x.id: x.reason for x in manifest.excluded} == junk
    assert {x.outcome for x in manifest.excluded} == {"ignored"}
    assert manifest.classes == ("cat", "dog")
    scanned = scan(manifest, max_image_pixels=10**6)
    assert len(scanned.records) == 51
    found = sum(len(files) for _, _, files in os.walk(photos))
    assert len(scanned.records) + len(scanned.excluded) == found


def test_what_cannot_be_read_is_named_all_at_once(photos: Path) -> None:
    (photos / "empty").mkdir()
    (photos / "only junk").mkdir()
    (photos / "only junk/.DS_Store").write_bytes(b"")
    (photos / "cat/gone.png").symlink_to("nowhere.png")
    (photos / "cat/round").symlink_to(photos / "cat", target_is_directory=True)
    os.mkfifo(photos / "dog/pipe.png")
    with pytest.raises(BadInputsError, match="5 places that cannot be read") as caught:
        load(str(photos))
    assert {x.id: x.reason for x in caught.value.excluded} == {
        "cat/gone.png": "dangling link",
        "cat/round": "a link to a folder above it",
        "dog/pipe.png": "not a regular file",
        "empty": "empty class folder",
        "only junk": "empty class folder",
    }


def test_good_links_are_followed(photos: Path, tmp_path: Path, make_picture: Make) -> None:
    make_picture(tmp_path / "elsewhere" / "bird.png", 77)
    (photos / "bird").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (photos / "cat/linked.png").symlink_to(tmp_path / "elsewhere/bird.png")
    manifest = load(str(photos))
    assert manifest.classes == ("bird", "cat", "dog")
    assert len(manifest.records) == 52


NAMES = ["a\nb.png", "😀.png", "<script>alert(1).png", "x\x1b[31m.png"]


def test_names_are_data(tmp_path: Path, make_picture: Make) -> None:
    for i, name in enumerate(NAMES):
        make_picture(tmp_path / "d" / "<b>{}" / name, i)
        make_picture(tmp_path / "d" / "b\nc" / name, i + 10)
    raw = os.fsencode(tmp_path / "d" / "b\nc") + b"/caf\xe9.png"
    make_picture(tmp_path / "spare.png", 50)
    os.rename(tmp_path / "spare.png", raw)  # noqa: PTH104 - the name is bytes
    manifest = scan(load(str(tmp_path / "d")), max_image_pixels=10**6)
    assert manifest.classes == ("<b>{}", "b\nc")
    assert len(manifest.records) == 9
    assert not manifest.excluded
    lines = "".join(manifest.to_json_lines())
    assert lines.isascii()
    assert Manifest.from_json_lines(lines.splitlines()) == manifest
    assert all(json.loads(line) for line in lines.splitlines())


def test_the_message_has_no_control_characters(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x\n\x1b[2J.png").symlink_to("nowhere")
    with pytest.raises(BadInputsError) as caught:
        load(str(tmp_path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("cat",), r"1 classes \(cat\), expected at least 2"),
        (("Cat", "cat", "dog"), "differ in case or spaces only: 'Cat' and 'cat'"),
        (("cat ", "cat", "dog"), "'cat' and 'cat '"),
        ((), "no class folders with files"),
    ],
)
def test_class_lists_that_make_no_sense(
    tmp_path: Path, make_picture: Make, folders: tuple[str, ...], message: str
) -> None:
    for name in folders:
        make_picture(tmp_path / name / "x.png")
    with pytest.raises(DataError, match=message):
        load(str(tmp_path))


def test_twins_across_splits(tmp_path: Path, make_picture: Make) -> None:
    for name in ("train/Cat", "train/dog", "val/cat"):
        make_picture(tmp_path / name / "x.png")
    with pytest.raises(DataError, match="'Cat' and 'cat'"):
        load(str(tmp_path))


def test_missing_and_misused_sources(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(InputMissingError, match="no such file or folder"):
        load(str(tmp_path / "none"))
    with pytest.raises(InputMissingError, match="no such file or folder"):
        load(str(tmp_path / "none.csv"))
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="a file, expected a folder or a table"):
        load(str(tmp_path / "photos.zip"))
    with pytest.raises(ArgumentError, match=r"group_column='person' with data=.* no columns"):
        load(str(photos), group_column="person")
    with pytest.raises(ArgumentError, match=r"task='regression' with data=.* single_label"):
        load(str(photos), task="regression")
    assert load(str(photos), task="single_label").task == "single_label"

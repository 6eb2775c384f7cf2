"""Bad input ends with its exit code, one line that names it, and nothing half done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Done, tltf
from pictures import write_digit_folder

from tltf.cli import app

SMALL: dict[str, Any] = {"backbone": "small_cnn", "weights": "none", "image_size": 8}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digit_folder(tmp_path_factory.mktemp("data") / "digits", (0, 1), 10)


@pytest.fixture
def photos(digits: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(digits, tmp_path / "photos")
    return tmp_path / "photos"


def failed(done: Done, code: int, *texts: str) -> None:
    """The code, one short printable line at the end, and what it must say."""
    assert done.code == code, done.err
    assert done.last_line.startswith("tltf: ")
    assert len(done.last_line) <= 400
    assert done.last_line.isprintable()
    assert "Traceback" not in done.err  # only with --debug
    assert "Traceback" not in done.err
    for text in texts:
        assert text in done.last_line


FLAG_ERRORS = [
    ({"bakbone": "VGG16"}, "unknown flag --bakbone; did you mean 'backbone'"),
    ({"augment": "lihgt"}, "did you mean 'light'"),
    ({"task": "multilabel"}, "did you mean 'multi_label'"),
    ({"backbone": "MobilNetV2"}, "did you mean 'MobileNetV2'"),
    ({"tune_epochs": "many"}, "--tune_epochs=many"),
    ({"tune_epochs": -1}, "epochs=-1"),
    ({"val_fraction": 1.5}, "val_fraction=1.5"),
    ({"unfreeze": "top"}, "expected none, all, last:N"),
    ({"class_weight": "fair"}, "expected none, auto or JSON"),
    ({"hidden": "12,x"}, "hidden='12,x', expected whole numbers"),
    ({"momentum": 0.5}, "--momentum with --optimizer=adam"),
    ({"weight_decay": 0.5}, "optimizer='adam'"),
    ({"max_bad_fraction": 0.5}, "without --bad_files=skip"),
    ({"assert_metric": "accuracy"}, "expected METRIC>=NUMBER"),
    ({"image_size": 4}, "image_size=4"),
    ({"weights": "imagenet"}, "small_cnn"),
    ({"weights": "none", "backbone": "VGG16:alpha=2"}, "alpha"),
]


@pytest.mark.parametrize(("flags", "text"), FLAG_ERRORS, ids=[str(f) for f, _ in FLAG_ERRORS])
def test_flags(flags: dict[str, Any], text: str, digits: Path, tmp_path: Path) -> None:
    done = tltf("train", **{"data": digits, "workdir": tmp_path / "run", **SMALL, **flags})
    failed(done, 64, text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", app.COMMANDS)
def test_help_names_every_flag(command: str) -> None:
    done = tltf(command, help=True)
    assert (done.code, done.err) == (0, "")
    module = app.command_module(command)
    known = {*module.FLAGS} - {"undefok", *module.PROGRAM.refused}
    assert all(f"--{name}" in done.out for name in known)


def test_the_command_itself() -> None:
    failed(tltf("trian"), 64, "unknown command 'trian'; did you mean 'train'")
    assert app.dispatch([]) == 64
    assert app.dispatch(["--help"]) == app.dispatch(["--version"]) == 0
    assert tltf("train", data="x").code == 64


def test_missing_things(tmp_path: Path, digits: Path) -> None:
    failed(
        tltf("train", data=tmp_path / "none", workdir=tmp_path / "run", **SMALL),
        66,
        "no such folder or file",
        str(tmp_path / "none"),
    )
    failed(tltf("evaluate", run=tmp_path, data=digits), 66, "no run here")
    failed(tltf("export", run=tmp_path, to=tmp_path / "to"), 66, "no run here")
    failed(tltf("predict", model=tmp_path, inputs=digits), 66, "neither a run folder nor")
    failed(tltf("predict", model=tmp_path / "no", inputs=digits), 66, "no such model")
    missing = {**SMALL, "backbone": f"file:{tmp_path / 'gone'}", "image_size": ""}
    del missing["image_size"]
    failed(tltf("train", data=digits, workdir=tmp_path / "run", **missing), 66, "gone")


def run(photos: Path, **flags: Any) -> Done:
    return tltf("train", data=photos, workdir=photos.parent / "run", **{**SMALL, **flags})


def error_of(photos: Path) -> dict[str, Any]:
    return json.loads((photos.parent / "run" / "error.json").read_text())


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    failed(run(tmp_path / "photos"), 65, "no class folders with files in them")
    error = error_of(tmp_path / "photos")
    assert (error["exit_code"], error["error"]) == (65, "DataError")
    assert error["next"]


def test_one_class(photos: Path) -> None:
    shutil.rmtree(photos / "1")
    failed(run(photos), 65, "class")


def test_every_unreadable_image_is_named(photos: Path) -> None:
    (photos / "0" / "000.png").write_bytes(b"")
    (photos / "0" / "001.png").write_bytes(b"<html>not found</html>")
    whole = (photos / "1" / "002.png").read_bytes()
    (photos / "1" / "002.png").write_bytes(whole[: len(whole) // 2])
    names = ("0/000.png", "0/001.png", "1/002.png")
    failed(run(photos), 65, "3 of 20 inputs are bad", "--bad_files=skip", *names)
    rows = (photos.parent / "run" / "bad_inputs.jsonl").read_text().splitlines()
    assert [json.loads(row)["id"] for row in rows] == list(names)
    assert all(json.loads(row)["reason"] for row in rows)
    failed(run(photos, bad_files="skip"), 65, "more than max_bad_fraction 0.01")


def test_too_few_for_three_splits(photos: Path) -> None:
    for path in sorted((photos / "1").iterdir())[1:]:
        path.unlink()
    failed(run(photos), 65, "1")


def test_a_file_copied_into_two_splits(digits: Path, tmp_path: Path) -> None:
    """Left out and said, or refused when asked to."""
    for split, files in {"train": slice(0, 6), "val": slice(6, 8), "test": slice(8, 10)}.items():
        for name in ("0", "1"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for path in sorted((digits / name).iterdir())[files]:
                shutil.copy(path, folder)
    leak = tmp_path / "photos" / "train" / "0" / "leak.png"
    shutil.copy(sorted((digits / "0").iterdir())[8], leak)
    photos = tmp_path / "photos"
    failed(run(photos, fail_on_leak=True), 65, "1 records leak between splits", "train/0/leak.png")
    done = run(photos, dry_run=True)
    assert done.code == 0, done.err
    assert "1 records left out, since a stricter split holds the same" in done.err
    assert "train/0/leak.png" in done.err


def test_where_no_output_can_be(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    for place, text in (
        ("file", "it is a file"),
        ("file/run", "a part of the path is a file"),
        ("run.csv", "run.csv is the name of a file, and a folder is made here"),
        ("full", "not a run's: thesis.tex"),
    ):
        failed(tltf("train", data=digits, workdir=tmp_path / place, **SMALL), 73, text)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"
    assert os.listdir(tmp_path / "full") == ["thesis.tex"]  # noqa: PTH208
    assert not (tmp_path / "run.csv").exists()


def test_the_parents_of_an_output_are_made(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "was.csv").mkdir()  # a folder that is there already may be called anything
    for place in ("none/of/them/run", "was.csv"):
        done = tltf("train", data=digits, workdir=tmp_path / place, dry_run=True, **SMALL)
        assert done.code == 0, done.err
    assert (tmp_path / "none" / "of" / "them" / "run").is_dir()


def test_a_bug_says_so(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tltf import pipeline

    def broken(*_: object, **__: object) -> None:
        raise KeyError("oh\x1b[31m")

    monkeypatch.setattr(pipeline, "transfer", broken)
    done = tltf("train", data=digits, workdir=tmp_path / "run", **SMALL)
    assert done.code == 1
    assert "this is a bug: KeyError" in done.last_line
    assert done.last_line.isprintable()
    assert "Traceback" not in done.err  # only with --debug


def test_a_reader_that_leaves_is_no_error() -> None:
    """``tltf train --help | head -1``: the pipe is closed before everything is written."""
    command = [sys.executable, "-c", "from tltf.cli.app import main; main(['train', '--help'])"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")

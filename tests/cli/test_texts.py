"""Commands on texts: they do what they do on images, or say in one sentence that they do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import tltf

from tltf.data.audit import audit
from tltf.errors import DataError
from tltf.spec import DataSpec


def write_folder(top: Path, *, n: int = 12) -> Path:
    for i in range(n):
        path = top / ["low", "high"][i % 2] / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{['a a b', 'g h h'][i % 2]} number {i}")
    return top


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("texts") / "reviews")


@pytest.fixture(scope="module")
def table(folder: Path) -> Path:
    path = folder.parent / "reviews.csv"
    rows = [f"{p.read_text()},{p.parent.name}" for p in sorted(folder.rglob("*.txt"))]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def vectors(folder: Path) -> str:
    path = folder.parent / "letters.txt"
    words = ["a", "b", "g", "h", "number"]
    path.write_text("".join(f"{w} {' '.join(map(str, row))}\n"
                            for w, row in zip(words, np.eye(5), strict=True)))  # fmt: skip
    return f"vectors:{path}"


@pytest.fixture(scope="module")
def run(table: Path, vectors: str) -> Path:
    workdir = table.parent / "run"
    options = {"head_epochs": 3, "head_lr": 0.1, "tune_epochs": 0, "export": "none",
               "test_fraction": 0.3, "val_fraction": 0.2}  # fmt: skip
    other = table.parent / "other"
    other.mkdir()
    for i in range(40):
        (other / f"{i}.txt").write_text(f"a h b g {'g ' * (i % 5)}")
    rows = table.read_text().splitlines()
    long = table.parent / "long.csv"
    more = [f"{row.replace('number', 'b' if 'low' in row else 'h')}" for row in rows[1:]]
    many = [f"{'a ' * (i % 3)}{row}" for i in range(5) for row in [*rows[1:], *more]]
    long.write_text("\n".join([rows[0], *many]) + "\n")
    done = tltf("train", data=long, backbone=vectors, workdir=workdir, unknown=other, **options)
    assert done.code == 0, done.err
    return workdir


def test_audit_looks_at_a_folder_of_texts(folder: Path, tmp_path: Path) -> None:
    done = tltf("audit", data=folder, out=tmp_path / "audit")
    assert done.code == 0, done.err
    assert "12 found: 12 ok" in done.out
    assert "texts: 12, 5 to 5 words" in done.out
    bad = write_folder(tmp_path / "bad")
    (bad / "low" / "empty.txt").write_text(" \n")
    (bad / "low" / "cafe.txt").write_bytes(b"caf\xe9")
    (bad / "none").mkdir()
    found = audit(DataSpec(source=str(bad))).found
    assert found["counts"] == {"found": 15, "ok": 12, "warning": 0, "bad": 3, "ignored": 0}
    reasons = {row["path"]: row["reason"] for row in found["files"] if row["outcome"] == "bad"}
    assert reasons["low/empty.txt"] == "an empty text"
    assert reasons["none"] == "empty class folder"
    assert "not UTF-8" in reasons["low/cafe.txt"]
    assert tltf("audit", data=bad, encoding="latin-1").out.count("not UTF-8") == 0


def test_rank_and_embed_say_that_they_are_of_images(
    folder: Path, table: Path, vectors: str, tmp_path: Path
) -> None:
    for command, options, code in (
        ("rank", {"data": table, "backbones": "small_cnn"}, 65),
        ("rank", {"data": folder, "backbones": "small_cnn"}, 65),
        ("rank", {"data": folder, "backbones": vectors}, 64),
        ("embed", {"inputs": folder, "backbone": vectors, "out": tmp_path / "out"}, 64),
        ("index", {"data": table, "out": tmp_path / "index"}, 64),
    ):
        done = tltf(command, **options)
        assert done.code == code, done.err
        assert "texts" in done.last_line
        assert "images" in done.last_line


def test_unknown_texts_are_told_from_known_ones(run: Path) -> None:
    report = json.loads((run / "report" / "report.json").read_text())
    found = report["familiarity"]["unknown"]
    assert found["left_out"] == 0
    assert found["source"].endswith("other")


def test_other_texts_are_compared(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    rows = [f"h g g number {'h ' * (i % 4)}" for i in range(60)]
    other.write_text("text\n" + "\n".join(rows) + "\n")
    done = tltf("compare", run=run, other=other, out=tmp_path / "compared")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "compared" / "compare.json").read_text())
    assert found["other"]["mmd"]["p_value"] < 0.05
    (tmp_path / "none").mkdir()
    empty = tltf("compare", run=run, other=tmp_path / "none")
    assert empty.code in (65, 66)


def test_an_unknown_folder_that_is_not_there_is_said_at_once(table: Path, vectors: str) -> None:
    done = tltf("train", data=table, backbone=vectors, unknown="nowhere", dry_run=True)
    assert done.code == 66
    assert "--unknown=nowhere" in done.last_line


def test_words_of_images_are_not_said_of_texts(
    run: Path, table: Path, vectors: str, tmp_path: Path
) -> None:
    done = tltf("train", data=table, backbone=vectors, workdir=tmp_path / "run", teacher=run,
                head_epochs=1, tune_epochs=1, unfreeze="all", export="none")  # fmt: skip
    assert done.code == 0, done.err
    assert "of the training examples" in done.err
    for word in ("image", "transformers", "photo"):
        assert word not in done.err.lower(), done.err


def test_bad_rows_and_the_flag_that_leaves_them_out(vectors: str, tmp_path: Path) -> None:
    rows = [f"{['a b', 'g h'][i % 2]} {i},{['low', 'high'][i % 2]}" for i in range(150)]
    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "\n".join([*rows, " ,low"]) + "\n")
    refused = tltf("train", data=path, backbone=vectors, dry_run=True)
    assert refused.code == 65
    assert "line 152: empty text" in refused.last_line
    assert "--bad_files=skip" in refused.last_line
    done = tltf("train", data=path, backbone=vectors, dry_run=True, bad_files="skip")
    assert done.code == 0, done.err
    assert "skipped 1 bad of 151 inputs: t.csv:152 (empty text)" in done.err


def test_what_skipping_would_not_solve_does_not_name_the_flag(tmp_path: Path) -> None:
    from tltf.data.sources import load

    path = tmp_path / "t.csv"
    path.write_text('text,label\na,x\nb,y\n"never closed,x\nc,y\n')
    for skip in (False, True):
        with pytest.raises(DataError, match="never closed") as error:
            load(str(path), skip=skip)
        assert "bad_files" not in error.value.next_action
    path.write_text("text,label\na,x\nb,y\nc,\nd,x,y\n")
    manifest = load(str(path), skip=True)
    assert sorted(x.id for x in manifest.excluded) == ["t.csv:4", "t.csv:5"]
    assert {x.outcome for x in manifest.excluded} == {"bad"}
    with pytest.raises(DataError, match="2 bad lines") as error:
        load(str(path))
    assert "--bad_files=skip" in error.value.next_action
    lines = tmp_path / "lines.txt"
    lines.write_text("x one\ny two\nx\n")
    with pytest.raises(DataError, match="a label without a text") as error:
        load(str(lines))
    assert "--bad_files=skip" in error.value.next_action
    assert len(load(str(lines), skip=True).excluded) == 1
    folder = write_folder(tmp_path / "folder")
    (folder / "low" / "empty.txt").write_text("")
    with pytest.raises(DataError, match="an empty text") as error:
        load(str(folder))
    assert "--bad_files=skip" in error.value.next_action
    assert len(load(str(folder), skip=True).excluded) == 1
    (folder / "none").mkdir()
    with pytest.raises(DataError, match="empty class folder") as error:
        load(str(folder), skip=True)
    assert "bad_files" not in error.value.next_action

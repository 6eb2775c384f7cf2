"""``tltf predict``: every kind of input, as it comes, bad ones in lines of their own."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, pixels
from PIL import Image

from tltf.errors import DataError, InputMissingError
from tltf.serving.inputs import Item, batches, items, known_count
from tltf.serving.predicting import Opened, predictions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    for name in ("b.png", "a.png", "deep/c.png"):
        (tmp_path / name).write_bytes(encoded(Image.fromarray(pixels(1)), "PNG"))
    (tmp_path / ".hidden").write_bytes(b"")
    return tmp_path


def ids(given: object, *, stdin: str = "", key: str = "image_bytes") -> list[str]:
    return [item.id for item in items(str(given), io.StringIO(stdin), key=key)]


def test_files_folders_globs_and_stdin(folder: Path) -> None:
    names = [str(folder / name) for name in ("a.png", "b.png", "deep/c.png")]
    assert ids(folder) == names
    assert ids(folder / "*.png") == names[:2]
    assert ids(folder / "**" / "*.png") == names
    assert ids(folder / "b.png") == names[1:2]
    assert ids("-", stdin="x.png\n\n  \nno such y.png\r\n") == ["x.png", "no such y.png"]
    assert known_count(str(folder)) == 3
    assert known_count("-") is None
    with pytest.raises(InputMissingError, match="no files"):
        ids(folder / "*.gif")


def test_a_name_that_is_a_pattern_is_a_file(folder: Path) -> None:
    strange = folder / "a[1].png"
    strange.write_bytes(b"x")
    assert ids(strange) == [str(strange)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "label,path\n1,a.png\n2,deep/c.png\n"),
        ("t.tsv", "\ufeffpath\tlabel\na.png\t1\ndeep/c.png\t2\n"),
        ("t.jsonl", '{"path": "a.png"}\n\n{"path": "deep/c.png"}\n'),
    ],
)
def test_tables(name: str, text: str, folder: Path) -> None:
    (folder / name).write_text(text, "utf-8")
    found = list(items(str(folder / name), io.StringIO()))
    assert [item.id for item in found] == ["a.png", "deep/c.png"]
    assert [item.path for item in found] == [str(folder / "a.png"), str(folder / "deep/c.png")]


def test_texts(folder: Path) -> None:
    (folder / "t.csv").write_text('text,label\n"a, b",1\n"two\nlines",2\n', "utf-8")
    (folder / "lines.txt").write_text("first\nsecond\n", "utf-8")
    assert ids(folder / "t.csv", key="text") == ["a, b", "two\nlines"]
    assert ids(folder / "lines.txt", key="text") == ["first", "second"]
    assert list(items("-", io.StringIO("so so\n"), key="text")) == [Item("so so", text="so so")]


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (b"label\n1\n", DataError, "rows without 'path'"),
        (b"path\n", InputMissingError, "no rows"),
        (b"path\n\xff\n", DataError, "not UTF-8"),
    ],
)
def test_tables_that_cannot_be_used(
    data: bytes, error: type[Exception], text: str, folder: Path
) -> None:
    (folder / "t.csv").write_bytes(data)
    with pytest.raises(error, match=text):
        ids(folder / "t.csv")


def test_what_comes_slowly_is_answered_as_it_comes() -> None:
    more = threading.Event()

    def slowly() -> Iterator[Item]:
        yield Item("first")
        assert more.wait(10)
        yield from [Item("second"), Item("third")]

    found = batches(slowly(), 2)
    assert [item.id for item in next(found)] == ["first"]
    more.set()
    assert [item.id for batch in found for item in batch] == ["second", "third"]


def test_an_error_of_the_source_is_raised() -> None:
    def broken() -> Iterator[Item]:
        yield Item("first")
        raise DataError("torn")

    with pytest.raises(DataError, match="torn"):
        list(batches(broken(), 4))


def test_rows_have_the_fields_of_the_design(folder: Path) -> None:
    """``id`` as it was given, byte for byte; a bad one is a line of its own."""

    def answer(rows: list[bytes]) -> dict[str, np.ndarray]:
        sent.append(len(rows))
        n = len(rows)
        return {
            "label": np.array([b"\xc3\xb6"] * n, object),
            "label_id": np.array([1] * n),
            "probabilities": np.array([[0.25, 0.75]] * n),
            "confidence": np.array([0.75] * n),
            "accepted": np.array([True] * n),
        }

    sent: list[int] = []
    odd = os.fsdecode(os.fsencode(folder) + b"/\x1b[31m\xff.png")
    Path(odd).write_bytes((folder / "a.png").read_bytes())
    (folder / "bad.png").write_bytes(b"no image")
    names = [odd, str(folder / "bad.png"), str(folder / "missing.png"), str(folder / "b.png")]
    opened = Opened(answer, ("o", "ö"), "single_label")
    rows = list(predictions(opened, iter([Item(n, path=n) for n in names]), batch_size=4))
    assert [row["id"] for row in rows] == names
    assert sum(sent) == 2
    for row in (rows[0], rows[3]):
        assert list(row) == ["id", "label", "probabilities", "accepted"]
        assert (row["label"], row["probabilities"]) == ("ö", [0.25, 0.75])
    assert "not an image" in rows[1]["error"]
    assert list(rows[2]) == ["id", "error"]
    assert "\x1b" not in json.dumps(rows[0])


def test_a_regression_has_a_value() -> None:
    def answer(rows: list[bytes]) -> dict[str, np.ndarray]:
        return {"value": np.array([1.5, np.nan]), "accepted": np.array([True, False])}

    opened = Opened(answer, (), "regression", "text")
    rows = list(predictions(opened, iter([Item("a", text="a"), Item("b", text="b")])))
    assert rows[0] == {"id": "a", "value": 1.5, "accepted": True}
    assert "error" in rows[1]

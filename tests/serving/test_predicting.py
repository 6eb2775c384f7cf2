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
from tiny import SIDE, classifier

from tltf.errors import DataError, InputMissingError
from tltf.rundir import RunDir
from tltf.serving.inputs import Item, batches, items, known_count, shard_items
from tltf.serving.intake import ImageIntake
from tltf.serving.predicting import Opened, predictions
from tltf.serving.signatures import signatures
from tltf.serving.writing import write_saved_model
from tltf.spec import BackboneSpec, DataSpec, TransferSpec
from tltf.trained import Trained, opened_model


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


def test_the_limit_is_the_one_of_the_model(folder: Path) -> None:
    """Pictures of 12 x 16 pixels."""

    def found(limit: int) -> list[str]:
        model = Opened(lambda rows: {"value": np.zeros(len(rows)), "accepted": np.ones(len(rows))},
                       (), "regression", max_pixels=limit)  # fmt: skip
        rows = predictions(model, items(str(folder / "*.png"), io.StringIO()))
        return [row.get("error", "answered") for row in rows]

    assert found(192) == ["answered"] * 2
    assert found(191) == ["too large: 16x12 pixels, limit 191"] * 2


@pytest.mark.parametrize(("asked", "limit"), [(0, 100_000_000), (192, 192), (191, 191)])
def test_a_run_predicts_what_it_was_trained_for(
    tmp_path: Path, folder: Path, asked: int, limit: int
) -> None:
    trained = Trained(model=classifier(), task="single_label", classes=("a", "b"), image_size=SIDE,
                      max_length=None)  # fmt: skip
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    trained.save(run.weights)
    data = DataSpec(source="photos", max_image_pixels=100_000_000)
    spec = TransferSpec(data=data, backbone=BackboneSpec(name="small_cnn"))
    run.commit(run.spec, spec.to_json())
    opened = opened_model(run.path, max_image_pixels=asked)
    assert opened.max_pixels == limit
    rows = list(predictions(opened, items(str(folder / "a.png"), io.StringIO())))
    assert ("error" in rows[0]) == (limit < 192)


def test_a_servable_says_its_limit(tmp_path: Path) -> None:
    intake = ImageIntake(image_size=SIDE, max_pixels=777)
    trained = Trained(model=classifier(), task="single_label", classes=("a", "b"), image_size=SIDE,
                      max_length=None)  # fmt: skip
    write_saved_model(tmp_path / "1", signatures(trained.model, trained.decision, intake=intake))
    fields = json.loads((tmp_path / "1" / "assets" / "tltf.json").read_text())
    assert fields["max_image_pixels"] == 777


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
    assert known_count(str(folder / "lines.txt"), key="text") is None
    assert list(items("-", io.StringIO("so so\n"), key="text")) == [Item("so so", text="so so")]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"one\x0cline\n\xc2\x85 two\n", ["one\x0cline", "\x85 two"]),
        (b"a\xe2\x80\xa8b\r\n\r\nc", ["a\u2028b", "", "c"]),
        ("\ufefffirst\nsecond".encode("utf-16-le"), ["first", "second"]),
        (b"", []),
    ],
)
def test_a_line_is_one_text(data: bytes, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_bytes(data)
    assert ids(tmp_path / "lines.txt", key="text") == expected


def test_a_glob_of_tables_is_tables(folder: Path) -> None:
    for name in ("x.csv", "y.csv"):
        (folder / name).write_text(f"path,text,label\na.png,of {name},1\n", "utf-8")
    (folder / "z.txt").write_text("a line\n", "utf-8")
    assert ids(folder / "*.csv", key="text") == ["of x.csv", "of y.csv"]
    assert ids(folder / "[xyz].*", key="text") == ["of x.csv", "of y.csv", "a line"]
    assert ids(folder / "*.csv") == ["a.png", "a.png"]
    assert known_count(str(folder / "*.csv")) is None
    assert known_count(str(folder / "[xyz].*"), key="text") is None
    # Beside images a table is a file that is none, and gets its line.
    assert ids(folder / "[ax].*") == [str(folder / "a.png"), str(folder / "x.csv")]
    assert known_count(str(folder / "[ax].*")) == 2


def test_each_file_of_a_folder_is_a_text(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    (texts / "deep").mkdir(parents=True)
    (texts / "a.txt").write_text("two\nlines\n", "utf-8")
    (texts / "b.txt").write_bytes(b"good\n\xff\n")
    (texts / "deep" / "c").write_text("ö", "utf-16")
    (texts / "d.txt").symlink_to("nowhere")
    assert known_count(str(texts), key="text") == 4
    found = {Path(item.id).name: item for item in items(str(texts), io.StringIO(), key="text")}
    assert list(found) == ["a.txt", "b.txt", "d.txt", "c"]
    assert found["a.txt"] == Item(str(texts / "a.txt"), text="two\nlines")
    assert found["c"].text == "ö"
    rows = list(predictions(_accepting(), iter(found.values())))
    assert [row["id"] for row in rows] == [item.id for item in found.values()]
    assert "not UTF-8 in 1 lines: 2; name the encoding, e.g. --encoding" in rows[1]["error"]
    assert "No such file" in rows[2]["error"]
    assert ["error" in row for row in rows] == [False, True, True, False]
    (texts / "t.csv").write_text("text\na row\n", "utf-8")
    assert "a row" in ids(texts, key="text")
    assert known_count(str(texts), key="text") is None


def _accepting() -> Opened:
    def answer(rows: list[bytes]) -> dict[str, np.ndarray]:
        return {"value": np.zeros(len(rows)), "accepted": np.ones(len(rows), bool)}

    return Opened(answer, (), "regression", "text")


def test_texts_in_a_named_encoding(tmp_path: Path) -> None:
    for name, content in (("t.csv", "text\nschön\n"), ("t.txt", "schön\n")):
        (tmp_path / name).write_bytes(content.encode("latin-1"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/t.txt").write_bytes("schön\n".encode("latin-1"))
    for name in ("t.csv", "t.txt", "in"):
        given, said = str(tmp_path / name), []
        found = items(given, io.StringIO(), key="text", encoding="latin-1", say=said.append)
        assert [item.text for item in found] == ["schön"]
        assert not said
        found = items(given, io.StringIO(), key="text", encoding="utf-8", say=said.append)
        assert [item.text for item in found] == ["sch\ufffdn"]
        assert ["1 invalid bytes" in note for note in said] == [True]
        shard = shard_items(given, io.StringIO(), shard=0, shards=2, key="text", encoding="latin-1")
        assert [item.text for item in shard] == ["schön"]


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
        assert list(row) == ["id", "label", "probabilities", "accepted", "classes"]
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

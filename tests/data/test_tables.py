"""CSV, TSV and JSON-lines tables: what they mean, and every fault by line number."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tltf.data.manifest import BadInputsError
from tltf.data.sources import load
from tltf.data.tables import load_column
from tltf.errors import ArgumentError, DataError, InputMissingError

Make = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, make_picture: Make) -> Path:
    for i in range(4):
        make_picture(tmp_path / "img" / f"{i}.png", i)
    return tmp_path


def table(folder: Path, text: str | bytes, name: str = "data.csv", **options: str):  # type: ignore[no-untyped-def]
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return load(str(folder / name), **options)


def test_all_columns(folder: Path) -> None:
    manifest = table(
        folder,
        "path,label,group,split,weight,comment\n"
        "img/0.png,cat,anna,train,2.5,x\n"
        "img/1.png,dog,,validation,,\n"
        f"{folder}/img/2.png,cat,bob,TEST,0,\n",
    )
    assert manifest.classes == ("cat", "dog")
    assert [r.id for r in manifest.records] == ["data.csv:2", "data.csv:3", "data.csv:4"]
    assert [r.path for r in manifest.records] == [str(folder / f"img/{i}.png") for i in range(3)]
    assert [r.group for r in manifest.records] == ["anna", None, "bob"]
    assert [r.split for r in manifest.records] == ["train", "val", "test"]
    assert [r.weight for r in manifest.records] == [2.5, 1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.csv", b"\xef\xbb\xbfpath,label\r\nimg/0.png,cat\r\nimg/1.png,dog\r\n"),
        ("d.csv", b"label, path\ncat, img/0.png\n\ndog, img/1.png"),
        ("d.CSV", b'"path","Label"\n"img/0.png","cat"\n"img/1.png","dog"\n'),
        ("d.tsv", b"path\tlabel\nimg/0.png\tcat\nimg/1.png\tdog\n"),
        (
            "d.jsonl",
            b'{"path": "img/0.png", "label": "cat"}\n\n{"label": "dog", "path": "img/1.png"}\n',
        ),
    ],
)
def test_the_same_table_in_many_dresses(folder: Path, name: str, text: bytes) -> None:
    manifest = table(folder, text, name)
    assert [r.label for r in manifest.records] == ["cat", "dog"]
    assert [r.path for r in manifest.records] == [str(folder / f"img/{i}.png") for i in (0, 1)]


def test_texts_with_line_breaks(folder: Path) -> None:
    manifest = table(folder, 'text,label\n"one\ntwo, three\nfour",a\n"say ""hi""",b\n')
    assert [(r.id, r.text, r.path) for r in manifest.records] == [
        ("data.csv:2", "one\ntwo, three\nfour", None),
        ("data.csv:5", 'say "hi"', None),
    ]


def test_a_named_group_column(folder: Path) -> None:
    text = "path,label,person\nimg/0.png,a,x\nimg/1.png,b,y\n"
    assert [r.group for r in table(folder, text, group_column="person").records] == ["x", "y"]
    with pytest.raises(ArgumentError, match="columns found: path, label, person; did you mean"):
        table(folder, text, group_column="persn")


def labels(folder: Path, *values: str, **options: str):  # type: ignore[no-untyped-def]
    rows = "".join(f"text {i},{value}\n" for i, value in enumerate(values))
    return table(folder, "text,label\n" + rows, **options)


def test_the_task_follows_from_the_labels(folder: Path) -> None:
    several = labels(folder, "red|round", "", " round | red ", "blue")
    assert several.task == "multi_label"
    assert several.classes == ("blue", "red", "round")
    assert [r.label for r in several.records] == [("red", "round"), (), ("red", "round"), ("blue",)]
    assert labels(folder, "0", "1", "1").classes == ("0", "1")
    numbers = labels(folder, "0.5", "1", "-2e3")
    assert (numbers.task, numbers.classes) == ("regression", ())
    assert [r.label for r in numbers.records] == [0.5, 1.0, -2000.0]
    assert labels(folder, *map(str, range(21))).task == "regression"
    assert labels(folder, *map(str, range(20))).task == "single_label"
    assert labels(folder, "1", "x").task == "single_label"


def test_a_label_that_is_no_finite_number_among_numbers_is_named(folder: Path) -> None:
    for value, reason in (("nan", "is not a number"), ("-inf", "is not finite")):
        with pytest.raises(BadInputsError, match=f"line 4: label '{value}' {reason}"):
            labels(folder, "1.0", "1.5", value, "2.5")
        with pytest.raises(BadInputsError, match=f"line 4: label '{value}' {reason}"):
            labels(folder, "1", "0", value)
    rows = '{"text": "a", "label": 1.5}\n{"text": "b", "label": %s}\n{"text": "c", "label": 2}'
    for value in ("NaN", "Infinity", "1" + "0" * 400):
        with pytest.raises(BadInputsError, match=r"line 2: label .* is not (a number|finite)"):
            table(folder, rows % value, "d.jsonl")
    assert labels(folder, "yes", "nan", "no").classes == ("nan", "no", "yes")


def test_one_number_in_two_spellings_is_no_two_classes(folder: Path) -> None:
    twins = r"the same number: '1' \(1\) and '1.0' \(1\), '2' \(1\) and '2.0'"
    with pytest.raises(DataError, match=twins) as caught:
        labels(folder, "1", "2", "1.0", "2.0")
    assert caught.value.exit_code == 65
    with pytest.raises(DataError, match=r"number: '03' \(1\) and '3' \(1\).*one spelling"):
        labels(folder, "3", "03", "many")
    # Names that Python reads as one number, and long ones that only a float confounds.
    assert labels(folder, "1_01", "101", "x").classes == ("101", "1_01", "x")
    long = ("12345678901234567", "12345678901234568")
    assert labels(folder, *long).classes == long


def test_a_named_task_wins_or_is_refused(folder: Path) -> None:
    assert labels(folder, "a|b", "c", task="single_label").classes == ("a|b", "c")
    assert labels(folder, "a", "b", task="multi_label").records[0].label == ("a",)
    assert labels(folder, "1", "2", task="regression").records[0].label == 1.0
    with pytest.raises(BadInputsError, match="line 3: label 'b' is not a number"):
        labels(folder, "1", "b", task="regression")
    with pytest.raises(BadInputsError, match="label 'nan' is not a number"):
        labels(folder, "1", "nan", task="regression")
    with pytest.raises(ArgumentError, match="did you mean 'regression'"):
        labels(folder, "1", "2", task="regresion")


def test_json_labels(folder: Path) -> None:
    rows = [{"text": "a", "label": ["x", "y"]}, {"text": "b", "label": []}, {"text": "c"}]
    lines = "\n".join(map(json.dumps, rows))
    assert [r.label for r in table(folder, lines, "d.jsonl").records] == [("x", "y"), (), ()]
    with pytest.raises(BadInputsError, match="line 1: several labels: x, y"):
        table(folder, lines, "d.jsonl", task="single_label")
    flags = '{"text": "a", "label": true}\n{"text": "b", "label": false}'
    assert table(folder, flags, "d.jsonl").classes == ("false", "true")


FAULTS = {
    "ragged": ("text,label\na,x\nb\nc,y,z\nd,y\n", {3: "1 fields, expected 2", 4: "3 fields"}),
    "empty label": ("text,label\na,x\nb,\nc, \nd,y\n", {3: "empty label", 4: "empty label"}),
    "empty text": ("text,label\n ,x\nb,y\n,x\n", {2: "empty text", 4: "empty text"}),
    "NUL": ("text,label\na,x\nb\0,y\nc,y\n", {3: "a NUL character"}),
    "unclosed quote": ('text,label\na,x\n"b,y\nc,x\n', {3: "a quote that is never closed"}),
    "stray quote": ('text,label\na,x\n"b"c,y\nd,x\n', {3: "the rest was not read"}),
    "label with a line break": ('text,label\na,x\nb,"y\nz"\n', {3: "a line break in the label"}),
    "split": ("text,label,split\na,x,trian\nb,y,test\n", {2: "split 'trian', expected train"}),
    "weight": (
        "text,label,weight\na,x,-1\nb,y,heavy\nc,y,inf\nd,x,1\n",
        {2: "weight '-1'", 3: "weight 'heavy'", 4: "weight 'inf'"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named_by_line_and_all_at_once(folder: Path, name: str) -> None:
    text, expected = FAULTS[name]
    with pytest.raises(BadInputsError) as caught:
        table(folder, text)
    found = {int(x.id.rpartition(":")[2]): x.reason for x in caught.value.excluded}
    assert found.keys() == expected.keys()
    for line, reason in expected.items():
        assert reason in found[line]
        assert f"line {line}: " in str(caught.value)
    assert f"{len(expected)} bad lines" in str(caught.value)


def test_faults_of_different_kinds_are_reported_together(folder: Path) -> None:
    with pytest.raises(BadInputsError, match="3 bad lines") as caught:
        table(folder, "text,label,weight\na,x,1\nb\nc,,1\nd,y,-1\n")
    assert [x.id for x in caught.value.excluded] == ["data.csv:3", "data.csv:4", "data.csv:5"]


def test_a_quote_that_swallowed_many_rows_is_found(folder: Path) -> None:
    rows = [f"img/{i}.png,cat" for i in range(60)]
    rows[10] = '"img/10.png,cat'
    rows[50] = 'img/50.png","dog"'
    with pytest.raises(BadInputsError, match=r"line 12: a field of 41 lines: an unclosed quote\?"):
        table(folder, "path,label\n" + "\n".join(rows) + "\n")


def test_a_quote_that_swallowed_one_row_of_tabs_is_found(folder: Path) -> None:
    rows = "".join(f"text {i}\tneg\n" for i in range(78))
    first = '"Great film\tpos\nhe said: bad movie"\tneg\n'
    with pytest.raises(BadInputsError, match=r"line 2: a field of 2 lines: an unclosed quote\?"):
        table(folder, "text\tlabel\n" + first + rows, "d.tsv")
    poem = table(folder, 'text\tlabel\n"two\nlines"\ta\n"a\ttab"\tb\n', "d.tsv")
    assert [r.text for r in poem.records] == ["two\nlines", "a\ttab"]


def test_a_long_text_is_no_swallowed_quote(folder: Path) -> None:
    poem = "\n".join(f"line {i}" for i in range(200))
    manifest = table(folder, f'text,label\n"{poem}",a\nb,b\n')
    assert manifest.records[0].text == poem


def test_long_fields_and_odd_line_separators(folder: Path) -> None:
    manifest = table(folder, f"text,label\n{'x' * 1_000_000},a\none\u2028two\x0cthree,b\n")
    assert [len(str(r.text)) for r in manifest.records] == [1_000_000, 13]
    assert [r.id for r in table(folder, "text,label\rx,a\ry,b\r").records] == [
        "data.csv:2",
        "data.csv:3",
    ]


def test_missing_files_are_bad_rows_for_the_policy(folder: Path) -> None:
    manifest = table(folder, "path,label\nimg/0.png,a\nimg/9.png,b\nimg,b\nimg/1.png,b\n")
    assert [r.id for r in manifest.records] == ["data.csv:2", "data.csv:5"]
    assert [(x.id.split()[0], x.outcome, x.reason) for x in manifest.excluded] == [
        ("data.csv:3", "bad", "No such file or directory"),
        ("data.csv:4", "bad", "not a regular file"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("path,label\n", "no rows"),
        ("file,label\na,b\n", "no column 'path' or 'text'; columns found: file, label"),
        ("path,class\na,b\n", "no column 'label'; columns found: path, class"),
        ("path,text,label\na,b,c\n", "both a column 'path' and a column 'text'"),
        ("path,label,label\na,b,c\n", "column 'label' is there twice"),
        ("path,label,Label\na,b,c\n", "column 'Label' is there twice"),
        ("text,label\na,x\nb,x\n", r"1 classes \(x\), expected at least 2"),
        ("text,label\na,Cat\nb,cat \nc,dog\n", r"'Cat' \(1\) and 'cat ' \(1\)"),
    ],
)
def test_tables_that_make_no_sense(folder: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        table(folder, text)


def test_encodings(folder: Path) -> None:
    latin = "text,label\ncafé,a\nthé,b\n".encode("latin-1")
    with pytest.raises(BadInputsError, match=r"not UTF-8 in 2 lines: 2, 3 .*--encoding=latin-1"):
        table(folder, latin)
    encoded = codecs.BOM_UTF16_LE + "text,label\ncafé,a\nthé,b\n".encode("utf-16-le")
    assert [r.text for r in table(folder, encoded).records] == ["café", "thé"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "list, expected an object"),
        ('{"text": 3, "label": "a"}', "text 3 is not a text"),
        ('{"text": "a", "label": {"x": 1}}', "label {'x': 1}, expected a text"),
        ('{"text": "a"}', "empty label"),
    ],
)
def test_faults_of_json_lines(folder: Path, row: str, reason: str) -> None:
    good = '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'
    with pytest.raises(BadInputsError) as caught:
        table(folder, good + row, "d.jsonl")
    assert [x.id for x in caught.value.excluded] == ["d.jsonl:3"]
    assert reason in caught.value.excluded[0].reason


LONG = "a" * 200_000


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", 'text,label\n"a, b",1\n"two\nlines",2\n,3\n', ("a, b", "two\nlines", "")),
        ("t.csv", "label, text\n1, a\n", ("a",)),
        ("t.tsv", "Label\tText\r\n1\ta,b\r\n", ("a,b",)),
        ("t.csv", f"text\n{LONG}\n", (LONG,)),
        ("t.csv", "text\na\u2028b\x0cc\x85d\n", ("a\u2028b\x0cc\x85d",)),
        ("t.jsonl", '{"TEXT": "a\u2028b"}\n\n{"TEXT": "c", "n": 1}\n', ("a\u2028b", "c")),
        ("t.csv", codecs.BOM_UTF16_LE + "text\nö\n".encode("utf-16-le"), ("ö",)),
    ],
)
def test_one_column_of_a_table_without_labels(
    name: str, content: str | bytes, expected: tuple[str, ...], tmp_path: Path
) -> None:
    """What `--data` reads, `--inputs` reads."""
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    assert load_column(file, "text").values == expected


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("t.csv", 'text,label\n"abc de,low\nfgh,high\n', BadInputsError,
         "1 bad lines beside 0 sound ones: line 2: a quote that is never closed"),
        ("t.csv", "text,label\nabc de, and more, x\nfgh,y\n", BadInputsError,
         "1 bad lines beside 1 sound ones: line 2: 3 fields, expected 2"),
        ("t.jsonl", '{"text": "a"}\n{"text": oops}\n', BadInputsError, "line 2: not JSON"),
        ("t.jsonl", '{"text": oops}\n', BadInputsError, "line 1: not JSON"),
        ("t.jsonl", '{"text": "a"}\n{"label": 1}\n{"text": 5}\n[]\n', BadInputsError,
         "3 bad lines beside 1 sound ones: line 2: no text, line 3: text 5 is not a text,"
         " line 4: list, expected an object"),
        ("t.csv", "text,label,text\na,1,b\n", DataError,
         "rows without 'text': column 'text' is there 2 times; columns found: text, label, text"),
        ("t.csv", "Text,text\na,b\n", DataError, "is there 2 times; columns found: Text, text"),
        ("t.csv", "label,words\n1,a\n", DataError,
         "rows without 'text': no such column; columns found: label, words"),
        ("t.jsonl", "{}\n", DataError, "no such column; columns found: none"),
        ("t.csv", "text\n", InputMissingError, "no rows"),
        ("t.csv", b"text\na\n\xff\n", BadInputsError, "not UTF-8 in 1 lines: 3"),
    ],
)  # fmt: skip
def test_a_column_that_cannot_be_read(
    name: str, content: str | bytes, error: type[Exception], said: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(error) as caught:
        load_column(file, "text")
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert "; next: " in str(caught.value)


def test_a_column_in_a_named_encoding(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("text\nschön\n".encode("latin-1"))
    assert load_column(tmp_path / "t.csv", "text", encoding="latin-1").values == ("schön",)
    found = load_column(tmp_path / "t.csv", "text", encoding="utf-8")
    assert found.values == ("sch\ufffdn",)
    assert found.notes == ("t.csv: 1 invalid bytes were read as U+FFFD",)

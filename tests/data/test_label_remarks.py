"""Labels that look like something else are said with their counts and the flag that decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import tltf

from tltf.data.sources import load
from tltf.errors import ArgumentError, DataError


def table(folder: Path, labels: list[object], name: str = "mail.csv", **options: str):  # type: ignore[no-untyped-def]
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    if name.endswith(".jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = "text;label\n".replace(";", "\t") + "".join(
            f"{row['text']}\t{row['label']}\n" for row in rows
        )
        name = name.replace(".csv", ".tsv")
    (folder / name).write_text(text)
    return load(str(folder / name), **options)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["urgent, billing", "urgent", "billing"] * 3,
         "3 of 9 labels hold ',', such as 'urgent, billing' (3): each is one class of that name;"
         " --label_separator=, makes several labels of it"),
        (["a;b", "a;c", "a", "b"], "2 of 4 labels hold ';', such as 'a;b' (1), 'a;c' (1)"),
        (["red/round", "red", "round"], "1 of 3 labels hold '/', such as 'red/round' (1)"),
        (["['a', 'b']", "a", "['a']"], "2 of 3 labels look like lists, such as"),
        (["1", "2", "3", "3"], "the labels are 3 whole numbers from 1 to 3, taken as classes;"
         " --task=regression predicts them as numbers"),
        (["1.5", "2", "3.5"], "the labels are 3 different numbers from 1.5 to 3.5, taken as a"
         " regression; --task=single_label makes each a class"),
        (["1", "cat", "cat", "2"], "2 of 4 labels are numbers, such as '1' (1), '2' (1), among"
         " names: each is one class"),
        (["2024-05-12", "2024-05-13", "2024-05-12"], "3 of 3 labels look like dates, such as"
         " '2024-05-12' (2), '2024-05-13' (1)"),
        (["12/05/2024", "a", "a"], "1 of 3 labels look like dates"),
        (["yes", "true", "no", "no"], "labels that mean the same to a reader: 'true' (1), 'yes'"
         " (1); each is one class"),
        (["cat ", "dog", "dog"], "1 of 3 labels begin or end with a blank, such as 'cat ' (1)"),
        (["nan", "cat", "N/A", "dog"], "2 of 4 labels look like missing ones, such as 'N/A' (1),"
         " 'nan' (1): each is one class"),
    ],
)  # fmt: skip
def test_it_is_said_with_counts(labels: list[object], said: str, tmp_path: Path) -> None:
    manifest = table(tmp_path, labels)
    assert any(said in note for note in manifest.notes), manifest.notes


@pytest.mark.parametrize("labels", [["cat", "dog"], ["true", "false"], ["cat|dog", "cat"],
                                    ["and/or", "N"] + ["ice cream"] * 3])  # fmt: skip
def test_ordinary_labels_are_passed_over_in_silence(labels: list[object], tmp_path: Path) -> None:
    notes = table(tmp_path, labels).notes
    assert not [note for note in notes if "'/'" not in note]


def test_a_task_that_was_asked_for_is_not_explained(tmp_path: Path) -> None:
    assert table(tmp_path, ["1", "2", "3"], task="single_label").notes == ()
    assert table(tmp_path, ["1", "2", "3"], task="regression").notes == ()


def test_json_numbers_are_understood_like_written_ones(tmp_path: Path) -> None:
    manifest = table(tmp_path, [1, 2, 2], "a.jsonl")
    assert "the labels are 2 whole numbers from 1 to 2" in manifest.notes[0]
    with pytest.raises(DataError, match=r"same number: '1' \(2\) and '1.0' \(1\)") as raised:
        table(tmp_path, [1, 1.0, 1, "cat"], "b.jsonl")
    assert "--task=regression" in raised.value.next_action
    with pytest.raises(DataError, match=r"spaces only: 'Cat' \(1\) and 'cat ' \(2\)"):
        table(tmp_path, ["Cat", "cat ", "cat ", "dog"])


def test_the_flag_decides(tmp_path: Path) -> None:
    manifest = table(tmp_path, ["urgent, billing", "urgent", "billing|x"], label_separator=",")
    assert manifest.task == "multi_label"
    assert manifest.classes == ("billing", "billing|x", "urgent")
    assert manifest.records[0].label == ("billing", "urgent")
    assert not [note for note in manifest.notes if "','" in note]
    lines = tmp_path / "lines.txt"
    lines.write_text("a,b one text\na another\n")
    assert load(str(lines)).classes == ("a", "a,b")
    assert load(str(lines), label_separator=",").classes == ("a", "b")
    with pytest.raises(ArgumentError, match="label_separator=''"):
        table(tmp_path, ["a", "b"], label_separator="")


def test_train_and_audit_say_it(tmp_path: Path) -> None:
    table(tmp_path, ["urgent, billing", "urgent", "billing"] * 8)
    data, said = tmp_path / "mail.tsv", "8 of 24 labels hold ','"
    audited = tltf("audit", data=data, out=tmp_path / "audit")
    assert audited.code == 0, audited.err
    assert said in audited.out.replace("\n    ", " ")
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert any(said in note for note in found["notes"])
    assert "label_separator" not in tltf("audit", data=data, label_separator=",").out
    vectors = tmp_path / "v.txt"
    vectors.write_text("text 1 0\n1 0 1\n")
    done = tltf("train", data=data, backbone=f"vectors:{vectors}", dry_run=True)
    assert said in done.err, done.err
    done = tltf("train", data=data, backbone=f"vectors:{vectors}", dry_run=True,
                label_separator=",")  # fmt: skip
    assert "multi_label, 2 classes" in done.err

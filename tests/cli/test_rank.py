"""``tltf rank`` from the command line: a table, its files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

from commands import tltf
from pictures import write_digit_folder


def test_a_table_and_its_files(tmp_path: Path) -> None:
    data = write_digit_folder(tmp_path / "digits", (0, 1), 16)
    done = tltf(
        "rank", data=data, backbones="small_cnn:blocks=1,small_cnn:blocks=1@block1",
        out=tmp_path / "rank",
    )  # fmt: skip
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split()[:2] == ["candidate", "probe"]
    assert "how deep" not in done.out  # nothing was learned that could be too particular
    assert lines[-1].startswith("next: tltf train")
    found = json.loads((tmp_path / "rank" / "rank.json").read_text())
    rows = {row["name"]: row for row in found["candidates"]}
    assert set(rows) == {"small_cnn:blocks=1", "small_cnn:blocks=1@block1"}
    whole = rows["small_cnn:blocks=1"]
    # of 32 digits those of the test split are left alone
    assert whole["n"] == 27
    assert whole["gigaflops"] > 0
    # conv 3->32 and 32->32 without bias, two normalisations
    assert whole["parameters"] == 27 * 32 + 9 * 32 * 32 + 2 * 4 * 32
    assert (tmp_path / "rank" / "rank.png").read_bytes().startswith(b"\x89PNG")


def test_what_it_refuses(tmp_path: Path) -> None:
    data = write_digit_folder(tmp_path / "digits", (0, 1), 4)
    for flags, code, words in (
        ({"backbones": "VGG15"}, 64, "did you mean 'VGG1"),
        ({"backbones": "VGG16", "data": tmp_path / "nowhere"}, 66, "no such folder"),
        ({"backbones": "VGG16", "data": data, "out": tmp_path / "a.csv"}, 73, "name of a file"),
        ({"backbones": "small_cnn:blocks=1@block9", "data": data}, 64, "block1"),
    ):
        done = tltf("rank", **{"data": data, **flags})
        assert done.code == code, done.err
        assert words in done.last_line

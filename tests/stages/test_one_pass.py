"""In a run with its defaults every record of the test split is read, and crosses, once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from commands import tltf
from pictures import write_digit_folder

from tltf.data import headers, prepare, textbatches
from tltf.data.batches import Batches
from tltf.data.manifest import Manifest
from tltf.data.scan import scan
from tltf.data.sources import load
from tltf.data.textbatches import TextBatches
from tltf.rundir import existing
from tltf.stages.data import committed_manifest

BACKBONE = f"bert:{Path(__file__).parents[1] / 'backbones' / 'golden_encoders' / 'bert'}"
PASSES = ("eval_dataset", "view_dataset", "hashed_dataset")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many data sets were made of a record."""
    counts: Counter[str] = Counter()

    def counted(kind: type[Batches], name: str) -> None:
        real = getattr(kind, name)

        def made(self: Batches, *given: Any) -> Any:
            counts.update(record.id for record in self.records)
            return real(self, *given)

        monkeypatch.setattr(kind, name, made)

    for kind in (Batches, TextBatches):
        for name in PASSES:
            if name in vars(kind):
                counted(kind, name)
    return counts


def held_out(workdir: Path) -> list[str]:
    return [record.id for record in committed_manifest(existing(workdir)).split("test")]


def test_photos_cross_once(tmp_path: Path, read: Counter[str]) -> None:
    data = write_digit_folder(tmp_path / "digits", (0, 1), 30)
    done = tltf("train", data=data, backbone="small_cnn", weights="none", image_size=8,
                workdir=tmp_path / "run", cache=tmp_path / "cache", export="none",
                head_epochs=2, tune_epochs=2, unfreeze="last:1", batch_size=8)  # fmt: skip
    assert done.code == 0, done.err
    names = held_out(tmp_path / "run")
    assert names
    assert {name: read[name] for name in names} == dict.fromkeys(names, 1)


def test_texts_cross_once_and_are_tokenized_once(
    tmp_path: Path, read: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "reviews.csv"
    rows = [f"{'abc fgh de'[i % 5:]} {'ab cd '[i % 3:]} {'abc ' * (i % 7)} {i % 9},{i % 2}"
            for i in range(60)]  # fmt: skip
    table.write_text("text,label\n" + "\n".join(rows) + "\n")
    tokenized: Counter[bytes] = Counter()
    real = textbatches._encoder

    def counting(*given: Any) -> Any:
        some = real(*given)

        def encoded(part: Any) -> Any:
            tokenized.update(part.numpy().tolist())
            return some(part)

        return encoded

    monkeypatch.setattr(textbatches, "_encoder", counting)
    textbatches._remembered.cache_clear()
    done = tltf("train", data=table, backbone=BACKBONE, workdir=tmp_path / "run",
                cache=tmp_path / "cache", export="none", head_epochs=1, tune_epochs=1,
                unfreeze="last:1", batch_size=8, task="single_label")  # fmt: skip
    assert done.code == 0, done.err
    names = held_out(tmp_path / "run")
    assert names
    assert {name: read[name] for name in names} == dict.fromkeys(names, 1)
    texts = Counter(
        (r.text or "").encode() for r in committed_manifest(existing(tmp_path / "run")).records
    )
    assert {text: n for text, n in tokenized.items() if n > texts[text]} == {}


def test_sides_are_known_from_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_digit_folder(tmp_path / "digits", (0, 1), 5)
    found: Manifest = scan(load(str(data)), max_image_pixels=10**6)

    def opened(*given: Any) -> Any:
        raise AssertionError("a file was opened again")

    monkeypatch.setattr(headers, "read_header", opened)
    assert prepare.median_side(found.records) == 8

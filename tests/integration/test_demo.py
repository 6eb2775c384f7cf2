"""The demo's story, told in a few steps of training."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tltf import demo

pytestmark = pytest.mark.usefixtures("quick_gate")


def test_the_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOURCE_EPOCHS", "HEAD_EPOCHS", "TUNE_EPOCHS"):
        monkeypatch.setattr(demo, name, 1)
    said: list[str] = []
    story = demo.tell(tmp_path, seeds=1, say=said.append)
    assert story.transferred.shape == story.from_scratch.shape
    assert story.transferred.shape[0] == 1
    report = json.loads(story.report.with_name("report.json").read_text())
    assert report["n"] == story.transferred.shape[1] > 400
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(story.transferred.mean())
    scratch = report["baselines"]["from_scratch"]["metrics"]["accuracy"]["value"]
    assert scratch == pytest.approx(story.from_scratch.mean())
    assert report["verdict"]["sentence"] == story.verdict.sentence
    assert said[0].startswith("1. ")
    answer = demo.ask(story)
    assert answer["label"] in set("56789")
    assert answer["truth"] == story.example.label
    assert 0 < answer["probability"] <= 1
    again: list[str] = []
    assert (demo.tell(tmp_path, seeds=1, say=again.append).transferred == story.transferred).all()
    assert again == said


def test_the_targets_test_images_are_trained_on_nowhere() -> None:
    from tltf.data import sources

    target = sources.load(demo.TARGET)
    test = {}
    for seed in (0, 1):
        records = demo._few_labels(target, seed)
        by_split = {
            split: {record.id for record in records if record.split == split}
            for split in ("train", "val", "test")
        }
        test[seed] = by_split["test"]
        assert not by_split["test"] & (by_split["train"] | by_split["val"])
        assert not by_split["train"] & by_split["val"]
        labels = Counter(record.label for record in records if record.split == "train")
        assert set(labels) == set("56789")
        assert len(set(labels.values())) == 1
        assert 10 * len(by_split["train"]) < len(by_split["test"])
    assert test[0] == test[1]
    source = {record.id for record in sources.load(demo.SOURCE).records}
    assert not source & test[0]

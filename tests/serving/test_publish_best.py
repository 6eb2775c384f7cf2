"""A callback for anyone's own fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from same_process import in_this_process

import tltf
from tltf.errors import ArgumentError
from tltf.serving import candidate, publish

LABELS = ("dark", "bright")


@pytest.mark.slow
def test_each_better_epoch_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidate, "loaders", in_this_process)
    best = tltf.PublishBest(tmp_path / "served", labels=LABELS, keep=2)
    best.set_model(tiny.classifier())
    for epoch, value in enumerate([float("nan"), 0.5, 0.4, 0.6, 0.6, 0.7]):
        best.on_epoch_end(epoch, {"val_accuracy": value})
    assert best.best == 0.7
    assert publish.versions(tmp_path / "served") == [2, 3]
    assert best.published == tmp_path / "served" / "3"
    with pytest.raises(ArgumentError, match="monitor='val_accuracy' is not among"):
        best.on_epoch_end(6, {"loss": 1.0})


def test_it_works_in_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidate, "loaders", in_this_process)
    model = tiny.classifier()
    model.compile("adam", "mse", metrics=["accuracy"])
    best = tltf.PublishBest(tmp_path / "served", labels=LABELS, monitor="loss", mode="min")
    model.fit(tiny.dataset(), epochs=2, verbose=0, callbacks=[best])
    assert best.published is not None


def test_arguments(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="mode='up'"):
        tltf.PublishBest(tmp_path, mode="up")
    with pytest.raises(ArgumentError, match="keep=0"):
        tltf.PublishBest(tmp_path, keep=0)

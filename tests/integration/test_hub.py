"""``tltf train --backbone=hub:``: from a module to a servable, and every command after it."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import hub_modules
import numpy as np
import pytest
from commands import Done, tltf
from pictures import write_digit_folder

from tltf.backbones import weights
from tltf.backbones.hub import handles
from tltf.errors import DataError

pytestmark = pytest.mark.usefixtures("quick_gate")

URL = "https://example.org/models/vision/1"
FLAGS: dict[str, Any] = {
    "head_epochs": 1,
    "tune_epochs": 2,
    "tune_lr": 0.003,
    "unfreeze": "last:1",
    "batch_size": 16,
}
# What TF Hub's package would do with the URL, from a folder beside.
STAND_IN = """
import hashlib, os, pathlib, shutil, sys
name = hashlib.sha1(sys.argv[1].encode()).hexdigest()
shutil.copytree(os.environ["MODULE"], pathlib.Path(os.environ["TFHUB_CACHE_DIR"], name))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digit_folder(tmp_path_factory.mktemp("data") / "digits", (0, 1, 2), 30)


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Done]:
    """A run on a URL handle: the run folder, the module's source, what was said."""
    folder = tmp_path_factory.mktemp("hub")
    source = hub_modules.vision(folder / "source")
    script = folder / "stand_in.py"
    script.write_text(STAND_IN)
    workdir = folder / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handles, "DOWNLOAD", (sys.executable, "-I", str(script)))
        patch.setattr(weights, "connect", lambda *_, **__: io.BytesIO())
        patch.setenv("MODULE", str(source))
        done = tltf(
            "train",
            data=photos,
            workdir=workdir,
            backbone=f"hub:{URL}",
            export="none",
            cache=folder / "cache",
            **FLAGS,
        )
    shutil.rmtree(source)
    return workdir, handles.place(URL), done


def test_it_trains_and_no_second_keras_is_imported(trained: tuple[Path, Path, Done]) -> None:
    workdir, place, done = trained
    assert done.code == 0, done.err
    assert not {"tf_keras", "tensorflow_hub"} & set(sys.modules)
    assert "backbone" in (workdir / "spec.json").read_text()
    history = [json.loads(line) for line in (workdir / "history.jsonl").open()]
    assert [row["phase"] for row in history] == ["head", "tune", "tune"]
    assert "cache: pooled features" in done.err
    assert place.is_dir()


@pytest.mark.slow
def test_it_evaluates_and_predicts(
    trained: tuple[Path, Path, Done], photos: Path, tmp_path: Path
) -> None:
    evaluated = tltf("evaluate", run=trained[0], data=photos, out=tmp_path / "report")
    assert evaluated.code == 0, evaluated.err
    rows = tltf("predict", model=trained[0], inputs=photos / "0").rows
    assert len(rows) == 30
    assert all(row["label"] in ("0", "1", "2") for row in rows)


@pytest.mark.slow
def test_the_servable_answers_the_same_and_converts(
    trained: tuple[Path, Path, Done], photos: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ai_edge_litert")
    to = tmp_path / "servable"
    exported = tltf("export", run=trained[0], to=to, litert="float")
    assert exported.code == 0, exported.err
    by_run = tltf("predict", model=trained[0], inputs=photos / "0")
    by_servable = tltf("predict", model=to, inputs=photos / "0")
    for one, other in zip(by_run.rows, by_servable.rows, strict=True):
        assert one["label"] == other["label"]
        np.testing.assert_allclose(one["probabilities"], other["probabilities"], atol=1e-5)
    assert list((to / "1").rglob("*.tflite"))


@pytest.mark.slow
def test_its_backbone_goes_on_as_a_module(
    trained: tuple[Path, Path, Done], photos: Path, tmp_path: Path
) -> None:
    module = tltf("export", run=trained[0], to=tmp_path / "module", reusable=True)
    assert module.code == 0, module.err
    onward = tltf(
        "train",
        data=photos,
        workdir=tmp_path / "onward",
        backbone=f"hub:{tmp_path / 'module' / '1'}",
        export="none",
        **FLAGS,
    )
    assert onward.code == 0, onward.err


def test_a_run_whose_module_is_gone_says_where_it_was(
    trained: tuple[Path, Path, Done], photos: Path
) -> None:
    workdir, place, _ = trained
    away = place.with_name("away")
    place.rename(away)
    try:
        done = tltf("predict", model=workdir, inputs=photos / "0")
        assert done.code == 66
        assert str(place) in done.last_line
        assert URL in done.last_line
    finally:
        away.rename(place)
    (place / "extra").write_text("x")
    done = tltf("predict", model=workdir, inputs=photos / "0")
    (place / "extra").unlink()
    assert done.code == 65
    assert str(place) in done.last_line
    assert os.environ["TLTF_CACHE_DIR"] in done.last_line


def test_a_module_that_changed_stops_a_resumed_run(photos: Path, tmp_path: Path) -> None:
    module = hub_modules.vision(tmp_path / "module")
    flags = {"data": photos, "workdir": tmp_path / "run", "backbone": f"hub:{module}", **FLAGS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tltf.pipeline.run_data", _stop)
        assert tltf("train", **flags).code == 65
    (module / "saved_model.pb").write_bytes(b"other")
    done = tltf("train", **flags)
    assert done.code == 78
    assert str(module) in done.last_line


def _stop(*_: object, **__: object) -> None:
    raise DataError("stopped here")


def test_bad_handles_end_in_one_line(photos: Path, tmp_path: Path) -> None:
    base = {"data": photos, "workdir": tmp_path / "run"}
    done = tltf("train", backbone=f"hub:{tmp_path / 'nothing'}", **base)
    assert done.code == 66
    assert "there is no such module" in done.last_line
    assert tltf("train", backbone="hub:", **base).code == 64
    text = hub_modules.tf1(tmp_path / "tf1")
    done = tltf("train", backbone=f"hub:{text}", **base)
    assert done.code == 65
    assert "TensorFlow 1" in done.last_line

"""``--regularizer`` and ``--teacher`` of ``tltf train``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import Done, tltf
from integration_domains import draw

from tltf import trained
from tltf.data.batches import Batches
from tltf.data.manifest import Record
from tltf.errors import ArgumentError
from tltf.pipeline import check_parts
from tltf.spec import BackboneSpec, DataSpec, TransferSpec
from tltf.stages import guiding

pytestmark = pytest.mark.usefixtures("quick_gate")


def train(data: Path, workdir: Path, **more: object) -> Done:
    options = {
        "data": data, "backbone": "small_cnn", "weights": "none", "image_size": 16,
        "workdir": workdir, "head_epochs": 1, "tune_epochs": 2, "tune_lr": 0.003,
        "batch_norm": "adapt", "export": "none", "precision": "float32", "unfreeze": "last:1",
    } | more  # fmt: skip
    return tltf("train", **options)


@pytest.mark.parametrize(
    "regularizer",
    ["l2sp:0.01", "delta:0.001", pytest.param("bss:0.001", marks=pytest.mark.slow)],
)
def test_a_regulariser_trains_saves_and_loads(regularizer: str, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", n=45, seed=0, dark=False)
    done = train(data, tmp_path / "run", regularizer=regularizer)
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "run" / "spec.json").read_text())["regularizer"] == regularizer
    model = trained.load(tmp_path / "run" / "weights").model
    assert ("shrink" in [x.name for x in model.get_layer("head").layers]) == (
        regularizer.startswith("bss")
    )


@pytest.mark.slow
def test_a_student_learns_from_its_teacher(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", n=45, seed=0, dark=False)
    assert train(data, tmp_path / "teacher", tune_epochs=4, unfreeze="all").code == 0
    done = train(data, tmp_path / "student", backbone="mlp:units=16", teacher=tmp_path / "teacher",
                 unfreeze="all")  # fmt: skip
    assert done.code == 0, done.err
    assert "teacher: " in done.err
    other = draw(tmp_path / "other", n=12, seed=0, dark=False)
    (other / "bar").rename(other / "pole")
    wrong = train(other, tmp_path / "wrong", teacher=tmp_path / "teacher")
    assert wrong.code == 64
    assert "name a run on the same classes" in wrong.last_line


def test_soft_targets_are_for_training_only(tmp_path: Path) -> None:
    draw(tmp_path / "data", n=6, seed=0, dark=False)
    paths = sorted((tmp_path / "data").rglob("*.png"))
    records = [Record(id=p.name, path=str(p), label=p.parent.name) for p in paths]
    soft = np.random.default_rng(0).dirichlet(np.ones(3), 6).astype("float32")
    data = Batches(records, classes=("bar", "dot", "ring"), task="single_label", image_size=16,
                   batch_size=6, soft_targets=soft)  # fmt: skip
    np.testing.assert_array_equal(data.targets().argmax(1), [0, 0, 1, 1, 2, 2])
    (_, y, _), *_ = data.train_dataset(0)
    np.testing.assert_allclose(np.sort(y, axis=0), np.sort(soft, axis=0))
    y, _ = data.train_targets(np.array([4, 1]))
    np.testing.assert_allclose(y, soft[[4, 1]])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on other classes than the student's."""
    folder = tmp_path_factory.mktemp("teacher")
    other = draw(folder / "other", n=24, seed=1, dark=True)
    (other / "bar").rename(other / "pole")
    assert train(other, folder / "run", head_epochs=0, tune_epochs=1, unfreeze="all").code == 0
    return folder / "run"


def taught(data: Path, teacher: Path, workdir: Path, **more: object) -> Done:
    lesson = {"distill": "features,distances:10", "regularizer": "delta:0.001"}
    return train(data, workdir, teacher=teacher, cache_dtype="float32", **(lesson | more))


def test_a_student_learns_from_its_teachers_features_of_other_classes(
    teacher: Path, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", n=45, seed=0, dark=False)
    done = taught(data, teacher, tmp_path / "run")
    assert done.code == 0, done.err
    assert "of each training example, for features, distances" in done.err
    assert json.loads((tmp_path / "run/spec.json").read_text())["distill"] == (
        "features,distances:10"
    )
    # What is saved is an ordinary model.
    model = trained.load(tmp_path / "run" / "weights").model
    assert not [v for v in model.variables if "regressor" in v.path or "start" in v.path]
    refused = train(data, tmp_path / "wrong", teacher=teacher, distill="logits")
    assert refused.code == 64
    assert "use --distill=features" in refused.last_line


@pytest.mark.slow
def test_stored_features_give_the_student_that_images_give(teacher: Path, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", n=45, seed=0, dark=False)
    for name, cache in (("kept", tmp_path / "cache"), ("anew", "off")):
        done = taught(data, teacher, tmp_path / name, cache=cache)
        assert done.code == 0, done.err
        assert ("cache: " in done.err) == (name == "kept")
    kept, anew = (trained.load(tmp_path / name / "weights").model for name in ("kept", "anew"))
    assert [v.path for v in kept.weights] == [v.path for v in anew.weights]
    for a, b in zip(kept.weights, anew.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-3)


def test_blocks_are_unfrozen_one_after_the_other(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", n=24, seed=0, dark=False)
    done = train(data, tmp_path / "run", unfreeze="last:3", gradual=2, tune_epochs=1)
    assert done.code == 0, done.err
    phases = json.loads((tmp_path / "run" / "spec.json").read_text())["phases"]
    assert [(p["name"], p["unfreeze"]) for p in phases] == [
        ("head", "none"), ("tune2", "last:2"), ("tune3", "last:3"),
    ]  # fmt: skip
    rows = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(row)["phase"] for row in rows] == ["head", "tune2", "tune3"]
    for more in ({"unfreeze": "all"}, {"unfreeze": "last:2", "gradual": -1}):
        refused = train(data, tmp_path / "other", **({"gradual": 1} | more))
        assert refused.code == 64
        assert "--gradual=1 --unfreeze=last:3" in refused.last_line


def test_terms_that_change_nothing_are_said(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", n=24, seed=0, dark=False)
    done = train(data, tmp_path / "run", regularizer="delta:0.1", tune_epochs=0)
    assert done.code == 0, done.err
    assert "delta:0.1 changes nothing: no phase trains the backbone" in done.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fetures", "did you mean 'features'"),
        ("logits:2", "all but logits with a weight"),
        ("angles,angles", "each once"),
        ("angles:-1", r"expected a weight in \[0, inf\)"),
        ("distances:x", "expected a weight"),
    ],
)
def test_a_wrong_lesson_is_said(text: str, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        TransferSpec(data=DataSpec(source="x"), backbone=BackboneSpec(name="mlp"), teacher="run",
                     distill=text)  # fmt: skip


def test_a_lesson_wants_a_teacher(tmp_path: Path) -> None:
    done = train(tmp_path, tmp_path / "run", distill="angles")
    assert done.code == 64
    assert "--distill=angles without a teacher" in done.last_line
    spec = TransferSpec(data=DataSpec(source="x"), backbone=BackboneSpec(name="mlp"),
                        distill="angles")  # fmt: skip
    with pytest.raises(ArgumentError, match="add --teacher=RUN"):
        guiding.lesson(spec, None, None, print)


def test_relations_of_examples_are_not_taken_in_parts() -> None:
    spec = TransferSpec(data=DataSpec(source="x"), backbone=BackboneSpec(name="mlp"),
                        teacher="run", distill="logits,angles")  # fmt: skip
    with pytest.raises(ArgumentError, match="compares the examples of a batch"):
        check_parts(spec, 8)


def test_a_specification_from_before_has_the_usual_lesson() -> None:
    spec = TransferSpec(data=DataSpec(source="x"), backbone=BackboneSpec(name="mlp"))
    fields = json.loads(spec.to_json())
    del fields["distill"]
    assert TransferSpec.from_json(json.dumps(fields)) == spec


@pytest.mark.parametrize("text", ["l2sp", "l2sp:-1", "l2ps:1", "none:1", "bss:nan", "delta"])
def test_a_wrong_regulariser_is_said(text: str) -> None:
    with pytest.raises(ArgumentError, match="expected none, l2sp:FACTOR, bss:FACTOR or delta"):
        TransferSpec(data=DataSpec(source="x"), backbone=BackboneSpec(name="mlp"), regularizer=text)


def test_a_teacher_and_mixing_exclude_each_other() -> None:
    with pytest.raises(ArgumentError, match="has not seen"):
        TransferSpec(data=DataSpec(source="x"), backbone=BackboneSpec(name="mlp"), teacher="run",
                     mix="mixup")  # fmt: skip

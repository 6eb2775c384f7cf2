"""The recipes of the literature: their settings, their flags, and one small run of each."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments import (
    cats_dogs_vgg16,
    cifar10_vgg16_sgd,
    digits_to_fashion_mlp,
    image_folder_resnet50,
    reviews_bert,
)
from tltf.cli.app import Program, execute
from tltf.policies import Policy, policy
from tltf.spec import BackboneSpec, HeadSpec, Phase, TransferSpec

ROOT = Path(__file__).parents[2]
NAMES = ("cats_dogs_vgg16", "image_folder_resnet50", "cifar10_vgg16_sgd", "digits_to_fashion_mlp",
         "reviews_bert")  # fmt: skip
CONSTANT = {"schedule": "constant", "warmup": 0.0, "optimizer": "adam"}
HEAD_ONLY = Phase("head", 10, 1e-3, unfreeze="none", **CONSTANT)


def no_more_than(spec: TransferSpec) -> bool:
    """Nothing that the literature does not have: mixing, smoothing, weights, early stopping."""
    return (
        (spec.mix, spec.label_smoothing, spec.class_weight) == ("none", 0.0, "none")
        and spec.head.l2 == 0.0
        and all(not phase.weight_decay and phase.clipnorm is None for phase in spec.phases)
        and all((spec.early_stop or 0) >= (phase.epochs or 0) for phase in spec.phases)
    )


def test_cats_dogs_vgg16_is_the_recipe() -> None:
    spec = cats_dogs_vgg16.DEFAULT
    assert spec.data.source == "tfds:cats_vs_dogs"
    assert spec.backbone == BackboneSpec(name="VGG16", weights="imagenet", image_size=224)
    assert spec.head == HeadSpec(pooling="avg", hidden=(512,), activation="relu", dropout=0.5)
    assert spec.phases == (HEAD_ONLY,)
    assert (spec.batch_size, spec.augment) == (32, "none")
    assert no_more_than(spec)


def test_image_folder_resnet50_is_the_recipe() -> None:
    dense, direct = image_folder_resnet50.DEFAULT, image_folder_resnet50.DIRECT
    assert dense.backbone == BackboneSpec(name="ResNet50", weights="imagenet", image_size=224)
    assert dense.head == HeadSpec(pooling="avg", hidden=(1024,), activation="relu", dropout=0.0)
    assert dense.phases == (HEAD_ONLY,)
    assert (dense.batch_size, dense.augment) == (32, "none")
    assert no_more_than(dense)
    assert dense.differences(direct) == ["head.hidden: [1024] -> []"]


def test_cifar10_vgg16_sgd_is_the_recipe() -> None:
    spec = cifar10_vgg16_sgd.DEFAULT
    assert spec.data.source == "tfds:cifar10"
    assert spec.backbone == BackboneSpec(name="VGG16", weights="imagenet", image_size=224)
    assert spec.head == HeadSpec(pooling="flatten", hidden=(1024,), activation="relu", dropout=0.0)
    (phase,) = spec.phases
    assert (phase.optimizer, phase.learning_rate, phase.momentum) == ("sgd", 1e-3, 0.9)
    assert (phase.schedule, phase.warmup) == ("constant", 0.0)
    assert phase.unfreeze == "regex:block5_conv3"
    assert policy(str(spec.augment)) == Policy(flip=True, shear=0.2, zoom=0.2)
    assert (spec.views, spec.batch_size) == (0, 32)
    assert no_more_than(spec)


def test_digits_to_fashion_mlp_is_the_recipe() -> None:
    source, target = digits_to_fashion_mlp.SOURCE, digits_to_fashion_mlp.DEFAULT
    assert (source.data.source, target.data.source) == ("tfds:mnist", "tfds:fashion_mnist")
    for spec in (source, target):
        network = BackboneSpec(name="mlp:units=512", weights="none", image_size=28)
        assert (spec.backbone, spec.head) == (network, HeadSpec(hidden=(), dropout=0.0))
        assert spec.augment == "none"
        assert no_more_than(spec)
    assert source.phases == (Phase("scratch", 10, 1e-3, unfreeze="all", **CONSTANT),)
    assert target.phases == (
        Phase("head", 5, 1e-3, unfreeze="none", **CONSTANT),
        Phase("tune", 10, 1e-3, unfreeze="all", **CONSTANT),
    )


def test_reviews_bert_is_the_recipe() -> None:
    spec = reviews_bert.DEFAULT
    head, tune = spec.phases
    assert (head.unfreeze, tune.unfreeze) == ("none", "last:4")
    assert (tune.learning_rate, tune.epochs, spec.batch_size) == (2e-5, 3, 32)
    for phase in spec.phases:
        assert (phase.optimizer, phase.weight_decay, phase.clipnorm) == ("adamw", 0.01, 1.0)
        assert (phase.schedule, phase.warmup) == ("linear", 0.1)
    assert spec.head == HeadSpec(pooling="pooled", hidden=(), dropout=0.1)


@pytest.mark.slow
def test_reviews_bert_runs_on_a_tiny_encoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(__file__).parents[1] / "backbones" / "golden_encoders" / "bert"
    table = tmp_path / "reviews.csv"
    rows = "".join(f"{'a b c' if i % 2 else 'f g h'} {'d ' * i},{i % 2}\n" for i in range(60))
    table.write_text(f"text,label\n{rows}")
    arguments = [
        f"--data={table}", f"--backbone=bert:{folder}", f"--workdir={tmp_path / 'run'}",
        "--unfreeze=last:1", "--max_length=32", "--head_epochs=2", "--tune_epochs=1",
        "--batch_size=16", "--export=none",
    ]  # fmt: skip
    try:
        assert execute(reviews_bert.PROGRAM, arguments) == 0, capsys.readouterr().err
    finally:
        reviews_bert.PROGRAM.flag_values.unparse_flags()
    spec = json.loads((tmp_path / "run" / "spec.json").read_text())
    assert spec["head"]["pooling"] == "pooled"


def test_help_and_flag_errors_need_no_tensorflow(tmp_path: Path) -> None:
    code = f"""
import importlib, sys
from tltf.cli.app import execute
for name in {NAMES!r}:
    program = importlib.import_module(f"experiments.{{name}}").PROGRAM
    assert execute(program, ["--help"]) == 0
    assert execute(program, ["--bakbone=VGG16"]) == 64
    for wrong in (["--backbone=VGG61"], ["--augment=flip,shaer=0.2"], ["--batch_size=0"]):
        program.flag_values.unparse_flags()
        known = [{f"--workdir={tmp_path / 'W'}"!r}, "--data=.", "--backbone=VGG16"]
        assert execute(program, [*known, *wrong]) == 64, (name, wrong)
assert not {{"tensorflow", "keras"}} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "W").exists()
    for name in NAMES:
        assert f"python -m experiments.{name}: " in done.stdout
        assert f"python -m experiments.{name} " in done.stdout
    assert done.stderr.count("did you mean 'backbone'?") == len(NAMES)
    assert done.stderr.count("did you mean 'shear'?") == len(NAMES)


def test_as_a_binary_help_exits_0_and_a_flag_error_64() -> None:
    for arguments, expected in ((["--help"], 0), (["--no_such_flag"], 64)):
        done = subprocess.run(
            [sys.executable, "-m", "experiments.cats_dogs_vgg16", *arguments],
            capture_output=True,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == expected


@pytest.fixture(params=NAMES)
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    found: Program = importlib.import_module(f"experiments.{request.param}").PROGRAM
    yield found
    found.flag_values.unparse_flags()


SMALL = {
    "cats_dogs_vgg16": ["--head_epochs=4"],
    "image_folder_resnet50": ["--head_epochs=8", "--head_lr=0.05", "--variant=direct"],
    "cifar10_vgg16_sgd": ["--tune_epochs=4", "--unfreeze=last:1", "--tune_lr=0.01"],
}


SLOWER = ("cats_dogs_vgg16", "image_folder_resnet50")


@pytest.mark.parametrize(
    "program",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOWER else ()) for name in SMALL],
    indirect=True,
)
def test_each_runs_offline_on_a_small_network(
    program: Program, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        f"--data={photos}", f"--workdir={tmp_path / 'run'}", "--backbone=small_cnn",
        "--weights=none", "--image_size=16", "--batch_size=8", "--export=none",
        *SMALL[program.name.split(".")[-1]],
    ]  # fmt: skip
    assert execute(program, arguments) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert report["metrics"]["accuracy"]["n"] == 6
    history = [json.loads(x) for x in (tmp_path / "run" / "history.jsonl").open()]
    assert history[-1]["loss"] < history[0]["loss"]
    hidden = json.loads((tmp_path / "run" / "spec.json").read_text())["head"]["hidden"]
    assert (
        hidden
        == {"cats": [512], "image": [], "cifar10": [1024]}[
            program.name.split(".")[-1].split("_")[0]
        ]
    )
    # the same command again finds its work done
    program.flag_values.unparse_flags()
    assert execute(program, arguments) == 0
    assert "already complete" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("program", ["digits_to_fashion_mlp"], indirect=True)
def test_digits_learn_and_are_compared_on_the_same_test_split(
    program: Program, digits_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    arguments = [f"--digits_npz={digits_npz}", f"--workdir={folder}", "--backbone=mlp:units=32",
                 "--source_epochs=6", "--head_epochs=2", "--tune_epochs=2", "--batch_size=16",
                 "--export=none"]  # fmt: skip
    assert execute(program, arguments) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    verdict = json.loads((folder / "verdict.json").read_text())
    assert f"verdict: {verdict['sentence']}" in out
    tests = [
        {row["id"] for row in map(json.loads, (folder / name / "manifest.jsonl").open())
         if row.get("split") == "test"}
        for name in ("transfer", "scratch")
    ]  # fmt: skip
    assert tests[0] == tests[1]
    assert len(tests[0]) == verdict["n"] > 0
    report = json.loads((folder / "transfer" / "report" / "report.json").read_text())
    assert report["metrics"]["accuracy"]["n"] == verdict["n"]
    assert f"transfer  accuracy {report['metrics']['accuracy']['value']:.3f}" in out
    spec = json.loads((folder / "scratch" / "spec.json").read_text())
    assert (spec["backbone"]["weights"], spec["phases"][0]["epochs"]) == ("none", 4)


@pytest.mark.parametrize("program", ["digits_to_fashion_mlp"], indirect=True)
def test_one_file_is_both_source_and_target(
    program: Program, digits_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--digits_npz={digits_npz}", f"--workdir={tmp_path / 'run'}"]
    assert execute(program, [*arguments, "--target=digits"]) == 64
    assert "--digits_npz with --data" in capsys.readouterr().err


@pytest.mark.parametrize("program", ["image_folder_resnet50"], indirect=True)
def test_direct_has_no_hidden_layer(
    program: Program, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--variant=direct", "--hidden=8", f"--data={photos}", "--workdir=W"]
    assert execute(program, arguments) == 64
    assert "has no hidden layer" in capsys.readouterr().err
    program.flag_values.unparse_flags()
    assert execute(program, ["--workdir=W"]) == 64
    assert "--data is missing" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("program", ["cats_dogs_vgg16"], indirect=True)
def test_a_pretrained_backbone_at_hand(
    program: Program,
    photos: Path,
    tmp_path: Path,
    keras_home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [f"--data={photos}", f"--workdir={tmp_path / 'run'}", "--head_epochs=2",
                 "--backbone=MobileNet:alpha=0.25", "--image_size=32", "--export=none"]  # fmt: skip
    assert execute(program, arguments) == 0, capsys.readouterr().err
    assert os.environ["KERAS_HOME"] == str(keras_home)

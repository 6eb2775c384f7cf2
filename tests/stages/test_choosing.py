"""A run by effort: every label trains, every label validates, and only what helps is kept."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from pictures import write_digit_folder

from tltf import pipeline, recipes, rundir, sealed, trained
from tltf.data.manifest import Manifest, Record
from tltf.models import saved
from tltf.models.classifier import backbone_of
from tltf.probes.linear import Targets, losses
from tltf.spec import BackboneSpec, DataSpec, Phase, TransferSpec
from tltf.stages import candidates, choosing, stacking
from tltf.stages.data import committed_manifest
from tltf.stages.planning import planned_model


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network as ``file:FOLDER`` names it; random features tell digits apart too."""
    import tltf

    base = tltf.backbone("small_cnn", weights="none", input_size=8)
    folder = tmp_path_factory.mktemp("net")
    saved.save_model(folder / "weights", tltf.classifier(base, tltf.head(2)))
    sealed.seal(folder / "weights")
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digit_folder(tmp_path_factory.mktemp("data") / "digits", (0, 1, 2), 24)


def spec_of(data: Path, network: Path, **fields: Any) -> TransferSpec:
    given = {
        "data": DataSpec(source=str(data)),
        "backbone": BackboneSpec(name=f"file:{network}"),
        "cache": "off",
        "export": "none",
    }
    return TransferSpec(**given | fields)


def run_of(spec: TransferSpec, folder: Path) -> tuple[pipeline.Run, list[str]]:
    said: list[str] = []
    done = pipeline.transfer(spec, workdir=folder, say=said.append, progress=False)
    return done, said


@pytest.fixture(scope="module")
def fast(digits: Path, network: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("runs") / "fast"
    return run_of(spec_of(digits, network, effort="fast", export="auto"), folder)


def test_every_label_is_learned_from_and_every_one_validates(fast) -> None:
    done, said = fast
    manifest = committed_manifest(rundir.existing(done.path))
    assert not manifest.split("val")
    selection = done.report["selection"]
    assert selection["validation"] == "folds:5"
    assert selection["n"] == len(manifest.split("train"))
    assert any("out of fold" in sentence for sentence in said)
    assert done.spec.validation == "folds:5"
    assert done.spec.effort == "fast"


def test_the_digits_are_learned(fast) -> None:
    assert fast[0].report["metrics"]["accuracy"]["value"] > 0.7
    assert fast[0].report["selection"]["stacked_probe"]["accuracy"] > 0.7


def test_the_model_is_an_ordinary_one_with_the_answers_of_the_stack(fast) -> None:
    """The report's logits come from rows and the solved head; the saved model says the same."""
    done, _ = fast
    model = trained.load(done.path / "weights")
    records = committed_manifest(rundir.existing(done.path)).split("test")
    rows = [json.loads(line) for line in (done.path / "report/predictions.jsonl").open()]
    from tltf.evaluation.calibration import apply_temperature

    logits = model.logits(model.batches(records))
    said = apply_temperature(logits, model.rule.temperature, task="single_label")
    np.testing.assert_allclose(said, [row["probabilities"] for row in rows], atol=1e-5)
    assert len(model.model.layers) == 3


def test_the_servable_answers_as_the_stack(fast) -> None:
    """Published means: tried in a fresh process on held-out files by :mod:`tltf.serving.parity`."""
    done, _ = fast
    assert done.servable is not None
    rows = [json.loads(line) for line in (done.path / "report/predictions.jsonl").open()]
    manifest = committed_manifest(rundir.existing(done.path))
    files = {record.id: record.path for record in manifest.split("test")}
    served = tf.saved_model.load(str(done.servable)).signatures["serving_default"]
    found = served(image_bytes=tf.constant([Path(files[r["id"]]).read_bytes() for r in rows]))
    said = [row["probabilities"] for row in rows]
    np.testing.assert_allclose(found["probabilities"], said, atol=1e-4)


def test_the_same_again_gives_the_same_bits(digits, network, fast, tmp_path) -> None:
    done, _ = run_of(spec_of(digits, network, effort="fast"), tmp_path / "again")
    first = (fast[0].path / "weights/model.safetensors").read_bytes()
    assert (done.path / "weights/model.safetensors").read_bytes() == first


def test_rows_that_were_found_give_the_bits_of_rows_that_were_computed(
    digits, network, fast, tmp_path
) -> None:
    spec = spec_of(digits, network, effort="fast", cache=str(tmp_path / "cache"))
    first, said = run_of(spec, tmp_path / "cold")
    second, more = run_of(spec, tmp_path / "warm")
    assert any("crossed the network" in s and ", 0 were found" in s for s in said)
    assert any(" 0 examples crossed the network" in s for s in more)
    bits = {(one.path / "weights/model.safetensors").read_bytes() for one in (first, second)}
    assert bits == {(fast[0].path / "weights/model.safetensors").read_bytes()}


def test_a_named_validation_split_is_respected(digits, network, tmp_path) -> None:
    table = tmp_path / "table.csv"
    rows = ["path,label,split"]
    for label in sorted(digits.iterdir()):
        for i, path in enumerate(sorted(label.iterdir())):
            split = "test" if i < 4 else "val" if i < 10 else "train"
            rows.append(f"{path},{label.name},{split}")
    table.write_text("\n".join(rows) + "\n")
    done, _ = run_of(spec_of(table, network, effort="fast"), tmp_path / "run")
    assert done.report["selection"]["validation"] == "split"
    assert done.report["selection"]["n"] == 18


def test_shuffled_labels_are_chance_and_nothing_is_said_to_be_learned(
    digits, network, tmp_path
) -> None:
    files = sorted(path for label in digits.iterdir() for path in label.iterdir())
    order = np.random.default_rng(0).permutation(len(files))
    rows = ["path,label"] + [f"{files[k]},{'abc'[i % 3]}" for i, k in enumerate(order)]
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    done, said = run_of(spec_of(tmp_path / "table.csv", network, effort="fast"), tmp_path / "run")
    probe = done.report["selection"]["stacked_probe"]
    assert abs(probe["accuracy"] - 1 / 3) < 0.2
    assert probe["loss"] > 0.9 * np.log(3)
    assert any("nothing was learned" in sentence for sentence in said)


def test_copies_groups_and_look_alikes_stand_on_one_side_of_a_fold() -> None:
    records = [
        Record(id=str(i), path=f"/{i}.png", label="ab"[i % 2], sha256=f"{i // 2:064x}",
               group="g" if 10 <= i < 14 else None, alike="x" if 20 <= i < 24 else None,
               split="train")
        for i in range(40)
    ]  # fmt: skip
    manifest = Manifest(task="single_label", classes=("a", "b"), records=tuple(records))
    spec = TransferSpec(data=DataSpec(source="x"), backbone=BackboneSpec(name="MobileNetV2"))
    values = np.eye(2, dtype="float32")[np.arange(40) % 2]

    class _Data:
        def targets(self) -> np.ndarray:
            return values

    pool = stacking.pooled(spec, manifest, lambda _: _Data())
    for fit, _ in pool.folds:
        inside = set(fit)
        for together in ([0, 1], list(range(10, 14)), list(range(20, 24))):
            assert len({i in inside for i in together}) == 1


def _tuner(digits: Path, network: Path, folder: Path, *, rate: float):
    """A tuner on the digits, with its probe, as the stage makes it."""
    spec = spec_of(digits, network, effort="default")
    from tltf.stages.data import read_data
    from tltf.stages.texts import training_batches
    from tltf.trained import untrained

    manifest = read_data(spec)
    plan, model = planned_model(spec, manifest)
    plain = untrained(model, plan.spec, manifest)
    pool = stacking.pooled(plan.spec, manifest, plain.batches)
    probe = stacking.probed(backbone_of(model), pool, plain.batches, cache=None, seed=0,
                            progress=False)  # fmt: skip
    base = training_batches(plain, dataclasses.replace(plan.spec, views=1), manifest, None, None)
    phase = Phase("tune", 2, rate, unfreeze="all", optimizer="adam", weight_decay=0.0)
    with rundir.opened(folder) as run:
        return candidates.Tuner(
            probe, pool, phase=phase, training=base.with_records, plain=plain.batches, cache=None,
            run=run, settings={"task": "single_label", "progress": False},
        )  # fmt: skip


def test_a_candidate_that_was_made_worse_is_not_kept(digits, network, tmp_path) -> None:
    tuner = _tuner(digits, network, tmp_path / "run", rate=5.0)
    before = candidates.arrays(tuner.probe.model)
    tried = candidates.try_tuning(tuner, folds=2, say=lambda _: None)
    assert not any(one.helps for one in tried)
    assert choosing._best(tried) is None
    tuner.forget()
    for a, b in zip(before, candidates.arrays(tuner.probe.model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_candidate_is_judged_on_what_it_did_not_see_from_a_head_that_did_not_either(
    digits, network, tmp_path
) -> None:
    tuner = _tuner(digits, network, tmp_path / "run", rate=1e-6)
    fit, held = tuner.pool.folds[0]
    found = tuner.judged("fold-0", fit, held)
    # At a rate of next to nothing the tuned model is the probe of this fold.
    ours = losses(tuner.probe.found.logits[held], tuner.pool.targets[held])
    theirs = losses(found[1.0], tuner.pool.targets[held])
    np.testing.assert_allclose(theirs, ours, atol=0.02)
    # The answers are kept: a run that goes on does not train that fold again.
    tuner.trained = None
    again = tuner.judged("fold-0", fit, held)
    np.testing.assert_array_equal(again[1.0], found[1.0])


def test_half_way_is_the_mean_of_the_weights() -> None:
    start, end = [np.zeros(3, "float32"), np.array([1])], [np.ones(3, "float32"), np.array([9])]
    found = candidates.between(start, end, 0.25)
    np.testing.assert_allclose(found[0], 0.25)
    np.testing.assert_array_equal(found[1], [9])


def test_a_gain_within_its_error_does_not_count() -> None:
    def tried(gain: float, error: float) -> candidates.Tried:
        return candidates.Tried(name="t", mix=1.0, logits=np.zeros((1, 2)), gain=gain, error=error,
                                n=10)  # fmt: skip

    assert tried(0.3, 0.2).helps
    assert not tried(0.1, 0.2).helps
    assert not tried(-0.3, 0.2).helps
    assert choosing._best([tried(0.3, 0.2), tried(0.5, 0.4)]).gain == 0.5


def test_tuning_is_tried_where_the_sizes_say_that_it_can_pay() -> None:
    phases = (Phase("head", 1, 1e-3, unfreeze="none"), Phase("tune", 3, 1e-4, unfreeze="last:2"))
    spec = TransferSpec(data=DataSpec(source="x"), backbone=BackboneSpec(name="MobileNetV2"),
                        phases=phases, effort="default", augment="light")  # fmt: skip
    assert recipes.tuning(spec, labelled=100, loss=0.5, texts=False) is None
    assert recipes.tuning(spec, labelled=100, loss=0.5, texts=True).phase == phases[1]
    few, many = (recipes.tuning(spec, labelled=n, loss=0.5, texts=False) for n in (250, 800))
    assert few.phase.learning_rate < many.phase.learning_rate
    assert (few.augment, few.views) == ("flip", 2)
    assert (
        recipes.tuning(dataclasses.replace(spec, effort="fast"), labelled=800, loss=0.5, texts=True)
        is None
    )
    best = recipes.tuning(
        dataclasses.replace(spec, effort="best"), labelled=800, loss=0.5, texts=False
    )
    assert best.folds > few.folds
    # What loses next to nothing can gain no more than that.
    assert recipes.tuning(spec, labelled=800, loss=0.01, texts=True) is None


def test_what_candidates_left_is_cleared_away(tmp_path) -> None:
    with rundir.opened(tmp_path / "run") as run:
        place = run.path / "candidates" / "fold-0"
        place.mkdir(parents=True)
        (place / candidates.LOGITS).write_bytes(b"x")
        (place / "history.jsonl").write_text("{}\n")
        candidates.clear(run)
        assert not (run.path / "candidates").exists()


def test_targets_of_a_pool_carry_the_weights_of_classes_and_records() -> None:
    targets = Targets(values=np.eye(2), weights=np.array([1.0, 2.0]), task="single_label")
    assert targets[np.array([1])].weights.tolist() == [2.0]

"""``tltf adapt``: from two folders to a report, a run folder and a servable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import tltf, tree
from integration_domains import CLASSES, draw

import tltf as library
from tltf.evaluation import rejection
from tltf.methods import ADAPT_METHODS, AdaptSpec
from tltf.rundir import existing
from tltf.spec import BackboneSpec, DataSpec
from tltf.stages import adapting, domainfit
from tltf.stages.data import committed_manifest
from tltf.stages.domainfit import Features, Fitted
from tltf.stages.training import targets_of

pytestmark = pytest.mark.usefixtures("quick_gate")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("domains")
    return {
        "source": draw(top / "source", n=45, seed=0, dark=False),
        "target": draw(top / "target", n=36, seed=1, dark=True),
        "flat": draw(top / "flat", n=12, seed=2, dark=True, flat=True),
        "cache": top / "cache",
    }


def adapt(drawn: dict[str, Path], workdir: Path, **more: object):
    options = {
        "source": drawn["source"], "target": drawn["target"], "backbone": "small_cnn",
        "weights": "none", "image_size": 16, "workdir": workdir, "cache": drawn["cache"],
        "epochs": 2, "bottleneck": 8, "batch_size": 16, "export": "none", "precision": "float32",
    } | more  # fmt: skip
    return tltf("adapt", **options)


def test_the_whole_story(drawn: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = adapt(drawn, run, method="mmd", export="auto")
    assert done.code == 0, done.err
    report = json.loads((run / "report" / "report.json").read_text())
    ours, base = report["metrics"], report["baselines"]["source_only"]["metrics"]
    assert ours["accuracy"]["n"] == base["accuracy"]["n"] == 36
    assert report["adaptation"]["distance"]["mmd"]["p_value"] < 0.05
    judged = report["adaptation"]["selection"]["criteria"]
    assert set(judged) == {"source_only", "mmd"}
    assert all(0 <= row["reverse"] <= 1 for row in judged.values())
    page = (run / "report" / "report.html").read_text("utf-8")
    assert "reverse accuracy" in page
    assert "on 36 target examples" in page
    assert "test examples" not in page
    assert report["verdict"]["n"] == 36
    # First the distance, then the choice, and both before any number.
    lines = done.err.splitlines()
    said = [next(i for i, row in enumerate(lines) if text in row) for text in
            ("source and target differ", "no target label was used")]  # fmt: skip
    assert said == sorted(said)
    assert "source-only accuracy" in done.out
    # The run evaluates, predicts and exports like any other.
    again = tltf("evaluate", run=run, data=drawn["target"])
    assert again.code == 0, again.err
    assert f"accuracy {ours['accuracy']['value']:.3f}" in again.out
    rows = tltf("predict", model=run, inputs=f"{drawn['flat']}/*").rows
    assert [row["label"] in CLASSES for row in rows] == [True] * 12
    assert list((run / "export").iterdir())
    before = tree(run)
    assert adapt(drawn, run, method="mmd", export="auto").code == 0
    assert tree(run) == before
    other = adapt(drawn, run, method="dann", export="auto")
    assert other.code == 78
    assert "adapt.method" in other.last_line


@pytest.mark.slow
def test_target_labels_change_nothing_but_the_final_number(
    drawn: dict[str, Path], tmp_path: Path
) -> None:
    """The same files without class folders give the same model, bit for bit, and no number."""
    flat = tmp_path / "images"
    flat.mkdir()
    for path in sorted(drawn["target"].rglob("*.png")):
        shutil.copy(path, flat / path.name)
    for name, target in (("labelled", drawn["target"]), ("flat", flat)):
        done = adapt(drawn, tmp_path / name, target=target, method="cdan_e", seed=3)
        assert done.code == 0, done.err
    found = {
        name: json.loads((tmp_path / name / "report" / "report.json").read_text())
        for name in ("labelled", "flat")
    }
    one, two = ((tmp_path / n / "weights/model.safetensors").read_bytes() for n in found)
    assert one == two
    assert found["flat"]["metrics"] == {}
    assert found["labelled"]["adaptation"] == found["flat"]["adaptation"]
    assert sum(found["flat"]["adaptation"]["answers"].values()) == found["flat"]["n"]
    page = (tmp_path / "flat/report/report.html").read_text("utf-8")
    assert "Adapted to a target without labels" in page
    assert "No number: none of the" in page
    assert 'id="metrics"' not in page
    assert 'id="adaptation"' in (tmp_path / "labelled/report/report.html").read_text("utf-8")


def test_shots_teach_every_method_and_are_not_measured(
    drawn: dict[str, Path], tmp_path: Path
) -> None:
    done = adapt(drawn, tmp_path / "boost", method="tradaboost", shots=3)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "boost" / "report" / "report.json").read_text())
    # Of 36 target examples nine are learned from.
    assert report["n"] == report["baselines"]["source_only"]["metrics"]["accuracy"]["n"] == 27
    assert report["data"]["totals"]["shots"] == 9
    learned = [json.loads(row) for row in (tmp_path / "boost" / "manifest.jsonl").open()]
    few = {row["id"] for row in learned if row.get("split") == "shots"}
    rows = (tmp_path / "boost" / "report" / "predictions.jsonl").read_text().splitlines()
    assert len(few) == 9
    assert not few & {json.loads(row)["id"] for row in rows}
    assert "beside 9 shots" in report["adaptation"]["notes"][0]
    assert "effective sample size" in done.err
    assert "shots: 9 of them are learned from" in done.err
    assert "no target label beyond the shots was used" in done.err


@pytest.mark.slow
def test_shots_teach_the_source_only_model_too(drawn: dict[str, Path], tmp_path: Path) -> None:
    answers = {}
    for shots in (0, 3):
        done = adapt(drawn, tmp_path / f"source{shots}", method="source_only", shots=shots)
        assert done.code == 0, done.err
        answers[shots] = (tmp_path / f"source{shots}/weights/model.safetensors").read_bytes()
    assert answers[0] != answers[3]


def test_several_sources_are_drawn_from_by_their_nearness(
    drawn: dict[str, Path], tmp_path: Path
) -> None:
    near = draw(tmp_path / "near", n=30, seed=5, dark=True)
    both = f"{drawn['source']},{near}"
    done = adapt(drawn, tmp_path / "run", source=both, method="mmd")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    shares = report["adaptation"]["sources"]
    assert set(shares) == set(both.split(","))
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[str(near)] > 0.5
    assert "by their nearness to the target" in done.err
    assert report["data"]["totals"]["train"] > 45
    spec = json.loads((tmp_path / "run" / "spec.json").read_text())
    assert spec["adapt"]["sources"] == [str(near)]
    before = tree(tmp_path / "run")
    assert adapt(drawn, tmp_path / "run", source=both, method="mmd").code == 0
    assert tree(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("mix", "method", "more"),
    [
        ("mixup", "mmd", {"shots": 1}),
        pytest.param("cutmix", "coral", {"unfreeze": "last:1"}, marks=pytest.mark.slow),
    ],
)
def test_domains_are_mixed(
    mix: str, method: str, more: dict, drawn: dict[str, Path], tmp_path: Path
) -> None:
    weights = {}
    for name in ("none", mix):
        done = adapt(drawn, tmp_path / name, method=method, mix=name, **more)
        assert done.code == 0, done.err
        weights[name] = (tmp_path / name / "weights/model.safetensors").read_bytes()
        found = json.loads((tmp_path / name / "report" / "report.json").read_text())
        weights[name, "alone"] = found["baselines"]["source_only"]["metrics"]
    assert weights["none"] != weights[mix]
    # What the method is compared with is not mixed.
    assert weights["none", "alone"] == weights[mix, "alone"]


def test_what_several_sources_cannot_be_is_said(drawn: dict[str, Path], tmp_path: Path) -> None:
    other = draw(tmp_path / "other", n=12, seed=0, dark=False)
    (other / "bar").rename(other / "pole")
    for more, code, text in (
        (other, 65, "bar, pole in one of them only"),
        (drawn["source"], 64, "expected each source once"),
        ("", 64, "expected each source once"),
        (tmp_path / "nowhere", 66, "nowhere"),
    ):
        done = adapt(drawn, tmp_path / "run", source=f"{drawn['source']},{more}")
        assert done.code == code, done.err
        assert text in done.last_line


def test_shots_are_labelled_examples_and_boosting_weighs_the_source() -> None:
    """A source of which a part follows another rule: it loses weight, and the head is right."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4)).astype("float32")
    y = (x[:, 0] > 0).astype(int)
    misled = np.arange(120) < 60
    y = np.where(misled, 1 - y, y)
    moved = rng.normal(size=(50, 4)).astype("float32")
    truth = (moved[:, 0] > 0).astype(int)
    found = Features(train=(x,), labels=y, val=(x,), val_labels=y, target=(moved[10:],),
                     shots=(moved[:10],), shot_labels=truth[:10])  # fmt: skip
    (on_source, on_shots), notes = domainfit._boosted_weights(found)
    assert on_source[misled].mean() < 0.5 * on_source[~misled].mean()
    assert on_shots.mean() > on_source.mean()
    assert notes[0].startswith("effective sample size")
    one_hot = np.eye(2, dtype="float32")
    target = domainfit._target(found, one_hot, None, on_shots=on_shots)
    assert (target.n, target.weights[:40].sum()) == (50, 0)
    np.testing.assert_array_equal(target.y[40:].argmax(axis=1), truth[:10])
    np.testing.assert_array_equal(target.weights[40:], on_shots)
    pseudo = domainfit._target(found, one_hot, truth[10:], on_shots=np.ones(10))
    assert pseudo.weights.sum() == 50


QUICK = ("dsbn", "jda", "kmm")


@pytest.mark.parametrize(
    "method",
    [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in ADAPT_METHODS],
)
def test_every_method_runs_from_the_command_line(
    method: str, drawn: dict[str, Path], tmp_path: Path
) -> None:
    shots = {"shots": 2} if method == "tradaboost" else {}
    done = adapt(drawn, tmp_path / "run", method=method, epochs=1, **shots)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert method in ("auto", report["adaptation"]["selection"]["chosen"])
    if method in ("kmm", "kliep", "ulsif", "domain_classifier"):
        assert "effective sample size" in report["adaptation"]["notes"][0]


def test_adabn_is_calibrated_and_judged_as_it_is_served(
    drawn: dict[str, Path], tmp_path: Path
) -> None:
    """The logits of before the adaptation say nothing about the model that answers."""
    done = adapt(drawn, tmp_path / "run", method="adabn", epochs=4, unfreeze="last:1")
    assert done.code == 0, done.err
    run = existing(tmp_path / "run")
    model, manifest = library.load(run.weights), committed_manifest(run)
    val = model.batches(manifest.split("val"))
    rule = rejection.fit_rule(model.logits(val), targets_of(val), task="single_label")
    assert model.rule.temperature == pytest.approx(rule.temperature, rel=1e-3)
    assert model.rule.threshold == pytest.approx(rule.threshold, abs=1e-3)
    report = json.loads((run.report / "report.json").read_text())
    judged = report["adaptation"]["selection"]["criteria"]
    assert judged["adabn"] != judged["source_only"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(drawn: dict[str, Path], tmp_path: Path) -> None:
    names = ("report/predictions.jsonl", "history.jsonl", "weights/model.safetensors")
    for name in ("a", "b"):
        assert adapt(drawn, tmp_path / name, method="cdan_e", seed=5).code == 0
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.slow
def test_part_of_the_backbone_can_train_too(drawn: dict[str, Path], tmp_path: Path) -> None:
    done = adapt(drawn, tmp_path / "run", method="dann", unfreeze="last:1")
    assert done.code == 0, done.err


def test_what_cannot_be_adapted_is_said(drawn: dict[str, Path], tmp_path: Path) -> None:
    other = draw(tmp_path / "other", n=6, seed=0, dark=False)
    (other / "bar").rename(other / "baar")
    for options, code, text in (
        ({"target": other}, 65, "classes that the source does not have: baar"),
        ({"target": "nowhere"}, 66, "--target=nowhere"),
        ({"method": "mdm"}, 64, "mdm"),
        ({"unfreeze": "all"}, 64, "leaves nothing frozen"),
        ({"term_weight": -1}, 64, "term_weight"),
        ({"method": "tradaboost"}, 64, "for example --shots=5"),
        ({"shots": -1}, 64, "expected at least 0"),
        ({"mix": "mixup", "method": "source_only"}, 64, "name another --method"),
        ({"mix": "cutmix", "method": "mmd"}, 64, "use --unfreeze=last:1"),
        ({"shots": 12}, 65, "use --shots=11"),
        ({"shots": 1, "target": drawn["flat"]}, 65, "there are no labels"),
        ({"source": ""}, 64, "--source is missing"),
    ):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        done = adapt(drawn, tmp_path / "run", **options)
        assert done.code == code, done.err
        assert text in done.err


def test_auto_takes_the_answers_that_teach_the_source_best() -> None:
    """Not the most sure or the densest ones: those collapse (docs/transfer.md)."""
    rng = np.random.default_rng(0)
    y, truth = np.arange(60) % 3, np.arange(60) % 3
    x = (np.eye(3, 4)[y] * 4 + rng.normal(size=(60, 4))).astype("float32")
    moved = (np.eye(3, 4)[truth] * 4 + rng.normal(size=(60, 4)) + 1.0).astype("float32")
    found = Features(train=(x,), labels=y, val=(x,), val_labels=y, target=(moved,))
    eye = np.eye(3) * 5
    answers = {"source_only": truth * 0, "mmd": np.where(rng.random(60) < 0.3, 0, truth),
               "meda": truth, "mcc": np.full(60, 2)}  # fmt: skip
    fitted = {
        name: Fitted(method=name, weights=[], val_logits=eye[y], history=[],
                     target_logits=eye[rows] * (20 if name == "mcc" else 1))
        for name, rows in answers.items()
    }  # fmt: skip
    spec = library.TransferSpec(
        data=DataSpec(source="-"), backbone=BackboneSpec(name="-"), adapt=AdaptSpec(target="-")
    )
    selection, chosen = adapting._selected(fitted, found, spec)
    assert selection["chosen"] == chosen.method == "meda"
    rows = selection["criteria"]
    assert max(rows, key=lambda name: rows[name]["density"]) != "meda"
    assert "without target labels" in selection["sentence"]


def test_the_family_is_public() -> None:
    assert library.adapt.training_model.__doc__
    assert library.transfer.MMD.__doc__

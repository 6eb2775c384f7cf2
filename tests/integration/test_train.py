"""A folder of images becomes a servable: the whole path, and every way of calling it again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Done, tltf, tree
from pictures import pixels, write_digit_folder
from PIL import Image

from tltf.data.manifest import Manifest
from tltf.spec import TransferSpec

FLAGS: dict[str, Any] = {
    "backbone": "small_cnn",
    "weights": "none",
    "image_size": 8,
    "head_epochs": 1,
    "tune_epochs": 3,
    "tune_lr": 0.003,
    "batch_norm": "adapt",
    "batch_size": 16,
}

FRESH = """
import json, sys
import tensorflow as tf
servable, files, out = sys.argv[1], json.load(open(sys.argv[2])), sys.argv[3]
answer = tf.saved_model.load(servable).signatures["serving_default"]
found = answer(image_bytes=tf.constant([open(name, "rb").read() for name in files]))
assert "tltf" not in sys.modules
rows = {
    key: [item.decode() if isinstance(item, bytes) else item for item in value.numpy().tolist()]
    for key, value in found.items()
}
json.dump(rows, open(out, "w"))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digit_folder(tmp_path_factory.mktemp("data") / "digits", (0, 1, 2), 30)


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    workdir = tmp_path_factory.mktemp("runs") / "run"
    return workdir, tltf("train", data=photos, workdir=workdir, baselines=True, **FLAGS)


def again(trained: tuple[Path, Done], photos: Path, **flags: Any) -> Done:
    given = {"data": photos, "workdir": trained[0], "baselines": True, **FLAGS, **flags}
    return tltf("train", **given)


def manifest_of(workdir: Path) -> Manifest:
    return Manifest.from_json_lines((workdir / "manifest.jsonl").read_text().splitlines())


def report_of(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "report" / "report.json").read_text())


def served(workdir: Path, tmp_path: Path) -> dict[str, np.ndarray]:
    """Answers of the published SavedModel to the original test files, without tltf."""
    files = [record.path for record in manifest_of(workdir).split("test")]
    (tmp_path / "files.json").write_text(json.dumps(files))
    servable = workdir / "export" / "1"
    arguments = [str(servable), str(tmp_path / "files.json"), str(tmp_path / "rows.json")]
    subprocess.run([sys.executable, "-I", "-c", FRESH, *arguments], check=True)
    rows = json.loads((tmp_path / "rows.json").read_text())
    return {key: np.array(value) for key, value in rows.items()}


def test_the_run_folder(trained: tuple[Path, Done], photos: Path) -> None:
    workdir, done = trained
    assert done.code == 0, done.err
    assert {item.name for item in workdir.iterdir()} >= {
        *("spec.json", "env.json", "flagfile.txt", "manifest.jsonl", "bad_inputs.jsonl"),
        *("history.jsonl", "state", "weights", "report", "export"),
    }
    assert not (workdir / "error.json").exists()
    assert not list(workdir.rglob(".tmp-*"))
    spec = TransferSpec.from_json((workdir / "spec.json").read_text())
    assert (spec.backbone.name, spec.data.task, spec.precision) == (
        "small_cnn",
        "single_label",
        "float32",
    )
    assert None not in (spec.augment, spec.batch_size, spec.early_stop)
    assert f"--data={photos}" in (workdir / "flagfile.txt").read_text()
    history = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in history] == ["head", "tune", "tune", "tune"]
    counts = {name: len(manifest_of(workdir).split(name)) for name in ("train", "val", "test")}
    assert counts == {"train": 62, "val": 14, "test": 14}
    assert "accuracy 0." in done.out or "accuracy 1." in done.out
    assert "--inputs='PHOTOS/*'\n" in done.out
    assert "carved" in done.err
    servable = workdir / "export" / "1"
    assert {item.name for item in servable.iterdir()} >= {
        *("saved_model.pb", "variables", "assets", "sample_request.json"),
    }
    assert (servable / "assets" / "labels.txt").read_text() == "0\n1\n2\n"
    assert (workdir / "report" / "report.html").stat().st_size > 1000
    assert list((workdir / "report").glob("*.png"))


def test_the_reports_numbers_are_scikit_learns_on_the_servables_answers(
    trained: tuple[Path, Done], tmp_path: Path
) -> None:
    from sklearn import metrics

    workdir, _ = trained
    report, found = report_of(workdir), served(workdir, tmp_path)
    names = report["classes"]
    truth = [record.label for record in manifest_of(workdir).split("test")]
    label = [str(name) for name in found["label"]]
    macro = {"labels": names, "average": "macro", "zero_division": 0}
    indices = [names.index(name) for name in truth]
    log_likelihood = np.log(found["probabilities"][np.arange(len(truth)), indices])
    expected = {
        "accuracy": metrics.accuracy_score(truth, label),
        "macro_f1": metrics.f1_score(truth, label, **macro),
        "macro_precision": metrics.precision_score(truth, label, **macro),
        "macro_recall": metrics.recall_score(truth, label, **macro),
        "nll": -log_likelihood.mean(),
    }
    for name, value in expected.items():
        entry = report["metrics"][name]
        assert entry["value"] == pytest.approx(value, abs=1e-5), name
        assert entry["low"] <= entry["value"] <= entry["high"]
        assert entry["n"] == report["n"] == len(truth)
    assert report["confusion"] == metrics.confusion_matrix(truth, label, labels=names).tolist()
    columns = metrics.precision_recall_fscore_support(truth, label, labels=names, zero_division=0)
    for i, name in enumerate(names):
        row = report["per_class"][name]
        ours = (row["precision"], row["recall"], row["f1"], row["support"])
        assert ours == pytest.approx([float(column[i]) for column in columns], abs=1e-9)
    assert report["reject"]["coverage"] == pytest.approx(found["accepted"].mean())
    assert set(report["baselines"]) == {
        *("majority", "nearest_class_mean", "linear_probe", "head_only"),
    }
    assert report["verdict"]["sentence"] == report["verdicts"]["linear_probe"]["sentence"]
    assert list(report["skipped_baselines"]) == ["from_scratch"]
    assert [row["share"] for row in report["label_curve"]] == [0.1, 0.25, 0.5, 1.0]
    assert report["test_split"] == {"uses": 1}
    assert 0 <= report["familiarity"]["familiar"] <= 1
    wrong = sum(a != b for a, b in zip(truth, label, strict=True))
    assert len(report["gallery"]) == min(12, wrong)
    for row in report["gallery"]:
        assert (workdir / "report" / "examples" / row["picture"]).is_file()
    assert (workdir / "report" / "report.html").stat().st_size < 3_000_000


def test_run_and_servable_answer_alike_and_a_bad_file_has_a_line_of_its_own(
    trained: tuple[Path, Done], photos: Path, tmp_path: Path
) -> None:
    workdir, _ = trained
    names = sorted(str(path) for path in (photos / "1").iterdir())[:5]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    names.insert(2, str(bad))
    for i, name in enumerate(names):
        (tmp_path / f"in{i}").symlink_to(name)
    inputs = tmp_path / "in*"
    own = tltf("predict", model=workdir, inputs=inputs)
    served_rows = tltf("predict", model=workdir / "export", inputs=inputs, batch_size=4)
    assert (own.code, served_rows.code) == (0, 0)
    assert "5 answered, 1 failed" in own.err
    assert len(own.rows) == len(served_rows.rows) == 6
    for mine, theirs in zip(own.rows, served_rows.rows, strict=True):
        assert mine["id"] == theirs["id"]
        if mine["id"].endswith("in2"):
            assert mine == theirs == {"id": mine["id"], "error": mine["error"]}
            assert "not an image" in mine["error"]
            continue
        assert (mine["label"], mine["accepted"]) == (theirs["label"], theirs["accepted"])
        np.testing.assert_allclose(mine["probabilities"], theirs["probabilities"], atol=1e-6)
        assert sum(mine["probabilities"]) == pytest.approx(1.0, abs=1e-5)
    strict = tltf("predict", model=workdir, inputs=inputs, strict=True)
    assert (strict.code, len(strict.rows)) == (65, 6)
    assert tltf("predict", model=workdir, inputs=tmp_path / "none*").code == 66


def test_evaluate_on_other_data(trained: tuple[Path, Done], photos: Path, tmp_path: Path) -> None:
    workdir, _ = trained
    before = tree(workdir)
    done = tltf("evaluate", run=workdir, data=photos, out=tmp_path / "out")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["n"] == 90
    assert f"n={report['n']}" in done.out
    # These are the run's own photos: it notes that its test split was used once more.
    after = tree(workdir)
    assert {name for name in after if after[name] != before.get(name)} <= {"progress.json"}
    other = write_digit_folder(tmp_path / "other", (1, 7), 5)
    unknown = tltf("evaluate", run=workdir, data=other)
    assert unknown.code == 65
    assert "classes that the model does not know: 7" in unknown.last_line
    gate = tltf("evaluate", run=workdir, data=photos, assert_metric="accuracy>1.0")
    assert gate.code == 79


@pytest.mark.slow
def test_export_to_a_folder_of_versions(trained: tuple[Path, Done], tmp_path: Path) -> None:
    workdir, _ = trained
    (tmp_path / "served" / "7").mkdir(parents=True)
    done = tltf("export", run=workdir, to=tmp_path / "served")
    assert (done.code, done.out) == (0, f"servable: {tmp_path / 'served' / '8'}\n")
    gate = tltf("export", run=workdir, to=tmp_path / "served", assert_metric="accuracy>1.0")
    assert gate.code == 79
    assert {item.name for item in (tmp_path / "served").iterdir()} == {"7", "8"}


def test_the_same_command_again_changes_nothing(trained: tuple[Path, Done], photos: Path) -> None:
    workdir, first = trained
    before = tree(workdir)
    done = again(trained, photos)
    assert done.code == 0
    assert done.out.startswith(f"already complete: {workdir}\n")
    assert first.out.splitlines()[0] in done.out
    assert tree(workdir) == before


def test_another_flag_is_a_mismatch_that_names_the_field(
    trained: tuple[Path, Done], photos: Path
) -> None:
    before = tree(trained[0])
    done = again(trained, photos, tune_epochs=4)
    assert done.code == 78
    assert "phases.tune.epochs: 3 -> 4" in done.last_line
    assert "--fresh" in done.last_line
    assert tree(trained[0]) == before


@pytest.mark.usefixtures("gate_in_this_process")
def test_fresh_starts_over_and_a_missed_gate_exports_nothing(photos: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    few = {**FLAGS, "head_epochs": 1, "tune_epochs": 0, "workdir": workdir, "data": photos}
    missed = tltf("train", **few, assert_metric="accuracy>1.0")
    assert missed.code == 79
    assert missed.last_line.startswith("tltf: accuracy is 0.")
    assert not (workdir / "export").exists()
    assert (workdir / "report" / "report.json").exists()
    error = json.loads((workdir / "error.json").read_text())
    assert (error["exit_code"], error["error"]) == (79, "GateError")
    (workdir / "notes.md").write_text("mine")
    done = tltf("train", **{**few, "seed": 1}, fresh=True)
    assert done.code == 0, done.err
    assert not (workdir / "error.json").exists()
    assert (workdir / "notes.md").read_text() == "mine"
    assert TransferSpec.from_json((workdir / "spec.json").read_text()).seed == 1
    assert (workdir / "export" / "1" / "saved_model.pb").exists()


def test_a_dry_run_says_the_plan_and_writes_nothing(photos: Path, tmp_path: Path) -> None:
    done = tltf("train", data=photos, backbone="small_cnn", weights="none", dry_run=True,
                workdir=tmp_path / "run")  # fmt: skip
    assert done.code == 0, done.err
    plan = {line.split(" = ")[0] for line in done.out.splitlines()}
    assert plan >= {"image_size", "batch_size", "augment", "tune.epochs", "tune.unfreeze"}
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "run"])


def test_the_data_may_not_change_under_a_run(
    trained: tuple[Path, Done], photos: Path, tmp_path: Path
) -> None:
    """Renamed files are the same photos; a new one is not."""
    data = write_digit_folder(tmp_path / "data", (0, 1, 2), 12)
    flags = {**FLAGS, "data": data, "workdir": tmp_path / "run", "tune_epochs": 1}
    assert tltf("train", **flags, assert_metric="accuracy>1.0").code == 79
    Image.fromarray(pixels(5)).save(data / "0" / "more.png")
    done = tltf("train", **flags)
    assert done.code == 78
    assert "the data changed since the run began: examples: 36 -> 37" in done.last_line


@pytest.mark.slow
def test_a_run_can_be_transferred(trained: tuple[Path, Done], tmp_path: Path) -> None:
    workdir, _ = trained
    other = write_digit_folder(tmp_path / "other", (3, 4), 14)
    done = tltf("train", data=other, backbone=f"file:{workdir}", workdir=tmp_path / "run",
                head_epochs=1, tune_epochs=1, export="none")  # fmt: skip
    assert done.code == 0, done.err
    assert not (tmp_path / "run" / "export").exists()
    assert report_of(tmp_path / "run")["classes"] == ["3", "4"]


@pytest.mark.slow
def test_pretrain_says_what_to_do_next(photos: Path, tmp_path: Path) -> None:
    done = tltf("pretrain", data=photos, workdir=tmp_path / "source", scratch_epochs=1,
                image_size=8, export="none")  # fmt: skip
    assert done.code == 0, done.err
    assert f"--backbone=file:{tmp_path / 'source'}" in done.out


def test_learning_rates_by_rehearsals(photos: Path, tmp_path: Path) -> None:
    """Found, committed to spec.json, shown in the report; the same command finds a whole run."""
    run = tmp_path / "run"
    flags = {**FLAGS, "data": photos, "workdir": run, "export": "none", "head_lr": "auto",
             "tune_lr": "auto", "tune_epochs": 1}  # fmt: skip
    done = tltf("train", **flags)
    assert done.code == 0, done.err
    spec = TransferSpec.from_json((run / "spec.json").read_text())
    found = report_of(run)["rate_search"]
    for phase in spec.phases:
        assert phase.learning_rate == found[phase.name]["learning_rate"]
        assert f"{phase.name}.learning_rate = {phase.learning_rate}: " in done.err
        assert (run / "report" / f"rate_search_{phase.name}.png").exists()
    assert "Loss after a rehearsal at each learning rate, before head" in (
        run / "report/report.html"
    ).read_text("utf-8")
    assert "complete" in tltf("train", **flags).out
    other = tltf("train", **{**flags, "head_lr": 0.5})
    assert other.code == 78, other.err
    wrong = tltf("train", **{**flags, "head_lr": "fast"})
    assert wrong.code == 64
    assert "'fast', expected auto or a number" in wrong.last_line

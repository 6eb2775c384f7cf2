"""tltf compare: baselines, runs side by side, distance to other data."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import tltf
from pictures import write_digit_folder

from tltf.data.manifest import Manifest, Record
from tltf.errors import ArgumentError
from tltf.evaluation import verdict
from tltf.rundir import RunDir
from tltf.serving.decision import unfamiliarity
from tltf.spec import BackboneSpec, DataSpec, Phase, TransferSpec
from tltf.stages import baselines, comparing
from tltf.trained import load

pytestmark = pytest.mark.usefixtures("quick_gate")

FLAGS: dict[str, Any] = {
    "weights": "none",
    "image_size": 8,
    "head_epochs": 1,
    "tune_epochs": 3,
    "tune_lr": 0.003,
    "batch_norm": "adapt",
    "batch_size": 16,
    "export": "none",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digit_folder(tmp_path_factory.mktemp("data") / "digits", (0, 1, 2), 30)


@pytest.fixture(scope="module")
def source(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "source"
    done = tltf("train", data=photos, workdir=workdir, backbone="small_cnn", **FLAGS)
    assert done.code == 0, done.err
    return workdir


@pytest.fixture(scope="module")
def run(source: Path, photos: Path) -> Path:
    """A run that starts from weights, so that there is something to compare with."""
    workdir = source.with_name("target")
    flags = {**FLAGS, "weights": "imagenet", "unknown": photos / "0", "seed": 1}
    done = tltf("train", data=photos, workdir=workdir, backbone=f"file:{source}", **flags)
    assert done.code == 0, done.err
    return workdir


def report_of(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "report" / "report.json").read_text())


@pytest.mark.slow
def test_a_run_against_simpler_things(run: Path, tmp_path: Path) -> None:
    before = report_of(run)
    assert before["baselines"] == {}
    done = tltf("compare", run=run, seeds=2, out=tmp_path / "o")
    assert done.code == 0, done.err
    found = report_of(run)
    assert found["metrics"] == before["metrics"]
    names = {"majority", "nearest_class_mean", "linear_probe", "head_only", "from_scratch"}
    assert set(found["baselines"]) == names
    assert found["baselines"]["from_scratch"]["seeds"] == 2
    assert found["verdict"] == found["verdicts"]["from_scratch"]
    assert found["verdict"]["seeds"] == 2
    assert found["verdict"]["sentence"] in done.out
    assert found["test_split"]["uses"] == 2
    written = json.loads((tmp_path / "o" / "compare.json").read_text())
    assert written["verdicts"] == found["verdicts"]
    page = (run / "report" / "report.html").read_text()
    assert "used 2 times by now" in page
    # What is done is not trained again, and says the same.
    again = tltf("compare", run=run, seeds=2)
    assert again.code == 0
    assert report_of(run)["verdicts"] == found["verdicts"]


def test_the_features_signature_carries_the_score(run: Path) -> None:
    model = load(run / "weights")
    manifest = Manifest.from_json_lines((run / "manifest.jsonl").read_text().splitlines())
    records = manifest.split("test")
    served = model.signatures().functions["features"]
    answer = served(np.array([Path(str(r.path)).read_bytes() for r in records]))
    features = model.features(model.batches(records))
    assert model.familiarity is not None
    expected = model.familiarity.score(features)
    np.testing.assert_allclose(answer["unfamiliarity"], expected, rtol=2e-3, atol=2e-3)
    found = report_of(run)["familiarity"]
    assert found["familiar"] == pytest.approx((expected <= 1).mean())
    assert found["unknown"]["n_unknown"] == 30
    assert unfamiliarity(features, model.familiarity).shape == (len(records),)


def test_runs_side_by_side(source: Path, run: Path, tmp_path: Path) -> None:
    done = tltf("compare", runs=f"{source},{run}", out=tmp_path / "o")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "o" / "compare.json").read_text())
    assert [row["name"] for row in found["runs"]] == ["source", "target"]
    assert found["settings"]["backbone.name"] == ["small_cnn", f"file:{source}"]
    (pair,) = found["paired"]
    rows = [
        {r["id"]: r for r in map(json.loads, (w / "report" / "predictions.jsonl").open())}
        for w in (source, run)
    ]
    # One folder of pictures: here names and contents are the same.
    both = [key for key in rows[0] if key in rows[1]]
    assert pair["n"] == len(both)
    assert pair["unpaired"] == [len(rows[0]) - len(both), len(rows[1]) - len(both)]
    if any(pair["unpaired"]):
        assert "without a counterpart" in done.out
    if both:
        a, b = ([r[k]["predicted"] == r[k]["label"] for k in both] for r in rows)
        assert pair["verdict"]["difference"] == pytest.approx(np.mean(a) - np.mean(b))
    page = (tmp_path / "o" / "compare.html").read_text()
    assert "Settings that differ" in page


def write_tested(folder: Path, contents: dict[str, str], *, right: int, group: str = "") -> RunDir:
    """A run folder with what is read of it to pair its test records: id -> content."""
    (folder / "report").mkdir(parents=True)
    records = tuple(
        Record(id=name, path=f"/{name}", label="a", split="test", sha256=content,
               group=f"{group}{i // 4}" if group else None)
        for i, (name, content) in enumerate(contents.items())
    )  # fmt: skip
    manifest = Manifest(task="single_label", classes=("a", "b"), records=records)
    (folder / "manifest.jsonl").write_text("".join(manifest.to_json_lines()))
    rows = [{"id": name, "label": "a", "predicted": "a" if i < right else "b"}
            for i, name in enumerate(contents)]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "report" / "predictions.jsonl").write_text(lines)
    return RunDir(folder)


@pytest.fixture
def paired(monkeypatch: pytest.MonkeyPatch) -> Any:
    def read(run: RunDir) -> Manifest:
        return Manifest.from_json_lines(run.manifest.read_text().splitlines())

    monkeypatch.setattr(comparing, "_manifest", read)

    def pair(a: RunDir, b: RunDir) -> dict[str, Any]:
        ours, theirs = comparing._tested(a), comparing._tested(b)
        return comparing._paired("a", "b", ours, theirs, task="single_label", seed=0)

    return pair


def test_other_photos_with_the_same_names_are_no_pairs(tmp_path: Path, paired: Any) -> None:
    names = [f"cat/{i}.jpg" for i in range(20)]
    a = write_tested(tmp_path / "a", {name: f"a{i}" for i, name in enumerate(names)}, right=10)
    b = write_tested(tmp_path / "b", {name: f"b{i}" for i, name in enumerate(names)}, right=15)
    row = paired(a, b)
    assert (row["n"], row["unpaired"], row["verdict"]) == (0, [20, 20], None)


def test_the_same_photos_with_other_names_are_pairs(tmp_path: Path, paired: Any) -> None:
    a = write_tested(tmp_path / "a", {f"{i}.jpg": f"x{i}" for i in range(20)}, right=10)
    contents = {f"other/{i}.png": f"x{i}" for i in range(16)} | {"new.png": "y", "copy.png": "x3"}
    b = write_tested(tmp_path / "b", contents, right=16)
    row = paired(a, b)
    # The second copy of a picture has no counterpart where there is one.
    assert (row["n"], row["unpaired"]) == (16, [4, 2])
    assert row["verdict"]["difference"] == pytest.approx((10 - 16) / 16)
    assert "these two models" in row["verdict"]["sentence"]
    without = write_tested(tmp_path / "c", {f"{i}.jpg": "" for i in range(20)}, right=10)
    assert paired(a, without)["n"] == 0


def test_pairs_are_of_groups(tmp_path: Path, paired: Any) -> None:
    contents = {f"{i}.jpg": f"x{i}" for i in range(20)}
    a = write_tested(tmp_path / "a", contents, right=20, group="person")
    b = write_tested(tmp_path / "b", contents, right=4, group="person")
    assert paired(a, b)["verdict"]["groups"] == 5


def test_other_data_of_one_distribution_in_order_of_class(monkeypatch: Any) -> None:
    """1,999 records of four classes: with every first thousand two classes were missing."""
    seen: list[list[Any]] = []

    class Model:
        def batches(self, records: Any) -> Any:
            return records

        def features(self, records: Any) -> np.ndarray:
            seen.append([int(r.label) for r in records])
            return np.eye(4)[seen[-1]] + 0.01 * np.random.default_rng(0).normal(
                size=(len(records), 4)
            )

    records = tuple(
        Record(id=str(i), label=str(4 * i // 1999), split="train", path=f"/{i}")
        for i in range(1999)
    )
    manifest = Manifest(task="single_label", classes=tuple("0123"), records=records)
    spec = TransferSpec(data=DataSpec(source="d"), backbone=BackboneSpec(name="VGG16"))
    monkeypatch.setattr(comparing.trained_of, "load", lambda _: Model())
    monkeypatch.setattr(comparing.RunDir, "read_spec", lambda _: spec)
    monkeypatch.setattr(comparing, "_manifest", lambda _: manifest)
    monkeypatch.setattr(comparing, "others", lambda *_: SimpleNamespace(records=records))
    found = comparing.compare_with(RunDir(Path("run")), "other")
    assert all(min(np.bincount(labels, minlength=4)) > 240 for labels in seen[:2])
    assert found["other"]["mmd"]["p_value"] > 0.05


def test_compare_takes_three_seeds_where_nothing_is_said() -> None:
    from tltf.cli import compare

    assert compare.FLAGS["seeds"].default == 3


def test_other_data(run: Path, tmp_path: Path, photos: Path) -> None:
    others = write_digit_folder(tmp_path / "others", (7, 8), 30)
    far = tltf("compare", run=run, other=others)
    assert far.code == 0, far.err
    assert "differ: MMD^2" in far.out.splitlines()[0]
    assert "to compare with" in far.out.splitlines()[1]


def test_what_is_refused(run: Path) -> None:
    assert tltf("compare").code == 64
    assert tltf("compare", run=run, runs=f"{run},{run}").code == 64
    assert tltf("compare", run=run.with_name("none")).code == 66
    with pytest.raises(ArgumentError, match="at least two"):
        comparing.side_by_side([RunDir(run)])


def test_the_specification_of_a_baseline() -> None:
    spec = TransferSpec(
        data=DataSpec(source="d"),
        backbone=BackboneSpec(name="VGG16"),
        phases=(Phase("head", 2, 1e-3, unfreeze="none"), Phase("tune", 5, 1e-4, unfreeze="last:1")),
        augment="light",
        views=4,
        baselines=True,
    )
    scratch = baselines.varied(spec, baselines.SCRATCH, seed=3)
    assert scratch.backbone.weights == "none"
    assert [(p.epochs, p.unfreeze, p.batch_norm) for p in scratch.phases] == [(7, "all", "adapt")]
    assert (scratch.seed, scratch.baselines, scratch.export, scratch.views) == (3, False, "none", 0)
    head = baselines.varied(spec, baselines.HEAD, seed=0)
    assert [p.epochs for p in head.phases] == [2, 0]
    assert baselines.varied(spec, baselines.OWN, seed=4).phases == spec.phases


def found(ours: np.ndarray, theirs: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    compared = baselines.Compared(
        outputs={baselines.OWN: ours, baselines.SCRATCH: theirs}, curve=None, skipped={}
    )
    return baselines.blocks(compared, targets, classes=["a", "b"], task="single_label", seed=0)


def answers(correct: np.ndarray, targets: np.ndarray) -> np.ndarray:
    said = np.where(correct, targets, 1 - targets)
    return np.where(np.eye(2)[said] > 0, 0.9, 0.1)


def test_the_verdict_says_no_more_than_its_interval() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 200)
    chance = [rng.random((3, 200)) < 0.5 for _ in range(2)]
    good = rng.random((3, 200)) < 0.95
    kinds = {}
    for name, (a, b) in {
        "shuffled": chance,
        "helps": (good, chance[0]),
        "negative": (chance[0], good),
    }.items():
        row = found(answers(a, targets), answers(b, targets), targets)["verdict"]
        kinds[name] = row["kind"]
        assert row["difference"] == pytest.approx(a.mean() - b.mean())
    assert kinds == {
        "shuffled": verdict.NO_DIFFERENCE,
        "helps": verdict.HELPS,
        "negative": verdict.NEGATIVE,
    }

"""The whole story on real data, offline: learn five digits, transfer to the other five.

A small network is trained on the handwritten digits 0 to 4. Then there are three labels of
each of 5 to 9, and the question: does starting from the first network help? Both ways get the
same labels, the same number of steps and the same test images, which neither has seen.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tltf import pipeline, rundir, storage, trained
from tltf.data import sources
from tltf.data.manifest import Manifest, Record
from tltf.evaluation import verdict
from tltf.interval import save_interval
from tltf.rundir import RunDir
from tltf.serving.predicting import open_servable
from tltf.spec import BackboneSpec, DataSpec, HeadSpec, Phase, TransferSpec
from tltf.stages.data import committed_manifest, run_data
from tltf.stages.fitting import run_training
from tltf.stages.reporting import pictures_of, write_report
from tltf.stages.training import targets_of

Say = Callable[[str], None]

SOURCE, TARGET = "digits:0-4", "digits:5-9"
TEST_SHARE = 0.5
SIDE = 16
HEAD = HeadSpec(pooling="flatten", dropout=0.5)
SOURCE_EPOCHS, HEAD_EPOCHS, TUNE_EPOCHS = 12, 2, 18
LABELS_PER_CLASS = 3
SCRATCH_RATE = 4e-3
"""The best of 1, 2, 4 and 8e-3 for the network from scratch, measured on the half of the images
that the demo draws its labels from. The length of the pretraining was set after looking at the
other half too, so the demo is an illustration, not a benchmark."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """What the demo found: one accuracy per seed for both ways, and what follows."""

    transferred: np.ndarray
    from_scratch: np.ndarray
    verdict: verdict.Verdict
    report: Path
    servable: Path
    example: Record


def tell(workdir: Path, *, seeds: int, say: Say) -> Story:
    """Runs or finishes the demo in ``workdir``.

    Args:
      workdir: an existing folder; every run below it is an ordinary run folder.
      seeds: how many draws of the few labels, >= 1.
      say: receives one sentence per step.
    """
    say(f"1. train a small network on the digits 0 to 4 ({SOURCE_EPOCHS} epochs)")
    source = _run(_pretraining(), workdir / "source")
    say(
        f"   {_percent(source.report['metrics']['accuracy']['value'])} of its test images are right"
    )
    epochs = HEAD_EPOCHS + TUNE_EPOCHS
    say(
        f"2. of 5 to 9 there are {LABELS_PER_CLASS} labels per class to train on, and as many to"
        f" validate:\n   {epochs} epochs from the first network, and as many from scratch"
    )
    pairs = []
    for seed in range(seeds):
        table = workdir / f"labels-{seed}.csv"
        _write_table(table, _few_labels(sources.load(TARGET), seed))
        ours = _transferring(table, workdir / "source", seed)
        theirs = _from_scratch(table, seed)
        pairs.append(
            (
                _correct(ours, workdir / f"transfer-{seed}", whole=seed == 0),
                _correct(theirs, workdir / f"scratch-{seed}", whole=seed == 0),
            )
        )
        shares = [_percent(float(correct.mean())) for correct in pairs[-1]]
        say(f"   draw {seed + 1}: transferred {shares[0]}, from scratch {shares[1]}")
    return _told(workdir, np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]))


def _told(workdir: Path, ours: np.ndarray, theirs: np.ndarray) -> Story:
    """The comparison, and a report of the first draw that carries it."""
    found = verdict.compare(ours, theirs, a_name="transfer", b_name="training from scratch")
    first, scratch = RunDir(workdir / "transfer-0"), RunDir(workdir / "scratch-0")
    report = storage.read_json(first.report / "report.json")
    other = storage.read_json(scratch.report / "report.json")
    report["baselines"] = {"from_scratch": {"metrics": other["metrics"]}}
    report["verdict"] = found.as_dict()
    history = [json.loads(line) for line in first.history.read_text("utf-8").splitlines()]
    write_report(
        workdir / "report",
        report,
        history,
        title="The digits demo",
        pictures=pictures_of(first.report),
    )
    return Story(
        transferred=ours,
        from_scratch=theirs,
        verdict=found,
        report=workdir / "report" / "report.html",
        servable=Path(first.stage()["servable"]),
        example=committed_manifest(first).split("test")[0],
    )


def ask(story: Story) -> dict[str, Any]:
    """One unseen image through the published servable, as a client would send it."""
    opened = open_servable(story.servable)
    data = Path(story.example.path or "").read_bytes()
    found = opened.answer([data])
    return {
        "truth": story.example.label,
        "label": found["label"][0].decode(),
        "probability": float(found["confidence"][0]),
        "picture": _picture(data),
    }


def _pretraining() -> TransferSpec:
    return TransferSpec(
        data=DataSpec(source=SOURCE, val_fraction=0.1, test_fraction=0.1),
        backbone=BackboneSpec(name="small_cnn", weights="none", image_size=SIDE),
        head=HEAD,
        phases=(Phase("scratch", SOURCE_EPOCHS, 2e-3, unfreeze="all", batch_norm="adapt"),),
        augment="rotation=15,zoom=0.15,shear=0.15",
        cache="off",
        views=0,
        early_stop=0,
        restore="last",  # features go on getting better when the source task is long solved
        export="none",
    )


def _transferring(table: Path, source: Path, seed: int) -> TransferSpec:
    return TransferSpec(
        data=DataSpec(source=str(table)),
        backbone=BackboneSpec(name=f"file:{source}"),
        head=dataclasses.replace(HEAD, dropout=0.0),
        phases=(
            Phase("head", HEAD_EPOCHS, 3e-3, unfreeze="none"),
            Phase("tune", TUNE_EPOCHS, 2e-3, unfreeze="last:2"),
        ),
        augment="none",
        batch_size=8,
        early_stop=0,
        restore="last",  # fifteen validation images cannot tell which epoch was the best
        cache="off",
        seed=seed,
        export="auto" if seed == 0 else "none",
    )


def _from_scratch(table: Path, seed: int) -> TransferSpec:
    """The same network, labels and number of steps, without the weights, at its best rate."""
    like = _transferring(table, Path("-"), seed)
    return dataclasses.replace(
        like,
        backbone=BackboneSpec(name="small_cnn", weights="none", image_size=SIDE),
        phases=(
            Phase(
                "scratch",
                HEAD_EPOCHS + TUNE_EPOCHS,
                SCRATCH_RATE,
                unfreeze="all",
                batch_norm="adapt",
            ),
        ),
        export="none",
    )


def _few_labels(target: Manifest, seed: int) -> list[Record]:
    """A fixed half of each class for the test; of the rest a few for train and val."""
    chosen: list[Record] = []
    for name in target.classes:
        of_class = [record for record in target.records if record.label == name]
        n_rest = len(of_class) - int(TEST_SHARE * len(of_class))
        order = np.random.default_rng(0).permutation(len(of_class))
        rest = np.random.default_rng([1, seed]).permutation(order[:n_rest])
        parts = {
            "test": order[n_rest:],
            "train": rest[:LABELS_PER_CLASS],
            "val": rest[LABELS_PER_CLASS : 2 * LABELS_PER_CLASS],
        }
        for split, which in parts.items():
            chosen += [dataclasses.replace(of_class[i], split=split) for i in sorted(which)]
    return chosen


def _write_table(path: Path, records: Sequence[Record]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "split"])
    writer.writerows([record.path, record.label, record.split] for record in records)
    storage.write_text(path, text.getvalue())


def _run(spec: TransferSpec, folder: Path) -> pipeline.Run:
    return pipeline.transfer(spec, workdir=folder, say=_silent, progress=False)


def _correct(spec: TransferSpec, folder: Path, *, whole: bool) -> np.ndarray:
    """Whether each test record was right, in the manifest's order.

    Only a ``whole`` run gets its report and servable; the others are trained and asked.
    """
    if whole:
        _run(spec, folder)
    with rundir.opened(folder) as run:
        if not (run.weights / trained.DECISION).exists():
            manifest, interval = run_data(spec, run, say=_silent), save_interval("auto")
            run_training(spec, manifest, run, interval=interval, say=_silent, progress=False)
        model = trained.load(run.weights)
        data = model.batches(committed_manifest(run).split("test"), batch_size=256)
        return model.logits(data).argmax(axis=1) == targets_of(data)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _silent(sentence: str) -> None:
    """Of the runs of a demo only the story is told."""


def _picture(data: bytes) -> str:
    """The image as text, dark to bright."""
    pixels = tf.io.decode_png(data, channels=1).numpy()[:, :, 0]
    shades = " .:-=+*#%@"
    return "\n".join(
        "".join(shades[int(value) * (len(shades) - 1) // 255] * 2 for value in row)
        for row in pixels
    )

"""The methods of :mod:`experiments.benchmarks.defaults`, each on one cell.

- ``probe``, ``probe_raw``: ten lines with scikit-learn on the last pooled features of the frozen
  network, with and without a StandardScaler; C by stratified cross-validation over all labels.
- ``guide``: the loop of the Keras guide (:mod:`experiments.benchmarks.guide`), of photos.
- ``fast``, ``default``, ``best``: ``tltf.transfer`` with that effort; ``plan`` without saying any.
"""

from __future__ import annotations

import dataclasses
import gc
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from experiments.benchmarks.defaults_cells import Cell, Example, held_out, modality
from experiments.benchmarks.text_quality import Frozen
from tltf import storage
from tltf.errors import ArgumentError
from tltf.spec import BackboneSpec, DataSpec, TransferSpec

PROBES = ("probe", "probe_raw")
EFFORTS = ("fast", "default", "best")
METHODS = ("guide", *PROBES, *EFFORTS, "plan")
BACKBONES = {"photos": "MobileNetV2", "texts": "minilm"}
SIDE, BATCH = 224, 32
STRENGTHS = np.logspace(-4, 2, 7)
FOLDS = 5
GUIDE_HELD, GUIDE_SHARE = 0.15, 0.4
"""Shares of the labels that validate, and of the blocks with weights that the guide unfreezes."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """By id of a test example whether it was told right, the log-loss on all, and the cost; of a
    probe without the pass that computes its features."""

    right: dict[str, bool]
    nll: float
    seconds: float


class Features:
    """Pooled outputs of the frozen network, each example once; kept in a file.

    Args:
      kind: ``photos`` or ``texts``.
      path: of the file.
    """

    def __init__(self, kind: str, path: Path) -> None:
        self.kind, self.path = kind, path
        self._known: dict[str, np.ndarray] = {}
        if path.exists():
            with np.load(path) as kept:
                self._known = dict(zip(kept["ids"].tolist(), kept["rows"], strict=True))

    @cached_property
    def _network(self) -> Callable[[Sequence[Example]], np.ndarray]:
        return network(self.kind)

    def __call__(self, examples: Sequence[Example]) -> np.ndarray:
        """float32 ``[n, D]``."""
        new = [example for example in examples if example.id not in self._known]
        if new:
            rows = self._network(new)
            self._known |= dict(zip((e.id for e in new), rows, strict=True))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = io.BytesIO()
            np.savez(file, ids=np.array(list(self._known)), rows=np.stack([*self._known.values()]))
            storage.write_bytes(self.path, file.getvalue())
        return np.stack([self._known[example.id] for example in examples])


def network(kind: str) -> Callable[[Sequence[Example]], np.ndarray]:
    """From examples to the mean over the last map of MobileNetV2, or over the tokens of MiniLM."""
    if kind == "texts":
        frozen = Frozen(BACKBONES[kind])
        return lambda examples: frozen([example.text or "" for example in examples])
    import tensorflow as tf

    import tltf
    from tltf.data.decoding import image_reader
    from tltf.training.features import compiled

    compute = compiled(tltf.backbone(BACKBONES[kind]))

    def pooled(examples: Sequence[Example]) -> np.ndarray:
        paths = tf.data.Dataset.from_tensor_slices([str(example.path) for example in examples])
        photos = paths.map(image_reader(SIDE), num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH)
        maps = (np.asarray(compute(x)[0]) for x in photos.prefetch(2))
        return np.concatenate([m.mean(axis=(1, 2)) for m in maps])

    return pooled


def answered(method: str, cell: Cell, *, features: Features, work: Path) -> Answer:
    """What a method answers to the test part of a cell."""
    if method in PROBES:
        x, test = (features(part).astype(np.float64) for part in (cell.train, cell.test))
        return probe(x, cell, test, scaled=method == "probe")
    import keras

    keras.backend.clear_session()
    gc.collect()  # the last model, and the photos that its data sets hold
    return guide(cell, work) if method == "guide" else transferred(cell, method, work)


def probe(x: np.ndarray, cell: Cell, test: np.ndarray, *, scaled: bool) -> Answer:
    """Logistic regression on the features; the folds are as many as the rarest class allows.

    One thread for its small matrices: two that wait for each other beside other work took a
    hundred times as long.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    started = time.perf_counter()
    labels = np.array([example.label for example in cell.train])
    folds = StratifiedKFold(min(FOLDS, np.unique(labels, return_counts=True)[1].min()),
                            shuffle=True, random_state=cell.seed)  # fmt: skip
    steps = [StandardScaler()] if scaled else []
    model = make_pipeline(*steps, LogisticRegression(max_iter=2000))
    search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, cv=folds,
                          scoring="neg_log_loss")  # fmt: skip
    with threadpool_limits(1):
        said = search.fit(x, labels).predict_proba(test)
    truth = np.array([example.label for example in cell.test])
    hits = search.classes_[said.argmax(axis=1)] == truth
    return Answer(
        right={e.id: bool(hit) for e, hit in zip(cell.test, hits, strict=True)},
        nll=float(log_loss(truth, said, labels=search.classes_)),
        seconds=time.perf_counter() - started,
    )


def guide(cell: Cell, work: Path) -> Answer:
    """The guide's loop on folders of links, 20 + 10 epochs with flips and rotations."""
    from experiments.benchmarks import guide as keras_guide

    folders = work / "guide" / cell.title
    shutil.rmtree(folders, ignore_errors=True)
    known = held_out(cell.train, share=GUIDE_HELD, seed=cell.seed)
    labels = sorted({example.label for example in known})
    for split in ("train", "val", "test"):
        for label in labels:
            (folders / split / label).mkdir(parents=True)
    for split, part in (("", known), ("test", cell.test)):
        for example in part:
            path = example.path or Path()
            link = folders / (split or example.split) / example.label / example.id
            link.with_suffix(path.suffix.lower()).symlink_to(path)
    course = keras_guide.trained(
        folders,
        image_size=SIDE,
        backbone=BACKBONES["photos"],
        weights="imagenet",
        epochs=keras_guide.EPOCHS,
        rates=keras_guide.RATES,
        unfrozen=_unfrozen(),
        augment=True,
        seed=cell.seed,
    )
    shutil.rmtree(folders)
    right = {Path(name).stem: bool(hit) for name, hit in course.right.items()}
    return Answer(right=right, nll=course.nll, seconds=course.seconds)


def _unfrozen() -> list[str]:
    """The layers of the upper blocks, those that a plan of 40 % tunes."""
    import tltf
    from tltf.training import freezing

    blocks = freezing.model_blocks(tltf.classifier(tltf.backbone(BACKBONES["photos"]),
                                                   tltf.head(2)))  # fmt: skip
    weighted = sum(any(layer.weights for layer in layers) for layers in blocks.values())
    depth = max(1, round(GUIDE_SHARE * weighted))
    return [layer.name for layer in freezing.select(blocks, f"last:{depth}")]


def transferred(cell: Cell, method: str, work: Path) -> Answer:
    """``tltf.transfer`` on the cell's table, with a cache of its own; its report is kept."""
    from tltf import pipeline

    spec = specification(cell, method)
    run, cache = work / "runs" / f"{cell.title}-{method}", work / "cache" / f"{cell.title}-{method}"
    for folder in (run, cache):
        shutil.rmtree(folder, ignore_errors=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with mock.patch.dict(os.environ, TLTF_CACHE_DIR=str(cache)):
        done = pipeline.transfer(spec, workdir=run, progress=False, say=lambda _: None)
    seconds = time.perf_counter() - started
    right = _right(run, cell)
    kept = work / "reports" / f"{run.name}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "report/report.json", kept)
    for folder in (run, cache):
        shutil.rmtree(folder, ignore_errors=True)
    return Answer(right=right, nll=float(done.report["metrics"]["nll"]["value"]), seconds=seconds)


def specification(cell: Cell, method: str) -> TransferSpec:
    """What a person says who says nothing but the data, the backbone and the effort.

    Raises:
      ArgumentError: there is no effort to choose.
    """
    effort: dict[str, Any] = {} if method == "plan" else {"effort": method}
    if effort and "effort" not in {field.name for field in dataclasses.fields(TransferSpec)}:
        raise ArgumentError(f"{method}: a TransferSpec has no effort", where="--methods",
                            next_action="use the method plan")  # fmt: skip
    return TransferSpec(
        data=DataSpec(source=str(cell.table)),
        backbone=BackboneSpec(name=BACKBONES[modality(cell.data)]),
        seed=cell.seed,
        export="none",
        **effort,
    )


def _right(run: Path, cell: Cell) -> dict[str, bool]:
    """By test example; one that the run left out is wrong."""
    from tltf.data.manifest import Manifest

    with (run / "manifest.jsonl").open() as lines:
        records = Manifest.from_json_lines(lines).split("test")
    contents = {record.id: record.sha256[:16] for record in records}
    with (run / "report/predictions.jsonl").open() as lines:
        rows = [json.loads(line) for line in lines]
    hits = {contents[row["id"]]: row["predicted"] == row["label"] for row in rows}
    return {example.id: hits.get(example.id, False) for example in cell.test}

"""Features or predictions of more files than one run of a program should do: shard by shard.

Input i belongs to shard ``i mod n``, so a shard is known without the others. What a shard gives is
written beside its place and renamed, and a record of it comes last: a shard that is finished is
not done again, one that was killed is. Inputs that cannot be used are named in a file of the
shard. No Beam here: :mod:`tltf.stages.beampasses` hands the shards out.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tltf import storage, trained
from tltf.backbones import backbone as build_backbone
from tltf.data.batches import Batches
from tltf.data.contents import check_contents
from tltf.data.manifest import Manifest, Record
from tltf.data.reading import reading
from tltf.data.scan import examine
from tltf.errors import ArgumentError, MismatchError, named_list
from tltf.models import heads
from tltf.models.classifier import classifier
from tltf.serving.inputs import Item, shard_items
from tltf.serving.predicting import predictions
from tltf.stages import featurefiles
from tltf.training import boundary as boundaries
from tltf.training import features as stored
from tltf.training import freezing

PREDICT, EMBED = "predictions", "features"
MOST_PIXELS = 64_000_000
EXACT = "float32"
DTYPES = ("float16", EXACT)
JOB = "job.json"
AT_ONCE = 1024
"""Inputs of a shard that are looked at and computed before the next ones."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be done, the same for every worker.

    Args:
      kind: :data:`PREDICT` or :data:`EMBED`.
      inputs: as ``tltf predict --inputs``, but not stdin.
      out: folder of the shards.
      shards: how many, >= 1.
      model: run or servable, of predictions.
      backbone, weights, image_size, pooling: as :func:`tltf.backbone`, of features.
      form: of features: ``store`` or one of :data:`tltf.stages.featurefiles.FORMS`.
      batch_size: inputs per call of the model.
      encoding: of texts and tables, see :func:`tltf.data.textfiles.read_text`.
      max_image_pixels: larger images fail; 0 for the limit of the model, or :data:`MOST_PIXELS`.
    """

    kind: str
    inputs: str
    out: str
    shards: int
    model: str = ""
    backbone: str = ""
    weights: str = "imagenet"
    image_size: int | None = None
    pooling: str = "avg"
    form: str = "store"
    batch_size: int = 32
    encoding: str = "auto"
    max_image_pixels: int = 0

    def name(self, shard: int, suffix: str, kind: str = "") -> Path:
        """``out/predictions-00012-of-00064.jsonl``."""
        stem = f"{kind or self.kind}-{shard:05d}-of-{self.shards:05d}"
        return Path(self.out) / f"{stem}.{suffix}"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Of one shard: how many inputs, how many of them failed, and whether it was done before."""

    shard: int
    inputs: int
    failed: int
    before: bool = False


def begin(job: Job) -> None:
    """Makes the folder, and notes the job in it.

    Raises:
      MismatchError: the folder holds another job's shards.
    """
    folder = Path(job.out)
    folder.mkdir(parents=True, exist_ok=True)
    now = dataclasses.asdict(job)
    if not (folder / JOB).exists():
        storage.write_json(folder / JOB, now)
        return
    # The job of an earlier version lacks what came later, which was as it is by default.
    before = {f.name: f.default for f in dataclasses.fields(Job)} | storage.read_json(folder / JOB)
    changed = [f"{k}: {before.get(k)} -> {now[k]}" for k in now if before.get(k) != now[k]]
    if changed:
        raise MismatchError(
            f"the folder holds another job: {named_list(changed, most=3)}",
            where=folder,
            kept="what is in it",
            next_action="use the same settings, or another --out",
        )


def finished(job: Job, shard: int) -> Counts | None:
    """What the record of a shard says; None while it is not done."""
    path = job.name(shard, "json", "done")
    return Counts(**{**storage.read_json(path), "before": True}) if path.exists() else None


class Worker:
    """One process' part: its model is built once, for all the shards that it gets."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, shard: int) -> Counts:
        """Does one shard, unless it is done."""
        done = finished(self.job, shard)
        if done is not None:
            return done
        work = self._predict if self.job.kind == PREDICT else self._embed
        count, bad = work(shard)
        lines = "".join(json.dumps(row) + "\n" for row in bad)
        storage.write_text(self.job.name(shard, "jsonl", "bad"), lines)
        found = Counts(shard=shard, inputs=count, failed=len(bad))
        fields = dataclasses.asdict(found)
        del fields["before"]
        storage.write_json(self.job.name(shard, "json", "done"), fields)
        return found

    def _items(self, shard: int, key: str) -> Iterator[Item]:
        return shard_items(self.job.inputs, sys.stdin, shard=shard, shards=self.job.shards,
                           key=key, encoding=self.job.encoding)  # fmt: skip

    def _predict(self, shard: int) -> tuple[int, list[dict[str, Any]]]:
        model, bad, count = self._model, [], 0
        with storage.replacing(self.job.name(shard, "jsonl")) as file:
            for row in predictions(model, self._items(shard, model.key),
                                   batch_size=self.job.batch_size):  # fmt: skip
                count += 1
                if "error" in row:
                    bad.append(row)
                file.write((json.dumps(row) + "\n").encode())
        return count, bad

    def _embed(self, shard: int) -> tuple[int, list[dict[str, Any]]]:
        bad, count, parts = [], 0, []
        inputs = self._items(shard, "image_bytes")
        while some := list(itertools.islice(inputs, AT_ONCE)):
            count += len(some)
            records = tuple(Record(id=item.id, path=item.path) for item in some)
            listed = Manifest(task="single_label", classes=(), records=records)
            found = examine(
                listed, max_image_pixels=self.job.max_image_pixels or MOST_PIXELS
            ).manifest
            bad += [{"id": e.id, "error": e.reason} for e in found.excluded]
            if found.records:
                parts.append(self._network.features(found.records))
        if self.job.form != "store":
            path = self.job.name(shard, self.job.form)
            featurefiles.write(path, self.job.form, parts)
        return count, bad

    @cached_property
    def _model(self) -> Any:
        return trained.opened_model(
            Path(self.job.model), max_image_pixels=self.job.max_image_pixels
        )

    @cached_property
    def _network(self) -> Network:
        return Network(self.job)


class Network:
    """The frozen part below a head, as a training would cut it, with its stores."""

    def __init__(self, job: Job) -> None:
        network = build_backbone(job.backbone, job.weights, job.image_size)
        if network.tokenizer is not None:
            raise ArgumentError(
                f"{job.backbone} reads texts, and features are computed of images",
                where="--backbone",
                next_action="name a backbone of images",
            )
        model = classifier(network, heads.head(2, pooling=job.pooling))
        freezing.set_trainable(model, "none")
        self.cut = boundaries.split(model)
        self.size, self.batch_size = network.input_shape[1], job.batch_size
        self.compute = stored.compiled(self.cut.prefix)
        self.folder = Path(job.out) if job.form == "store" else None
        self.stores: dict[str, Any] | None = None

    def features(self, records: Sequence[Record]) -> featurefiles.Part:
        """Pooled features of some records; where the job fills a store, they are there."""
        data = Batches(records, classes=(), task="single_label", image_size=self.size,
                       batch_size=self.batch_size)  # fmt: skip
        if self.folder is not None:
            if self.stores is None:
                self.stores = stored.opened_stores(
                    self.folder, self.cut, reading=reading(data), dtypes=DTYPES
                )
            for each in self.stores.values():
                stored.extract(each, self.compute, data, view=None)
            return featurefiles.Part(records=tuple(records), features=np.zeros((0, 0), np.float32))
        with data.naming_unreadable():
            rows, done = [], 0
            for x, sha256 in data.hashed_dataset(None):
                part = records[done : done + len(sha256)]
                check_contents(part, sha256, among=records)
                rows.append(np.asarray(self.compute(x)[0]))
                done += len(part)
        return featurefiles.Part(records=tuple(records), features=np.concatenate(rows))

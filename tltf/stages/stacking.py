"""The stacked probe of a run: labelled examples, their folds and taps, and the folded model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from tltf import checks, effort
from tltf.backbones.network import Backbone
from tltf.data import splits
from tltf.data.batches import Batches
from tltf.data.manifest import Manifest, Record
from tltf.data.targets import class_weights, factor_array
from tltf.models import depths, heads, taps
from tltf.models.classifier import classifier
from tltf.models.taps import Tap
from tltf.probes import folds, stack
from tltf.probes.linear import Fold, Head, Targets
from tltf.probes.stack import Stack
from tltf.spec import TransferSpec
from tltf.training.caching import Cache
from tltf.training.taprows import TapRows

Say = Callable[[str], None]
PHASE = "stacked probe"


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The labelled examples that everything is fitted and chosen on.

    Args:
      records: of the training split, and behind them of a validation split if there is one.
      targets: of the records; a record's weight times that of its class.
      folds: which to fit on and which to predict.
      final: which the model is fitted on in the end.
      validation: what the folds are, for the plan: ``folds:5`` or ``split``.
    """

    records: tuple[Record, ...]
    targets: Targets
    folds: tuple[Fold, ...]
    final: np.ndarray
    validation: str


def pooled(spec: TransferSpec, manifest: Manifest, batches: Callable[..., Batches]) -> Pool:
    """The labelled examples of a run, with folds that respect groups, copies and look-alikes.

    Args:
      spec: of the run.
      manifest: with a validation split, which is then the one fold, or without.
      batches: from records to batches, for their targets.
    """
    train, held = tuple(manifest.split("train")), tuple(manifest.split("val"))
    records = (*train, *held)
    weights = np.array([record.weight for record in records])
    if spec.class_weight != "none":
        factors = class_weights(train, classes=manifest.classes, mode=spec.class_weight)
        weights = weights * factor_array(records, factors)
    targets = Targets(
        values=batches(records).targets().astype(np.float64), weights=weights, task=manifest.task
    )
    fitted = np.arange(len(train))
    if held:
        found = [(fitted, np.arange(len(train), len(records)))]
        return Pool(records=records, targets=targets, folds=tuple(found), final=fitted,
                    validation="split")  # fmt: skip
    count = checks.fold_count(spec.validation) or effort.FOLDS
    found = folds.stratified(
        splits.fold_strata(records, manifest.task),
        splits.components(records),
        count=count,
        seed=spec.seed,
    )
    return Pool(records=records, targets=targets, folds=tuple(found), final=fitted,
                validation=f"folds:{len(found)}")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Probed:
    """The stacked probe of a run.

    Args:
      rows: of every tap, for further examples too.
      matrix: those of the pool, ``[n, D]``.
      found: the stack.
      read: the taps that its head reads, in its order.
      model: the network with these taps and the head, an ordinary classifier.
    """

    rows: TapRows
    matrix: np.ndarray
    found: Stack
    read: tuple[Tap, ...]
    model: keras.Model


def probed(
    network: Backbone,
    pool: Pool,
    batches: Callable[..., Batches],
    *,
    cache: Cache | None,
    seed: int,
    progress: bool,
) -> Probed:
    """Every depth of a frozen network, stacked.

    Args:
      network: pretrained.
      pool: the labelled examples.
      batches: from records to batches as the network wants them.
      cache: for the rows.
      seed: of the head's layers, which draw nothing from it but must be the same in every run.
      progress: draw bars.
    """
    wanted = depths.within_budget(taps.candidates(network), examples=len(pool.records))
    rows = TapRows(network, wanted, cache=cache, progress=progress)
    matrix = rows(batches(pool.records))
    groups = depths.solvable(depths.groups(wanted), wanted, examples=len(pool.records))
    found = stack.stacked(
        rows.columns(matrix), pool.targets, pool.folds, groups, final=pool.final,
        always=wanted[-1].name,
    )  # fmt: skip
    names = {tap.name: tap for tap in wanted}
    read = tuple(names[name] for name in found.taps)
    model = classifier(
        taps.tapped(network, read), heads.head(pool.targets.values.shape[1], seed=seed)
    )
    set_head(model, found.head)
    return Probed(rows=rows, matrix=matrix, found=found, read=read, model=model)


def set_head(model: keras.Model, head: Head) -> None:
    """Writes a solved head into the last layer of the model."""
    logits = model.get_layer(heads.HEAD).get_layer(heads.LOGITS)
    logits.kernel.assign(head.kernel)
    logits.bias.assign(head.bias)


@dataclass(frozen=True, kw_only=True)
class TapAnswers:
    """Answers for further examples by way of their rows: each crosses the network once."""

    probed: Probed

    def logits(self, data: Batches) -> np.ndarray:
        """float32 ``[n, C]`` in the order of the records."""
        rows = read_columns(self.probed, self.probed.rows(data))
        return self.probed.found.head(rows).astype(np.float32)

    def pooled(self, data: Batches) -> np.ndarray:
        """Those of the last tap, float32 ``[n, D]``, which are the features of the model."""
        return top_columns(self.probed, self.probed.rows(data))


def top_columns(probed: Probed, matrix: np.ndarray) -> np.ndarray:
    return matrix[:, -probed.read[-1].width :]


def read_columns(probed: Probed, matrix: np.ndarray) -> np.ndarray:
    """What the head reads, ``[n, D]``, of whole rows."""
    columns = probed.rows.columns(matrix)
    return np.concatenate([columns[tap.name] for tap in probed.read], axis=1)

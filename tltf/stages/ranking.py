"""A ranking as a whole: the data, a pass per backbone with a bar, the table and its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tltf import storage
from tltf.data import prepare
from tltf.selection import plots, ranking
from tltf.selection.candidates import Candidate
from tltf.selection.measuring import measured
from tltf.selection.ranking import Measured, Ranking
from tltf.spec import DataSpec
from tltf.terminal import Bar

Say = Callable[[str], None]


def run_ranking(
    data: DataSpec,
    chosen: Sequence[Candidate],
    *,
    sample: int = ranking.SAMPLE,
    budget_seconds: float | None = None,
    seed: int = 0,
    out: Path | None = None,
    say: Say,
    progress: bool = True,
) -> Ranking:
    """Ranks the candidates on the training and validation records of ``data``.

    Args:
      data: single-label data; its test split is left alone.
      chosen: see :func:`tltf.selection.candidates.candidates`.
      sample: at most so many examples, stratified.
      budget_seconds: no further backbone is begun after this time.
      seed: of split, sample and folds.
      out: an existing folder for ``rank.json`` and ``rank.png``; None writes nothing.
      say: receives sentences for the person.
      progress: draw a bar for each pass.

    Raises:
      DataError: not a single-label set, or a class with a single example; and what
        :func:`tltf.data.prepare.prepared` raises.
    """
    manifest = prepare.prepared(data, seed=seed)
    records = ranking.sampled(manifest, most=sample, seed=seed)
    number = {name: i for i, name in enumerate(manifest.classes)}
    labels = np.array([number[str(record.label)] for record in records])
    say(f"data: {len(records)} training and validation examples of {len(number)} classes")

    def measure(backbone: str, weights: str) -> Measured:
        title = backbone if weights != "none" else f"{backbone}@random"
        with Bar(title, len(records), unit="images", shown=progress) as bar:
            return measured(
                backbone, weights, records=records, classes=manifest.classes, progress=bar.advance
            )

    found = ranking.rank(
        chosen, labels, measure=measure, budget_seconds=budget_seconds, seed=seed, say=say
    )
    if out is not None:
        storage.write_json(out / "rank.json", found.as_dict())
        storage.write_bytes(out / "rank.png", plots.pareto(found))
    return found

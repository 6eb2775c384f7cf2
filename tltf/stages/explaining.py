"""Beside the report of a text run: what its answers lean on, for the ones most worth a look."""

from __future__ import annotations

import numpy as np

from tltf import storage
from tltf.data.manifest import Manifest
from tltf.evaluation.attributions import attribute, page
from tltf.rundir import RunDir
from tltf.stages.training import answers
from tltf.trained import Trained
from tltf.training.fit import FitResult

MOST = 12


def run_explaining(
    model: Trained, manifest: Manifest, run: RunDir, *, fit: FitResult | None = None
) -> None:
    """Leaves ``report/tokens.json`` and ``report/tokens.html``; nothing for images.

    The test texts with the smallest margin between the two likeliest classes are shown: there
    the words that decided matter most.

    Args:
      fit: of the training, whose stored features answer for the texts once more; None where
        nothing was stored.
    """
    records = manifest.split("test")
    if model.tokenizer is None or not records:
        return
    data = model.batches(records)
    logits = answers(model, fit, data) if fit else model.logits(data)
    ordered = np.sort(logits, axis=1)
    margins = ordered[:, -1] - ordered[:, -2] if ordered.shape[1] > 1 else np.abs(ordered[:, 0])
    chosen = np.argsort(margins, kind="stable")[:MOST]
    found = attribute(
        model.model,
        [records[i].text or "" for i in chosen],
        classes=model.classes or ("value",),
        max_length=model.max_length,
    )
    rows = [
        {"id": records[i].id, "true": records[i].label, **one.as_dict()}
        for i, one in zip(chosen, found, strict=True)
    ]
    storage.write_json(run.report / "tokens.json", rows)
    title = f"{run.path.name}: the closest calls"
    storage.write_text(run.report / "tokens.html", page(found, title=title))

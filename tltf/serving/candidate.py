"""A servable on its way: written beside the target, tried, completed, and only then published."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tltf import storage
from tltf.backbones.hub.layer import restored_objects
from tltf.rundir import check_writable, remove
from tltf.serving import beside, parity, publish, warmup
from tltf.serving.decision import Decision
from tltf.serving.elsewhere import loaders
from tltf.serving.intake import Intake
from tltf.serving.parity import Parity
from tltf.serving.signatures import Signatures, signatures
from tltf.serving.writing import write_saved_model

MISMATCH = ".mismatch"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Everything that makes a version.

    Args:
      model: from the intake's model input to logits, in inference what was evaluated.
      decision: how logits become answers.
      intake: how requests are read.
      rows: held-out inputs as bytes (files, or UTF-8 texts); made-up ones when empty.
      logits: the trainer's own for ``rows``, float32 ``[n, C]``; None computes them.
      spec_json: the run's specification, kept among the assets.
      documents: further files of the version folder by name, such as the report.
      tracked: what the model needs beyond variables and hub modules, see ``signatures``.
    """

    model: keras.Model
    decision: Decision
    intake: Intake
    rows: Sequence[bytes] = ()
    logits: np.ndarray | None = None
    spec_json: str = ""
    documents: Mapping[str, bytes] = field(default_factory=dict)
    tracked: Sequence[Any] = ()


@dataclass(frozen=True, kw_only=True)
class Published:
    """The version folder, and what the gate found."""

    folder: Path
    parity: Parity


def publish_candidate(candidate: Candidate, to: Path, *, keep: int | None = None) -> Published:
    """Writes, tries and publishes the candidate as the next version below ``to``.

    Args:
      to: the folder that holds the versions, created with its parents.
      keep: how many versions stay; older ones are removed after publishing. None keeps all.

    Raises:
      ArgumentError: labels and logits do not fit.
      DataError: the reloaded SavedModel answers differently; nothing is published, and rows
        and both outputs lie in ``to/.mismatch``.
      OutputError: ``to`` cannot be written.
    """
    with loaders() as answers:
        served = signatures(
            candidate.model,
            candidate.decision,
            intake=candidate.intake,
            tracked=(*restored_objects(candidate.model), *candidate.tracked),
        )
        check_writable(to, flag="to")
        publish.remove_litter(to)
        temporary = storage.sibling(to / "version")
        try:
            write_saved_model(temporary, served, spec_json=candidate.spec_json)
            found = parity.check(
                temporary,
                candidate.model,
                served,
                rows=candidate.rows,
                logits=candidate.logits,
                answers=answers,
                keep_mismatch=to / MISMATCH,
            )
            remove(to / MISMATCH)
            _complete(temporary, candidate, served, found, name=to.name)
            folder = publish.commit(temporary, to)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    if keep is not None:
        publish.prune(to, keep=keep)
    return Published(folder=folder, parity=found)


def _complete(
    folder: Path, candidate: Candidate, served: Signatures, found: Parity, *, name: str
) -> None:
    """Warm-up requests and documents beside a SavedModel that passed."""
    rows = warmup.small_rows(candidate.rows or candidate.intake.invented(1))
    warmup.write_warmup(folder, name=name, key=candidate.intake.key, rows=rows)
    storage.write_json(folder / warmup.FOLDER / "parity.json", dataclasses.asdict(found))
    for file, data in {**beside.files(name, served, rows), **candidate.documents}.items():
        (folder / file).parent.mkdir(exist_ok=True)
        storage.write_bytes(folder / file, data)

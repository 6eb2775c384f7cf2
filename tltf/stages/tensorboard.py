"""Logs for TensorBoard: curves of every phase, settings and metrics, and features to walk through.

Written after a training from what the run keeps anyway, so that neither the training nor its
resume depends on it. Needs the extra ``tltf[tensorboard]``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tltf import storage
from tltf.errors import printable
from tltf.rundir import RunDir
from tltf.stages.training import References

FOLDER = "tensorboard"


def write_logs(run: RunDir, report: Mapping[str, Any], references: References) -> Path:
    """Writes the logs of a run into its folder ``tensorboard``; returns that.

    Args:
      run: with ``history.jsonl`` and ``spec.json``.
      report: report.json.
      references: training records and their features, for the projector.
    """
    folder = run.path / FOLDER
    rows = [json.loads(line) for line in run.history.read_text("utf-8").splitlines()]
    for phase in dict.fromkeys(row["phase"] for row in rows):
        of_phase = [row for row in rows if row["phase"] == phase]
        writer = tf.summary.create_file_writer(str(folder / printable(phase).replace("/", "_")))
        with writer.as_default():
            for step, row in enumerate(of_phase):
                for name, value in row.items():
                    if isinstance(value, int | float) and name not in ("epoch", "step"):
                        tf.summary.scalar(name, value, step=step)
        writer.close()
    from tensorboard.plugins.hparams import api as hyper_parameters

    writer = tf.summary.create_file_writer(str(folder / "test"))
    with writer.as_default():
        settings = dict(_settings(json.loads(run.spec.read_text("utf-8"))))
        hyper_parameters.hparams(settings, trial_id=run.path.name)
        for name, estimate in report["metrics"].items():
            tf.summary.scalar(f"test/{name}", estimate["value"], step=0)
        tf.summary.text("spec", f"```\n{run.spec.read_text('utf-8')}\n```", step=0)
    writer.close()
    _write_projector(folder, references)
    return folder


def _settings(value: Any, name: str = "") -> Iterator[tuple[str, bool | float | str]]:
    """``phases.0.learning_rate`` to its value, for every field that has one."""
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _settings(item, f"{name}.{key}" if name else str(key))
    elif value is not None:
        yield name, value if isinstance(value, bool | int | float) else printable(str(value))


def _write_projector(folder: Path, references: References) -> None:
    lines = ("\t".join(f"{x:.6g}" for x in row) for row in np.atleast_2d(references.features))
    storage.write_text(folder / "features.tsv", "".join(f"{line}\n" for line in lines))
    names = (f"{_cell(r.label)}\t{_cell(r.id)}\n" for r in references.records)
    storage.write_text(folder / "metadata.tsv", "label\tid\n" + "".join(names))
    config = (
        'embeddings {\n  tensor_name: "features"\n  tensor_path: "features.tsv"\n'
        '  metadata_path: "metadata.tsv"\n}\n'
    )
    storage.write_text(folder / "projector_config.pbtxt", config)


def _cell(value: object) -> str:
    return printable(str(value)).replace("\t", " ")

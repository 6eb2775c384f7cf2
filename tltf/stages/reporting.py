"""Stage 3: the test split, once; leaves ``report/report.json``, ``report.html`` and pictures."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from tltf import sealed, storage
from tltf import trained as trained_of
from tltf.data import prepare
from tltf.data.batches import Batches
from tltf.data.manifest import SPLITS, Manifest, groups_of
from tltf.errors import printable
from tltf.evaluation import calibration, evaluate, familiarity, plots, report, slices
from tltf.evaluation.intervals import share_interval, units_of
from tltf.rundir import RunDir
from tltf.spec import TransferSpec
from tltf.stages import baselines
from tltf.stages.data import committed_manifest
from tltf.stages.gallery import Pictures, gallery
from tltf.stages.others import others
from tltf.stages.texts import say_truncated
from tltf.stages.training import TrainingResult, answers, pooled_features, targets_of
from tltf.trained import Trained

Say = Callable[[str], None]
Outputs = dict[str, np.ndarray]
EXAMPLES = "examples"


def run_reporting(
    result: TrainingResult,
    manifest: Manifest,
    run: RunDir,
    *,
    command: Sequence[str] = (),
    say: Say = logging.info,
) -> dict[str, Any]:
    """Evaluates on the test split and commits the report."""
    trained, spec = result.trained, result.plan.spec
    uses = _test_uses(run)
    data = trained.batches(manifest.split("test"))
    say_truncated(say, data, of="test")
    logits, targets = answers(trained, result.fit, data), targets_of(data)
    found = evaluate.build_report(
        logits,
        targets,
        task=trained.task,
        classes=trained.classes,
        rule=trained.rule,
        groups=groups_of(data.records),
        data=evaluate.data_block(manifest),
        plan=[
            {"choice": c.field, "value": c.value, "reason": c.reason} for c in result.plan.choices
        ],
        provenance=_provenance(spec, manifest, run, command),
        seed=spec.seed,
    )
    probabilities = calibration.apply_temperature(
        logits, trained.rule.temperature, task=trained.task
    )
    found["test_split"] = {"uses": uses + 1}
    if result.selection is not None:
        found["selection"] = result.selection
    found["rate_search"] = {name: rate.as_dict() for name, rate in result.fit.rates.items()}
    outputs: Outputs = {}
    if spec.baselines:
        compared = baselines.compared(trained, spec, manifest, run.compare, say=say)
        found |= baselines.blocks(
            compared, targets, classes=trained.classes, task=trained.task, seed=spec.seed,
            groups=groups_of(data.records),
        )  # fmt: skip
        outputs = {name: x[0] for name, x in compared.outputs.items() if name != baselines.OWN}
    found["slices"] = _slices(data, probabilities, targets, trained)
    features = pooled_features(trained, result.fit, data)
    found["familiarity"] = _familiarity(trained, features, spec, groups_of(data.records))
    pictures: Pictures = {}
    if trained.task == "single_label":
        shown = gallery(trained, data.records, probabilities, targets, features, result.references)
        found |= {"gallery": shown.errors, "confused_pairs": shown.confused}
        pictures = shown.pictures
    rows = _predictions(trained, data, logits, outputs)
    with sealed.committed(run.report) as folder:
        write_report(folder, found, result.fit.history, title=run.path.name, pictures=pictures)
        storage.write_text(folder / "predictions.jsonl", "".join(rows))
    return found


def _test_uses(run: RunDir) -> int:
    """How often the test split was used before: by a report that was finished, or by others."""
    return int(run.stage().get("test_uses", 0))


def count_test_use(run: RunDir) -> int:
    """Notes in the run that its test split was used (again); returns how often by now."""
    uses = max(1, _test_uses(run)) + 1
    run.record(test_uses=uses)
    return uses


def _provenance(
    spec: TransferSpec, manifest: Manifest, run: RunDir, command: Sequence[str] = ()
) -> dict[str, Any]:
    return evaluate.provenance_block(
        spec=json.loads(spec.to_json()),
        command=command,
        hashes={
            "data": manifest.digest(),
            "weights": storage.file_sha256(run.weights / "model.safetensors"),
        },
    ) | {"resumes": run.stage()["resumes"]}


def _slices(
    data: Batches, probabilities: np.ndarray, targets: np.ndarray, trained: Trained
) -> dict[str, Any] | None:
    names = slices.slice_names(data.records)
    if names is None:
        return None
    return slices.slices_block(
        probabilities, targets, names, task=trained.task, classes=trained.classes,
        groups=groups_of(data.records),
    )  # fmt: skip


def _familiarity(
    trained: Trained, features: np.ndarray, spec: TransferSpec, groups: Sequence[object]
) -> dict[str, Any] | None:
    """How strange the test records are, and with ``--unknown`` how well strangers are told."""
    if trained.familiarity is None:
        return None
    known = trained.familiarity.score(features)
    units = units_of(groups, n=len(known))
    block: dict[str, Any] = {
        "familiar": float((known <= 1).mean()),
        "familiar_interval": list(share_interval((known <= 1).astype(np.float64), units)),
        "n": len(known),
        "unknown": None,
    }
    if spec.unknown:
        found = others(trained, spec.unknown, spec.data)
        strange = trained.familiarity.score(trained.features(trained.batches(found.records)))
        block["unknown"] = {
            "source": spec.unknown,
            "left_out": found.left_out,
            **familiarity.unknown_block(known, strange, seed=spec.seed),
        }
    return block


def _predictions(
    trained: Trained, data: Batches, logits: np.ndarray, simple: dict[str, np.ndarray]
) -> Iterator[str]:
    """One JSON line per test record: what it is, what was said, and what the baselines say."""
    probabilities = calibration.apply_temperature(
        logits, trained.rule.temperature, task=trained.task
    )
    named = {name: _named(trained, outputs) for name, outputs in simple.items()}
    said = _named(trained, probabilities)
    for i, record in enumerate(data.records):
        row = {"id": printable(record.id), "label": record.label, "predicted": said[i]}
        if trained.task != "regression":
            row["probabilities"] = [round(float(p), 6) for p in probabilities[i]]
        row["baselines"] = {name: found[i] for name, found in named.items()}
        yield json.dumps(row) + "\n"


def _named(trained: Trained, outputs: np.ndarray) -> list[Any]:
    """Class names (lists of them for multi_label), or numbers."""
    if trained.task == "regression":
        return [float(value) for value in np.asarray(outputs).reshape(len(outputs))]
    if trained.task == "single_label":
        return [trained.classes[i] for i in outputs.argmax(axis=1)]
    return [[c for c, p in zip(trained.classes, row, strict=True) if p >= 0.5] for row in outputs]


def evaluate_run(
    run: RunDir,
    source: str,
    *,
    bad_files: str = "error",
    encoding: str | None = None,
    out: Path | None = None,
    say: Say = logging.info,
) -> dict[str, Any]:
    """The report of a trained run on all records of other data; written to ``out`` if given.

    Args:
      encoding: of these data; None for that of the run's own.
      say: receives the sentences for the person.

    Raises:
      DataError: unreadable files, or classes that the model does not know.
    """
    model = trained_of.load(run.weights)
    spec = run.read_spec()
    wanted = dataclasses.replace(
        spec.data, source=source, task=model.task, bad_files=bad_files, group_column=None,
        encoding=spec.data.encoding if encoding is None else encoding,
    )  # fmt: skip
    manifest = prepare.scanned(wanted)
    trained_of.check_classes(model.classes, manifest.classes, where=source)
    manifest = dataclasses.replace(manifest, classes=model.classes)
    for note in manifest.notes:
        say(note)
    data = model.batches(manifest.records)
    say_truncated(say, data)
    found = evaluate.build_report(
        model.logits(data),
        targets_of(data),
        task=model.task,
        classes=model.classes,
        rule=model.rule,
        groups=groups_of(data.records),
        data=evaluate.data_block(manifest),
        provenance=_provenance(spec, manifest, run),
        seed=spec.seed,
    )
    found["test_split"] = _seen_before(run, manifest)
    if out is not None:
        write_report(out, found, [], title=f"{run.path.name} on {Path(source).name}")
    return found


def _seen_before(run: RunDir, manifest: Manifest) -> dict[str, Any]:
    """Whether these records were the run's test split, or even its training data."""
    trained_on = committed_manifest(run)
    splits = {record.sha256: record.split for record in trained_on.records}
    seen = Counter(splits[r.sha256] for r in manifest.records if r.sha256 in splits)
    block: dict[str, Any] = {f"records_of_{name}": seen[name] for name in SPLITS}
    if seen["test"]:
        block["uses"] = count_test_use(run)
    return block


def pictures_of(folder: Path) -> Pictures:
    """The pictures of examples that an earlier report left in its folder."""
    return {path.name: path.read_bytes() for path in sorted((folder / EXAMPLES).glob("*.jpg"))}


def write_report(
    folder: Path,
    found: dict[str, Any],
    history: list[dict[str, Any]],
    *,
    title: str,
    pictures: Mapping[str, bytes] | None = None,
) -> None:
    """``report.json``, ``report.html`` and the pictures as files, each atomically.

    Args:
      pictures: name -> JPEG, of the examples that ``found`` names; those of an earlier report
        stay where they are.
    """
    folder.mkdir(exist_ok=True)
    examples = folder / EXAMPLES
    if pictures:
        examples.mkdir(exist_ok=True)
        for name, jpeg in pictures.items():
            storage.write_bytes(examples / name, jpeg)
    else:
        pictures = pictures_of(folder)
    figures = plots.report_figures(found, history)
    for name, png in figures.items():
        storage.write_bytes(folder / f"{name}.png", png)
    storage.write_text(
        folder / "report.html",
        report.write_html(found, history, title=title, pictures=pictures or {}, figures=figures),
    )
    storage.write_json(folder / "report.json", found)

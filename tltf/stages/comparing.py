"""``tltf compare``: a run with simpler things, with other data, or several runs side by side."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tltf import sealed, storage
from tltf import trained as trained_of
from tltf.data.manifest import Manifest, groups_of
from tltf.data.spreading import spread
from tltf.errors import ArgumentError, DataError, InputMissingError, printable
from tltf.evaluation import comparepage, verdict
from tltf.rundir import RunDir
from tltf.stages import baselines
from tltf.stages.data import committed_manifest
from tltf.stages.others import others
from tltf.stages.reporting import count_test_use, write_report
from tltf.stages.training import targets_of
from tltf.transfer.distances import distance_report

Say = Callable[[str], None]
MOST_COMPARED = 1000
REPORT, PREDICTIONS = "report.json", "predictions.jsonl"


def compare_run(run: RunDir, *, seeds: int, say: Say, progress: bool = True) -> dict[str, Any]:
    """A finished run against its baselines; its report gets them and is written anew.

    Args:
      run: finished.
      seeds: runs of everything that is trained, >= 1.
      say: receives a sentence per training.
      progress: show bars.

    Raises:
      InputMissingError: the run has no model or no report yet.
    """
    model, spec, manifest = trained_of.load(run.weights), run.read_spec(), _manifest(run)
    found = _report(run.path)
    compared = baselines.compared(
        model, spec, manifest, run.compare, seeds=seeds, say=say, progress=progress
    )
    test = manifest.split("test")
    found |= baselines.blocks(
        compared, targets_of(model.batches(test)), classes=model.classes, task=model.task,
        seed=spec.seed, groups=groups_of(test),
    )  # fmt: skip
    found["test_split"] = {**found.get("test_split", {}), "uses": count_test_use(run)}
    history = [json.loads(line) for line in run.history.read_text("utf-8").splitlines()]
    with sealed.rewritten(run.report):
        write_report(run.report, found, history, title=run.path.name)
    return found


def compare_with(run: RunDir, source: str) -> dict[str, Any]:
    """Is other data like what the model was trained on? In the features of the trained model.

    Returns:
      ``other`` and, as a sanity check, ``test``: each the distance of it from the training split
      as :func:`tltf.transfer.distances.distance_report` gives it.

    Raises:
      InputMissingError, DataError: the other data cannot be read, or is too little.
    """
    model, spec, manifest = trained_of.load(run.weights), run.read_spec(), _manifest(run)
    records = others(model, source, spec.data).records
    train = model.features(model.batches(spread(manifest.split("train"), most=MOST_COMPARED)))
    other = model.features(model.batches(spread(records, most=MOST_COMPARED)))
    found = {"other": distance_report(train, other)}
    test = spread(manifest.split("test"), most=MOST_COMPARED)
    try:
        found["test"] = distance_report(train, model.features(model.batches(test)))
    except DataError:
        found["test"] = None
    return {"run": run.path.name, "data": source, **found}


def side_by_side(runs: Sequence[RunDir], *, seed: int = 0) -> dict[str, Any]:
    """Runs beside one another: metrics, differences of their settings, paired differences.

    Returns:
      ``runs`` (name, backbone, metrics, n), ``settings`` (field -> value per run, where they
      differ) and ``paired``: the first run against each other on the records that both tested:
      the same content with the same label, whatever its name; ``n`` of them, and ``unpaired``,
      how many of each run have no counterpart.

    Raises:
      ArgumentError: fewer than two runs.
      InputMissingError: one has no report.
    """
    if len(runs) < 2:
        raise ArgumentError(
            f"{len(runs)} run, expected at least two",
            where="tltf compare",
            next_action="name two run folders, or --run for one",
        )
    reports = [_report(run.path) for run in runs]
    names = _short_names([run.path for run in runs])
    specs = [_flat(json.loads(run.read_spec().to_json())) for run in runs]
    fields = dict.fromkeys(key for spec in specs for key in spec)
    settings = {
        key: [spec.get(key) for spec in specs]
        for key in fields
        if len({json.dumps(spec.get(key)) for spec in specs}) > 1
    }
    tested = [_tested(run) for run in runs]
    paired = [
        _paired(names[0], name, tested[0], other, task=reports[0]["task"], seed=seed)
        for name, other in zip(names[1:], tested[1:], strict=True)
    ]
    return {
        "runs": [
            {"name": name, "task": r["task"], "n": r["n"], "metrics": r["metrics"]}
            for name, r in zip(names, reports, strict=True)
        ],
        "settings": settings,
        "paired": paired,
    }


def write_comparison(found: Mapping[str, Any], out: Path) -> None:
    """``compare.json`` and, for runs side by side, ``compare.html``."""
    out.mkdir(exist_ok=True)
    storage.write_json(out / "compare.json", found)
    if "runs" in found:
        storage.write_text(out / "compare.html", comparepage.write_html(found))


@dataclass(frozen=True, kw_only=True)
class _Tested:
    """A record of a test split: what was said of it, and the group that it is of."""

    row: Mapping[str, Any]
    group: str | None


def _paired(
    first: str,
    second: str,
    a: Mapping[object, _Tested],
    b: Mapping[object, _Tested],
    *,
    task: str,
    seed: int,
) -> dict[str, Any]:
    both = [key for key in a if key in b]
    row: dict[str, Any] = {
        "first": first, "second": second, "n": len(both),
        "unpaired": [len(a) - len(both), len(b) - len(both)], "verdict": None,
    }  # fmt: skip
    if both:
        ours, theirs = (_scores([x[key].row for key in both], task) for x in (a, b))
        unit = "MAE" if task == "regression" else "points"
        row["verdict"] = verdict.compare(
            ours, theirs, a_name=first, b_name=second, unit=unit, seed=seed,
            groups=[a[key].group for key in both],
        ).as_dict()  # fmt: skip
    return row


def _scores(rows: Sequence[Mapping[str, Any]], task: str) -> np.ndarray:
    if task == "regression":
        return np.array([-abs(row["predicted"] - row["label"]) for row in rows])
    if task == "multi_label":
        return np.array([sorted(row["predicted"]) == sorted(row["label"]) for row in rows])
    return np.array([row["predicted"] == row["label"] for row in rows])


def _tested(run: RunDir) -> dict[object, _Tested]:
    """The records of the test split by content, label, and which copy of them it is.

    Names do not count: two folders may each have a ``cat/1.jpg``, and one picture two names.
    """
    path = run.report / PREDICTIONS
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    records = {printable(record.id): record for record in _manifest(run).records}
    found: dict[object, _Tested] = {}
    copies: Counter[object] = Counter()
    for row in rows:
        record = records.get(row["id"])
        # Without a hash it is nobody's counterpart.
        content = (record and record.sha256) or (str(run.path), row["id"])
        key = (content, json.dumps(row["label"]))
        found[(*key, copies[key])] = _Tested(row=row, group=record.group if record else None)
        copies[key] += 1
    return found


def _report(folder: Path) -> dict[str, Any]:
    path = folder / "report" / REPORT
    if not path.is_file():
        raise InputMissingError(
            "the run has no report yet", where=folder, next_action="finish the training first"
        )
    found: dict[str, Any] = storage.read_json(path)
    return found


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with their parents where they would be equal."""
    names = [path.resolve().name for path in paths]
    if len(set(names)) == len(names):
        return names
    return [str(path) for path in paths]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = [(f"{prefix}.{key}" if prefix else key, item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = [(f"{prefix}[{i}]", item) for i, item in enumerate(value)]
    else:
        return {prefix: value}
    return {key: leaf for name, item in items for key, leaf in _flat(item, name).items()}


def _manifest(run: RunDir) -> Manifest:
    return committed_manifest(run)

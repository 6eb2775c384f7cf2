"""report.html: everything in report.json as one self-contained page (DESIGN 4.4, 4.5).

No script, no network: pictures are data URIs, once for light and once for dark. Whatever is
printed goes through :func:`tltf.errors.printable` and then through Jinja2's autoescape, so that
the name of a class or of a file is shown and never interpreted.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tltf.evaluation import page
from tltf.evaluation.intervals import UNBOUNDED
from tltf.evaluation.plots import History, report_figures
from tltf.evaluation.summary import HEADLINE, backbone_name, shown, summary

RATE_SEARCH = "rate_search_"
MOST_CONFUSED = 10
MOST_EXCLUDED_SHOWN = 50
MOST_COUNT_ROWS = 200

METRICS = {
    "accuracy": ("Accuracy", "share of examples whose predicted class is right"),
    "balanced_accuracy": ("Balanced accuracy", "recall averaged over the classes present"),
    "macro_f1": ("Macro F1", "F1 averaged over classes, each counting the same"),
    "micro_f1": ("Micro F1", "F1 over all labels of all examples together"),
    "weighted_f1": ("Weighted F1", "F1 averaged over classes by their size"),
    "macro_precision": ("Macro precision", "of what is called a class, the share that is it"),
    "macro_recall": ("Macro recall", "of a class, the share that is found"),
    "top3_accuracy": ("Top-3 accuracy", "true class among the three most probable"),
    "top5_accuracy": ("Top-5 accuracy", "true class among the five most probable"),
    "subset_accuracy": ("Subset accuracy", "share of examples with all labels right"),
    "hamming_loss": ("Hamming loss", "share of single labels that are wrong; lower is better"),
    "auroc": ("AUROC", "how well each class is ranked above the rest; 0.5 is chance"),
    "mAP": ("Mean average precision", "ranking quality averaged over labels"),
    "nll": ("Log-loss", "mean −log probability of the truth; lower is better"),
    "brier": ("Brier score", "squared error of the probabilities, 0 to 2; lower is better"),
    "ece": ("Calibration error", "gap between confidence and accuracy (ECE); lower is better"),
    "mae": ("Mean absolute error", "in the unit of the target; lower is better"),
    "rmse": ("Root mean square error", "in the unit of the target; lower is better"),
    "r2": ("R²", "share of the variance explained; 1 is best, 0 is the mean"),
}
COMPARED = {
    "single_label": ("accuracy", "macro_f1", "nll"),
    "multi_label": ("micro_f1", "macro_f1", "mAP"),
    "regression": ("mae", "rmse", "r2"),
}
PLAN_COLUMNS = ("choice", "value", "reason")
PROVENANCE = ("command", "versions", "hashes", "machine")
CAPTIONS = {
    "training_loss": "Loss per epoch on the training and the validation split",
    "learning_rate": "Learning rate per epoch",
    "confusion": "Confusion matrix: rows are true classes, shaded by share of the row",
    "reliability_before": "Before temperature scaling",
    "reliability_after": "After temperature scaling",
    "label_curve": "Accuracy of a linear probe by the number of labels, with 95 % bands",
    "scatter": "Predicted over true values; on the dashed line they are equal",
}


def write_html(
    report: Mapping[str, Any],
    history: History = (),
    *,
    title: str = "Transfer report",
    pictures: Mapping[str, bytes] | None = None,
    figures: Mapping[str, bytes] | None = None,
) -> str:
    """The page as text; save it as UTF-8.

    Args:
      report: report.json as a dict, from :func:`tltf.evaluation.evaluate.build_report`; a plain
        :func:`~tltf.evaluation.evaluate.evaluate` result is enough.
      history: rows of history.jsonl; without them there are no training curves.
      title: of the page, for example the name of the run folder.
      pictures: name -> JPEG of the examples that the report names; without them the gallery is a
        list.
      figures: those of :func:`tltf.evaluation.plots.report_figures` in the light theme, where
        they are drawn already.

    Example:
      >>> from tltf.evaluation.evaluate import evaluate
      >>> text = write_html(evaluate([1.0, 2.0], [1.5, 2.0], task="regression", classes=[]))
      >>> text.startswith("<!doctype html>")
      True
    """
    provenance = report.get("provenance") or {}
    light = report_figures(report, history) if figures is None else figures
    shown_figures = _figures(light, report_figures(report, history, theme="dark"))
    view = {
        "title": title,
        "report": report,
        "summary": report.get("summary") or summary(report),
        "headline": _headline(report),
        "verdict": report.get("verdict"),
        "groups": next((e["groups"] for e in report["metrics"].values() if "groups" in e), None),
        "backbone": backbone_name(report),
        "adaptation": _adaptation(report.get("adaptation")),
        "data": _data(report.get("data")),
        "plan": [{k: r.get(k, "") for k in PLAN_COLUMNS} for r in report.get("plan") or []],
        "selection": _selection(report.get("selection")),
        "figures": shown_figures,
        "training": [
            n for n in shown_figures if n.startswith(("training_", "learning_rate", RATE_SEARCH))
        ],
        "calibration": report.get("calibration"),
        "reject": report.get("reject"),
        "metrics": [metric_row(n, e) for n, e in _ordered(report["metrics"])],
        "undefined": [(METRICS[n][0], why) for n, why in report.get("undefined", {}).items()],
        "per_class": _per_class(report["per_class"]),
        "confused": _most_confused(report),
        "confusion_width": _confusion_width(len(report["classes"])),
        "compared": [(n, METRICS[n][0]) for n in COMPARED[report["task"]]],
        "baselines": _baselines(report),
        "verdicts": [
            {"name": _plain(name), **found}
            for name, found in (report.get("verdicts") or {}).items()
        ],
        "skipped": [
            (_plain(name), why) for name, why in (report.get("skipped_baselines") or {}).items()
        ],
        "curve": _label_curve(report.get("label_curve")),
        "slices": _slices(report),
        "familiarity": report.get("familiarity"),
        "gallery": report.get("gallery") or [],
        "pairs": report.get("confused_pairs") or [],
        "pictures": {name: _jpeg_uri(data) for name, data in (pictures or {}).items()},
        "test_split": report.get("test_split") or {},
        "provenance": {key: provenance.get(key) for key in PROVENANCE},
        # Lines, because printable() would show the line breaks of one text as \n.
        "spec_lines": _pretty(provenance.get("spec")),
    }
    return page.rendered("report.html", view)


def _confusion_width(n_classes: int) -> int:
    """Pixels below which the matrix scrolls in its box instead of shrinking; 0 for never."""
    return 0 if n_classes <= 6 else 12 * n_classes + 240


def _headline(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """None without labels to measure on."""
    name = HEADLINE[report["task"]]
    return metric_row(name, report["metrics"][name]) if name in report["metrics"] else None


def _adaptation(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """How far the domains are apart, what was chosen and by what, and the answers' counts."""
    if not found:
        return None
    selection = found["selection"]
    return {
        "distance": found["distance"]["sentence"],
        "selection": selection["sentence"],
        "rows": [
            {"method": name, "chosen": name == selection["chosen"], **values}
            for name, values in selection["criteria"].items()
        ],
        "notes": found["notes"],
        "answers": list((found.get("answers") or {}).items()),
    }


def _selection(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the stacked probe weighs, and how candidates did beside it."""
    if not found:
        return None
    stacked = {"name": "stacked probe", "head": "their weighted sum", "share": None}
    rows = [*found["groups"], {**stacked, **found["stacked_probe"]}]
    folds = found["validation"].startswith("folds")
    return {
        "what": "out of fold" if folds else "on the validation split",
        "n": found["n"],
        "chosen": found["chosen"],
        "accuracy": all("accuracy" in row for row in rows),
        "rows": rows,
        "candidates": found["candidates"],
    }


def _ordered(metrics: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, metrics[name]) for name in METRICS if name in metrics]


def metric_row(name: str, estimate: Mapping[str, Any]) -> dict[str, Any]:
    """One metric as the pages show it: label, value, interval, and a bar if it is within 0..1."""
    low, high, value = estimate["low"], estimate["high"], estimate["value"]
    drawn = low is not None and name not in UNBOUNDED
    return {
        "name": name,
        "label": METRICS[name][0],
        "help": METRICS[name][1],
        "value": shown(name, value),
        "interval": _interval(name, estimate),
        "bar": _bar(low, high, value) if drawn else None,
        "n": estimate["n"],
    }


def _interval(name: str, estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None:
        return "–"
    low, high = (shown(name, estimate[end], unit=False) for end in ("low", "high"))
    return f"{low} – {high}"


def _bar(low: float, high: float, value: float) -> dict[str, str]:
    """Positions in per cent for the little interval picture in a table cell."""
    low, high, value = (100 * min(max(x, 0.0), 1.0) for x in (low, high, value))
    return {"left": f"{low:.2f}", "width": f"{high - low:.2f}", "dot": f"{value:.2f}"}


def _per_class(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, row in table.items():
        ends = row["intervals"]
        f1 = ends["f1"]
        cells = {
            key: {"value": row[key] if ends[key] else None, "interval": ends[key]}
            for key in ("precision", "recall", "f1")
        }
        bar = _bar(f1[0], f1[1], row["f1"]) if f1 else None
        rows.append({"name": name, "support": row["support"], "cells": cells, "bar": bar})
    return rows


def _most_confused(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pairs of classes with most errors, single_label only."""
    if report["task"] != "single_label":
        return []
    classes = report["classes"]
    pairs = [
        (count, sum(row), classes[i], classes[j])
        for i, row in enumerate(report["confusion"])
        for j, count in enumerate(row)
        if i != j and count
    ]
    pairs.sort(key=lambda pair: -pair[0])
    return [
        {"count": count, "of": total, "true": true, "predicted": predicted}
        for count, total, true, predicted in pairs[:MOST_CONFUSED]
    ]


def _data(data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not data:
        return None
    splits = list(data["counts"])
    names = sorted({name for counts in data["counts"].values() for name in counts})
    rows = [(name, [data["counts"][s].get(name, 0) for s in splits]) for name in names]
    return {
        **data,
        "splits": splits,
        "rows": rows[:MOST_COUNT_ROWS],
        "more_rows": max(0, len(rows) - MOST_COUNT_ROWS),
        "excluded": data["excluded"][:MOST_EXCLUDED_SHOWN],
        "more_excluded": data["n_excluded"] - len(data["excluded"][:MOST_EXCLUDED_SHOWN]),
    }


def _baselines(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """This model first, then each baseline, with the metrics of COMPARED."""
    if not report.get("baselines"):
        return []
    tables = {"this model": report["metrics"]}
    tables |= {_plain(name): block["metrics"] for name, block in report["baselines"].items()}
    names = COMPARED[report["task"]]
    return [
        {
            "name": name,
            "cells": [metric_row(n, metrics[n]) if n in metrics else None for n in names],
        }
        for name, metrics in tables.items()
    ]


def _plain(name: str) -> str:
    """``linear_probe`` -> ``linear probe``."""
    return name.replace("_", " ")


def _label_curve(rows: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    return [
        {
            "share": row["share"],
            "labels": row["labels"],
            "draws": row["draws"],
            **metric_row("accuracy", row["accuracy"]),
        }
        for row in rows or []
    ]


def _slices(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each slice, the worst first."""
    names = COMPARED[report["task"]]
    rows = []
    for name, block in (report.get("slices") or {}).items():
        metrics = block["metrics"]
        cells = [metric_row(n, metrics[n]) if n in metrics else None for n in names]
        rows.append({"name": name, "n": block["n"], "cells": cells})
    return rows


def _jpeg_uri(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def _figures(light: Mapping[str, bytes], dark: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    figures = {}
    for name in light:
        plain = name.removeprefix("training_").replace("_", " ")
        caption = f"{plain.capitalize()} per epoch on the training and the validation split"
        if name.startswith(RATE_SEARCH):
            phase = name.removeprefix(RATE_SEARCH)
            caption = (
                f"Loss after a rehearsal at each learning rate, before {phase};"
                " the line is what it took"
            )
        figures[name] = {
            "light": _data_uri(light[name]),
            "dark": _data_uri(dark[name]),
            "caption": CAPTIONS.get(name, caption),
        }
    return figures


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _pretty(value: object) -> list[str]:
    return json.dumps(value, indent=2, ensure_ascii=False).splitlines() if value else []

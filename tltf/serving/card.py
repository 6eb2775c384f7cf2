"""``model_card.md``: what the model is for, how good it is and how that is known. No TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tltf.errors import printable
from tltf.evaluation.summary import shown

MOST_CLASSES = 50

LICENCES = {
    "imagenet": "published by Keras (keras.io/api/applications), each under the terms of its"
    " authors; trained on ImageNet, whose images are for research",
    "none": "none: trained from random weights on the data below",
    "file": "those of the run that the backbone was trained in",
    "hub": "those of the module's page",
    "minilm": "Apache-2.0 (all-MiniLM-L6-v2)",
}


def model_card(report: Mapping[str, Any], *, name: str) -> str:
    """The card of a run from its report.json, as Markdown.

    Args:
      report: as :func:`tltf.evaluation.evaluate.build_report` gives it.
      name: of the model.
    """
    parts = [
        f"# {_cell(name)}",
        report.get("summary") or "",
        _section("What it does", _purpose(report)),
        _section("Data", _data(report)),
        _section("Metrics on the test split", _metrics(report)),
        _section("Per class", _per_class(report)),
        _section("Confidence", _confidence(report)),
        _section("Against simpler models", _baselines(report)),
        _section("Limits", _limits(report)),
        _section("Licence of the weights", [f"- {_licence(report)}"]),
        _section("Where it comes from", _provenance(report)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, lines: Iterable[str]) -> str:
    text = "\n".join(lines)
    return f"## {title}\n\n{text}" if text else ""


def _purpose(report: Mapping[str, Any]) -> list[str]:
    task, classes = report["task"], report.get("classes", [])
    if task == "regression":
        return ["It answers with one number for each input."]
    kind = "one of" if task == "single_label" else "any of"
    names = ", ".join(_cell(c) for c in classes[:MOST_CLASSES])
    more = f" and {len(classes) - MOST_CLASSES} more" if len(classes) > MOST_CLASSES else ""
    return [f"It answers with {kind} {len(classes)} classes: {names}{more}."]


def _data(report: Mapping[str, Any]) -> list[str]:
    data = report.get("data") or {}
    totals = data.get("totals", {})
    lines = [f"- {_cell(split)}: {count} examples" for split, count in totals.items()]
    if data.get("n_excluded"):
        lines.append(f"- left out as unreadable or ignored: {data['n_excluded']}")
    return lines + [f"- {_cell(note)}" for note in data.get("notes", [])]


def _metrics(report: Mapping[str, Any]) -> list[str]:
    rows = ["| metric | value | 95 % interval | n |", "|---|---|---|---|"]
    for name, found in report["metrics"].items():
        low, high = (shown(name, found.get(end), unit=False) for end in ("low", "high"))
        interval = "none" if found.get("low") is None else f"{low} to {high}"
        rows.append(
            f"| {_cell(name)} | {shown(name, found['value'])} | {interval} | {found['n']} |"
        )
    return rows


def _per_class(report: Mapping[str, Any]) -> list[str]:
    classes = report.get("per_class") or {}
    if not classes:
        return []
    rows = ["| class | precision | recall | F1 | test examples |", "|---|---|---|---|---|"]
    for name, found in list(classes.items())[:MOST_CLASSES]:
        numbers = " | ".join(_number(found[key]) for key in ("precision", "recall", "f1"))
        rows.append(f"| {_cell(name)} | {numbers} | {found['support']} |")
    return rows


def _confidence(report: Mapping[str, Any]) -> list[str]:
    lines = []
    calibration, reject = report.get("calibration"), report.get("reject")
    if calibration:
        lines.append(
            f"- Probabilities are calibrated with temperature {calibration['temperature']:.3f}:"
            f" expected calibration error {calibration['ece_before']:.3f} before,"
            f" {calibration['ece_after']:.3f} after."
        )
    if reject:
        lines.append(
            f"- Answers below confidence {reject['threshold']:.3f} are not `accepted`: coverage"
            f" {100 * reject['coverage']:.1f} % of the test split, accuracy of the accepted"
            f" {_number(reject['accuracy_accepted'])}."
        )
    return lines


def _baselines(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, block in (report.get("baselines") or {}).items():
        first = next(iter(block["metrics"].items()), None)
        if first is not None:
            lines.append(f"- {_cell(name)}: {_cell(first[0])} {shown(first[0], first[1]['value'])}")
    verdict = report.get("verdict") or {}
    return lines + ([f"- {_cell(verdict['sentence'])}"] if verdict.get("sentence") else [])


def _limits(report: Mapping[str, Any]) -> list[str]:
    lines = [
        "- Measured on the data above; on other data it has to be measured again"
        " (`tltf evaluate`).",
        "- The reject rule catches what the model is unsure of, not everything that is foreign.",
    ]
    if report["task"] != "regression":
        lines.append("- It always names one of its classes, whatever the input shows.")
    n = report.get("n", 0)
    if n < 200:
        lines.append(f"- The test split has {n} examples: mind the intervals.")
    return lines


def _licence(report: Mapping[str, Any]) -> str:
    backbone = _spec(report).get("backbone") or {}
    name, weights = str(backbone.get("name", "")), str(backbone.get("weights", ""))
    kind = name.partition(":")[0]
    known = LICENCES.get(kind if kind in LICENCES else weights)
    return f"{_cell(name or 'unknown backbone')}: {known or 'see where the weights come from'}"


def _provenance(report: Mapping[str, Any]) -> list[str]:
    provenance = report.get("provenance") or {}
    lines = [f"- {_cell(name)} {_cell(v)}" for name, v in provenance.get("versions", {}).items()]
    lines += [
        f"- SHA-256 of the {_cell(what)}: `{_cell(digest)}`"
        for what, digest in provenance.get("hashes", {}).items()
    ]
    return [*lines, "- everything else is in `report.json` and `assets/tltf.json`"]


def _spec(report: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = (report.get("provenance") or {}).get("spec")
    return spec if isinstance(spec, Mapping) else {}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _cell(text: object) -> str:
    """A name as text: it ends no table cell, opens no tag and no link."""
    escaped = printable(str(text))
    for mark in "\\`*_[]<>|#":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped

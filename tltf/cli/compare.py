"""``tltf compare``: does transfer help, which run is better, is other data like the training's?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from tltf import rundir
from tltf.cli import run_flags
from tltf.cli.app import Program
from tltf.cli.quiet import import_tensorflow
from tltf.errors import ArgumentError, printable

FLAGS = flags.FlagValues()
flags.DEFINE_string("run", None, "The folder of a finished run.", flag_values=FLAGS)
flags.DEFINE_string("other", None, "Other data: how far is it from what --run was trained on?",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("seeds", 3, "Runs of each thing that is trained.", lower_bound=1,
                     flag_values=FLAGS)  # fmt: skip
flags.DEFINE_list("runs", [], "Two or more run folders; the same as naming them without a flag.",
                  flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("out", None, "Folder for compare.json and compare.html.", flag_values=FLAGS)


def run(values: flags.FlagValues) -> None:
    runs = values["runs"].value
    if bool(runs) == bool(values["run"].value):
        raise ArgumentError(
            "expected --run=RUN, or two run folders",
            where="flags",
            next_action="see tltf compare --help",
        )
    run_flags.only_where(not runs, values, "other", "seeds", what="--run=RUN")
    run_flags.only_where(not values["other"].value, values, "seeds",
                         what="--run=RUN alone, where something is trained")  # fmt: skip
    out = Path(values["out"].value) if values["out"].value else None
    if runs:
        folders = [rundir.existing(path) for path in runs]
    else:
        folder = rundir.existing(values["run"].value)
        if values["other"].value:
            run_flags.check_source(values["other"].value)
    if out is not None:
        rundir.check_writable(out)
    import_tensorflow()
    from tltf.stages import comparing

    if runs:
        found = comparing.side_by_side(folders)
        print(*_side_by_side(found), sep="\n")
    elif values["other"].value:
        found = comparing.compare_with(folder, values["other"].value)
        print(*_distances(found), sep="\n")
    else:
        seeds = values["seeds"].value
        with rundir.opened(folder.path):
            report = comparing.compare_run(folder, seeds=seeds, say=run_flags.say)
        keys = ("baselines", "verdict", "verdicts", "label_curve", "skipped_baselines")
        found = {key: report[key] for key in keys}
        print(*_against_baselines(report), sep="\n")
        print(f"report: {folder.report / 'report.html'}")
    if out is not None:
        comparing.write_comparison(found, out)
        print(f"written: {out / ('compare.html' if runs else 'compare.json')}")


def _against_baselines(report: Mapping[str, Any]) -> list[str]:
    lines = [run_flags.metric_line("this run: accuracy", report["metrics"]["accuracy"])] if (
        "accuracy" in report["metrics"]
    ) else []  # fmt: skip
    for name, block in report["baselines"].items():
        if "mean_accuracy" in block:
            what = f"{name}, {block['seeds']} seed(s): accuracy"
            lines.append(run_flags.metric_line(what, block["mean_accuracy"]))
    lines += [f"{row['sentence']}" for row in report["verdicts"].values()]
    lines += [f"not compared: {n}: {why}" for n, why in report["skipped_baselines"].items()]
    for row in report["label_curve"] or []:
        what = f"linear probe on {100 * row['share']:.0f} % of the labels ({row['labels']}):"
        lines.append(run_flags.metric_line(f"{what} accuracy", row["accuracy"]))
    return [printable(line) for line in lines]


def _side_by_side(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for row in found["runs"]:
        lines.append(f"{row['name']} (n={row['n']})")
        for name in ("accuracy", "macro_f1", "nll", "micro_f1", "mAP", "mae", "r2"):
            if name in row["metrics"]:
                lines.append("  " + run_flags.metric_line(name, row["metrics"][name]))
    for row in found["paired"]:
        if row["verdict"]:
            lines.append(row["verdict"]["sentence"])
        else:
            lines.append(f"{row['first']} and {row['second']} were tested on different examples")
        lines += [_unpaired(row)] if any(row["unpaired"]) else []
    lines += [f"{field}: {' | '.join(map(str, v))}" for field, v in found["settings"].items()]
    return [printable(line) for line in lines]


def _unpaired(row: Mapping[str, Any]) -> str:
    ours, theirs = row["unpaired"]
    return (
        f"paired by content and label: {row['n']} examples; without a counterpart {ours} of"
        f" {row['first']} and {theirs} of {row['second']}"
    )


def _distances(found: Mapping[str, Any]) -> list[str]:
    lines = [f"training split and {found['data']}: {found['other']['sentence']}"]
    if found["test"]:
        lines.append(f"training and test split, to compare with: {found['test']['sentence']}")
    return [printable(line) for line in lines]


PROGRAM = Program(
    name="tltf compare",
    about="""compares a run with simpler things, with other runs, or its data with other data.

  tltf compare --run=RUN              majority class, linear probe, from scratch, verdict
  tltf compare RUN1 RUN2 --out=PAGE   runs side by side, with paired differences
  tltf compare --run=RUN --other=D    is D like what the run was trained on?""",
    flag_values=FLAGS,
    run=run,
    positional="runs",
)

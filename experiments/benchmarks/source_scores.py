"""LEEP and NCE: do they know beforehand which tasks a source classifier transfers to?

    python -m experiments.benchmarks.source_scores --workdir=FOLDER

Both scores read what the network itself says of its source classes, so they need its classifier;
of the networks with weights at hand one has it, and candidates cannot be compared. The papers
compare tasks instead, as here (Nguyen et al. 2020, section 5.1): drawn sets of ``--classes``
classes of one image set, the same number of photos of each, MobileNet:alpha=0.25 really tuned on
every one of them, and the weighted Kendall tau of each score with the test accuracies. LogME and
the probe, which need no classifier, stand beside them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from scipy import stats

from experiments.benchmarks.choosing import kept, trained_once
from experiments.benchmarks.quality import unpacked
from experiments.benchmarks.samples import photos_of, sample
from tltf.cli.app import Program, execute
from tltf.cli.quiet import import_tensorflow
from tltf.cli.run_flags import required
from tltf.spec import BackboneSpec, DataSpec, TransferSpec

BACKBONE = "MobileNet:alpha=0.25"
SCORES = ("leep", "nce", "logme", "probe")

FLAGS = flags.FlagValues()
flags.DEFINE_list("sets", ["cifar10", "sign_digits"], "Image sets.", flag_values=FLAGS)
flags.DEFINE_integer("tasks", 8, "Of each set.", lower_bound=3, flag_values=FLAGS)
flags.DEFINE_integer("classes", 4, "Of each task.", lower_bound=2, flag_values=FLAGS)
flags.DEFINE_integer("photos", 96, "To train on and to validate.", lower_bound=24,
                     flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("tests", 200, "Test photos at most.", lower_bound=40, flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "Where everything goes.", flag_values=FLAGS)


def run(values: flags.FlagValues) -> None:
    required(values, "workdir")
    import_tensorflow()
    work = Path(values["workdir"].value)
    work.mkdir(parents=True, exist_ok=True)
    taus: dict[str, list[float]] = {name: [] for name in SCORES}
    for data in values["sets"].value:
        rows = [_task(table, work) for table in tables(data, values, work)]
        accuracies = [row["accuracy"] for row in rows]
        for name in SCORES:
            scores = [row[name] for row in rows]
            taus[name].append(float(stats.weightedtau(scores, accuracies).statistic))
        shown = ", ".join(f"{row['task']} {row['accuracy']:.3f}" for row in rows)
        print(f"source {data}: {shown}", flush=True)
    for name in SCORES:
        each = ", ".join(f"{tau:+.2f}" for tau in taus[name])
        print(f"source tau_w {name:<6} mean {np.mean(taus[name]):+.3f} ({each})", flush=True)


def tables(data: str, values: flags.FlagValues, work: Path) -> list[Path]:
    """One table for each task: classes drawn without looking at them."""
    names = sorted(photos_of(unpacked(data, work / "data")))
    sizes = {name: values[name].value for name in ("photos", "tests")}
    return [
        sample(
            data, seed=task, work=work, **sizes,
            classes=sorted(
                np.random.default_rng(task).choice(names, values["classes"].value, replace=False)
            ),
        )
        for task in range(values["tasks"].value)
    ]  # fmt: skip


def _task(table: Path, work: Path) -> dict[str, Any]:
    found: dict[str, Any] = kept(work / "source" / f"{table.stem}.json", lambda: {
        "task": table.stem, **_scores(table), "accuracy": _accuracy(table, work)
    })  # fmt: skip
    return found


def _scores(table: Path) -> dict[str, float]:
    from tltf.selection.candidates import candidates
    from tltf.stages.ranking import run_ranking

    data = DataSpec(source=str(table))
    found = run_ranking(data, candidates(BACKBONE), say=lambda _: None, progress=False)
    row = found.rows[0].as_dict()
    return {name: row[name] for name in SCORES}


def _accuracy(table: Path, work: Path) -> float:
    spec = TransferSpec(data=DataSpec(source=str(table)), export="none",
                        backbone=BackboneSpec(name=BACKBONE))  # fmt: skip
    done = trained_once(spec, work / "runs" / f"source-{table.stem}")
    return float(np.mean(list(done["right"].values())))


PROGRAM = Program(
    name="python -m experiments.benchmarks.source_scores",
    about=(__doc__ or "").strip(),
    flag_values=FLAGS,
    run=run,
)

if __name__ == "__main__":
    sys.exit(execute(PROGRAM, sys.argv[1:]))

"""``tltf rank``: which backbone, measured on the data at hand within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from tltf import rundir
from tltf.cli import run_flags
from tltf.cli.app import Program
from tltf.cli.quiet import import_tensorflow
from tltf.spec import DataSpec

if TYPE_CHECKING:
    from tltf.selection.ranking import Ranking, Row

FLAGS = flags.FlagValues()
flags.DEFINE_string("data", None, "Image folder, CSV/TSV/JSON-lines table, tfds:NAME or digits.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("backbones", "fast", "Names separated by commas, NAME@BLOCK for the features"
                    " of a block, NAME@random for a control without weights; fast; or all-cached,"
                    " those whose weights are on this machine.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_float("budget", None, "Seconds after which no further backbone is begun.",
                   lower_bound=0.0, flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("sample", 2000, "At most so many examples, stratified.", lower_bound=2,
                     flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("seed", 0, "Of split, sample and folds.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_string("out", None, "Folder for rank.json and rank.png; none if left out.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_enum("bad_files", "error", ["error", "skip"], "What to do about unreadable files.",
                  flag_values=FLAGS)  # fmt: skip

HEADS = (
    "", "candidate", "probe", "95 % interval", "k-NN", "mean", "LogME", "H", "LEEP", "Mparam",
    "GFLOP", "ms", "pass s",
)  # fmt: skip


def run(values: flags.FlagValues) -> None:
    run_flags.required(values, "data", "backbones")
    from tltf.selection.candidates import candidates

    chosen = candidates(values["backbones"].value)
    run_flags.check_source(values["data"].value)
    out = Path(values["out"].value) if values["out"].value else None
    if out is not None:
        rundir.check_writable(out, flag="--out")
    import_tensorflow()
    from tltf.stages.ranking import run_ranking

    found = run_ranking(
        DataSpec(source=values["data"].value, bad_files=values["bad_files"].value),
        chosen,
        sample=values["sample"].value,
        budget_seconds=values["budget"].value,
        seed=values["seed"].value,
        out=out,
        say=run_flags.say,
    )
    print(*table(found), sep="\n")
    if out is not None:
        print(f"\npicture: {out / 'rank.png'}\nnumbers: {out / 'rank.json'}")
    if found.rows:
        best = found.rows[0].name.partition("@")[0]
        print(f"next: tltf train --data={values['data'].value} --backbone={best} --workdir=RUN")


def table(found: Ranking) -> list[str]:
    """The ranking as lines: ``=`` marks a tie with the best, ``*`` the Pareto front."""
    rows = [HEADS, *(_cells(row) for row in found.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines += ["", "= tied with the best by a paired 95 % interval, * nothing faster is better"]
    lines += [f"how deep, {name}: {curve.hint}" for name, curve in found.curves.items()]
    return [*lines, *(f"note: {note}" for note in found.notes)]


def _cells(row: Row) -> tuple[str, ...]:
    marks = ("=" if row.ties_with_best else " ") + ("*" if row.pareto else " ")
    return (
        f"{row.place}{marks}",
        row.name,
        f"{row.probe:.3f}",
        f"{row.low:.3f} to {row.high:.3f}",
        f"{row.neighbours:.3f}",
        f"{row.class_mean:.3f}",
        f"{row.logme:.3f}",
        f"{row.h_score:.2f}",
        "" if row.leep is None else f"{row.leep:.2f}",
        f"{row.parameters / 1e6:.2f}",
        "" if row.gigaflops is None else f"{row.gigaflops:.2f}",
        f"{row.milliseconds:.1f}",
        f"{row.pass_seconds:.1f}",
    )


PROGRAM = Program(
    name="tltf rank",
    about="""measures which backbone fits the data, one pass each; the test split is left alone.

  tltf rank --data=PHOTOS --backbones=MobileNetV2,EfficientNetB0,MobileNetV2@random""",
    flag_values=FLAGS,
    run=run,
)

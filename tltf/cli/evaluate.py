"""``tltf evaluate``: the report of a run on other data."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from tltf import rundir
from tltf.cli import run_flags, spec_flags
from tltf.cli.app import Program
from tltf.cli.quiet import import_tensorflow
from tltf.data.textfiles import check_encoding

FLAGS = flags.FlagValues()
flags.DEFINE_string("run", None, "The run folder of a training.", flag_values=FLAGS)
flags.DEFINE_string("data", None, "Labelled data of the same classes; every record counts.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("out", None, "Folder for report.json and report.html; none if left out.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_enum("bad_files", "error", ["error", "skip"], "What to do about unreadable files.",
                  flag_values=FLAGS)  # fmt: skip
spec_flags.define_encoding(FLAGS)
flags.DEFINE_string("assert_metric", None, "Exit 79 unless it holds, for example accuracy>=0.9.",
                    flag_values=FLAGS)  # fmt: skip


def run(values: flags.FlagValues) -> None:
    run_flags.required(values, "run", "data")
    gate = run_flags.parsed_gate(values)
    folder = rundir.existing(values["run"].value)
    run_flags.check_source(values["data"].value)
    check_encoding(values["encoding"].value)
    out = Path(values["out"].value) if values["out"].value else None
    if out is not None:
        rundir.check_writable(out)
    import_tensorflow()
    from tltf.stages.reporting import evaluate_run

    report = evaluate_run(
        folder,
        values["data"].value,
        bad_files=values["bad_files"].value,
        encoding=values["encoding"].value if values["encoding"].present else None,
        out=out,
        say=run_flags.say,
    )
    for name, estimate in report["metrics"].items():
        print(run_flags.metric_line(name, estimate))
    if out is not None:
        print(f"report: {out / 'report.html'}")
    if gate is not None:
        gate.check(report, kept=out or "")


PROGRAM = Program(
    name="tltf evaluate",
    about="""measures a run on other labelled data, with 95 % intervals.

  tltf evaluate --run=RUN --data=MORE_PHOTOS --out=REPORT""",
    flag_values=FLAGS,
    run=run,
)

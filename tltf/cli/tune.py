"""``tltf tune``: searches heads, depths, rates and augmentation on the validation split."""

from __future__ import annotations

import sys

from absl import flags

from tltf import rundir
from tltf.cli import run_flags, spec_flags
from tltf.cli.app import Program
from tltf.cli.quiet import import_tensorflow
from tltf.cli.train import DEFAULT
from tltf.errors import ArgumentError
from tltf.selection.search import check_optuna

FLAGS = flags.FlagValues()
spec_flags.define(FLAGS, DEFAULT)
for _name in ("data", "backbone"):
    FLAGS.set_default(_name, None)
flags.DEFINE_string("workdir", None, "Folder of the search; new, empty, or of the same search.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_float("budget", 10.0, "Minutes of trials, over all starts. The report and export of"
                   " the best one come after.", lower_bound=0.0, flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("trials", 0, "At most so many; 0 for no limit.", lower_bound=0,
                     flag_values=FLAGS)  # fmt: skip


def run(values: flags.FlagValues) -> None:
    run_flags.required(values, "data", "backbone", "workdir")
    spec = spec_flags.to_spec(values, DEFAULT)
    check_optuna()
    run_flags.check_early(spec, values)
    if spec.cache == "off":
        raise ArgumentError(
            "--cache=off, and every trial would compute the same features again",
            where="tltf tune",
            next_action="leave it out",
        )
    with rundir.opened(values["workdir"].value) as held:
        import_tensorflow()
        from tltf import pipeline

        best = pipeline.tune(
            spec,
            workdir=held.path,
            budget_minutes=values["budget"].value,
            most_trials=values["trials"].value,
            say=run_flags.say,
            command=sys.argv,
        )
    print(best.sentence)
    print(f"trials: {best.folder / 'tune.html'}\nspecification: {best.folder / 'spec.json'}")
    print(*run_flags.summary(best.run), sep="\n")


PROGRAM = Program(
    name="tltf tune",
    about="""searches what the flags leave open, within a budget, on the validation split only.

  tltf tune --data=PHOTOS --backbone=MobileNetV2 --budget=10 --workdir=SEARCH

The plan of tltf train is the first trial, poor ones are stopped early, and the best one is
evaluated once on the test split and exported, in SEARCH/best. The same command again goes on
with an unfinished search; a larger --budget goes on with a finished one.""",
    flag_values=FLAGS,
    run=run,
)

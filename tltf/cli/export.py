"""``tltf export``: verify a run's model and publish it as the next version."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from tltf import rundir
from tltf.cli import run_flags
from tltf.cli.app import Program
from tltf.cli.quiet import import_tensorflow

FLAGS = flags.FlagValues()
flags.DEFINE_string("run", None, "The run folder of a training.", flag_values=FLAGS)
flags.DEFINE_string("to", None, "Folder of versions; the new one is max + 1.", flag_values=FLAGS)
flags.DEFINE_string("assert_metric", None, "Exit 79 and publish nothing unless it holds, for"
                    " example accuracy>=0.9.", flag_values=FLAGS)  # fmt: skip
flags.DEFINE_bool("reusable", False, "Publish the backbone as a reusable SavedModel, for hub:,"
                  " tltf.SavedModelLayer and TF Hub's own layer.", flag_values=FLAGS)  # fmt: skip


def run(values: flags.FlagValues) -> None:
    run_flags.required(values, "run", "to")
    gate = run_flags.parsed_gate(values)
    folder = rundir.existing(values["run"].value)
    rundir.check_writable(Path(values["to"].value))
    import_tensorflow()
    from tltf.stages.exporting import export_reusable_run, export_run

    if values["reusable"].value:
        print(f"module: {export_reusable_run(folder, Path(values['to'].value), gate=gate)}")
        return
    published = export_run(folder, Path(values["to"].value), gate=gate)
    print(f"servable: {published}")


PROGRAM = Program(
    name="tltf export",
    about="""publishes the model of a run as a SavedModel, after trying it in a fresh process.

  tltf export --run=RUN --to=SERVABLE
  tltf export --run=RUN --to=MODULE --reusable      then --backbone=hub:MODULE/1""",
    flag_values=FLAGS,
    run=run,
)

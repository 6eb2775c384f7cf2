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
flags.DEFINE_integer("keep", None, "Keep this many versions, remove older ones; all by default.",
                     lower_bound=1, flag_values=FLAGS)  # fmt: skip
flags.DEFINE_enum("litert", None, ["float", "float16", "dynamic", "int8"], "Also a LiteRT file.",
                  flag_values=FLAGS)  # fmt: skip
flags.DEFINE_bool("onnx", False, "Also an ONNX file.", flag_values=FLAGS)
flags.DEFINE_float("max_drop", 1.0, "Points of validation accuracy that these files may lose.",
                   lower_bound=0.0, upper_bound=100.0, flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("assert_metric", None, "Exit 79 and publish nothing unless it holds, for"
                    " example accuracy>=0.9.", flag_values=FLAGS)  # fmt: skip
flags.DEFINE_bool("reusable", False, "Publish the backbone as a reusable SavedModel, for hub:,"
                  " tltf.SavedModelLayer and TF Hub's own layer.", flag_values=FLAGS)  # fmt: skip


def run(values: flags.FlagValues) -> None:
    run_flags.required(values, "run", "to")
    gate = run_flags.parsed_gate(values)
    made = values["litert"].value or values["onnx"].value
    run_flags.only_where(not values["reusable"].value, values, "keep", "litert", "onnx", "max_drop",
                         what="a servable, without --reusable")  # fmt: skip
    run_flags.only_where(bool(made), values, "max_drop", what="--litert or --onnx")
    folder = rundir.existing(values["run"].value)
    rundir.check_writable(Path(values["to"].value))
    import_tensorflow()
    from tltf.stages.exporting import export_reusable_run, export_run
    from tltf.stages.portable import Portable

    if values["reusable"].value:
        print(f"module: {export_reusable_run(folder, Path(values['to'].value), gate=gate)}")
        return
    wanted = None
    if values["litert"].value or values["onnx"].value:
        wanted = Portable(
            litert=values["litert"].value,
            onnx=values["onnx"].value,
            max_drop=values["max_drop"].value,
        )
    published = export_run(
        folder,
        Path(values["to"].value),
        gate=gate,
        keep=values["keep"].value,
        wanted=wanted,
        say=run_flags.say,
    )
    run_flags.say(published.parity.sentence())
    print(f"servable: {published.folder}")


PROGRAM = Program(
    name="tltf export",
    about="""publishes the model of a run as a SavedModel, after trying it in a fresh process.

  tltf export --run=RUN --to=SERVABLE
  tltf export --run=RUN --to=MODULE --reusable      then --backbone=hub:MODULE/1""",
    flag_values=FLAGS,
    run=run,
)

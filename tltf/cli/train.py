"""``tltf train``: audit, split, two phases, evaluate, calibrate, report, export."""

from __future__ import annotations

from absl import flags

from tltf.cli import run_flags, spec_flags
from tltf.cli.app import Program
from tltf.spec import BackboneSpec, DataSpec, TransferSpec

# What is not given keeps these defaults; "-" stands for a name that must be given.
_MISSING = "-"
DEFAULT = TransferSpec(data=DataSpec(source=_MISSING), backbone=BackboneSpec(name=_MISSING))
FLAGS = flags.FlagValues()
spec_flags.define(FLAGS, DEFAULT)
run_flags.define(FLAGS)
for _name in ("data", "backbone"):
    FLAGS.set_default(_name, None)


def run(values: flags.FlagValues) -> None:
    run_flags.run_spec(values, DEFAULT)


PROGRAM = Program(
    name="tltf train",
    about="""trains a classifier on a pretrained backbone, in two phases.

  tltf train --data=PHOTOS --backbone=MobileNetV2 --workdir=RUN

Flags that are left out are decided from the data and the backbone, and printed with the
reason. The same command again goes on with an unfinished run.""",
    flag_values=FLAGS,
    run=run,
)

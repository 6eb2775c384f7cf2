"""``tltf pretrain``: a backbone from scratch, for ``--backbone=file:WORKDIR``."""

from __future__ import annotations

from absl import flags

from tltf.cli import run_flags, spec_flags
from tltf.cli.app import Program
from tltf.spec import BackboneSpec, DataSpec, Phase, TransferSpec

DEFAULT = TransferSpec(
    data=DataSpec(source="-"),
    backbone=BackboneSpec(name="small_cnn", weights="none"),
    phases=(Phase("scratch", unfreeze="all", batch_norm="adapt"),),
)
FLAGS = flags.FlagValues()
spec_flags.define(FLAGS, DEFAULT)
run_flags.define(FLAGS)
FLAGS.set_default("data", None)


def run(values: flags.FlagValues) -> None:
    done = run_flags.run_spec(values, DEFAULT)
    if done is not None:
        print(f"next: tltf train --backbone=file:{done.path} --data=... --workdir=...")


PROGRAM = Program(
    name="tltf pretrain",
    about="""trains a backbone from random weights; transfer it with --backbone=file:WORKDIR.

  tltf pretrain --data=digits:0-4 --workdir=SOURCE
  tltf train --data=digits:5-9 --backbone=file:SOURCE --workdir=TARGET""",
    flag_values=FLAGS,
    run=run,
)

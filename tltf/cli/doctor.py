"""``tltf doctor``: what this machine has, what it lacks, and the remedy of each lack."""

from __future__ import annotations

import contextlib

from absl import flags

from tltf import doctor
from tltf.cli.app import Program
from tltf.cli.quiet import import_tensorflow
from tltf.errors import ArgumentError, TltfError, printable

FLAGS = flags.FlagValues()
flags.DEFINE_string("backbone", None, "A backbone whose weights should be at hand; they are"
                    " looked for, and downloaded if they are not.", flag_values=FLAGS)  # fmt: skip


def run(values: flags.FlagValues) -> None:
    with contextlib.suppress(ImportError, TltfError):  # among the findings, with its remedy
        import_tensorflow()
    bad = 0
    for finding in doctor.findings(values["backbone"].value):
        print(printable(str(finding)), flush=True)
        bad += finding.level == doctor.BAD
    if bad:
        raise ArgumentError(
            f"{bad} findings are bad", where="this machine", next_action="see the remedies above"
        )


PROGRAM = Program(
    name="tltf doctor",
    about="""looks at versions, devices, caches, disks and weights, and prints remedies.

  tltf doctor --backbone=MobileNetV2""",
    flag_values=FLAGS,
    run=run,
)

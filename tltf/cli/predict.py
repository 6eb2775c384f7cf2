"""``tltf predict``: one JSON line for each input, in their order."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from absl import flags

from tltf.cli import run_flags
from tltf.cli.app import Program
from tltf.cli.quiet import import_tensorflow
from tltf.errors import DataError, InputMissingError

FLAGS = flags.FlagValues()
flags.DEFINE_string("model", None, "A run folder, a folder of versions, or one version.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("inputs", None, "Image file, folder, glob, or - for names on stdin.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("batch_size", 32, "Images per call of the model.", lower_bound=1,
                     flag_values=FLAGS)  # fmt: skip
flags.DEFINE_bool("strict", False, "Exit 65 when an input fails.", flag_values=FLAGS)


def run(values: flags.FlagValues) -> None:
    run_flags.required(values, "model", "inputs")
    model = Path(values["model"].value)
    if not model.exists():
        raise InputMissingError(
            "there is no such model", where=model, next_action="pass --model=RUN or a servable"
        )
    from tltf.serving.inputs import listed

    names = listed(values["inputs"].value, sys.stdin)
    import_tensorflow()
    from tltf.serving.predicting import predictions
    from tltf.trained import opened_model

    opened = opened_model(model)
    failed = 0
    for row in predictions(opened, names, batch_size=values["batch_size"].value):
        failed += "error" in row
        print(json.dumps(row), flush=True)
    print(f"{len(names) - failed} answered, {failed} failed", file=sys.stderr)
    if failed and values["strict"].value:
        raise DataError(
            f"{failed} of {len(names)} inputs failed",
            where="--inputs",
            kept="the answers to the others",
            next_action="see the lines with an error",
        )


PROGRAM = Program(
    name="tltf predict",
    about="""labels files with a trained run or a published servable, one JSON line each.

  tltf predict --model=RUN --inputs='PHOTOS/*.jpg'""",
    flag_values=FLAGS,
    run=run,
)

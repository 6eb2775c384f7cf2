"""``make bench``: the rows G1 to G12 and of saving, with today's figures beside the targets.

    python -m experiments.benchmarks.run --rows=G1,G3 --workdir=FOLDER

Each row is measured in a process of its own, both sides interleaved; medians and ranges are
printed and kept in ``FOLDER/bench.json``, where rows of other calls stay, and ``FOLDER/g2.png``
draws validation accuracy against time for both sides of G2. Photos are looked for in
``$TLTF_TEST_DATA``, weights in ``$KERAS_HOME``; ``--weights=none`` measures time only.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from absl import flags

from experiments.benchmarks import protocol
from tltf.cli.app import Program, execute
from tltf.cli.quiet import import_tensorflow
from tltf.errors import ArgumentError, nearest

ROWS = {
    "G1": ("phases", "one_pass"),
    "G2a": ("phases", "against_guide"),
    "G2b": ("phases", "against_guide"),
    "G2c": ("phases", "whole_command"),
    "G2t": ("guide_text", "against_guide"),
    "G3": ("phases", "step_gain"),
    "G4": ("pipeline", "extraction"),
    "G5": ("phases", "second_run"),
    "G6": ("pipeline", "settings"),
    "G8": ("pipeline", "input_pipeline"),
    "G9": ("fidelity", "fidelity"),
    "G10": ("fidelity", "optimum"),
    "G11": ("start", "cold_start"),
    "G12": ("fidelity", "memory"),
    "save": ("checkpoint", "share"),
    "tokens": ("tokenizer", "rate"),
}
"""G2c is G2a as whole commands, G2t for texts; G7 comes with G6; save is what states
cost, tokens the rate of the tokenizer."""

AUGMENTED = {"G2a": False, "G2b": True}

FLAGS = flags.FlagValues()
flags.DEFINE_list("rows", list(ROWS), "Which rows.", flag_values=FLAGS)
flags.DEFINE_string("set", "cats_dogs", "Image set.", flag_values=FLAGS)
flags.DEFINE_integer("photos", 300, "At most so many of them.", lower_bound=20, flag_values=FLAGS)
flags.DEFINE_integer("image_size", 224, "Side in pixels.", lower_bound=32, flag_values=FLAGS)
flags.DEFINE_string("backbone", "MobileNetV2", "MobileNetV2, ResNet50 or EfficientNetB0.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("weights", "imagenet", "imagenet, or none: time only.", flag_values=FLAGS)
flags.DEFINE_integer("pairs", 5, "Repeats of each side.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("workdir", "runs/bench", "Where everything goes.", flag_values=FLAGS)
flags.DEFINE_bool("apart", True, "Each row in a process of its own.", flag_values=FLAGS)


def run(values: flags.FlagValues) -> None:
    names = [{"G7": "G6"}.get(name, name) for name in values["rows"].value]
    for name in names:
        if name not in ROWS:
            raise ArgumentError(f"rows={name!r}, expected some of {', '.join(ROWS)}, G7"
                                f"{nearest(name, ROWS)}", where="--rows")  # fmt: skip
    work = Path(values["workdir"].value)
    work.mkdir(parents=True, exist_ok=True)
    if values["apart"].value and len(names) > 1:
        for name in dict.fromkeys(names):
            given = [f"--{k}={values[k].value}" for k in values if k in SAME]
            command = [sys.executable, "-m", "experiments.benchmarks.run", f"--rows={name}"]
            subprocess.run([*command, *given], check=False)
        return
    measure(names[0], values, work)


SAME = ("set", "photos", "image_size", "backbone", "weights", "pairs", "workdir")


def measure(name: str, values: flags.FlagValues, work: Path) -> None:
    """One row, printed and kept."""
    import importlib

    import_tensorflow()
    from experiments.benchmarks.photos import prepared

    module, function = ROWS[name]
    take = getattr(importlib.import_module(f"experiments.benchmarks.{module}"), function)
    backbone, weights = values["backbone"].value, values["weights"].value
    photos = prepared(values["set"].value, count=values["photos"].value,
                      image_size=values["image_size"].value, work=work)  # fmt: skip
    further = {"augment": AUGMENTED[name]} if name in AUGMENTED else {}
    rows = []
    for row in take(photos, name=backbone, weights=weights, pairs=values["pairs"].value, work=work,
                    **further):  # fmt: skip
        print(row, flush=True)
        rows.append(row)
    protocol.save(rows, work / "bench.json")
    if name in AUGMENTED:
        draw(rows[0], work / f"{name}-{backbone}.png".lower())


def draw(row: protocol.Row, path: Path) -> None:
    """Validation accuracy against seconds, a line for each repeat."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5))
    axes = figure.subplots()
    for colour, (side, courses) in zip(("C1", "C0"), row.details["courses"].items(), strict=True):
        for i, points in enumerate(courses):
            axes.plot(*zip(*points, strict=True), colour, label=None if i else side, alpha=0.7)
    axes.set(xlabel="seconds", ylabel="validation accuracy", title=row.what)
    axes.legend()
    figure.savefig(path, bbox_inches="tight", dpi=120)


PROGRAM = Program(
    name="python -m experiments.benchmarks.run",
    about=(__doc__ or "").strip(),
    flag_values=FLAGS,
    run=run,
)

if __name__ == "__main__":
    sys.exit(execute(PROGRAM, sys.argv[1:]))

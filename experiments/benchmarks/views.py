"""How many stored views are enough: test accuracy of --views=K against on-the-fly augmentation.

    python -m experiments.benchmarks.views --workdir=FOLDER --seeds=3

Every run is the default plan with ``--augment``; only ``--views`` differs, 0 is a new view in
each epoch. The difference to on-the-fly is paired by image over the seeds' splits, with a
bootstrap over images. ``make views`` repeats it at any size.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.benchmarks.protocol import bootstrapped
from experiments.benchmarks.quality import unpacked
from tltf.cli.app import Program, execute
from tltf.cli.quiet import import_tensorflow
from tltf.cli.run_flags import required
from tltf.spec import BackboneSpec, DataSpec, TransferSpec

FLAGS = flags.FlagValues()
flags.DEFINE_list("sets", ["hymenoptera", "sign_digits"], "Image sets.", flag_values=FLAGS)
flags.DEFINE_string("backbone", "MobileNetV2:alpha=0.35", "With weights at hand.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_list("views", ["1", "2", "4", "8"], "Numbers of views.", flag_values=FLAGS)
flags.DEFINE_string("augment", "medium", "As of tltf train.", flag_values=FLAGS)
flags.DEFINE_integer("image_size", 224, "Side in pixels.", lower_bound=32, flag_values=FLAGS)
flags.DEFINE_integer("seeds", 3, "Splits of each set.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "Where the runs go.", flag_values=FLAGS)

ON_THE_FLY = 0


def run(values: flags.FlagValues) -> None:
    required(values, "workdir")
    import_tensorflow()
    work = Path(values["workdir"].value)
    work.mkdir(exist_ok=True)
    counts = [ON_THE_FLY, *(int(count) for count in values["views"].value)]
    table = []
    for name in values["sets"].value:
        data = unpacked(name, work / "data")
        right = {}
        for views in counts:
            spec = TransferSpec(
                data=DataSpec(source=str(data)),
                backbone=BackboneSpec(
                    name=values["backbone"].value, image_size=values["image_size"].value
                ),
                augment=values["augment"].value,
                views=views,
                cache=str(work / "cache"),
                export="none",
            )
            seeds = range(values["seeds"].value)
            right[views] = [outcome(spec, seed, work / f"{name}-{views}-{seed}") for seed in seeds]
            table.append({"set": name, "views": views} | against(right[views], right[ON_THE_FLY]))
            print(line(table[-1]), flush=True)
    (work / "views.json").write_text(json.dumps(table, indent=2) + "\n")


def outcome(spec: TransferSpec, seed: int, folder: Path) -> dict[str, bool]:
    """Test image -> whether the trained model was right."""
    import dataclasses

    from tltf import pipeline

    pipeline.transfer(
        dataclasses.replace(spec, seed=seed), workdir=folder, progress=False, say=lambda _: None
    )
    rows = (json.loads(row) for row in (folder / "report/predictions.jsonl").open())
    return {row["id"]: row["predicted"] == row["label"] for row in rows}


def against(ours: list[dict[str, bool]], theirs: list[dict[str, bool]]) -> dict[str, Any]:
    """Mean accuracy, and the paired difference with its bootstrap interval over images."""
    found = bootstrapped([{image: int(right) - int(other[image]) for image, right in mine.items()}
                          for mine, other in zip(ours, theirs, strict=True)])  # fmt: skip
    return {
        "seeds": len(ours),
        "images": found.images,
        "accuracy": float(np.mean([np.mean(list(run.values())) for run in ours])),
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
    }


def line(row: dict[str, Any]) -> str:
    """One row of the table for people."""
    return (
        "{set:<12} views={views}  accuracy {accuracy:.4f}  against on-the-fly {difference:+.4f}"
        " (95 % interval {low:+.4f} to {high:+.4f}, {images} images, {seeds} seeds)".format(**row)
    )


PROGRAM = Program(
    name="experiments.benchmarks.views",
    about="test accuracy of stored augmented views against on-the-fly augmentation.",
    flag_values=FLAGS,
    run=run,
)

if __name__ == "__main__":
    sys.exit(execute(PROGRAM, sys.argv[1:]))

"""Test accuracy of the default plan, and against a linear probe, over several seeds.

    python -m experiments.benchmarks.quality --sets=cats_dogs,hymenoptera,sign_digits --seeds=5

Every seed draws another split. The difference to the linear probe is paired by image; its
interval is a bootstrap over images, each with all the splits that it was a test image of,
so that an image that was drawn twice does not count as two.

The data is looked for in ``$TLTF_TEST_DATA`` (image sets as tar files), the weights in
``$KERAS_HOME``. Each run is an ordinary run folder below ``--workdir``: the same command
again goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.benchmarks.protocol import bootstrapped
from tltf import rundir
from tltf.backbones.hub.archives import extract
from tltf.cli.app import Program, execute
from tltf.cli.quiet import import_tensorflow
from tltf.cli.run_flags import required
from tltf.errors import InputMissingError
from tltf.spec import BackboneSpec, DataSpec, TransferSpec

FLAGS = flags.FlagValues()
flags.DEFINE_list("sets", ["cats_dogs", "hymenoptera", "sign_digits"], "Image sets.",
                  flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("backbone", "MobileNetV2", "With weights at hand.", flag_values=FLAGS)
flags.DEFINE_integer("seeds", 5, "Splits of each set.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "Where the runs go.", flag_values=FLAGS)


def run(values: flags.FlagValues) -> None:
    required(values, "workdir")
    import_tensorflow()
    work = Path(values["workdir"].value)
    work.mkdir(exist_ok=True)
    table = []
    for name in values["sets"].value:
        data = unpacked(name, work / "data")
        rows = [
            one(data, values["backbone"].value, seed, work / f"{name}-{seed}")
            for seed in range(values["seeds"].value)
        ]
        table.append(summary(name, rows))
        print(line(table[-1]), flush=True)
    (work / "quality.json").write_text(json.dumps(table, indent=2) + "\n")


def one(data: Path, backbone: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run: per test image, whether the model and the probe were right."""
    import tltf
    from tltf import pipeline
    from tltf.stages.baselines import without_training
    from tltf.stages.data import committed_manifest

    spec = TransferSpec(
        data=DataSpec(source=str(data)),
        backbone=BackboneSpec(name=backbone),
        seed=seed,
        export="none",
    )
    started = time.monotonic()
    done = pipeline.transfer(spec, workdir=folder, progress=False, say=lambda _: None)
    seconds = time.monotonic() - started
    run = rundir.existing(folder)
    manifest = committed_manifest(run)
    outputs, _ = without_training(tltf.load(folder / "weights"), run.read_spec(), manifest)
    probe = [manifest.classes[i] for i in outputs["linear_probe"][0].argmax(axis=1)]
    labels = {record.id: record.label for record in manifest.split("test")}
    rows = map(json.loads, (folder / "report/predictions.jsonl").open())
    ours = {row["id"]: row["predicted"] for row in rows}
    right = {
        id_: (ours[id_] == label, theirs == label)
        for (id_, label), theirs in zip(labels.items(), probe, strict=True)
    }
    return {
        "seconds": seconds,
        "accuracy": done.report["metrics"]["accuracy"]["value"],
        "probe": float(np.mean([theirs for _, theirs in right.values()])),
        "images": right,
    }


def summary(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and the paired difference with its interval."""
    found = bootstrapped([{image: int(ours) - int(probe)
                           for image, (ours, probe) in row["images"].items()}
                          for row in rows])  # fmt: skip
    accuracies = [row["accuracy"] for row in rows]
    return {
        "set": name,
        "seeds": len(rows),
        "accuracy": float(np.mean(accuracies)),
        "lowest": min(accuracies),
        "highest": max(accuracies),
        "probe": float(np.mean([row["probe"] for row in rows])),
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "images": found.images,
        "seconds": float(np.median([row["seconds"] for row in rows])),
    }


def line(row: dict[str, Any]) -> str:
    """One row of the table for people."""
    return (
        "{set:<14} accuracy {accuracy:.4f} ({lowest:.3f} to {highest:.3f}, {seeds} seeds)"
        "  probe {probe:.4f}  difference {difference:+.4f} (95 % interval {low:+.4f} to"
        " {high:+.4f}, {images} images)  {seconds:.0f} s a run".format(**row)
    )


def unpacked(name: str, folder: Path) -> Path:
    """The image folder ``name``, from the archive in ``$TLTF_TEST_DATA``."""
    if (folder / name).is_dir():
        return folder / name
    archives = Path(os.environ.get("TLTF_TEST_DATA", "")) / "images" / name
    found = sorted(archives.glob("public.tar*"))
    if not found:
        raise InputMissingError(
            "there is no such set", where=archives, next_action="set TLTF_TEST_DATA"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(found[0]) as archive:
        extract(archive, folder)
    return folder / name


PROGRAM = Program(
    name="experiments.benchmarks.quality",
    about="test accuracy of the default plan against a linear probe, over several seeds.",
    flag_values=FLAGS,
    run=run,
)

if __name__ == "__main__":
    sys.exit(execute(PROGRAM, sys.argv[1:]))

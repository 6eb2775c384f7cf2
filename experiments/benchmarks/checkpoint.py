"""What saving costs: one committed state against the interval between two of them.

    python -m experiments.benchmarks.checkpoint --workdir=FOLDER

Per network, everything trainable, Adam (the largest state there is), best weights kept too: the
median of ``--saves`` commits, and its share of the time at the default interval, which is 30 s,
or longer where a save would take more than 5 % of it.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from pathlib import Path

from absl import flags

from tltf import storage
from tltf.cli.app import Program, execute
from tltf.cli.quiet import import_tensorflow
from tltf.cli.run_flags import required
from tltf.interval import COST_SHARE, SECONDS

NETWORKS = ("MobileNetV2", "ResNet50")
FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "Folder for the states and checkpoint.json.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_list("networks", list(NETWORKS), "Backbones.", flag_values=FLAGS)
flags.DEFINE_integer("saves", 5, "Commits of each.", lower_bound=1, flag_values=FLAGS)


def measured(name: str, folder: Path, saves: int) -> dict[str, float | str]:
    """Seconds of each commit of a network's state."""
    import keras
    import numpy as np

    import tltf
    from tltf.training import states
    from tltf.training.states import Position

    model = tltf.classifier(tltf.backbone(name, "none", 64), tltf.head(10))
    model.trainable = True
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    best = [np.asarray(v) for v in model.trainable_variables]
    seconds = []
    for step in range(saves):
        started = time.perf_counter()
        path = states.save(
            folder,
            position=Position(0, 0, step),
            steps_done=step,
            groups={"model": model.variables, "optimizer": optimizer.variables, "best": best},
            callbacks={},
            history=[],
        )
        seconds.append(time.perf_counter() - started)
    size = (path / "tensors.safetensors").stat().st_size
    shutil.rmtree(folder)
    median = statistics.median(seconds)
    return {
        "network": name,
        "megabytes": round(size / 1e6, 1),
        "seconds": round(median, 3),
        "seconds_low": round(min(seconds), 3),
        "seconds_high": round(max(seconds), 3),
        "share": round(median / max(SECONDS, median / COST_SHARE), 4),
    }


def run(values: flags.FlagValues) -> None:
    required(values, "workdir")
    import_tensorflow()
    folder = Path(values["workdir"].value)
    folder.mkdir(parents=True, exist_ok=True)
    saves = values["saves"].value
    rows = [measured(name, folder / "state", saves) for name in values["networks"].value]
    for row in rows:
        print(
            "{network}: a state of {megabytes} MB in {seconds} s ({seconds_low} to {seconds_high},"
            " n={n}), {share:.2%} of the time at the default interval".format(n=saves, **row)
        )
    storage.write_json(folder / "checkpoint.json", rows)


PROGRAM = Program(
    name="python -m experiments.benchmarks.checkpoint",
    about="what saving a training state costs.",
    flag_values=FLAGS,
    run=run,
)

if __name__ == "__main__":
    sys.exit(execute(PROGRAM, sys.argv[1:]))

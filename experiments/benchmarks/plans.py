"""What the default plan could do instead: every rule of ``tltf/recipes.py`` against its neighbours.

    python -m experiments.benchmarks.plans --workdir=FOLDER

Each variant differs from the plan of ``tltf train`` in one thing: only the head, another solver,
rate, depth or length. Same photos, same splits (:mod:`experiments.benchmarks.samples`), so the
differences are paired by test photo. Validation loss is printed beside them: a rule is changed
because of that, the test split only tells whether it was right. What is done is kept in
``FOLDER``: the same command again goes on.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.benchmarks.choosing import SETS, kept, trained_once
from experiments.benchmarks.protocol import bootstrapped
from experiments.benchmarks.samples import sample
from tltf.cli.app import Program, execute
from tltf.cli.quiet import import_tensorflow
from tltf.cli.run_flags import required
from tltf.spec import BackboneSpec, DataSpec, Phase, TransferSpec

HEAD, TUNE = Phase("head", unfreeze="none"), Phase("tune")
PLAN = "plan"
MORE_EPOCHS = 40

FLAGS = flags.FlagValues()
flags.DEFINE_list("sets", list(SETS), "Image sets.", flag_values=FLAGS)
flags.DEFINE_list("variants", [], "Some of them; all if left out.", flag_values=FLAGS)
flags.DEFINE_integer("photos", 160, "To train on and to validate.", lower_bound=40,
                     flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("tests", 300, "Test photos at most.", lower_bound=40, flag_values=FLAGS)
flags.DEFINE_integer("seeds", 2, "Splits.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("backbone", "MobileNetV2:alpha=0.35", "Any.", flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "Where everything goes.", flag_values=FLAGS)


def variants(blocks: int) -> dict[str, dict[str, Any]]:
    """Name to the fields of a TransferSpec, for a backbone of so many blocks with weights."""

    def tuned(**fields: Any) -> dict[str, Any]:
        return {"phases": (HEAD, dataclasses.replace(TUNE, **fields))}

    no_tuning = (HEAD, Phase("tune", 0, 1e-4, unfreeze="last:1"))
    depths = {f"depth {share:.0%}": tuned(unfreeze=f"last:{max(1, round(share * blocks))}")
              for share in (0.2, 0.7, 1.0)}  # fmt: skip
    return {
        PLAN: tuned(),
        "head only": {"phases": no_tuning, "head_solver": "gradient"},
        "head only, L-BFGS": {"phases": no_tuning, "head_solver": "lbfgs"},
        "head by gradient": tuned() | {"head_solver": "gradient"},
        "head by L-BFGS": tuned() | {"head_solver": "lbfgs"},
        "tune 3e-5": tuned(learning_rate=3e-5),
        "tune 3e-4": tuned(learning_rate=3e-4),
        **depths,
        f"tune {MORE_EPOCHS} epochs": tuned(epochs=MORE_EPOCHS),
    }


def run(values: flags.FlagValues) -> None:
    required(values, "workdir")
    import_tensorflow()
    import tltf

    work, backbone = Path(values["workdir"].value), values["backbone"].value
    work.mkdir(parents=True, exist_ok=True)
    layers = tltf.backbone(backbone).blocks.values()
    offered = variants(sum(any(layer.weights for layer in block) for block in layers))
    chosen = [PLAN, *(name for name in values["variants"].value or offered if name != PLAN)]
    sizes = {name: values[name].value for name in ("photos", "tests")}
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in chosen}
    for name in chosen:
        for data in values["sets"].value:
            rows[name][data] = [
                _one(sample(data, seed=seed, work=work, **sizes), name, offered[name],
                     backbone=backbone, seed=seed, work=work)
                for seed in range(values["seeds"].value)
            ]  # fmt: skip
        print(line(name, rows[name], rows[PLAN]), flush=True)


def _one(
    table: Path, name: str, fields: dict[str, Any], *, backbone: str, seed: int, work: Path
) -> dict[str, Any]:
    spec = TransferSpec(data=DataSpec(source=str(table)), seed=seed, export="none",
                        backbone=BackboneSpec(name=backbone), **fields)  # fmt: skip
    title = f"{table.stem}-{backbone}-{name.replace(' ', '_')}"
    found: dict[str, Any] = kept(
        work / "plans" / f"{title}.json", lambda: trained_once(spec, work / "runs" / title)
    )
    return found


def line(
    name: str, found: dict[str, list[dict[str, Any]]], plan: dict[str, list[dict[str, Any]]]
) -> str:
    """Accuracy by set, and what it differs from the plan over all sets, paired by photo."""
    each = " ".join(
        f"{data} {np.mean([np.mean(list(run['right'].values())) for run in runs]):.3f}"
        for data, runs in found.items()
    )
    pairs = [
        {f"{data}/{i}": run["right"][i] - base["right"][i] for i in run["right"]}
        for data, runs in found.items()
        for run, base in zip(runs, plan[data], strict=True)
    ]
    against = bootstrapped(pairs)
    loss = np.mean([run["val_loss"] for runs in found.values() for run in runs])
    seconds = np.median([run["seconds"] for runs in found.values() for run in runs])
    return (
        f"{name:<18} {each}; against the plan {100 * against.difference:+.1f} points"
        f" ({100 * against.low:+.1f} to {100 * against.high:+.1f}, {against.images} images);"
        f" validation loss {loss:.3f}; {seconds:.0f} s"
    )


PROGRAM = Program(
    name="python -m experiments.benchmarks.plans",
    about=(__doc__ or "").strip(),
    flag_values=FLAGS,
    run=run,
)

if __name__ == "__main__":
    sys.exit(execute(PROGRAM, sys.argv[1:]))

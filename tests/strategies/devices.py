"""Two logical CPU devices against one: run in a process of its own, prints the differences."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

REPLICAS = 2


def network(kind: str) -> tuple[Any, int]:
    """A classifier without dropout, and the side of its images in pixels (0: token ids)."""
    import tiny

    import tltf

    if kind == "tiny":
        return tiny.classifier(), tiny.SIDE
    head = tltf.head(2, dropout=0.0)
    if kind == "bert":
        return tltf.classifier(tltf.backbone(f"bert:{_without_dropout()}"), head), 0
    return tltf.classifier(tltf.backbone(kind, "none", 64), head), 64


def _without_dropout() -> Path:
    """A small BERT of the golden files whose configuration asks for no dropout."""
    source = Path(__file__).parents[1] / "backbones/golden_encoders/bert"
    folder = Path(tempfile.mkdtemp()) / "bert"
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def main(kind: str, batch_norm: str) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(REPLICAS)]
    tf.config.set_logical_device_configuration(cpu, parts)
    import tltf
    from tltf.models.initial import seeded_initializers
    from tltf.training.strategies import distribution

    found = {}
    for name in ("none", "mirrored"):
        keras.utils.set_random_seed(0)
        placed = distribution(name)
        with placed.scope(), seeded_initializers(1):
            model, side = network(kind)
        random = np.random.default_rng(0)
        top = 1.0 if kind == "tiny" else 255.0
        x = (random.integers(1, 19, (21, 12)).astype("int32") if not side
             else random.uniform(0, top, (21, side, side, 3)).astype("float32"))  # fmt: skip
        y = np.eye(2, dtype="float32")[random.integers(0, 2, 21)]
        weight = random.uniform(0.5, 2, 21).astype("float32")
        data = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(8)  # the last has 5
        plan = [
            tltf.Phase("head", 2, 1e-2, unfreeze="none"),
            tltf.Phase("tune", 2, 1e-3, unfreeze="last:1", batch_norm=batch_norm,
                       optimizer="adamw", weight_decay=0.01, clipnorm=0.1),
        ]  # fmt: skip
        result = tltf.fit_phases(model, plan, data, validation=data, progress=False,
                                 distribution=placed)  # fmt: skip
        values = [np.asarray(v.numpy()) for v in model.variables]
        found[name] = (result.history, values)
    (one, weights), (two, others) = found["none"], found["mirrored"]
    keys = [k for k in one[0] if k not in ("phase", "epoch", "epoch_seconds")]
    losses = max(abs(a[k] - b[k]) for a, b in zip(one, two, strict=True) for k in keys)
    apart = max(
        float(np.abs(a - b).max() / max(1.0, np.abs(a).max()))
        for a, b in zip(weights, others, strict=True) if a.size and a.dtype.kind == "f"
    )  # fmt: skip
    print(json.dumps({"metrics": losses, "weights": apart, "history": two}))


if __name__ == "__main__":
    main(*sys.argv[1:])

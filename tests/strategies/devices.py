"""The same training on several devices or processes, for a comparison with a single device.

``devices.py KIND[+WITH] BATCH_NORM PLACE REFERENCE [MICRO_BATCH]``, run in a process of its own, or
in one for each worker of TF_CONFIG. PLACE ``none`` writes what a single device gives to REFERENCE;
``mirrored`` (two logical CPU devices) and ``multiworker`` print how far they are from it.
"""

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
WITH = {"": {}, "lora": {"lora": 2, "average": "ema:0.5"}, "swa": {"average": "swa:0.5"}}
"""What the second phase does besides, by what follows the + in the kind."""


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


def trained(
    kind: str, batch_norm: str, place: str, micro_batch: int = 0
) -> tuple[list[dict[str, Any]], list[Any]]:
    """The history of both phases, and every variable at the end."""
    import tltf
    from tltf.models.initial import seeded_initializers
    from tltf.training.strategies import distribution

    kind, _, more = kind.partition("+")
    placed = distribution(place)
    keras.utils.set_random_seed(0)
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
                   optimizer="adamw", weight_decay=0.01, clipnorm=0.1, **WITH[more]),
    ]  # fmt: skip
    result = tltf.fit_phases(model, plan, data, validation=data, progress=False,
                             distribution=placed, micro_batch=micro_batch)  # fmt: skip
    return list(result.history), [np.asarray(v.numpy()) for v in model.variables]


def differences(
    reference: Path, history: list[dict[str, Any]], weights: list[Any]
) -> dict[str, float]:
    """The largest of any loss or metric, and of any variable against the largest entry of it."""
    one = json.loads(reference.with_suffix(".json").read_text())
    with np.load(reference.with_suffix(".npz")) as file:
        before = [file[f"arr_{i}"] for i in range(len(file.files))]
    keys = [k for k in one[0] if k not in ("phase", "epoch", "epoch_seconds")]
    metrics = max(abs(a[k] - b[k]) for a, b in zip(one, history, strict=True) for k in keys)
    apart = max(
        float(np.abs(a - b).max() / max(1.0, np.abs(a).max()))
        for a, b in zip(before, weights, strict=True) if a.size and a.dtype.kind == "f"
    )  # fmt: skip
    return {"metrics": metrics, "weights": apart}


def main(kind: str, batch_norm: str, place: str, reference: str, micro_batch: str = "0") -> None:
    if place == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration() for _ in range(REPLICAS)]
        tf.config.set_logical_device_configuration(cpu, parts)
    history, weights = trained(kind, batch_norm, place, int(micro_batch))
    file = Path(reference)
    if place == "none":
        file.with_suffix(".json").write_text(json.dumps(history))
        np.savez(file.with_suffix(".npz"), *weights)
    else:
        print(json.dumps(differences(file, history, weights)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

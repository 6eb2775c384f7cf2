"""Writes a SavedModel: every weight once, labels and specification as assets."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import keras
import tensorflow as tf

from tltf.errors import printable
from tltf.serving.signatures import Signatures

LABELS = "labels.txt"
SPEC = "tltf.json"


def write_saved_model(folder: Path, served: Signatures, *, spec_json: str = "") -> None:
    """Writes the signatures and their assets into ``folder``, which is created.

    The Keras model is not tracked: its variables are found through the functions, and tracking
    it would store every weight twice (FACTS 3.2), and an optimizer's slots along.
    """
    module = tf.Module()
    concrete = {name: f.get_concrete_function() for name, f in served.functions.items()}  # type: ignore[attr-defined]
    captured = {id(v): v for f in concrete.values() for v in f.variables}
    module.captured = list(captured.values())
    module.tracked = list(served.tracked)
    with tempfile.TemporaryDirectory() as place:
        texts = {LABELS: labels_text(served), SPEC: _spec_text(served, spec_json)}
        for name, text in texts.items():
            Path(place, name).write_text(text, "utf-8")
        module.files = [tf.saved_model.Asset(str(Path(place, name))) for name in texts]
        tf.saved_model.save(module, str(folder), signatures=concrete)


def labels_text(served: Signatures) -> str:
    """One class a line, in the order of the probabilities; control characters escaped."""
    return "".join(f"{printable(name)}\n" for name in served.decision.classes)


def _spec_text(served: Signatures, spec_json: str) -> str:
    decision = served.decision
    fields = {
        "task": decision.task,
        "input": served.intake.key,
        "classes": [printable(name) for name in decision.classes],
        "temperature": decision.temperature,
        "threshold": decision.threshold,
        "max_image_pixels": getattr(served.intake, "max_pixels", None),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "spec": json.loads(spec_json) if spec_json else None,
    }
    return json.dumps(fields, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

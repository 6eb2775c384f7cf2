"""Transfer learning for TensorFlow: from labelled images to a measured, servable classifier.

The public names are resolved on first use; importing tltf imports no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    # the pipeline
    "Run": "tltf.pipeline",
    "TransferSpec": "tltf.spec",
    "DataSpec": "tltf.spec",
    "BackboneSpec": "tltf.spec",
    "HeadSpec": "tltf.spec",
    "Phase": "tltf.spec",
    "AdaptSpec": "tltf.spec",
    "TltfError": "tltf.errors",
    # parts for anyone's own Keras code
    "backbone": "tltf.backbones",
    "Backbone": "tltf.backbones",
    "as_backbone": "tltf.backbones",
    "SavedModelLayer": "tltf.backbones.hub.layer",
    "head": "tltf.models.heads",
    "classifier": "tltf.models.classifier",
    "enter_phase": "tltf.training.phases",
    "fit_phases": "tltf.training.fit",
    "TrainabilityGuard": "tltf.training.callbacks",
    "FrozenCheck": "tltf.training.callbacks",
    "HistoryJsonl": "tltf.training.callbacks",
    "KeepBest": "tltf.training.callbacks",
    "LearningRateFinder": "tltf.training.callbacks",
    "ExactResume": "tltf.training.exactresume",
    # measured and served
    "evaluate": "tltf.evaluation.evaluate",
    "compare": "tltf.evaluation.verdict",
    "grad_cam": "tltf.models.gradcam",
    "export": "tltf.serving.export",
    "PublishBest": "tltf.serving.publish_best",
    "load": "tltf.trained",
}

# Modules that are public as they are; tltf.transfer(spec) is also the call of the pipeline.
_FAMILIES = ("adapt", "transfer")

__all__ = sorted([*_PUBLIC, *_FAMILIES])


# Not at first use only: `from tltf.transfer import MMD` imports Keras and asks no __getattr__.
importlib.import_module("tltf.legacy").choose_backend()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC and name not in _FAMILIES:
        raise AttributeError(f"module 'tltf' has no attribute {name!r}")
    if name != "TltfError":
        importlib.import_module("tltf.legacy").refuse()
    if name in _FAMILIES:
        return importlib.import_module(f"tltf.{name}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, *_FAMILIES})

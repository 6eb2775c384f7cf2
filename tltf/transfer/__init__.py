"""Transfer methods beyond fine-tuning, as plain Keras and NumPy parts.

The names of this package are resolved on first use; importing it imports no TensorFlow.
``tltf.transfer`` is also the pipeline: called as ``tltf.transfer(spec, workdir=...)`` it runs
:func:`tltf.pipeline.transfer`.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

_PUBLIC = {
    "mmd_test": "distances",
    "proxy_a_distance": "distances",
    "distance_report": "distances",
    "MMD": "discrepancies",
    "JointMMD": "discrepancies",
    "CORAL": "discrepancies",
    "Entropy": "confidence",
    "MinimumClassConfusion": "confidence",
    "AdaptiveFeatureNorm": "confidence",
    "DANN": "adversarial",
    "CDAN": "adversarial",
    "reverse_gradient": "adversarial",
    "DomainBatchNormalization": "domain_norm",
    "adapt_batch_norm": "domain_norm",
    "coral_align": "shallow",
    "subspace_align": "shallow",
    "tca": "shallow",
    "jda": "shallow",
    "meda": "manifold",
    "geodesic_flow_kernel": "manifold",
    "label_propagation": "pseudolabels",
    "self_training": "pseudolabels",
    "domain_classifier_weights": "reweighting",
    "kmm": "reweighting",
    "kliep": "reweighting",
    "ulsif": "reweighting",
    "effective_sample_size": "reweighting",
    "criteria": "unlabelled",
    "reverse_accuracy": "unlabelled",
    "Domain": "domains",
    "DomainEpochs": "domains",
    "TrAdaBoost": "boosting",
    "TrAdaBoostR2": "boosting",
    "l2_sp": "anchors",
    "FeatureAnchor": "anchors",
    "BatchSpectralShrinkage": "anchors",
    "enable_lora": "anchors",
    "merge_lora": "anchors",
    "gradual_phases": "anchors",
    "LogitDistillation": "distillation",
    "FeatureDistillation": "distillation",
    "RelationalDistance": "distillation",
    "RelationalAngle": "distillation",
    "SimilarityPreserving": "distillation",
    "EpisodeSampler": "fewshot",
    "evaluate_episodes": "fewshot",
    "nearest_mean": "fewshot",
    "cosine": "fewshot",
    "logistic": "fewshot",
    "prototypical_loss": "metalearning",
    "train_prototypical": "metalearning",
    "reptile": "metalearning",
    "first_order_maml": "metalearning",
    "adapted_accuracy": "metalearning",
    "adapted_head": "metalearning",
    "DomainMixing": "mixing",
    "mixup_domains": "mixing",
    "cutmix_domains": "mixing",
    "source_shares": "mixing",
    "mixed_sources": "mixing",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tltf.transfer' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tltf.transfer.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


class _Package(types.ModuleType):
    """The package under a name that is also the pipeline's verb.

    Importing any part of it makes Python set ``tltf.transfer`` to this module, where
    ``tltf.transfer(spec)`` stood before; so the module answers the call.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return importlib.import_module("tltf.pipeline").transfer(*args, **kwargs)


sys.modules[__name__].__class__ = _Package

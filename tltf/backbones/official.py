"""Which official weight files lie in Keras' cache; readable without TensorFlow.

The names are those that ``keras.applications`` asks for; a contract test compares them.
"""

from __future__ import annotations

import os
from pathlib import Path

from tltf.backbones import catalog
from tltf.backbones.catalog import Choice

KERNELS = "weights_tf_dim_ordering_tf_kernels"
NAMES = {
    "inception_v3": f"inception_v3_{KERNELS}",
    "inception_resnet_v2": f"inception_resnet_v2_{KERNELS}",
}
CUT = {
    "convnext": ("ConvNeXt", "convnext_"),
    "efficientnet_v2": ("EfficientNetV2", "efficientnetv2-"),
    "nasnet": ("NASNet", "nasnet_"),
    "mobilenet_v3": ("MobileNetV3", ""),
}
TENTHS = {1.0: "1_0", 0.75: "7_5", 0.5: "5_0", 0.25: "2_5"}


def cache_folder(subfolder: str = "models") -> Path:
    """Where Keras keeps its files: ``$KERAS_HOME``, or ``.keras`` in the home folder."""
    home = os.environ.get("KERAS_HOME") or "~/.keras"
    return Path(home).expanduser() / subfolder


def file_name(choice: Choice, *, top: bool = False) -> str:
    """The file of official weights, with the classifier on top or without.

    Args:
      choice: of kind ``applications``.
      top: with the classifier.

    >>> file_name(catalog.lookup("MobileNetV2:alpha=0.35"))
    'mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5'
    """
    entry = choice.entry
    if entry is None:
        return ""
    name, family = entry.name, entry.family
    alpha = float(choice.options.get("alpha", 1.0))
    notop, no_top = ("", "") if top else ("_notop", "_no_top")
    if family == "mobilenet":
        return f"mobilenet_{TENTHS.get(alpha, alpha)}_224_tf{no_top}.h5"
    if family == "mobilenet_v2":
        return f"mobilenet_v2_{KERNELS}_{alpha}_224{no_top}.h5"
    if family in CUT:
        front, instead = CUT[family]
        kind = instead + name.removeprefix(front).lower()
        if family == "mobilenet_v3":
            small = "minimalistic_" if choice.options.get("minimalistic") else ""
            version = "" if top else "_no_top_v2"
            return f"weights_mobilenet_v3_{kind}_{small}224_{alpha}_float{version}.h5"
        return f"{kind}{no_top if family == 'nasnet' else notop}.h5"
    if family == "efficientnet":
        return f"{name.lower()}{notop}.h5"
    return f"{NAMES.get(family, f'{name.lower()}_{KERNELS}')}{notop}.h5"


def cached() -> list[str]:
    """The networks whose official weights are in the cache, smaller ones first."""
    found = []
    for entry in sorted(catalog.TABLE.values(), key=lambda entry: entry.params_millions):
        alphas = catalog.FAMILIES[entry.family].published.get("alpha", ())
        names = [entry.name if alpha == 1.0 else f"{entry.name}:alpha={alpha:g}"
                 for alpha in sorted(alphas)] or [entry.name]  # fmt: skip
        if entry.pretrained:
            found += [name for name in names if in_cache(catalog.lookup(name))]
    return found


def in_cache(choice: Choice, *, top: bool = False) -> bool:
    """Whether the file is there; its hash is checked when it is read."""
    return (cache_folder() / file_name(choice, top=top)).is_file()

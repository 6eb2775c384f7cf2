"""A model's architecture from a file of JSON, read as data.

Keras imports whatever module such a file names and takes from it whatever class or function it
names. Before that happens here, every name in the file is compared with a list: layers and
their parts of Keras and of tltf, and nothing that holds code (Lambda, wrapped SavedModels).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tltf import storage
from tltf.errors import SecurityError

_KINDS = (
    *("layers", "models", "initializers", "regularizers", "constraints", "activations"),
    *("dtype_policies", "ops"),
)
# Functional models are written down with the private name of their module.
_PLACES = ("keras", ".".join(("keras", "src")))
MODULES = ("tltf", *(f"{place}.{kind}" for place in _PLACES for kind in _KINDS))
# Layers that three of Keras' own networks bring along; nothing else of those modules may be named.
_NETWORKS = ".".join(("keras", "src", "applications"))
OF_NETWORKS = {
    (f"{_NETWORKS}.convnext", "LayerScale"),
    (f"{_NETWORKS}.convnext", "StochasticDepth"),
    (f"{_NETWORKS}.inception_resnet_v2", "CustomScaleLayer"),
}
CODE = {"Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "FlaxLayer", "JaxLayer"}


def read(path: Path) -> str:
    """The text of an architecture file that names nothing but known parts.

    Raises:
      InputMissingError, StorageError: no such file, or no JSON.
      SecurityError: it names a module from elsewhere, or a part that holds code.
    """
    value = _without_compilation(storage.read_json(path))
    for where, named in _named(value):
        module, kind = named.get("module"), named.get("class_name")
        ours = module in (None, "keras") or (module, kind) in OF_NETWORKS or _known(module)
        if not ours or kind in CODE:
            raise SecurityError(
                f"the architecture names {module}.{kind}, which would run the file's own code",
                where=f"{path.name}: {where or 'top'}",
                next_action="use a run of your own, or of someone whom you trust with your account",
            )
    return json.dumps(value)


def _without_compilation(value: Any) -> Any:
    """The architecture without how it was last compiled: losses and metrics are nobody's need."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key != "compile_config"}
        return {key: _without_compilation(item) for key, item in kept.items()}
    return [_without_compilation(item) for item in value] if isinstance(value, list) else value


def _known(module: object) -> bool:
    return isinstance(module, str) and any(
        module == known or module.startswith(f"{known}.") for known in MODULES
    )


def _named(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object that names a class or a module, with its place."""
    waiting = [("", value)]
    while waiting:
        where, item = waiting.pop()
        if isinstance(item, dict):
            if "class_name" in item or "module" in item:
                yield where, item
            waiting += [(f"{where}.{key}" if where else str(key), v) for key, v in item.items()]
        elif isinstance(item, list):
            waiting += [(f"{where}[{i}]", v) for i, v in enumerate(item)]

"""A model on disk: its architecture as JSON, its weights as one self-verifying tensor file.

No HDF5 and no pickle; what is read back is data only. The backbone's part can be read by
itself (``file:<run folder>``), which :mod:`tltf.backbones.runfile` does.
"""

from __future__ import annotations

from pathlib import Path

import keras

from tltf import storage, tensorfile, variables
from tltf.backbones import architecture as architectures
from tltf.backbones import weights
from tltf.backbones.hub.layer import check_at_hand, trusting
from tltf.backbones.runfile import ARCHITECTURE as BACKBONE
from tltf.backbones.runfile import PREFIX, WEIGHTS
from tltf.errors import InputMissingError
from tltf.models import heads as heads  # registers Pool, which a saved architecture names
from tltf.models.classifier import backbone_of

ARCHITECTURE = "model.json"
REST = "head/"


def save_model(folder: Path, model: keras.Model) -> None:
    """Writes the model's architecture, its backbone's and all weights, each file atomically."""
    folder.mkdir(exist_ok=True)
    backbone, rest = _parts(model)
    tensors = {
        **variables.named_arrays(backbone.variables if backbone else [], prefix=PREFIX),
        **variables.named_arrays(rest, prefix=REST),
    }
    storage.write_text(folder / ARCHITECTURE, model.to_json())
    if backbone is not None:
        storage.write_text(folder / BACKBONE, backbone.to_json())
    tensorfile.write_tensors(folder / WEIGHTS, tensors)


def load_model(folder: Path) -> keras.Model:
    """Reads what :func:`save_model` wrote, all or nothing.

    Raises:
      InputMissingError: a member is missing.
      StorageError: a member is damaged.
      SecurityError: the architecture names code.
      DataError: the weights do not fit the architecture, or are not finite.
    """
    architecture = folder / ARCHITECTURE
    if not architecture.is_file():
        raise InputMissingError(
            "no trained model here",
            where=folder,
            next_action="let the training finish, or name another run",
        )
    tensors, _ = tensorfile.read_tensors(folder / WEIGHTS)
    tensorfile.check_finite(tensors, where=folder / WEIGHTS)
    with trusting():
        model = keras.models.model_from_json(architectures.read(architecture))
    check_at_hand(model)
    backbone, rest = _parts(model)
    held = [*(backbone.variables if backbone else []), *rest]
    variables.assign(held, list(tensors.values()), where=folder)
    weights.refresh(model)
    return model


def _parts(model: keras.Model) -> tuple[keras.Model | None, list[keras.Variable]]:
    """The backbone, and the variables that are not the backbone's."""
    backbone = backbone_of(model)
    inside = {id(v) for v in backbone.variables} if backbone is not None else set()
    return backbone, [v for v in model.variables if id(v) not in inside]

"""``file:<run folder>``: a backbone that a run of tltf trained."""

from __future__ import annotations

from pathlib import Path

import keras

from tltf import sealed, tensorfile, variables
from tltf.backbones import architecture
from tltf.backbones.hub.layer import check_at_hand, trusting
from tltf.backbones.network import Backbone
from tltf.errors import ArgumentError, DataError, InputMissingError, SecurityError

FOLDER = "weights"
ARCHITECTURE = "backbone.json"
WEIGHTS = "model.safetensors"
PREFIX = "backbone/"


def load(folder: str, *, weights: str, input_size: int | None) -> Backbone:
    """The backbone of a run folder.

    Args:
      folder: the run folder; its ``weights`` hold the architecture and the tensors.
      weights: ``none`` gives the architecture freshly initialised (the baseline that starts from
        scratch); anything else gives the weights that the run trained.
      input_size: None, or the side in pixels that the run used.

    Raises:
      InputMissingError: no such folder, or no backbone in it.
      StorageError, DataError: a damaged file, or one that holds something else.
      ArgumentError: another input size.
    """
    path = Path(folder).expanduser() / FOLDER
    if path.is_dir():
        sealed.verify(path)
    model = _architecture(path / ARCHITECTURE)
    side = model.input_shape[1]
    if input_size not in (None, side):
        raise ArgumentError(
            f"input_size={input_size}, but this backbone was trained at {side} pixels",
            where="--image_size",
            next_action=f"leave it out, or pass {side}",
        )
    if weights != "none":
        tensors, _ = tensorfile.read_tensors(path / WEIGHTS)
        own = {key: value for key, value in tensors.items() if key.startswith(PREFIX)}
        tensorfile.check_finite(own, where=path / WEIGHTS)
        variables.assign(model.variables, list(own.values()), where=path / WEIGHTS)
    return model


def _architecture(path: Path) -> Backbone:
    if not path.is_file():
        raise InputMissingError(
            "the run folder holds no backbone",
            where=path,
            next_action="pass the --workdir of a finished `tltf pretrain` or `tltf train`",
        )
    try:
        with trusting():
            model = keras.models.model_from_json(architecture.read(path))
    except SecurityError:
        raise
    except Exception as error:  # Keras raises many kinds for one cause: the file is not right
        raise DataError(f"cannot read the backbone: {error}", where=path) from error
    if not isinstance(model, Backbone):
        raise DataError(f"the file holds a {type(model).__name__}, not a Backbone", where=path)
    check_at_hand(model)
    return model

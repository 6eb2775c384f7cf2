"""``hub:`` as the catalog understands it: which kind of module it is, and its Backbone."""

from __future__ import annotations

from tltf.backbones.catalog import Choice
from tltf.backbones.hub import images, texts
from tltf.backbones.hub.layer import SavedModelLayer
from tltf.backbones.network import Backbone
from tltf.errors import ArgumentError


def build(choice: Choice, *, weights: str, input_size: int | None, pooling: str) -> Backbone:
    """The backbone of a ``hub:`` name. The module is code, and is loaded.

    Args:
      choice: what :func:`tltf.backbones.catalog.lookup` returned, of kind ``hub``.
      weights: only ``imagenet``, the default: a module brings its own.
      input_size: input side in pixels; None for the module's.
      pooling: of tokens, for encoders of texts only.

    Raises:
      ArgumentError: other weights, another size, or an output that does not exist.
      DataError: a module of TF1, an altered one, or one of another kind.
      InputMissingError, DownloadError: no module there.
    """
    if weights != "imagenet":
        raise ArgumentError(
            f"weights={weights!r} for a hub module, which brings its own and has no other",
            where="--weights",
            next_action="leave it out",
        )
    layer = SavedModelLayer(choice.path, output_key=choice.output or None, name=images.LAYER)
    if not layer.module.signature_only:
        layer.trainable = True
    if texts.reads_text(layer):
        if input_size is not None:
            raise ArgumentError(
                f"input_size={input_size} with {choice.text}, which reads texts",
                where="--image_size",
                next_action="leave it out",
            )
        return texts.build(layer, choice, pooling=pooling)
    return images.build(layer, choice, input_size=input_size)

"""``tltf.export``: anybody's model of images or texts as the next version of a servable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras

from tltf.backbones.tokens import tokens_layer
from tltf.data.spreading import spread
from tltf.data.textbytes import text_bytes
from tltf.errors import ArgumentError
from tltf.serving import publish
from tltf.serving.candidate import Candidate, publish_candidate
from tltf.serving.decision import Decision
from tltf.serving.intake import MAX_PIXELS, ImageIntake, Intake
from tltf.serving.parity import EXAMPLES
from tltf.serving.textintake import TextIntake


def export(
    model: keras.Model,
    *,
    to: str | Path,
    labels: Sequence[str] = (),
    task: str = "single_label",
    temperature: float = 1.0,
    threshold: float = 0.0,
    image_size: int | None = None,
    max_length: int | None = None,
    examples: Sequence[str | Path] = (),
    spec_json: str = "",
    max_pixels: int = MAX_PIXELS,
    keep: int | None = None,
) -> Path:
    """Publishes ``model`` as the next version below ``to`` (DESIGN 4.6).

    Preprocessing, labels, temperature and the reject rule live inside the graph; nothing of
    training does. Before it is published, the SavedModel is loaded in a process that imports
    only TensorFlow, and its answers to ``examples`` are compared with the model's.

    Args:
      model: from float images ``[B, S, S, 3]`` in [0, 255] to logits, e.g. of
        :func:`tltf.classifier`; its first input axis is free. On a backbone of texts, from token
        ids: the servable then takes strings.
      to: the folder that holds the versions, created with its parents.
      labels: class names in the order of the logits; none for regression.
      task: ``single_label``, ``multi_label`` or ``regression``.
      temperature, threshold: see :class:`tltf.serving.decision.Decision`.
      image_size: S; None takes it from the model's input. Of images only.
      max_length: most tokens of a text; None for as many as the network reads. Of texts only.
      examples: image files, or texts, for the comparison, of which 32 are used; without any,
        made-up ones are compared.
      spec_json: the run's specification, kept among the assets.
      max_pixels: an image that unpacks to more is answered like one that cannot be read.
      keep: how many versions stay; None keeps all.

    Returns:
      The published folder ``to/<version>``.

    Raises:
      ArgumentError: labels and logits do not fit, or the size is not known, or is that of another
        kind of model.
      DataError: the reloaded SavedModel answers differently; nothing is published, and both
        outputs lie in ``to/.mismatch``.
      OutputError: ``to`` cannot be written.

    Example::

      folder = tltf.export(model, labels=["ant", "bee"], to="servable")
    """
    intake = _intake(model, image_size, max_length, max_pixels)
    texts = isinstance(intake, TextIntake)
    publish.check_keep(keep)
    candidate = Candidate(
        model=model,
        decision=Decision(
            task=task, classes=tuple(labels), temperature=temperature, threshold=threshold
        ),
        intake=intake,
        rows=[
            text_bytes(str(example)) if texts else Path(example).read_bytes()
            for example in spread(examples, most=EXAMPLES)
        ],
        spec_json=spec_json,
    )
    return publish_candidate(candidate, Path(to), keep=keep).folder


def _intake(
    model: keras.Model, image_size: int | None, max_length: int | None, max_pixels: int
) -> Intake:
    """How requests become what the model takes; its own layers say whether these are texts."""
    layer = tokens_layer(model)
    wrong = image_size if layer is not None else max_length
    if wrong is not None:
        name, kind = ("image_size", "texts") if layer is not None else ("max_length", "images")
        raise ArgumentError(
            f"{name}={wrong} for a model of {kind}", where="export", next_action="leave it out"
        )
    if layer is not None:
        return TextIntake(tokenizer=layer.tokenizer, max_length=max_length or layer.max_length)
    side = image_size or model.input_shape[1]
    if side is None:
        raise ArgumentError(
            "the model takes any size", where="export", next_action="set image_size"
        )
    return ImageIntake(image_size=int(side), max_pixels=max_pixels)

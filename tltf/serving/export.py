"""``tltf.export``: anybody's model of images as the next version of a servable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras

from tltf.data.spreading import spread
from tltf.errors import ArgumentError
from tltf.serving import publish
from tltf.serving.candidate import Candidate, publish_candidate
from tltf.serving.decision import Decision
from tltf.serving.intake import MAX_PIXELS, ImageIntake
from tltf.serving.parity import EXAMPLES


def export(
    model: keras.Model,
    *,
    to: str | Path,
    labels: Sequence[str] = (),
    task: str = "single_label",
    temperature: float = 1.0,
    threshold: float = 0.0,
    image_size: int | None = None,
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
        :func:`tltf.classifier`; its first input axis is free.
      to: the folder that holds the versions, created if its parent exists.
      labels: class names in the order of the logits; none for regression.
      task: ``single_label``, ``multi_label`` or ``regression``.
      temperature, threshold: see :class:`tltf.serving.decision.Decision`.
      image_size: S; None takes it from the model's input.
      examples: image files for the comparison, of which 32 are used; without any, made-up
        images are compared.
      spec_json: the run's specification, kept among the assets.
      max_pixels: an image that unpacks to more is answered like one that cannot be read.
      keep: how many versions stay; None keeps all.

    Returns:
      The published folder ``to/<version>``.

    Raises:
      ArgumentError: labels and logits do not fit, or the size is not known.
      DataError: the reloaded SavedModel answers differently; nothing is published, and both
        outputs lie in ``to/.mismatch``.
      OutputError: ``to`` cannot be written.

    Example::

      folder = tltf.export(model, labels=["ant", "bee"], to="servable")
    """
    side = image_size or model.input_shape[1]
    if side is None:
        raise ArgumentError(
            "the model takes any size", where="export", next_action="set image_size"
        )
    publish.check_keep(keep)
    candidate = Candidate(
        model=model,
        decision=Decision(
            task=task, classes=tuple(labels), temperature=temperature, threshold=threshold
        ),
        intake=ImageIntake(image_size=int(side), max_pixels=max_pixels),
        rows=[Path(example).read_bytes() for example in spread(examples, most=EXAMPLES)],
        spec_json=spec_json,
    )
    return publish_candidate(candidate, Path(to), keep=keep).folder

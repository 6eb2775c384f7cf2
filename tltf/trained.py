"""A trained classifier as a whole: the model, and how its logits become answers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tltf import sealed, storage, tensorfile
from tltf.backbones.tokens import tokens_layer
from tltf.data.batches import Batches
from tltf.data.manifest import Manifest, Record
from tltf.data.textbatches import TextBatches
from tltf.data.wordpiece import WordPiece
from tltf.errors import (
    ArgumentError,
    DataError,
    InputMissingError,
    StorageError,
    TltfError,
    named_list,
    nearest,
)
from tltf.evaluation.familiarity import Familiarity, from_tensors
from tltf.evaluation.rejection import DecisionRule
from tltf.models import saved
from tltf.models.classifier import feature_model, with_features
from tltf.rundir import RunDir
from tltf.serving.decision import Decision
from tltf.serving.intake import ImageIntake, Intake
from tltf.serving.predicting import Opened, as_arrays, open_servable
from tltf.serving.signatures import Signatures, signatures
from tltf.serving.textintake import TextIntake
from tltf.spec import TransferSpec
from tltf.training.features import compiled
from tltf.transfer import anchors as anchors  # these two register layers of saved models
from tltf.transfer import domain_norm as domain_norm

DECISION = "decision.json"
FAMILIARITY = "familiarity.safetensors"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The model, its task and classes, its input side, and what was fitted on validation: the rule
    and the limit of what is familiar (None where features do not vary).

    ``image_size`` is the side of images in pixels, None for texts; ``max_length`` is that of texts
    in tokens, None for images. Neither has a default: what leaves one out would read every example
    as nothing. :func:`untrained` takes both from the plan of a run.

    Raises:
      ArgumentError: the one that the model needs is None, or the other is not.
    """

    model: keras.Model
    task: str
    classes: tuple[str, ...]
    image_size: int | None
    max_length: int | None
    rule: DecisionRule = dataclasses.field(default_factory=DecisionRule)
    familiarity: Familiarity | None = None

    def __post_init__(self) -> None:
        name, other = ("image_size", "max_length")
        if self.tokenizer is not None:
            name, other = other, name
        if getattr(self, name) is None or getattr(self, other) is not None:
            raise ArgumentError(
                f"image_size={self.image_size}, max_length={self.max_length} for a model of"
                f" {'images' if self.tokenizer is None else 'texts'}, expected {name} alone",
                where="Trained",
                next_action="use tltf.trained.untrained, which takes it from the run's plan",
            )

    @property
    def tokenizer(self) -> WordPiece | None:
        """That of a text model; None for images."""
        layer = tokens_layer(self.model)
        return layer.tokenizer if layer is not None else None

    @property
    def decision(self) -> Decision:
        """The rule in the form that a servable carries."""
        return Decision(
            task=self.task,
            classes=self.classes,
            temperature=self.rule.temperature,
            threshold=self.rule.threshold,
            familiarity=self.familiarity,
        )

    def save(self, folder: Path) -> None:
        """Writes model and rule into ``folder``; :func:`load` reads them."""
        fields = {
            "task": self.task,
            "classes": list(self.classes),
            "image_size": self.image_size,
            "max_length": self.max_length,
            "rule": dataclasses.asdict(self.rule),
            "familiarity": self.familiarity is not None,
        }
        with sealed.committed(folder) as temporary:
            saved.save_model(temporary, self.model)
            if self.familiarity is not None:
                tensorfile.write_tensors(temporary / FAMILIARITY, self.familiarity.tensors())
            storage.write_json(temporary / DECISION, fields)

    def batches(self, records: Sequence[Record], *, batch_size: int = 32) -> Batches:
        """The records as this model wants them, in order.

        Raises:
          DataError: a label that the model does not know.
        """
        tokenizer = self.tokenizer
        if tokenizer is not None:
            return TextBatches(
                records,
                tokenizer=tokenizer,
                max_length=self.max_length,
                classes=self.classes,
                task=self.task,
                batch_size=batch_size,
            )
        return Batches(
            records,
            classes=self.classes,
            task=self.task,
            image_size=self.image_size,
            batch_size=batch_size,
        )

    def logits(self, data: Batches) -> np.ndarray:
        """float32 ``[n, C]`` in the order of the records."""
        return _outputs(self._answers, data)

    def features(self, data: Batches) -> np.ndarray:
        """Pooled features float32 ``[n, D]`` in the order of the records."""
        return _outputs(self._features, data)

    def features_and_logits(self, data: Batches) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`features` and :meth:`logits` of one pass over the examples."""
        step = compiled(with_features(self.model))
        with data.naming_unreadable():
            rows = [[np.asarray(t) for t in step(x)] for x, _, _ in data.eval_dataset()]
        pooled, logits = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        return pooled, logits

    @functools.cached_property
    def _answers(self) -> tf.types.experimental.PolymorphicFunction:
        return _compiled(self.model)

    @functools.cached_property
    def _features(self) -> tf.types.experimental.PolymorphicFunction:
        return _compiled(feature_model(self.model))

    @property
    def intake(self) -> Intake:
        """How a servable of this model reads requests."""
        tokenizer = self.tokenizer
        if tokenizer is not None:
            return TextIntake(tokenizer=tokenizer, max_length=self.max_length)
        return ImageIntake(image_size=self.image_size)

    def signatures(self) -> Signatures:
        """The functions of its servable, without exporting."""
        return signatures(self.model, self.decision, intake=self.intake)


def untrained(model: keras.Model, spec: TransferSpec, manifest: Manifest) -> Trained:
    """The model of a plan before it has learned anything.

    Args:
      model: of ``spec``, as :func:`tltf.stages.planning.planned_model` builds it.
      spec: resolved.
      manifest: whose examples it is for.
    """
    return Trained(
        model=model,
        task=manifest.task,
        classes=manifest.classes,
        image_size=spec.backbone.image_size,
        max_length=spec.backbone.max_length,
    )


def load(folder: str | Path) -> Trained:
    """Reads what :meth:`Trained.save` wrote: the ``weights`` of a run folder.

    Raises:
      InputMissingError, StorageError, DataError: a member is missing, damaged or does not fit.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputMissingError(
            "no trained model here",
            where=folder,
            next_action="let the training finish, or name another run",
        )
    sealed.verify(folder)
    model = saved.load_model(folder)
    fields: dict[str, Any] = storage.read_json(folder / DECISION)
    try:
        return Trained(
            model=model,
            task=fields["task"],
            classes=tuple(fields["classes"]),
            **_input_settings(model, fields, folder),
            rule=DecisionRule(**fields["rule"]),
            familiarity=_familiarity(folder) if fields.get("familiarity") else None,
        )
    except TltfError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"not the file that tltf wrote: {error}", where=folder) from error


def _input_settings(model: keras.Model, fields: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The one of ``image_size`` and ``max_length`` that the model has; earlier versions wrote 0, or
    what was asked for, for the other.

    Raises:
      DataError: an adaptation of an earlier version, which read every text as an empty one.
    """
    if tokens_layer(model) is None:
        return {"image_size": int(fields["image_size"]), "max_length": None}
    if not fields.get("max_length"):
        raise DataError(
            "this model learned from empty texts: an earlier version adapted it",
            where=folder,
            kept="the run as it is",
            next_action="run `tltf adapt` again with --fresh",
        )
    return {"image_size": None, "max_length": int(fields["max_length"])}


def _familiarity(folder: Path) -> Familiarity:
    tensors, _ = tensorfile.read_tensors(folder / FAMILIARITY)
    return from_tensors(tensors)


def opened_model(path: Path, *, max_image_pixels: int = 0) -> Opened:
    """What answers requests: a run's trained model, or a published servable.

    Args:
      path: the run folder, or where the servable is.
      max_image_pixels: images with more are refused; 0 for the limit of the training. That of a
        servable is in its graph and can only be lowered.

    Raises:
      InputMissingError: neither is there.
    """
    if not (path / "spec.json").is_file():
        opened = open_servable(path)
        limit = min(max_image_pixels or opened.max_pixels, opened.max_pixels)
        return dataclasses.replace(opened, max_pixels=limit)
    folder = RunDir(path)
    run = load(folder.weights)
    limit = max_image_pixels or folder.read_spec().data.max_image_pixels
    intake = run.intake
    if isinstance(intake, ImageIntake):
        intake = dataclasses.replace(intake, max_pixels=limit)
    served = signatures(run.model, run.decision, intake=intake)
    serving_default = served.functions["serving_default"]
    return Opened(
        lambda rows: as_arrays(serving_default(tf.constant(list(rows)))),
        run.classes,
        run.task,
        served.intake.key,
        limit,
    )


def check_classes(known: Sequence[str], found: Sequence[str], *, where: object) -> None:
    """Raises DataError when data has a class that the model was not trained on."""
    unknown = [name for name in found if name not in known]
    if unknown:
        raise DataError(
            f"classes that the model does not know: {named_list(unknown)}"
            f"{nearest(unknown[0], known)}",
            where=where,
            next_action=f"the model knows {named_list(known)}",
        )


def _compiled(model: keras.Model) -> tf.types.experimental.PolymorphicFunction:
    return tf.function(lambda x: tf.cast(model(x, training=False), tf.float32))


def _outputs(step: tf.types.experimental.PolymorphicFunction, data: Batches) -> np.ndarray:
    with data.naming_unreadable():
        batches = data.eval_dataset()
        # One trace for every batch size and text length, of this data and of the next.
        concrete = step.get_concrete_function(batches.element_spec[0])
        return np.concatenate([concrete(x).numpy() for x, _, _ in batches])

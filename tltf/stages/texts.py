"""What is special about texts before training: their backbone, their lengths, their batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tltf import recipes
from tltf.backbones import backbone as build_backbone
from tltf.backbones.network import Backbone
from tltf.backbones.tokens import tokens_layer
from tltf.data.batches import Batches
from tltf.data.manifest import Manifest
from tltf.data.textbatches import TextBatches, token_counts
from tltf.errors import ArgumentError
from tltf.models.initial import seeded_initializers
from tltf.spec import TransferSpec
from tltf.trained import Trained

Say = Callable[[str], None]


def text_backbone(spec: TransferSpec, manifest: Manifest) -> Backbone:
    """As :func:`tltf.stages.planning.pretrained_backbone`, with its pooling."""
    if spec.head.pooling == "flatten":
        raise ArgumentError(
            "pooling='flatten' with a text backbone",
            where="--pooling",
            next_action="use avg, max, cls or pooled",
        )
    _check_taken_as_they_are(spec)
    pooling = "mean" if spec.head.pooling == "avg" else spec.head.pooling
    with seeded_initializers(spec.seed):
        network = build_backbone(
            spec.backbone.name, spec.backbone.weights, spec.backbone.image_size, pooling=pooling
        )
    check_modality(network, manifest, name=spec.backbone.name)
    return network


def _check_taken_as_they_are(spec: TransferSpec) -> None:
    """Raises ArgumentError for what changes images only; domains of texts can be mixed."""
    mix = "none" if spec.adapt.target else spec.mix
    for flag, value, usual in (
        ("mix", mix, "none"), ("augment", spec.augment or "none", "none"),
        ("views", 1 if spec.views is None else spec.views, 1),
    ):  # fmt: skip
        if value != usual:
            raise ArgumentError(
                f"{flag}={value} with texts, which are taken as they are",
                where=f"--{flag}",
                next_action=f"leave --{flag} out",
            )


def check_modality(network: Backbone, manifest: Manifest, *, name: str) -> None:
    """Raises ArgumentError when the backbone reads texts and the data are images, or vice versa."""
    reads_texts = network.tokenizer is not None
    if reads_texts == (manifest.records[0].path is None):
        return
    kinds = ("images", "texts")
    raise ArgumentError(
        f"{name} reads {kinds[reads_texts]}, and the data are {kinds[not reads_texts]}",
        where="--backbone",
        next_action="use minilm for texts" if not reads_texts else "use MobileNetV2 for images",
    )


def token_lengths(
    network: Backbone, manifest: Manifest, *, asked: int | None
) -> tuple[int, int, int] | None:
    """For :class:`tltf.recipes.Facts`.

    Raises:
      ArgumentError: more tokens are asked for than the network has positions for, or any for
        images.
    """
    layer = tokens_layer(network)
    if layer is None:
        if asked is not None:
            raise ArgumentError(
                f"max_length={asked} with a backbone of images, which reads no tokens",
                where="--max_length",
                next_action="leave it out, or use --image_size",
            )
        return None
    if asked is not None and asked > layer.max_length:
        raise ArgumentError(
            f"max_length={asked}, the network reads at most {layer.max_length} tokens",
            where="--max_length",
            next_action=f"pass at most {layer.max_length}, or leave it out",
        )
    texts = [record.text or "" for record in manifest.split("train")]
    most = min(layer.max_length, recipes.MAX_TOKENS)
    counts = token_counts(layer.tokenizer, texts, most=most)
    return int(np.percentile(counts, 99)), int(counts.max()), layer.max_length


def training_batches(
    result: Trained,
    spec: TransferSpec,
    manifest: Manifest,
    weights: dict[str, float] | None,
    soft_targets: np.ndarray | None,
) -> Batches:
    """The training split."""
    train, tokenizer = manifest.split("train"), result.tokenizer
    if tokenizer is not None:
        return TextBatches(
            train,
            soft_targets=soft_targets,
            tokenizer=tokenizer,
            max_length=result.max_length,
            classes=manifest.classes,
            task=manifest.task,
            batch_size=spec.batch_size or 0,
            seed=spec.seed,
            class_weights=weights,
        )
    return Batches(
        train,
        soft_targets=soft_targets,
        classes=manifest.classes,
        task=manifest.task,
        image_size=result.image_size,
        batch_size=spec.batch_size or 0,
        seed=spec.seed,
        augment=spec.augment or "none",
        mix=spec.mix,
        class_weights=weights,
        views=spec.views or 0,
    )


def say_truncated(say: Say, *data: Batches, of: str = "") -> None:
    """How many texts were cut, if any were.

    Args:
      of: which texts were counted, such as ``test``.
    """
    cut = sum(d.truncated for d in data if isinstance(d, TextBatches))
    if cut:
        n = sum(d.n for d in data)
        kind = f"{of} texts" if of else "texts"
        say(f"{cut} of {n} {kind} are longer than max_length tokens and are cut there")

"""The plan of a run: every field of its specification decided, and the model before training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tltf import checks, effort, methods, recipes
from tltf.backbones import backbone as build_backbone
from tltf.backbones import catalog
from tltf.backbones.network import Backbone
from tltf.data import prepare
from tltf.data.cachefolder import cache_folder
from tltf.data.decoding import load_image
from tltf.data.manifest import Manifest
from tltf.errors import OutputError
from tltf.models import heads
from tltf.models.classifier import backbone_of, classifier
from tltf.models.initial import seeded_initializers
from tltf.rundir import RunDir
from tltf.spec import TransferSpec
from tltf.stages.texts import check_modality, text_backbone, token_lengths
from tltf.training import adapters, environment, freezing, phases, probing
from tltf.transfer import anchors

PROBES = "probes.json"


def committed(plan: recipes.Plan, run: RunDir) -> recipes.Plan:
    """Commits ``spec.json`` of a new run; with the choices of one begun before."""
    if run.has(run.spec):
        # The choices were made when the run began; now every field is given.
        kept = (recipes.Choice(**row) for row in run.stage()["plan"])
        return dataclasses.replace(plan, choices=tuple(kept))
    commit(plan, run)
    return plan


def commit(plan: recipes.Plan, run: RunDir) -> None:
    choices = [dataclasses.asdict(choice) for choice in plan.choices]
    run.commit(run.spec, plan.spec.to_json(), plan=choices)


def planned_model(spec: TransferSpec, manifest: Manifest) -> tuple[recipes.Plan, Any]:
    """The resolved specification, and the model that it describes, not yet trained."""
    precision = _precision(spec, manifest)
    with environment.precision_policy(str(precision.value)):
        network = pretrained_backbone(spec, manifest)
        plan = _resolved(spec, manifest, network, precision)
        fields = dataclasses.asdict(plan.spec.head)
        if len(network.output_shape) == 2:
            fields["pooling"] = (
                "avg"  # a vector already: a network of texts pools its tokens itself
            )
        head = heads.head(max(1, len(manifest.classes)), seed=plan.spec.seed, **fields)
        model = regularized(classifier(network, head), plan.spec.regularizer)
        counted = tuple(low_rank(model, plan.spec))
        return dataclasses.replace(plan, choices=(*plan.choices, *counted)), model


def low_rank(model: keras.Model, spec: TransferSpec) -> Iterator[recipes.Choice]:
    """How much of the model each phase with adapters trains, before anything is trained.

    Raises:
      ArgumentError: no layer that such a phase names takes an adapter.
    """
    whole = sum(math.prod(v.shape) for v in model.weights)
    for phase in spec.phases:
        if not phase.lora:
            continue
        why = "changes nothing: no epoch of it trains the backbone"
        if phase.epochs and phase.unfreeze:
            with seeded_initializers(spec.seed):
                names = phases.adapted(model, phase.unfreeze, phase.lora)
            found = phases.freeze(model, phase)
            trained = sum(math.prod(v.shape) for v in model.trainable_variables)
            adapters.merge(freezing.leaves(model), keep=False)
            why = (
                f"LoRA rank {phase.lora}: {trained:,} of {whole:,} parameters train, in"
                f" {len(found.trainable)} variables: the head and adapters of {len(names)} layers"
            )
        yield recipes.Choice(f"{phase.name}.lora", phase.lora, why)


def regularized(model: keras.Model, text: str) -> keras.Model:
    """The model with L2-SP on its weights or spectral shrinkage on its pooled features.

    DELTA compares it with itself as it was, which :mod:`tltf.stages.guiding` arranges.
    """
    kind, factor = methods.regularizer(text)
    if kind == "l2sp":
        anchors.l2_sp(model, factor)
    elif kind == "bss":
        pool, *rest = model.get_layer(heads.HEAD).layers
        shrink = anchors.BatchSpectralShrinkage(factor, name="shrink")
        network = backbone_of(model)
        model = classifier(network, keras.Sequential([pool, shrink, *rest], name=heads.HEAD))
    return model


def _precision(spec: TransferSpec, manifest: Manifest) -> recipes.Choice:
    """As asked, by rule, or where the processor has fast bfloat16 by a probe on real images."""
    train = manifest.split("train")
    texts = not train or train[0].path is None
    by_rule = spec.precision != "auto" or spec.deterministic or texts
    if by_rule or not environment.may_probe(native=probing.native_bfloat16()):
        return environment.choose_precision(spec.precision, deterministic=spec.deterministic)

    def build() -> Backbone:
        return pretrained_backbone(spec, manifest)

    size = spec.backbone.image_size or _usual_side(spec) or build().input_shape[1]
    batch = train[: probing.IMAGES]
    images = tf.stack([load_image(str(record.path), size) for record in batch])
    what = {"backbone": spec.backbone.name, "weights": spec.backbone.weights, "size": size}
    try:
        remembered = cache_folder() / PROBES
    except OutputError:
        remembered = None
    return probing.probed_precision(build, images, what=what, remembered=remembered)


def _usual_side(spec: TransferSpec) -> int | None:
    """The side in pixels that the published weights were trained at, without building anything."""
    entry = catalog.lookup(spec.backbone.name).entry
    return entry.size if entry is not None and spec.backbone.weights != "none" else None


def pretrained_backbone(spec: TransferSpec, manifest: Manifest) -> Backbone:
    """The backbone as it is before training; random weights follow from the seed."""
    choice = catalog.lookup(spec.backbone.name)
    if choice.kind in catalog.TEXT_KINDS:
        return text_backbone(spec, manifest)
    entry = choice.entry
    size = spec.backbone.image_size
    if size is None and spec.backbone.weights == "none" and entry is not None:
        size = recipes.scratch_size(
            median_side=prepare.median_side(manifest.split("train")),
            default=entry.size,
            minimum=entry.minimum,
        )
    with seeded_initializers(spec.seed):
        network = build_backbone(spec.backbone.name, spec.backbone.weights, size)
    check_modality(network, manifest, name=spec.backbone.name)
    return network


def _resolved(
    spec: TransferSpec, manifest: Manifest, network: Backbone, precision: recipes.Choice
) -> recipes.Plan:
    jit = environment.choose_jit(spec.jit, network)
    train = manifest.split("train")
    facts = recipes.Facts(
        n_train=len(train),
        median_side=prepare.median_side(train),
        input_size=network.input_shape[1] or 0,
        n_blocks=sum(any(layer.weights for layer in x) for x in network.blocks.values()),
        pretrained=spec.backbone.weights != "none",
        tokens=token_lengths(network, manifest, asked=spec.backbone.max_length),
        width=network.output_shape[-1],
    )
    chosen = [c for c in (precision, jit) if getattr(spec, c.field) == "auto"]
    spec = dataclasses.replace(spec, **{c.field: c.value for c in (precision, jit)})
    spec = dataclasses.replace(spec, data=dataclasses.replace(spec.data, task=manifest.task))
    wanted, validation = _tried(spec, manifest)
    spec = dataclasses.replace(spec, effort=wanted.value, validation=validation.value)
    plan = recipes.resolve(spec, facts)
    of_phases = plan.choices
    if wanted.value != effort.PLAN:
        # The phases are there for what compares itself with them; nothing of them is done here.
        of_phases = tuple(c for c in plan.choices if c.field in ("image_size", "max_length"))
    return dataclasses.replace(plan, choices=(wanted, validation, *of_phases, *chosen))


def _tried(spec: TransferSpec, manifest: Manifest) -> tuple[recipes.Choice, recipes.Choice]:
    """How much is tried, and what choices are made on."""
    value, choice = effort.decided(spec)
    labelled = len(manifest.split("train"))
    if choice is not None and value == effort.DEFAULT and labelled > effort.MOST_PROBED:
        why = f"{labelled:,} examples are too many to solve heads for, and enough to train them"
        value, choice = effort.PLAN, recipes.Choice("effort", effort.PLAN, why)
    choice = choice or recipes.Choice("effort", value, "as asked")
    if value == effort.PLAN or len(manifest.split("val")):
        why = f"{len(manifest.split('val'))} examples choose, {labelled} are learned from"
        return choice, recipes.Choice("validation", "split", why)
    folds = checks.fold_count(spec.validation) or effort.FOLDS
    why = f"each of {labelled} labelled examples is learned from, and is predicted out of fold"
    return choice, recipes.Choice("validation", f"folds:{folds}", why)

"""The flags that describe a run, and the TransferSpec that they make.

Every default is the one of the specification given, so the command line, the recipes in
``experiments/`` and the library cannot drift apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from tltf import spec as names
from tltf.errors import ArgumentError
from tltf.spec import DataSpec, Phase, TransferSpec

DATA = {
    "data": "source", "task": "task", "val_fraction": "val_fraction",
    "test_fraction": "test_fraction", "group_column": "group_column", "bad_files": "bad_files",
    "encoding": "encoding", "label_separator": "label_separator",
    "max_bad_fraction": "max_bad_fraction", "max_image_pixels": "max_image_pixels",
    "fail_on_leak": "fail_on_leak",
}  # fmt: skip
BACKBONE = {
    "backbone": "name", "weights": "weights", "image_size": "image_size",
    "max_length": "max_length",
}  # fmt: skip
HEAD = {
    "pooling": "pooling", "hidden": "hidden", "activation": "activation", "dropout": "dropout",
    "l2": "l2",
}  # fmt: skip
RUN = (
    "effort", "validation", "augment", "mix", "batch_size", "class_weight", "label_smoothing",
    "early_stop", "seed",
    "precision", "jit", "deterministic", "cache", "head_solver",
    "cache_dtype", "restore", "baselines", "unknown", "export", "regularizer", "teacher",
    "distill",
)  # fmt: skip
ALL_PHASES = (
    "optimizer", "momentum", "schedule", "warmup", "block_lr_decay", "weight_decay", "clipnorm",
    "batch_norm",
)  # fmt: skip
AUGMENT = (
    "Random changes of training images: none, light, medium, strong, or ranges such as"
    " flip,rotation=10,shear=0.2,zoom=0.2. Rotation is in degrees, shear a share of the height"
    " (a slope, no angle), zoom, brightness and contrast shares of 1; fill names the border."
)
SOURCES = (
    "Folder of images or .txt files, CSV/TSV/JSON-lines table, lines that begin with their label,"
    " tfds:NAME or digits."
)
RESTORE = "Epoch whose weights a phase leaves; best for images and last for texts if left out."
HEAD_SOLVER = (
    "Of a phase that trains only a linear head: lbfgs takes it to its optimum; auto: where"
    " examples are few."
)
GRADUAL = (
    "Unfreezes so many blocks of --unfreeze=last:N at a time, each time in a phase of its own; 0:"
    " all at once."
)
LORA = (
    "Trains low-rank adapters of this rank in the place of the unfrozen blocks' weights, and merges"
    " them at the end; 0: none."
)
AVERAGE = (
    "Of the last phase's weights, what is kept and validated: none; ema:0.99, their exponential"
    " moving average; swa, the mean of the last quarter of the steps, swa:0.5 of half of them."
)
REGULARIZER = (
    "none; l2sp:FACTOR holds weights near their start, delta:FACTOR the backbone's features of each"
    " image, bss:FACTOR shrinks the smallest singular values of a batch of features."
)
DISTILL = (
    "What is learned of the teacher: logits (its answers), features, distances, angles, similarity"
    " (of its pooled features), several with commas, each but logits with :WEIGHT if you like."
)
EFFORT = (
    "How much is tried: fast, one pass and a stacked probe of all depths; default, tuning too, kept"
    " where it is shown to help; best, more of both; plan, the phases as the other flags say, which"
    " they choose by themselves."
)
VALIDATION = (
    "Examples that choices are made on: split, a carved part; folds:K, all labelled ones, each"
    " predicted by a model that did not see it; auto, folds below 2,000 labels."
)
BACKBONES = (
    "One of keras.applications, small_cnn, mlp, or file:RUN; for texts minilm, bert:FOLDER,"
    " hf:NAME or vectors:FILE."
)


ENCODING = "Of texts and tables: auto, or for example latin-1."
LABEL_SEPARATOR = "What stands between several labels in one cell of a table."


def define_encoding(values: flags.FlagValues) -> None:
    """``--encoding``, for commands that make no specification."""
    flags.DEFINE_string("encoding", DataSpec.encoding, ENCODING, flag_values=values)


def define(values: flags.FlagValues, default: TransferSpec) -> None:
    """Defines every flag of a run; one left out keeps what ``default`` says."""
    add = _Definer(values)
    data, backbone, head = default.data, default.backbone, default.head
    add.text("data", data.source, SOURCES)
    add.choice("task", data.task, names.TASKS, "What a label is.")
    add.number("val_fraction", data.val_fraction, "Share carved for validation if none is named.")
    add.number("test_fraction", data.test_fraction, "Share carved for the test if none is named.")
    add.text("group_column", data.group_column, "Column whose equal values stay in one split.")
    add.text("encoding", data.encoding, ENCODING)
    add.text("label_separator", data.label_separator, LABEL_SEPARATOR)
    add.choice("bad_files", data.bad_files, names.BAD_FILES, "What to do about unreadable files.")
    add.number("max_bad_fraction", data.max_bad_fraction, "Most bad files that skip may skip.")
    add.whole("max_image_pixels", data.max_image_pixels, "Larger images are listed as bad.")
    add.flag("fail_on_leak", data.fail_on_leak, "Refuse data with a file in two splits.")
    add.choice("effort", default.effort, names.EFFORTS, EFFORT)
    add.text("validation", default.validation, VALIDATION)
    add.text("backbone", backbone.name, BACKBONES)
    add.text("weights", backbone.weights, "imagenet, none, or the path of a weight file.")
    add.whole("image_size", backbone.image_size, "Input side in pixels; the recipe's if left out.")
    add.whole("max_length", backbone.max_length, "Tokens of a text; the recipe's if left out.")
    add.choice("pooling", head.pooling, names.POOLINGS, "From maps or tokens to one vector.")
    add.units("hidden", head.hidden, "Units of hidden layers in the head, for example 512,128.")
    add.text("activation", head.activation, "Activation of the hidden layers.")
    add.number("dropout", head.dropout, "Dropout before each Dense layer of the head.")
    add.number("l2", head.l2, "L2 factor on the kernels of the head.")
    add.text("augment", default.augment, AUGMENT)
    add.choice("mix", default.mix, names.MIXES, "Mixing of training images within a batch.")
    add.whole("batch_size", default.batch_size, "Examples per step.")
    add.text("class_weight", default.class_weight, "none, auto, or JSON of class name to weight.")
    add.number("label_smoothing", default.label_smoothing, "Share of each target spread evenly.")
    add.whole(
        "early_stop",
        default.early_stop,
        "Epochs without a lower val_loss that end a phase; 0: never.",
    )
    add.choice("restore", default.restore, names.RESTORES, RESTORE)
    add.whole("seed", default.seed, "Root of everything random.")
    add.choice("precision", default.precision, names.PRECISIONS, "Of the computation.")
    add.choice("jit", default.jit, names.JITS, "Compile by XLA.")
    add.flag("deterministic", default.deterministic, "Deterministic ops, slower on GPU.")
    add.text(
        "views",
        "auto" if default.views is None else str(default.views),
        "Augmented views kept of each image, which epochs cycle through; 0: a new one every epoch.",
    )
    add.choice("head_solver", default.head_solver, names.HEAD_SOLVERS, HEAD_SOLVER)
    add.text("cache", default.cache, "Frozen features: auto, off, or a folder for them.")
    add.choice("cache_dtype", default.cache_dtype, names.CACHE_DTYPES, "Of stored features.")
    add.flag("baselines", default.baselines, "Compare with the majority class and a linear probe.")
    add.text(
        "unknown",
        default.unknown,
        "Folder of images, or texts, of no class, to be told from the test's.",
    )
    add.text("export", default.export, "auto (in the run folder), none, or a folder.")
    add.text("regularizer", default.regularizer, REGULARIZER)
    add.text("teacher", default.teacher, "A finished run from which the model learns too.")
    add.text("distill", default.distill, DISTILL)
    _define_phases(add, default.phases)


def _define_phases(add: _Definer, phases: tuple[Phase, ...]) -> None:
    for phase in phases:
        about = f"of the phase {phase.name!r}; the recipe's if left out."
        add.whole(f"{phase.name}_epochs", phase.epochs, f"Epochs {about}")
        rate = phase.learning_rate
        add.text(
            f"{phase.name}_lr",
            None if rate is None else str(rate),
            f"Peak learning rate {about} auto: by rehearsals before the first step.",
        )
    last = phases[-1]
    add.text("unfreeze", last.unfreeze, "none, last:N, all, blocks:A,B or regex:PATTERN.")
    add.whole("gradual", 0, GRADUAL)
    add.whole("lora", last.lora, LORA)
    add.text("average", last.average, AVERAGE)
    add.choice("optimizer", last.optimizer, names.OPTIMIZERS, "Of every phase.")
    add.number("momentum", last.momentum, "Of sgd.")
    add.choice("schedule", last.schedule, names.SCHEDULES, "Of the rate after warm-up.")
    add.number("warmup", last.warmup, "Share of a phase's steps in which the rate rises.")
    add.number("block_lr_decay", last.block_lr_decay, "Rate of a block over the one above it.")
    add.number("weight_decay", last.weight_decay, "For adamw, decoupled; the recipe's if left out.")
    add.number("clipnorm", last.clipnorm, "Largest global norm of the gradient.")
    add.choice("batch_norm", last.batch_norm, names.BATCH_NORMS, "In unfrozen blocks.")


def to_spec(values: flags.FlagValues, default: TransferSpec) -> TransferSpec:
    """The specification that the parsed flags describe.

    Raises:
      ArgumentError: a value out of range, or flags that contradict each other.
    """
    given = {name: values[name].value for name in values}
    _check_contradictions(given, values, default)
    return dataclasses.replace(
        default,
        data=dataclasses.replace(default.data, **_fields(given, DATA)),
        backbone=dataclasses.replace(default.backbone, **_fields(given, BACKBONE)),
        head=dataclasses.replace(default.head, **_fields(given, HEAD) | {"hidden": _units(given)}),
        phases=_averaged(
            _gradually([_phase(phase, given, default) for phase in default.phases], given), given
        ),
        views=_views(given["views"]),
        **{name: given[name] for name in RUN},
    )


def _phase(phase: Phase, given: Mapping[str, Any], default: TransferSpec) -> Phase:
    name = phase.name
    fields = {
        "epochs": given[f"{name}_epochs"],
        "learning_rate": _rate(given[f"{name}_lr"], where=f"--{name}_lr"),
    }
    last = default.phases[-1]
    fields |= {k: given[k] for k in ALL_PHASES if given[k] != getattr(last, k)}
    if phase is last:
        fields |= {"unfreeze": given["unfreeze"], "lora": given["lora"]}
    return dataclasses.replace(phase, **fields)


def _gradually(phases: Sequence[Phase], given: Mapping[str, Any]) -> tuple[Phase, ...]:
    """The last phase as several that unfreeze from the top (Howard & Ruder, ACL 2018, section 3.3).

    Raises:
      ArgumentError: no number of blocks to reach, or a negative step.
    """
    step = given["gradual"]
    if not step:
        return tuple(phases)
    *before, last = phases
    kind, _, rest = (last.unfreeze or "").partition(":")
    if step < 0 or kind != "last" or not rest.isdecimal():
        raise ArgumentError(
            f"gradual={step} with unfreeze={last.unfreeze!r}, expected a number of blocks at a time"
            " and last:N to end with",
            where="--gradual",
            next_action="for example --gradual=1 --unfreeze=last:3",
        )
    most = int(rest)
    counts = sorted({min(n, most) for n in range(step, most + step, step)})
    steps = (
        dataclasses.replace(last, name=f"{last.name}{n}", unfreeze=f"last:{n}") for n in counts
    )
    return (*before, *steps)


def _averaged(phases: Sequence[Phase], given: Mapping[str, Any]) -> tuple[Phase, ...]:
    """The last phase that trains with ``--average``."""
    trains = [phase for phase in phases if phase.epochs != 0] or phases
    return tuple(
        dataclasses.replace(phase, average=given["average"]) if phase is trains[-1] else phase
        for phase in phases
    )


def _fields(given: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    return {field: given[flag] for flag, field in table.items()}


def _units(given: Mapping[str, Any]) -> tuple[int, ...]:
    try:
        return tuple(int(units) for units in given["hidden"])
    except ValueError as error:
        raise ArgumentError(
            f"hidden={','.join(given['hidden'])!r}, expected whole numbers",
            where="--hidden",
            next_action="for example --hidden=512 or --hidden=512,128",
        ) from error


def _views(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise ArgumentError(
            f"views={text!r}, expected auto or a whole number",
            where="--views",
            next_action="for example --views=4, or leave it out",
        ) from error


def _rate(text: str | None, *, where: str) -> float | str | None:
    if text is None or text == names.AUTO:
        return text
    try:
        return float(text)
    except ValueError as error:
        raise ArgumentError(
            f"{text!r}, expected auto or a number",
            where=where,
            next_action="for example 0.001, or leave it out",
        ) from error


def _check_contradictions(
    given: Mapping[str, Any], values: flags.FlagValues, default: TransferSpec
) -> None:
    """Flags that are right by themselves and wrong together."""
    clashes = [
        (given["unfreeze"] == "none" and len(default.phases) > 1,
         "--unfreeze=none leaves nothing for the last phase to tune",
         f"use --{default.phases[-1].name}_epochs=0 to train the head only"),
        (given["momentum"] != default.phases[-1].momentum and given["optimizer"] != "sgd",
         f"--momentum with --optimizer={given['optimizer'] or 'adam'}", "use --optimizer=sgd"),
        (given["class_weight"] != "none" and given["task"] == "regression",
         "--class_weight with --task=regression, which has no classes", "leave it out"),
        (given["max_bad_fraction"] != default.data.max_bad_fraction
         and given["bad_files"] != "skip",
         "--max_bad_fraction without --bad_files=skip", "add --bad_files=skip"),
        (given["distill"] != default.distill and not given["teacher"],
         f"--distill={given['distill']} without a teacher", "add --teacher=RUN"),
    ]  # fmt: skip
    for wrong, what, remedy in clashes:
        if wrong:
            raise ArgumentError(what, where="flags", next_action=remedy)


class _Definer:
    """absl's DEFINE functions with one set of flags."""

    def __init__(self, values: flags.FlagValues) -> None:
        self.values = values

    def text(self, name: str, default: str | None, about: str) -> None:
        flags.DEFINE_string(name, default, about, flag_values=self.values)

    def choice(self, name: str, default: str | None, known: tuple[str, ...], about: str) -> None:
        flags.DEFINE_enum(name, default, list(known), about, flag_values=self.values)

    def number(self, name: str, default: float | None, about: str) -> None:
        flags.DEFINE_float(name, default, about, flag_values=self.values)

    def whole(self, name: str, default: int | None, about: str) -> None:
        flags.DEFINE_integer(name, default, about, flag_values=self.values)

    def flag(self, name: str, default: bool, about: str) -> None:
        flags.DEFINE_bool(name, default, about, flag_values=self.values)

    def units(self, name: str, default: tuple[int, ...], about: str) -> None:
        flags.DEFINE_list(name, [str(u) for u in default], about, flag_values=self.values)

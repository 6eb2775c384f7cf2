"""TransferSpec: the complete, immutable, JSON-able description of one run.

``None`` in a field means "`recipes.py` decides"; :func:`tltf.recipes.resolve` fills every
such field in from the data and the backbone before the first step, and the resolved
specification is what ``spec.json`` holds and what a resumed run is compared with.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field

from tltf.checks import check_class_weight, check_unfreeze, check_validation, in_range, one_of
from tltf.errors import ArgumentError
from tltf.methods import AdaptSpec, average, distillation, regularizer
from tltf.policies import policy
from tltf.specjson import flatten, read

TASKS = ("auto", "single_label", "multi_label", "regression")
MIXES = ("none", "mixup", "cutmix")
OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine", "linear")
POOLINGS = ("avg", "max", "flatten", "cls", "pooled")
AUTO = "auto"
BATCH_NORMS = ("frozen", "adapt")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
JITS = ("auto", "on", "off")
BAD_FILES = ("error", "skip")
RESTORES = ("best", "last")
HEAD_SOLVERS = ("auto", "gradient", "lbfgs")
CACHE_DTYPES = ("float16", "bfloat16", "float32", "uint8")
EFFORTS = ("fast", "default", "best", "plan")


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Where the examples come from and how they are split.

    ``source`` is a folder of images or texts, a CSV/TSV/JSON-lines manifest, a file of lines that
    begin with their label, ``tfds:<name>`` or ``digits``. Fractions are of the whole, in [0, 1).
    ``encoding`` is of texts and tables: ``auto`` or a name such as ``latin-1``.
    ``label_separator`` stands between several labels of one example in a table.
    """

    source: str
    task: str = "auto"
    val_fraction: float = 0.15
    test_fraction: float = 0.15
    group_column: str | None = None
    encoding: str = "auto"
    label_separator: str = "|"
    bad_files: str = "error"
    max_bad_fraction: float = 0.01
    max_image_pixels: int = 64_000_000
    fail_on_leak: bool = False

    def __post_init__(self) -> None:
        if not self.source:
            raise ArgumentError(
                "no data was named",
                where="--data",
                next_action="pass a folder with one sub-folder per class, or a CSV file",
            )
        one_of("task", self.task, TASKS)
        one_of("bad_files", self.bad_files, BAD_FILES)
        for name in ("val_fraction", "test_fraction", "max_bad_fraction"):
            in_range(name, getattr(self, name), 0.0, 1.0, high_open=True)
        if self.val_fraction + self.test_fraction >= 1.0:
            raise ArgumentError(
                f"val_fraction + test_fraction is {self.val_fraction + self.test_fraction:g},"
                " expected less than 1, or nothing is left to train on",
                where="--val_fraction, --test_fraction",
                next_action="make them smaller, for example 0.15 each",
            )
        in_range("max_image_pixels", self.max_image_pixels, 1, math.inf)


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """Which pretrained network: a name of DESIGN 4.1, its weights, its input side in pixels, or for
    texts the most tokens."""

    name: str
    weights: str = "imagenet"
    image_size: int | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ArgumentError("no backbone was named", where="--backbone")
        if self.image_size is not None:
            in_range("image_size", self.image_size, 8, 4096)
        if self.max_length is not None:
            in_range("max_length", self.max_length, 4, 100_000)


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """The new layers: pooling (``cls`` and ``pooled`` of texts only, ``flatten`` of images only),
    hidden Dense sizes, dropout before each Dense, L2 on kernels."""

    pooling: str = "avg"
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    dropout: float = 0.2
    l2: float = 0.0

    def __post_init__(self) -> None:
        one_of("pooling", self.pooling, POOLINGS)
        for units in self.hidden:
            in_range("head_hidden", units, 1, 1_000_000)
        in_range("dropout", self.dropout, 0.0, 1.0, high_open=True)
        in_range("l2", self.l2, 0.0, math.inf)


@dataclass(frozen=True)
class Phase:
    """A stretch of training with a fixed trainable set, optimizer and schedule.

    Args:
      name: how the phase is called in logs and reports.
      epochs: passes over the training split, >= 0; None lets the recipe decide.
      learning_rate: peak rate, > 0; None lets the recipe decide, ``auto``
        rehearsals before the first step of the phase.
      unfreeze: ``none`` (head only), ``last:N`` blocks from the top, ``all``,
        ``blocks:a,b`` by name, ``regex:...`` on layer names; None lets the recipe decide.
      batch_norm: ``frozen`` keeps BatchNorm statistics, ``adapt`` updates them in unfrozen blocks.
      optimizer: ``adam``, ``adamw`` or ``sgd`` (with ``momentum``); None lets the recipe decide.
      schedule: ``cosine`` or ``linear`` to zero after warm-up, or ``constant``.
      warmup: share of the steps that the rate takes to rise from zero, in [0, 1).
      block_lr_decay: each block below the head learns at this multiple of the one above, (0, 1].
      weight_decay: decoupled decay, adamw only, not on biases and normalisation; None lets the
        recipe decide, without one it is 0.
      clipnorm: global gradient norm is clipped to this, None for no clipping.
      lora: rank of low-rank adapters that train in the place of the unfrozen blocks' weights and
        are merged into them at the end; 0: none.
      average: ``none``; ``ema:M`` leaves, and is judged by, the exponential moving average of the
        weights with momentum M; ``swa:SHARE`` the mean of those of the last steps.
    """

    name: str
    epochs: int | None = None
    learning_rate: float | str | None = None
    unfreeze: str | None = field(default=None, kw_only=True)
    batch_norm: str = field(default="frozen", kw_only=True)
    optimizer: str | None = field(default=None, kw_only=True)
    momentum: float = field(default=0.9, kw_only=True)
    schedule: str = field(default="cosine", kw_only=True)
    warmup: float = field(default=0.1, kw_only=True)
    block_lr_decay: float = field(default=1.0, kw_only=True)
    weight_decay: float | None = field(default=None, kw_only=True)
    clipnorm: float | None = field(default=None, kw_only=True)
    lora: int = field(default=0, kw_only=True)
    average: str = field(default="none", kw_only=True)

    def __post_init__(self) -> None:
        where = f"phase {self.name!r}"
        if self.epochs is not None:
            in_range("epochs", self.epochs, 0, 1_000_000, where)
        if self.learning_rate not in (None, AUTO):
            in_range("learning_rate", self.learning_rate, 0.0, math.inf, where, low_open=True)
        if self.unfreeze is not None:
            check_unfreeze(self.unfreeze)
        one_of("batch_norm", self.batch_norm, BATCH_NORMS)
        if self.optimizer is not None:
            one_of("optimizer", self.optimizer, OPTIMIZERS)
        one_of("schedule", self.schedule, SCHEDULES)
        in_range("momentum", self.momentum, 0.0, 1.0, where, high_open=True)
        in_range("warmup", self.warmup, 0.0, 1.0, where, high_open=True)
        in_range("block_lr_decay", self.block_lr_decay, 0.0, 1.0, where, low_open=True)
        if self.weight_decay is not None:
            in_range("weight_decay", self.weight_decay, 0.0, math.inf, where)
        if self.clipnorm is not None:
            in_range("clipnorm", self.clipnorm, 0.0, math.inf, where, low_open=True)
        if self.weight_decay and self.optimizer != "adamw":
            raise ArgumentError(
                f"weight_decay={self.weight_decay:g} with optimizer={self.optimizer or 'adam'!r}",
                where=where,
                next_action="use optimizer='adamw', or set weight_decay to 0",
            )
        if self.lora < 0 or (self.lora and self.unfreeze == "none"):
            raise ArgumentError(
                f"lora={self.lora} with unfreeze={self.unfreeze!r}, expected a rank of at least 1"
                " and blocks to adapt, or 0",
                where="--lora",
                next_action="for example --lora=8 --unfreeze=last:2",
            )
        if average(self.average)[0] != "none" and self.batch_norm == "adapt":
            raise ArgumentError(
                f"average={self.average!r} with batch_norm='adapt', whose statistics are of each"
                " step's weights and not of their average",
                where="--average",
                next_action="use --batch_norm=frozen",
            )


@dataclass(frozen=True, kw_only=True)
class TransferSpec:
    """Everything that determines a run. See the parts for their fields.

    ``augment`` is the text of :func:`tltf.policies.policy`: ``none|light|medium|strong``, or
    ranges such as ``flip,shear=0.2,zoom=0.2``.

    ``effort`` is how much is tried (:mod:`tltf.effort`): ``fast``, the stacked probe of frozen
    taps; ``default``, tuning as a candidate beside it; ``best``, more of both; ``plan``, the phases
    as they stand here. ``validation`` is what choices are made on: ``folds:K`` of all labelled
    examples, a carved ``split``, or ``auto``.

    Example::

      TransferSpec(
          data=DataSpec(source="photos"),
          backbone=BackboneSpec(name="MobileNetV2"),
          phases=(Phase("head", 10, 1e-3), Phase("tune", 5, 1e-4, unfreeze="last:2")),
      )
    """

    data: DataSpec
    backbone: BackboneSpec
    effort: str | None = None
    validation: str = AUTO
    head: HeadSpec = field(default_factory=HeadSpec)
    phases: tuple[Phase, ...] = field(default_factory=lambda: two_phases())
    head_solver: str = "auto"
    augment: str | None = None
    mix: str = "none"
    batch_size: int | None = None
    class_weight: str = "none"
    label_smoothing: float = 0.0
    early_stop: int | None = None
    restore: str | None = None
    seed: int = 0
    precision: str = "auto"
    jit: str = "auto"
    deterministic: bool = False
    views: int | None = None
    cache: str = "auto"
    cache_dtype: str = "float16"
    baselines: bool = False
    unknown: str | None = None
    export: str = "auto"
    adapt: AdaptSpec = field(default_factory=AdaptSpec)
    regularizer: str = "none"
    teacher: str = ""
    distill: str = "logits"

    def __post_init__(self) -> None:
        if self.augment is not None:
            policy(self.augment)
        regularizer(self.regularizer)
        distillation(self.distill)
        if self.teacher and self.mix != "none":
            raise ArgumentError(
                f"teacher with mix={self.mix!r}, whose images it has not seen",
                where="--teacher",
                next_action="use --mix=none",
            )
        if self.regularizer.startswith("l2sp") and any(phase.lora for phase in self.phases):
            raise ArgumentError(
                f"regularizer={self.regularizer!r} with lora, which leaves those weights alone",
                where="--lora",
                next_action="leave one of them out",
            )
        if self.adapt.target and any(p.lora or p.average != "none" for p in self.phases):
            raise ArgumentError(
                "lora or average in a phase that adapts, which knows neither",
                where="adapt",
                next_action="leave them out of the phase",
            )
        one_of("mix", self.mix, MIXES)
        if self.effort is not None:
            one_of("effort", self.effort, EFFORTS)
        check_validation(self.validation)
        if self.adapt.target and self.adapt.method == "source_only" and self.mix != "none":
            raise ArgumentError(
                f"mix={self.mix!r} with the source alone",
                where="--mix",
                next_action="name another --method; the source-only model is trained beside it",
            )
        one_of("precision", self.precision, PRECISIONS)
        one_of("jit", self.jit, JITS)
        if self.batch_size is not None:
            in_range("batch_size", self.batch_size, 1, 1_000_000)
        if self.early_stop is not None:
            in_range("early_stop", self.early_stop, 0, 1_000_000)
        if self.views is not None:
            in_range("views", self.views, 0, 1_000_000)
        if self.restore is not None:
            one_of("restore", self.restore, RESTORES)
        _check_head_solver(self)
        one_of("cache_dtype", self.cache_dtype, CACHE_DTYPES)
        in_range("label_smoothing", self.label_smoothing, 0.0, 1.0, high_open=True)
        in_range("seed", self.seed, 0, 2**31 - 1)
        check_class_weight(self.class_weight)
        if not self.phases:
            raise ArgumentError("a run without phases", where="phases", next_action="give one")
        names = [phase.name for phase in self.phases]
        if len(set(names)) != len(names):
            raise ArgumentError(f"two phases share a name: {names}", where="phases")

    def to_json(self) -> str:
        """The specification as JSON text; :meth:`from_json` reads it back to an equal object."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TransferSpec:
        """Reads what :meth:`to_json` wrote.

        Raises:
          ArgumentError: not JSON, an unknown key (the nearest is named), or a value out of range.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArgumentError(f"the specification is not JSON: {error}", where="spec") from error
        return read(cls, values, "spec")

    def differences(self, other: TransferSpec) -> list[str]:
        """``field: old -> new`` for every field in which ``other`` differs from this one."""
        old, new = (flatten(dataclasses.asdict(spec)) for spec in (self, other))
        absent = "absent"
        return [
            f"{key}: {old.get(key, absent)!r} -> {new.get(key, absent)!r}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key, absent) != new.get(key, absent)
        ]


def two_phases() -> tuple[Phase, ...]:
    """The default plan: train the head on frozen features, then tune a part of the backbone."""
    return Phase("head", unfreeze="none"), Phase("tune")


def _check_head_solver(spec: TransferSpec) -> None:
    """L-BFGS is for a linear head on features that do not change, with plain labels."""
    one_of("head_solver", spec.head_solver, HEAD_SOLVERS)
    clashes = not_convex(spec)
    if clashes and spec.head_solver == "lbfgs":
        raise ArgumentError(
            f"--{clashes[0]} with --head_solver=lbfgs, which solves a linear head on fixed"
            " features",
            where="--head_solver",
            next_action=f"leave --{clashes[0]} out, or use --head_solver=gradient",
        )


def not_convex(spec: TransferSpec) -> list[str]:
    """The given fields under which a head is no linear one on fixed features and plain labels."""
    given = {
        "hidden": bool(spec.head.hidden),
        "mix": spec.mix != "none",
        "label_smoothing": spec.label_smoothing > 0,
        "teacher": bool(spec.teacher),
    }
    return [name for name, is_given in given.items() if is_given]

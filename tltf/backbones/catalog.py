"""Which backbones there are: a literal table, readable without TensorFlow.

Parameters (in millions, without the classification top) and feature channels are measured with
Keras 3.15 at width 1; sizes are the sides in pixels that the published weights were trained at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tltf.errors import ArgumentError, InputMissingError, named_list, nearest

Option = float | int | bool


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the members of a family share.

    Attributes:
      preprocessing: ``caffe``, ``tf`` or ``torch`` as in Keras' ``imagenet_utils``, ``unit`` for
        x / 255, or ``inside`` when the network itself begins with its preprocessing layers.
      minimum: the smallest legal input side in pixels.
      options: ``name -> kind`` of what may follow the colon, with kind float, int or bool.
      published: for each option, the values that published weights exist for.
    """

    preprocessing: str
    minimum: int = 32
    options: Mapping[str, type] = field(default_factory=dict)
    published: Mapping[str, tuple[Option, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of the table."""

    name: str
    family: str
    size: int
    params_millions: float
    channels: int

    @property
    def preprocessing(self) -> str:
        """See :class:`Family`."""
        return FAMILIES[self.family].preprocessing

    @property
    def minimum(self) -> int:
        """The smallest legal input side in pixels."""
        return FAMILIES[self.family].minimum

    @property
    def pretrained(self) -> bool:
        """Whether ``weights="imagenet"`` exists."""
        return self.name not in SCRATCH


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a name asks for.

    Attributes:
      kind: ``applications``, ``scratch``, ``file``, ``hub``, or one of :data:`TEXT_KINDS`.
      text: the name as it was given.
      entry: the row of the table; None for ``file`` and for texts.
      options: parsed options, only those that were given.
      path: what follows the colon of ``file:``, ``hub:``, ``bert:``, ``hf:`` and ``vectors:``.
      output: which output of a ``hub:`` module, empty for the one meant for transfer.
    """

    kind: str
    text: str
    entry: Entry | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    path: str = ""
    output: str = ""


FAMILIES: Mapping[str, Family] = {
    "vgg": Family(preprocessing="caffe"),
    "resnet": Family(preprocessing="caffe"),
    "resnet_v2": Family(preprocessing="tf"),
    "densenet": Family(preprocessing="torch"),
    "inception_v3": Family(preprocessing="tf", minimum=75),
    "inception_resnet_v2": Family(preprocessing="tf", minimum=75),
    "xception": Family(preprocessing="tf", minimum=71),
    "nasnet": Family(preprocessing="tf"),
    "mobilenet": Family(
        preprocessing="tf",
        options={"alpha": float},
        published={"alpha": (0.25, 0.5, 0.75, 1.0)},
    ),
    "mobilenet_v2": Family(
        preprocessing="tf",
        options={"alpha": float},
        published={"alpha": (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)},
    ),
    "mobilenet_v3": Family(
        preprocessing="inside",
        options={"alpha": float, "minimalistic": bool},
        published={"alpha": (0.75, 1.0)},
    ),
    "efficientnet": Family(preprocessing="inside"),
    "efficientnet_v2": Family(preprocessing="inside"),
    "convnext": Family(preprocessing="inside"),
    "small_cnn": Family(preprocessing="tf", minimum=8, options={"blocks": int}),
    "mlp": Family(preprocessing="unit", minimum=1, options={"units": int}),
}

# name, family, default side in pixels, parameters in millions without top, feature channels
_ROWS = (
    ("ConvNeXtBase", "convnext", 224, 87.57, 1024),
    ("ConvNeXtLarge", "convnext", 224, 196.23, 1536),
    ("ConvNeXtSmall", "convnext", 224, 49.45, 768),
    ("ConvNeXtTiny", "convnext", 224, 27.82, 768),
    ("ConvNeXtXLarge", "convnext", 224, 348.15, 2048),
    ("DenseNet121", "densenet", 224, 7.04, 1024),
    ("DenseNet169", "densenet", 224, 12.64, 1664),
    ("DenseNet201", "densenet", 224, 18.32, 1920),
    ("EfficientNetB0", "efficientnet", 224, 4.05, 1280),
    ("EfficientNetB1", "efficientnet", 240, 6.58, 1280),
    ("EfficientNetB2", "efficientnet", 260, 7.77, 1408),
    ("EfficientNetB3", "efficientnet", 300, 10.78, 1536),
    ("EfficientNetB4", "efficientnet", 380, 17.67, 1792),
    ("EfficientNetB5", "efficientnet", 456, 28.51, 2048),
    ("EfficientNetB6", "efficientnet", 528, 40.96, 2304),
    ("EfficientNetB7", "efficientnet", 600, 64.10, 2560),
    ("EfficientNetV2B0", "efficientnet_v2", 224, 5.92, 1280),
    ("EfficientNetV2B1", "efficientnet_v2", 240, 6.93, 1280),
    ("EfficientNetV2B2", "efficientnet_v2", 260, 8.77, 1408),
    ("EfficientNetV2B3", "efficientnet_v2", 300, 12.93, 1536),
    ("EfficientNetV2L", "efficientnet_v2", 480, 117.75, 1280),
    ("EfficientNetV2M", "efficientnet_v2", 480, 53.15, 1280),
    ("EfficientNetV2S", "efficientnet_v2", 384, 20.33, 1280),
    ("InceptionResNetV2", "inception_resnet_v2", 299, 54.34, 1536),
    ("InceptionV3", "inception_v3", 299, 21.80, 2048),
    ("MobileNet", "mobilenet", 224, 3.23, 1024),
    ("MobileNetV2", "mobilenet_v2", 224, 2.26, 1280),
    ("MobileNetV3Large", "mobilenet_v3", 224, 3.00, 960),
    ("MobileNetV3Small", "mobilenet_v3", 224, 0.94, 576),
    ("NASNetLarge", "nasnet", 331, 84.92, 4032),
    ("NASNetMobile", "nasnet", 224, 4.27, 1056),
    ("ResNet101", "resnet", 224, 42.66, 2048),
    ("ResNet101V2", "resnet_v2", 224, 42.63, 2048),
    ("ResNet152", "resnet", 224, 58.37, 2048),
    ("ResNet152V2", "resnet_v2", 224, 58.33, 2048),
    ("ResNet50", "resnet", 224, 23.59, 2048),
    ("ResNet50V2", "resnet_v2", 224, 23.56, 2048),
    ("VGG16", "vgg", 224, 14.71, 512),
    ("VGG19", "vgg", 224, 20.02, 512),
    ("Xception", "xception", 299, 20.86, 2048),
    # from scratch: small networks of our own, trained by `tltf pretrain`
    ("mlp", "mlp", 32, 1.57, 512),
    ("small_cnn", "small_cnn", 32, 0.09, 128),
)

SCRATCH = ("mlp", "small_cnn")
TABLE: Mapping[str, Entry] = {
    name: Entry(name=name, family=family, size=size, params_millions=params, channels=channels)
    for name, family, size, params, channels in _ROWS
}

TEXT_KINDS = ("minilm", "bert", "hf", "vectors")
_TEXT_FORMS = {"bert": "bert:<folder>", "hf": "hf:<name>", "vectors": "vectors:<file>"}


def names() -> tuple[str, ...]:
    """Every name that :func:`lookup` knows, the pretrained ones first.

    >>> len([name for name in names() if TABLE[name].pretrained])
    40
    """
    pretrained = [name for name in TABLE if name not in SCRATCH]
    return (*pretrained, *SCRATCH)


def lookup(name: str) -> Choice:
    """The table row and the options that a backbone's name asks for.

    Args:
      name: a name of the table, with options after a colon if the model takes any
        (``MobileNetV2:alpha=0.35``), ``file:<run folder>``, or ``hub:<folder or URL>`` with an
        output's name after ``#`` if it has several.

    Raises:
      ArgumentError: an unknown name or option (the nearest is named), or a value out of range.
      InputMissingError: ``file:`` without a folder.

    >>> lookup("MobileNetV2:alpha=0.35").options["alpha"]
    0.35
    """
    base, colon, rest = name.partition(":")
    if base == "file" and colon:
        if not rest:
            raise InputMissingError(
                "file: names no folder", where="--backbone", next_action="pass file:<run folder>"
            )
        return Choice(kind="file", text=name, path=rest)
    if name == "minilm":
        return Choice(kind="minilm", text=name)
    if base in _TEXT_FORMS:
        if not rest:
            raise ArgumentError(
                f"{base}: names nothing",
                where="--backbone",
                next_action=f"pass {_TEXT_FORMS[base]}",
            )
        return Choice(kind=base, text=name, path=rest)
    if base == "hub":
        handle, _, output = rest.partition("#")
        if not handle:
            raise ArgumentError(
                "hub: names no module",
                where="--backbone",
                next_action="pass hub:<folder>, hub:<file>.tar.gz or hub:<https URL>",
            )
        return Choice(kind="hub", text=name, path=handle, output=output)
    if base not in TABLE:
        raise ArgumentError(
            f"unknown backbone {base!r}{nearest(base, TABLE)}",
            where="--backbone",
            next_action=f"use one of {named_list(names(), most=3)}, minilm, bert:<folder>,"
            " hub:<URL>, or file:<run folder>",
        )
    entry = TABLE[base]
    return Choice(
        kind="applications" if entry.pretrained else "scratch",
        text=name,
        entry=entry,
        options=_options(entry, rest) if colon else {},
    )


def check_published(choice: Choice) -> None:
    """Raises ArgumentError unless published weights exist for the choice."""
    entry = choice.entry
    if entry is None:
        return
    if not entry.pretrained:
        raise ArgumentError(
            f"{entry.name} has no pretrained weights",
            where="--weights=imagenet",
            next_action="pass --weights=none and train it, for example with `tltf pretrain`",
        )
    for option, values in FAMILIES[entry.family].published.items():
        if choice.options.get("minimalistic"):
            values = (1.0,)
        given = choice.options.get(option)
        if given is not None and given not in values:
            raise ArgumentError(
                f"{choice.text} has no pretrained weights, they exist for {option} in"
                f" {', '.join(format(value, 'g') for value in values)}",
                where="--weights=imagenet",
                next_action="choose one of these, or pass --weights=none",
            )


def input_side(entry: Entry, size: int | None) -> int:
    """The input side in pixels: the given one, or the default of the row.

    Raises:
      ArgumentError: not a whole number, or smaller than the architecture allows.
    """
    if size is None:
        return entry.size
    if not isinstance(size, int) or isinstance(size, bool) or size < entry.minimum:
        raise ArgumentError(
            f"input_size={size!r}, {entry.name} takes whole numbers from {entry.minimum} pixels",
            where="--image_size",
            next_action=f"for example --image_size={entry.size}",
        )
    return size


def _options(entry: Entry, text: str) -> Mapping[str, Option]:
    """``alpha=0.35,minimalistic=true`` as values of the kinds that the family declares."""
    kinds = FAMILIES[entry.family].options
    options: dict[str, Option] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in kinds or not equals:
            known = f"takes {', '.join(f'{k}=…' for k in kinds)}" if kinds else "takes no options"
            raise ArgumentError(
                f"option {part.strip()!r} of {entry.name}, which {known}{nearest(key, kinds)}",
                where="--backbone",
            )
        options[key] = _value(key, value, kinds[key])
    return options


def _value(key: str, text: str, kind: type) -> Option:
    """One option's value; numbers must be finite and positive."""
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind is not bool:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if 0 < number < math.inf:
            return number
    expected = "true or false" if kind is bool else f"a positive {kind.__name__}"
    raise ArgumentError(f"{key}={text!r}, expected {expected}", where="--backbone")

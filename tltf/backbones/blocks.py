"""Named blocks: which layer of a network belongs to which block, from names alone.

Names survive saving, loading and cloning, so the blocks do too. Works without TensorFlow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tltf.backbones.catalog import TABLE


class LayerFacts(NamedTuple):
    """What the rules look at: a layer's name, its class name, whether it has a kernel.

    ``kernel`` is True when some weight has rank 2 or more: such a layer can open a block of its
    own, while a normalisation or a PReLU belongs to the layer before it.
    """

    name: str
    kind: str
    kernel: bool


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a family's layer names tell the block.

    Attributes:
      patterns: ``(regex, template)``, first match wins; an empty template means "the block of
        the layer before".
      joins: where layers without a match go: to the named layer ``before`` them, or to the one
        ``after`` them (families whose branches are unnamed and end in a named concatenation).
      stem_pools: that many max-poolings from the input end the block ``stem``, 0 for no such stem.
    """

    patterns: tuple[tuple[str, str], ...]
    joins: str = "before"
    stem_pools: int = 0


RULES: Mapping[str, Rule] = {
    "vgg": Rule(patterns=((r"(block\d+)_", r"\1"),)),
    # the final normalisation joins conv5, or "the last block" would be two vectors
    "resnet": Rule(patterns=((r"(conv\d)_", r"\1"),)),
    "resnet_v2": Rule(patterns=((r"(conv\d)_", r"\1"),)),
    "densenet": Rule(patterns=((r"(conv\d)_", r"\1"),)),
    # mixed9_1 is a branch of mixed10, named in a loop
    "inception_v3": Rule(
        patterns=((r"mixed9_1$", "mixed10"), (r"(mixed\d+)", r"\1")), joins="after", stem_pools=2
    ),
    "inception_resnet_v2": Rule(
        patterns=(
            (r"(mixed_\d[a-z])$", r"\1"),
            (r"(block(?:35|17|8))_", r"\1"),
            (r"(conv_7b)", r"\1"),
            (r"custom_scale_layer", ""),
        ),
        joins="after",
        stem_pools=2,
    ),
    # the shortcut convolutions have no names; they stand within their block
    "xception": Rule(patterns=((r"(block\d+)_", r"\1"),)),
    "nasnet": Rule(
        patterns=(
            (r"stem_|.*_stem_\d+$", "stem"),
            (r"(?:adjust|normal|reduction|separable_conv)_.*(reduce_\d+)$", r"\1"),
            (r"(?:adjust|normal|reduction|separable_conv)_.*_(\d+)$", r"cell_\1"),
        ),
        joins="after",
    ),
    "mobilenet": Rule(patterns=((r"conv1", "conv1"), (r"conv_(?:dw|pw|pad)_(\d+)", r"block_\1"))),
    # expanded_conv is the unnumbered first block; it joins Conv1
    "mobilenet_v2": Rule(
        patterns=(
            (r"Conv1|bn_Conv1|expanded_conv", "Conv1"),
            (r"(block_\d+)_", r"\1"),
            (r"Conv_1", "Conv_1"),
        )
    ),
    "mobilenet_v3": Rule(
        patterns=(
            (r"(expanded_conv(?:_\d+)?)_", r"\1"),
            (r"conv_1", "conv_1"),
            (r"conv", "conv"),
        )
    ),
    "efficientnet": Rule(patterns=((r"(stem|top)_", r"\1"), (r"(block\d+)[a-z]_", r"\1"))),
    "efficientnet_v2": Rule(patterns=((r"(stem|top)_", r"\1"), (r"(block\d+)[a-z]_", r"\1"))),
    # a downsampling opens the stage that it leads to
    "convnext": Rule(
        patterns=(
            (r".*_stage_(\d+)_", r"stage_\1"),
            (r".*_downsampling_block_0$", "stage_1"),
            (r".*_downsampling_block_1$", "stage_2"),
            (r".*_downsampling_block_2$", "stage_3"),
            (r".*_stem$", "stem"),
        )
    ),
    "small_cnn": Rule(patterns=((r"(block\d+)_", r"\1"),)),
    "mlp": Rule(patterns=((r"(dense)", r"\1"),)),
    # the pooler belongs to the last layer
    "bert": Rule(patterns=((r"(embeddings|layer_\d+)", r"\1"),)),
    "vectors": Rule(patterns=((r"(embeddings)", r"\1"),)),
}

_PREFIX = re.compile(r"([A-Za-z]+_?\d+[a-z]?)_")


def assign(layers: Sequence[LayerFacts], family: str = "") -> list[str]:
    """The block name of every layer.

    Args:
      layers: the layers in topological order, bottom to top.
      family: a key of :data:`RULES`, or empty for the general rule: a common numbered prefix
        (``stage1_conv``, ``stage1_bn``) makes a block, and without such names every layer that
        has a kernel opens a block named after it.

    Returns:
      One name per layer, in the order of ``layers``.

    >>> assign([LayerFacts("in", "InputLayer", False), LayerFacts("fc", "Dense", True)])
    ['fc', 'fc']
    """
    rule = RULES.get(family)
    found = _by_rule(layers, rule) if rule else _by_shape(layers)
    if rule and rule.joins == "after":
        found = _filled(found[::-1])[::-1]
    # an empty template resolves to its neighbour on the input side in either case
    result: list[str] = []
    for name in _filled(found):
        result.append(name or (result[-1] if result else "block"))
    return result


def family_of(model_name: str, layers: Sequence[LayerFacts]) -> str:
    """The family of a keras.applications model that somebody built, or an empty string.

    The model's name suggests the family, and at least two blocks must then be found.
    """
    plain = re.sub(r"[^a-z0-9]", "", model_name.lower())
    fitting = [name for name in TABLE if plain.startswith(name.lower().replace("_", ""))]
    if not fitting:
        return ""
    family = TABLE[max(fitting, key=len)].family
    found = {name for name in _by_rule(layers, RULES[family]) if name}
    return family if len(found) >= 2 else ""


def recognised(layers: Sequence[LayerFacts]) -> str:
    """The family whose names all layers with a kernel have, for a network without a name.

    At least three blocks must be found: ``conv_1`` and ``conv_2`` alone prove nothing.

    >>> names = ["Conv1", "block_1_expand", "Conv_1"]
    >>> recognised([LayerFacts(name, "Conv2D", True) for name in names])
    'mobilenet_v2'
    """
    kernels = [layer for layer in layers if layer.kernel]
    for family, rule in RULES.items():
        found = _by_rule(kernels, rule)
        if all(found) and len(set(found)) >= 3:
            return family
    return ""


def _by_rule(layers: Sequence[LayerFacts], rule: Rule) -> list[str | None]:
    """Block names by the family's patterns; None where no pattern matches."""
    found: list[str | None] = []
    pools = 0
    for layer in layers:
        in_stem = pools < rule.stem_pools
        pools += layer.kind == "MaxPooling2D"
        found.append("stem" if in_stem else _match(layer.name, rule))
    return found


def _match(name: str, rule: Rule) -> str | None:
    for pattern, template in rule.patterns:
        match = re.match(pattern, name)
        if match:
            return match.expand(template)
    return None


def _by_shape(layers: Sequence[LayerFacts]) -> list[str | None]:
    """The general rule of :func:`assign`."""
    prefixes = [_PREFIX.match(layer.name) for layer in layers]
    kernels = [match for layer, match in zip(layers, prefixes, strict=True) if layer.kernel]
    if kernels and all(kernels):
        return [match.group(1) if match else None for match in prefixes]
    return [layer.name if layer.kernel else None for layer in layers]


def _filled(found: Sequence[str | None]) -> list[str | None]:
    """Each None takes the name before it; leading ones take the first name there is."""
    current = next((name for name in found if name), "block")
    filled: list[str | None] = []
    for name in found:
        current = current if name is None else name or current
        filled.append(name if name == "" else current)
    return filled

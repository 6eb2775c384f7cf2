"""BERT and its close kin as functional Keras models: BERT, MiniLM, DistilBERT, ELECTRA.

Devlin et al. 2019; Sanh et al. 2019; Clark et al. 2020. Every layer of a block is a node of the
graph, called ``layer_3_...``, so that blocks can be frozen, cut and given rates of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from tltf.backbones.network import Backbone, mark
from tltf.backbones.tokens import PoolTokens, SelfAttention, TokenEmbedding, Tokens
from tltf.errors import ArgumentError, DataError, named_list

FAMILY = "bert"
KINDS = ("bert", "distilbert", "electra")


@keras.saving.register_keras_serializable(package="tltf")
def gelu_tanh(x: Any) -> Any:
    """GELU by its tanh approximation, which some checkpoints were trained with."""
    return keras.ops.gelu(x, approximate=True)


# "gelu" is the exact one, by the error function.
ACTIVATIONS: Mapping[str, Any] = {
    "gelu": "gelu",
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What determines the network; the names are those of a Hugging Face ``config.json``."""

    kind: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    embedding_size: int
    max_position_embeddings: int
    type_vocab_size: int
    hidden_act: str
    layer_norm_eps: float
    hidden_dropout_prob: float
    attention_probs_dropout_prob: float


def read_config(config: Mapping[str, Any], *, where: object) -> Encoder:
    """The encoder that a ``config.json`` (or ``bert_config.json``) describes.

    Raises:
      ArgumentError: an architecture that is not built here; the supported ones are named.
      DataError: a value is missing, no number, or one that no network has.
    """
    kind = config.get("model_type", "bert")
    act = config.get("activation" if kind == "distilbert" else "hidden_act", "gelu")
    trouble = ""
    if kind not in KINDS:
        trouble = f"model_type={kind!r}, supported are {', '.join(KINDS)}"
    elif config.get("position_embedding_type", "absolute") != "absolute":
        trouble = f"position_embedding_type={config['position_embedding_type']!r}, not absolute"
    elif not isinstance(act, str) or act not in ACTIVATIONS:
        trouble = f"hidden_act={act!r}, supported are {', '.join(ACTIVATIONS)}"
    elif config.get("is_decoder") or config.get("add_cross_attention"):
        trouble = "a decoder, only encoders are supported"
    if trouble:
        raise ArgumentError(
            trouble, where=where, next_action="choose a BERT, MiniLM, DistilBERT or ELECTRA model"
        )
    try:
        encoder = _distilbert(config) if kind == "distilbert" else _bert(config, kind)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the configuration lacks or misstates {error}", where=where) from error
    _check_sizes(encoder, where=where)
    return encoder


def _check_sizes(encoder: Encoder, *, where: object) -> None:
    """Raises DataError for sizes that no network has."""
    least = {"type_vocab_size": 0, "num_hidden_layers": 0}
    trouble = [
        f"{name}={value}, expected at least {least.get(name, 1)}"
        for name, value in vars(encoder).items()
        if isinstance(value, int) and value < least.get(name, 1)
    ]
    trouble += [
        f"{name}={value}, expected a number in [0, 1)"
        for name, value in vars(encoder).items()
        if name.endswith("_prob") and not 0.0 <= value < 1.0
    ]
    heads = max(1, encoder.num_attention_heads)
    if encoder.hidden_size % heads:
        trouble.append(f"hidden_size={encoder.hidden_size} is no multiple of {heads} heads")
    if not encoder.layer_norm_eps > 0:
        trouble.append(f"layer_norm_eps={encoder.layer_norm_eps}, expected a number above 0")
    if trouble:
        raise DataError(
            f"a configuration of no network: {named_list(trouble)}",
            where=where,
            next_action="use the config.json that belongs to the weights",
        )


def _bert(config: Mapping[str, Any], kind: str) -> Encoder:
    return Encoder(
        kind=kind,
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        num_hidden_layers=int(config["num_hidden_layers"]),
        num_attention_heads=int(config["num_attention_heads"]),
        intermediate_size=int(config["intermediate_size"]),
        embedding_size=int(config.get("embedding_size", config["hidden_size"])),
        max_position_embeddings=int(config.get("max_position_embeddings", 512)),
        type_vocab_size=int(config.get("type_vocab_size", 2)),
        hidden_act=config.get("hidden_act", "gelu"),
        layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
        hidden_dropout_prob=float(config.get("hidden_dropout_prob", 0.1)),
        attention_probs_dropout_prob=float(config.get("attention_probs_dropout_prob", 0.1)),
    )


def _distilbert(config: Mapping[str, Any]) -> Encoder:
    return Encoder(
        kind="distilbert",
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["dim"]),
        num_hidden_layers=int(config["n_layers"]),
        num_attention_heads=int(config["n_heads"]),
        intermediate_size=int(config["hidden_dim"]),
        embedding_size=int(config["dim"]),
        max_position_embeddings=int(config.get("max_position_embeddings", 512)),
        type_vocab_size=0,
        hidden_act=config.get("activation", "gelu"),
        layer_norm_eps=1e-12,
        hidden_dropout_prob=float(config.get("dropout", 0.1)),
        attention_probs_dropout_prob=float(config.get("attention_dropout", 0.1)),
    )


def build(
    encoder: Encoder, *, vocabulary: tuple[str, ...], lowercase: bool, pooling: str, name: str
) -> Backbone:
    """The network with fresh weights.

    Args:
      encoder: its sizes.
      vocabulary: in the order of the ids.
      lowercase: whether the vocabulary is uncased.
      pooling: ``mean``, ``max``, ``cls``, or ``pooled``: BERT's tanh layer on the first token.
      name: of the model.

    Returns:
      int32 ids ``[B, L]`` to float32 ``[B, hidden_size]``, with blocks ``embeddings``,
      ``layer_0``, ...; ``get_layer("layer_5_norm").output`` is the sequence.
    """
    if pooling == "pooled" and encoder.kind != "bert":
        raise ArgumentError(
            f"pooling='pooled' with a {encoder.kind} model, which has no pooler",
            where="--pooling",
            next_action="use avg or cls",
        )
    ids = keras.Input((None,), dtype="int32", name="tokens")
    mask = Tokens("\n".join(vocabulary), lowercase, encoder.max_position_embeddings, name="mask")(
        ids
    )
    x = _embedded(ids, encoder, vocabulary)
    for i in range(encoder.num_hidden_layers):
        x = _block(x, mask, encoder, f"layer_{i}")
    x = PoolTokens("cls" if pooling == "pooled" else pooling, name="pool_tokens")(x, mask)
    if pooling == "pooled":
        x = layers.Dense(encoder.hidden_size, "tanh", dtype="float32", name="pooler")(x)
    return Backbone(ids, mark(x, family=FAMILY), name=name)


def _embedded(ids: Any, encoder: Encoder, vocabulary: tuple[str, ...]) -> Any:
    x = TokenEmbedding(
        encoder.vocab_size,
        encoder.max_position_embeddings,
        encoder.type_vocab_size,
        encoder.embedding_size,
        vocabulary.index("[SEP]"),
        name="embeddings",
    )(ids)
    x = _norm(encoder, "embeddings_norm")(x)
    x = _dropout(encoder, 0, "embeddings_dropout")(x)
    if encoder.embedding_size != encoder.hidden_size:
        x = layers.Dense(encoder.hidden_size, name="embeddings_projection")(x)
    return x


def _block(x: Any, mask: Any, encoder: Encoder, name: str) -> Any:
    """Attention and a two-layer network, each added to its input and normalised."""
    seed = 10 * (1 + int(name.rpartition("_")[2]))
    y = SelfAttention(
        encoder.num_attention_heads,
        encoder.attention_probs_dropout_prob,
        seed,
        name=f"{name}_attention",
    )(x, mask)
    y = _dropout(encoder, seed + 1, f"{name}_attention_dropout")(y)
    x = layers.Add(name=f"{name}_attention_add")([x, y])
    x = _norm(encoder, f"{name}_attention_norm")(x)
    activation = ACTIVATIONS[encoder.hidden_act]
    y = layers.Dense(encoder.intermediate_size, activation, name=f"{name}_intermediate")(x)
    y = layers.Dense(encoder.hidden_size, name=f"{name}_output")(y)
    y = _dropout(encoder, seed + 2, f"{name}_dropout")(y)
    x = layers.Add(name=f"{name}_add")([x, y])
    return _norm(encoder, f"{name}_norm")(x)


def _norm(encoder: Encoder, name: str) -> keras.layers.Layer:
    return layers.LayerNormalization(epsilon=encoder.layer_norm_eps, name=name)


def _dropout(encoder: Encoder, seed: int, name: str) -> keras.layers.Layer:
    return layers.Dropout(encoder.hidden_dropout_prob, seed=seed, name=name)

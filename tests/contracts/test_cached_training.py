"""Stored features change nothing: losses of whole runs and answers on the test split, in fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tltf
from tltf.backbones import bert
from tltf.backbones.bert import Encoder
from tltf.data.batches import Batches
from tltf.data.manifest import Record
from tltf.data.textbatches import TextBatches
from tltf.models.initial import seeded_initializers
from tltf.storage import file_sha256
from tltf.training import boundary, features, freezing
from tltf.training.caching import Cache, PhaseCache
from tltf.training.fit import FitResult, fit_phases

CLASSES = ("a", "b")
SPLITS = {"train": slice(0, 16), "val": slice(16, 22), "test": slice(22, 30)}
NETWORKS = {
    "MobileNetV2": ("last:1", 32),
    "ResNet50": ("last:1", 32),
    "EfficientNetB0": ("last:1", 32),
}
WORDS = ("good", "bad", "film", "plot", "a", "the", "very", "dull", "bright")


def plan(unfreeze: str) -> list[tltf.Phase]:
    return [
        tltf.Phase("head", 3, 1e-2, unfreeze="none"),
        tltf.Phase("tune", 3, 1e-3, unfreeze=unfreeze),
    ]


def photos(folder: Path) -> list[Record]:
    random = np.random.default_rng(0)
    found = []
    for i in range(30):
        pixels = random.integers(0, 120, (40, 36, 3)) + 130 * (i % 2)
        path = folder / f"{i:02d}.png"
        keras.utils.save_img(path, pixels, scale=False)
        digest = file_sha256(path)
        found.append(Record(id=path.name, path=str(path), label=CLASSES[i % 2], sha256=digest))
    return found


def texts() -> list[Record]:
    random = np.random.default_rng(0)
    found = []
    for i in range(30):
        words = random.choice(WORDS, 1 + int(random.integers(12)))
        text = " ".join([*words, WORDS[i % 2]])
        found.append(
            Record(id=str(i), path=None, text=text, label=CLASSES[i % 2], sha256=f"{i:064x}")
        )
    return found


def image_batches(records: list[Record], side: int) -> Callable[[str], Batches]:
    def of(split: str) -> Batches:
        return Batches(records[SPLITS[split]], classes=CLASSES, task="single_label",
                       image_size=side, batch_size=8, augment="none", views=1)  # fmt: skip

    return of


def compared(
    build: Callable[[], keras.Model], data: Callable[[str], Any], unfreeze: str, folder: Path
) -> None:
    """A run on images or texts, and the same on stored features."""

    def run(cache: Cache | None) -> tuple[keras.Model, FitResult]:
        model = build()
        result = fit_phases(model, plan(unfreeze), data("train"), validation=data("val"),
                            cache=cache, progress=False)  # fmt: skip
        return model, result

    plain, without = run(None)
    _, stored = run(Cache(folder=folder, dtype="float32", always=True))
    assert stored.stored is not None
    test = data("test")
    answers = stored.stored.logits(test)
    assert answers is not None
    losses = [[[row["loss"], row["val_loss"]] for row in x.history] for x in (stored, without)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4, atol=1e-6)
    expected = np.concatenate([plain(x, training=False) for x, _, _ in test.eval_dataset()])
    np.testing.assert_allclose(answers, expected, rtol=1e-3, atol=1e-4)
    assert (answers.argmax(axis=1) == expected.argmax(axis=1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_stored_maps_give_the_same_run(name: str, tmp_path: Path) -> None:
    unfreeze, side = NETWORKS[name]

    def build() -> keras.Model:
        with seeded_initializers(0):
            body = tltf.backbone(name, weights="none", input_size=side)
        return tltf.classifier(body, tltf.head(2, dropout=0.2, seed=1))

    compared(build, image_batches(photos(tmp_path), side), unfreeze, tmp_path / "cache")


def encoder() -> keras.Model:
    sizes = Encoder(
        kind="bert", vocab_size=14, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, embedding_size=16, max_position_embeddings=32, type_vocab_size=2,
        hidden_act="gelu", layer_norm_eps=1e-12, hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    )  # fmt: skip
    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    with seeded_initializers(0):
        body = bert.build(sizes, vocabulary=vocabulary, lowercase=True, pooling="mean", name="b")
    return tltf.classifier(body, tltf.head(2, dropout=0.2, seed=1))


@pytest.mark.slow
def test_stored_token_sequences_give_the_same_run(tmp_path: Path) -> None:
    """Two tensors cross in a BERT, the sequence and its mask, padded in the store only."""
    records, tokenizer = texts(), encoder().layers[1].tokenizer

    def data(split: str) -> Any:
        return TextBatches(records[SPLITS[split]], tokenizer=tokenizer, max_length=24,
                           classes=CLASSES, task="single_label", batch_size=8)  # fmt: skip

    compared(encoder, data, "last:1", tmp_path / "cache")


def test_pooled_features_of_texts_are_computed_without_the_padding_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of tokens are stored in one length; the layers above see that of their own batch."""
    records, tokenizer = texts(), encoder().layers[1].tokenizer
    data = TextBatches(records, tokenizer=tokenizer, max_length=32, classes=CLASSES,
                       task="single_label", batch_size=8)  # fmt: skip
    padded = []

    def compiled(model: keras.Model) -> Callable[[Any], Any]:
        def compute(x: Any) -> Any:
            if isinstance(x, list):
                padded.append(x[0].shape[:2])
            return original(x)

        original = plain(model)
        return compute

    plain = features.compiled
    monkeypatch.setattr(features, "compiled", compiled)
    model = encoder()
    kept = Cache(folder=tmp_path, dtype="float32", always=True)
    cache = PhaseCache(kept, model, plan=plan("last:1"), train=data, validation=data,
                       progress=False)  # fmt: skip
    freezing.set_trainable(model, "none")
    assert cache.phase(plan("last:1")[0]) is not None
    assert sum(n for n, _ in padded) == len(records)
    assert sum(n * length for n, length in padded) < 1.5 * data.lengths.sum() + 8 * len(records)
    assert max(length for _, length in padded) < 32
    rows = cache.pooled(data)
    freezing.set_trainable(model, "none")
    whole = features.compiled(boundary.split(model).prefix)
    expected = np.concatenate([whole(x)[0] for x, _, _ in data.eval_dataset()])
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)

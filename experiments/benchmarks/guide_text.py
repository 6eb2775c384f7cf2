"""G2a on a text encoder of six layers: the plain Keras recipe against ours.

Both sides train the same network (all-MiniLM-L6-v2, read by tltf) on the same made-up sentences
of one length, so that neither gains by padding. The other side tokenizes once, keeps the tokens in
memory, and calls the frozen encoder in every epoch, as the guides for images and texts do.
"""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import tltf
from experiments.benchmarks.phases import HEAD_EPOCHS, TUNE_EPOCHS, fresh_cache
from experiments.benchmarks.photos import Photos
from experiments.benchmarks.protocol import Row, interleaved, ratios
from tltf.backbones.tokens import tokens_layer
from tltf.data.manifest import Record
from tltf.data.textbatches import TextBatches
from tltf.errors import TltfError
from tltf.spec import Phase
from tltf.training import freezing

TRAIN, HELD, WORDS_EACH, BATCH = 128, 32, 24, 32
RATES, UNFREEZE = (1e-3, 5e-5), "last:2"
GOOD, BAD = "fine warm clever moving lovely", "dull cold silly tedious awful"
PLAIN = "the film is a story about houses and people that never talk to each other in winter"


def against_guide(photos: Photos, *, name: str, weights: str, pairs: int, work: Path) -> list[Row]:
    """Seconds of 20 + 10 epochs, from building the network to the last epoch."""
    del photos, name, weights
    texts = [_records("train", TRAIN), _records("val", HELD)]
    try:
        tltf.backbone("minilm")
    except TltfError as error:
        print(f"G2a  texts: not run: {error}")
        return []

    def ours() -> float:
        started = time.perf_counter()
        model = _classifier()
        plan = [
            Phase("head", HEAD_EPOCHS, RATES[0], unfreeze="none"),
            Phase("tune", TUNE_EPOCHS, RATES[1], unfreeze=UNFREEZE),
        ]
        train, validation = (_batches(model, part) for part in texts)
        tltf.fit_phases(
            model, plan, train, validation=validation, cache=fresh_cache(work / "g2t"),
            progress=False,
        )  # fmt: skip
        return time.perf_counter() - started

    def theirs() -> float:
        started = time.perf_counter()
        model = _classifier()
        train, validation = (_batches(model, p).eval_dataset().cache() for p in texts)
        train = train.shuffle(len(texts[0]) // BATCH, seed=0).prefetch(tf.data.AUTOTUNE)
        for unfreeze, epochs, rate in zip(
            ("none", UNFREEZE), (HEAD_EPOCHS, TUNE_EPOCHS), RATES, strict=True
        ):
            freezing.set_trainable(model, unfreeze)
            loss = keras.losses.CategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
            model.fit(train, validation_data=validation, epochs=epochs, verbose=0)
        return time.perf_counter() - started

    values = ratios(*interleaved(theirs, ours, pairs=pairs))
    what = f"MiniLM, 6 layers, guide / tltf, {HEAD_EPOCHS}+{TUNE_EPOCHS} epochs, {UNFREEZE}"
    note = f"{TRAIN} + {HELD} sentences of {WORDS_EACH} words"
    return [Row(goal="G2a", what=what, values=values, target=">= 4", note=note)]


def _classifier() -> keras.Model:
    keras.utils.set_random_seed(0)
    return tltf.classifier(tltf.backbone("minilm"), tltf.head(2, dropout=0.2))


def _batches(model: keras.Model, records: list[Record]) -> TextBatches:
    settings: dict[str, Any] = {"max_length": 64, "classes": ["bad", "good"]}
    tokenizer = tokens_layer(model).tokenizer
    return TextBatches(records, tokenizer=tokenizer, task="single_label", batch_size=BATCH,
                       **settings)  # fmt: skip


def _records(split: str, n: int) -> list[Record]:
    """Sentences with one telling word; of one length."""
    draw = random.Random(split)
    found = []
    for i in range(n):
        label, telling = ("good", GOOD) if i % 2 else ("bad", BAD)
        words = draw.choices(PLAIN.split(), k=WORDS_EACH - 1)
        words.insert(draw.randrange(WORDS_EACH), draw.choice(telling.split()))
        text = " ".join(words)
        digest = hashlib.sha256(text.encode()).hexdigest()
        found.append(Record(id=f"{split}{i}", text=text, label=label, sha256=digest))
    return found

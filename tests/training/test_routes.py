"""Same key, same bytes: a row does not depend on what else was computed with it, or before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from painted import SIDE, painted, scanned
from tiny import classifier

import tltf
from tltf.backbones import bert
from tltf.backbones.bert import Encoder
from tltf.backbones.network import as_backbone
from tltf.data.batches import Batches
from tltf.data.manifest import Record
from tltf.data.reading import reading
from tltf.data.textbatches import TextBatches
from tltf.models.initial import seeded_initializers
from tltf.training import boundary, features, freezing
from tltf.training.caching import Cache
from tltf.training.fit import fit_phases

HEAD = tltf.Phase("head", 3, 1e-1, unfreeze="none")
TUNE = tltf.Phase("tune", 3, 1e-2, unfreeze="last:1")
ONCE = tltf.Phase("head", 1, 1e-1, unfreeze="none")


def photos(records: Sequence[Record], **changes: Any) -> Batches:
    return Batches(records, classes=("a", "b"), task="single_label", image_size=SIDE,
                   batch_size=4, **changes)  # fmt: skip


def run(records: Sequence[Record], plan: Sequence[tltf.Phase], cache: Cache, **changes: Any) -> Any:
    """The weights, byte by byte, after a training on what the cache has or gets."""
    net = classifier()
    fit_phases(net, plan, photos(records[:6], **changes), validation=photos(records[6:]),
               cache=cache, progress=False)  # fmt: skip
    return [np.asarray(v).tobytes() for v in net.trainable_variables]


@pytest.mark.parametrize("before", [[HEAD], [TUNE]], ids=["only heads", "only maps"])
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_a_warm_cache_gives_the_weights_of_a_cold_one(
    tmp_path: Path, dtype: str, before: list[tltf.Phase]
) -> None:
    records = scanned(painted(tmp_path, seed=0))
    cold = Cache(folder=tmp_path / "cold", dtype=dtype, always=True)
    warm = Cache(folder=tmp_path / "warm", dtype=dtype, always=True)
    run(records, before, warm)
    assert run(records, [HEAD, TUNE], warm) == run(records, [HEAD, TUNE], cold)


def test_what_is_stored_does_not_decide_whether_the_store_is_used(tmp_path: Path) -> None:
    """One epoch does not pay; that it would, since others have filled the store, is no reason."""
    records = scanned(painted(tmp_path, seed=0))
    said: dict[str, list[str]] = {"cold": [], "warm": []}
    run(records, [HEAD], Cache(folder=tmp_path / "warm", dtype="uint8", always=True))
    weights = [
        run(records, [ONCE], Cache(folder=tmp_path / name, dtype="uint8", say=said[name].append))
        for name in said
    ]
    assert weights[0] == weights[1]
    assert said["cold"] == said["warm"]
    assert "it does not pay" in said["cold"][0]


def test_each_photo_crosses_once_for_both_phases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = scanned(painted(tmp_path, seed=0))
    seen: list[str] = []
    real = features.check_contents

    def count(part: Any, *given: Any, **more: Any) -> None:
        seen.extend(record.id for record in part)
        real(part, *given, **more)

    monkeypatch.setattr(features, "check_contents", count)
    run(records, [HEAD, TUNE], Cache(folder=tmp_path / "cache", always=True))
    assert sorted(seen) == sorted(record.id for record in records)


def pointwise() -> keras.Model:
    """On one place a convolution over many channels is a product of matrices, which is summed in
    another order where one of them is a vector."""
    inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Conv2D(512, SIDE, name="wide")(inputs)
    return keras.Model(inputs, keras.layers.Conv2D(64, 1, name="point")(x))


def test_one_more_photo_has_the_row_that_it_has_among_others(tmp_path: Path) -> None:
    records = scanned(painted(tmp_path, seed=0))
    with seeded_initializers(0):
        whole = tltf.classifier(as_backbone(pointwise()), tltf.head(2))
    freezing.set_trainable(whole, "none")
    cut = boundary.split(whole)
    assert cut is not None
    compute = features.compiled(cut.prefix)

    def rows(folder: Path, parts: Sequence[Sequence[Record]]) -> np.ndarray:
        data = photos(records)
        store = features.opened_store(folder, cut, reading=reading(data), dtype="float32")
        for part in parts:
            features.extract(store, compute, data.with_records(part), view=None)
        return store.gather(features.plain_keys(data))[0]

    together = rows(tmp_path / "one", [records])
    alone = rows(tmp_path / "two", [records[:2], *([r] for r in records[2:])])
    np.testing.assert_array_equal(together, alone)


WORDS = ("good", "bad", "film", "plot", "a", "the", "very", "dull", "bright")


def texts(n: int = 12) -> list[Record]:
    random = np.random.default_rng(0)
    made = [" ".join(random.choice(WORDS, 1 + 2 * i)) for i in range(n)]
    listed = [Record(id=str(i), text=text, label="ab"[i % 2]) for i, text in enumerate(made)]
    return [Record(id=r.id, text=r.text, label=r.label, sha256=f"{i:064x}")
            for i, r in enumerate(listed)]  # fmt: skip


def encoder() -> keras.Model:
    sizes = Encoder(
        kind="bert", vocab_size=14, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, embedding_size=16, max_position_embeddings=32, type_vocab_size=2,
        hidden_act="gelu", layer_norm_eps=1e-12, hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    )  # fmt: skip
    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    with seeded_initializers(0):
        body = bert.build(sizes, vocabulary=vocabulary, lowercase=True, pooling="mean", name="b")
    return tltf.classifier(body, tltf.head(2, seed=1))


@pytest.mark.parametrize("unfreeze", ["none", "last:1"])
def test_a_text_has_one_row_whatever_texts_are_beside_it(tmp_path: Path, unfreeze: str) -> None:
    records, net = texts(), encoder()
    data = TextBatches(records, tokenizer=net.layers[1].tokenizer, max_length=32,
                       classes=("a", "b"), task="single_label", batch_size=8)  # fmt: skip
    freezing.set_trainable(net, unfreeze)
    cut = boundary.split(net)
    assert cut is not None
    compute = features.compiled(cut.prefix)

    def rows(folder: Path, parts: Sequence[Sequence[Record]]) -> list[np.ndarray]:
        store = features.opened_store(
            folder, cut, reading=reading(data), dtype="float32",
            shapes=[data.row_shape(shape) for shape in cut.shapes],
        )  # fmt: skip
        for part in parts:
            features.extract(store, compute, data.with_records(part), view=None)
        return store.gather(features.plain_keys(data))

    together = rows(tmp_path / "one", [records])
    alone = rows(tmp_path / "two", [[record] for record in records])
    pairs = rows(tmp_path / "three", [records[i::6] for i in range(6)])
    for one, two, three in zip(together, alone, pairs, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)

"""Batches of tokens: every text once an epoch, the same by (seed, epoch, step), little padding."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tensorflow as tf

from tltf.data import textbatches
from tltf.data.manifest import Record
from tltf.data.textbatches import STEP, TextBatches, token_counts
from tltf.data.wordpiece import SPECIAL, WordPiece
from tltf.errors import DataError

TOKENIZER = WordPiece([*SPECIAL, *"abcdefgh", *(f"##{c}" for c in "abcdefgh")])


def records(n: int, *, seed: int = 0) -> list[Record]:
    rng = random.Random(seed)
    return [
        Record(id=str(i), label="xy"[i % 2], text=" ".join("ab"[i % 2] * 1 for _ in range(k)))
        for i, k in enumerate(rng.choices(range(1, 41), k=n))
    ]


def batches(n: int = 101, **settings: object) -> TextBatches:
    arguments = {"max_length": 32, "batch_size": 8, "task": "single_label", **settings}
    return TextBatches(records(n), tokenizer=TOKENIZER, classes=("x", "y"), **arguments)


def seen(data: tf.data.Dataset) -> list[tuple[list[list[int]], list[int]]]:
    return [(x.numpy().tolist(), y.numpy().argmax(1).tolist()) for x, y, _ in data]


def test_every_text_once_an_epoch_with_its_label() -> None:
    data = batches()
    found = [seen(data.train_dataset(e)) for e in (0, 1)]
    for epoch in found:
        rows = [
            (tuple(t for t in x if t), y) for xs, ys in epoch for x, y in zip(xs, ys, strict=True)
        ]
        assert len(rows) == 101
        assert all(y == (4 not in x) for x, y in rows)
        whole = [(tuple(t for t in x if t), y) for xs, ys in seen(data.eval_dataset())
                 for x, y in zip(xs, ys, strict=True)]  # fmt: skip
        assert sorted(rows) == sorted(whole)
    assert found[0] != found[1]
    assert [len(ys) for _, ys in found[0]] == [8] * 12 + [5]


def test_a_resumed_epoch_goes_on_with_the_same_batches() -> None:
    data = batches()
    both = seen(data.train_dataset(1, epochs=2))
    assert seen(data.train_dataset(1)) + seen(data.train_dataset(2)) == both
    assert seen(data.train_dataset(1, 4, epochs=2)) == both[4:]
    assert seen(batches().train_dataset(1)) == both[:13]
    assert seen(batches(seed=1).train_dataset(1)) != both[:13]


def test_batches_are_as_long_as_their_longest_text() -> None:
    data = batches(800)
    sizes = [x.shape for x, _, _ in data.train_dataset(0)]
    assert all(length % STEP == 0 or length == 32 for _, length in sizes)
    padded = sum(n * length for n, length in sizes)
    assert padded < 1.25 * data.lengths.sum() + 800 * STEP / 2
    assert data.truncated == sum(len(r.text.split()) + 2 > 32 for r in data.records)
    assert data.batch_length(np.arange(3)) >= data.lengths[:3].max()


def test_other_records_are_encoded_only_if_they_were_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = batches(max_length=16)
    some = [data.records[i] for i in (30, 4, 4, 100)]
    fresh = TextBatches(some, tokenizer=TOKENIZER, classes=("x", "y"), max_length=16, batch_size=8,
                        task="single_label")  # fmt: skip
    monkeypatch.setattr(textbatches, "encode", None)
    again = data.with_records(some)
    assert seen(again.eval_dataset()) == seen(fresh.eval_dataset())
    assert again.truncated == fresh.truncated > 0
    with pytest.raises(TypeError):
        data.with_records([Record(id="new", label="x", text="h")])


def test_class_weights_reach_the_training_only() -> None:
    data = batches(class_weights={"x": 2.0, "y": 1.0})
    _, y, weight = next(iter(data.train_dataset(0)))
    assert weight.numpy().tolist() == [2.0 if row[0] else 1.0 for row in y.numpy()]
    assert set(data.record_weights()) == {1.0}


def test_odd_texts_and_counts() -> None:
    odd = [Record(id="0", text="", label="x"), Record(id="1", text="\udcff a", label="y")]
    data = TextBatches(
        odd,
        tokenizer=TOKENIZER,
        max_length=8,
        classes=("x", "y"),
        task="single_label",
        batch_size=2,
    )
    assert next(iter(data.eval_dataset()))[0].shape == (2, 8)
    assert token_counts(TOKENIZER, ["", "a b", "a " * 99], most=32).tolist() == [2, 4, 32]
    with pytest.raises(DataError, match="records without a text: p"):
        TextBatches(
            [Record(id="p", path="p.jpg")], tokenizer=TOKENIZER, max_length=8, classes=(),
            task="regression", batch_size=2,
        )  # fmt: skip


def test_a_megabyte_of_text_is_cut_and_counted() -> None:
    """One endless word, as many short ones, and bytes that are no text: none is refused."""
    texts = ["a" * 1_000_000, "a b " * 250_000, "\ufffd", "a\udcff b", "c d"]
    long = [Record(id=str(i), label="xy"[i % 2], text=text) for i, text in enumerate(texts)]
    data = TextBatches(long, tokenizer=TOKENIZER, classes=("x", "y"), max_length=32,
                       batch_size=8, task="single_label")  # fmt: skip
    (ids,) = [x.numpy() for x, _, _ in data.eval_dataset()]
    assert ids.shape == (5, 32)
    assert data.truncated == 1
    assert (ids[1] > 0).all()
    assert (ids[0] > 0).sum() == 3  # [CLS] [UNK] [SEP], as for any word that is too long


@pytest.mark.parametrize("threads", [1, 3])
def test_texts_that_are_encoded_in_parts_keep_their_order(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [record.text or "" for record in records(50)]
    monkeypatch.setattr(textbatches.os, "cpu_count", lambda: threads)
    monkeypatch.setattr(textbatches, "ENCODED_AT_ONCE", 8)
    found = textbatches.encode(TOKENIZER, texts, max_length=16)
    whole = TOKENIZER.encode(texts, max_length=16)
    assert found.ids.to_list() == whole.ids.to_list()
    assert found.cut.tolist() == whole.truncated.numpy().tolist()

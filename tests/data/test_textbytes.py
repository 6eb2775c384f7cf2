"""A text is the same example in training, in the report, in `predict`, in a request."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tltf.backbones.hub.codepoints import CodePoints
from tltf.data.manifest import Record
from tltf.data.textbatches import encode
from tltf.data.textbytes import text_bytes
from tltf.data.wordpiece import WordPiece
from tltf.serving import predicting, rest
from tltf.serving.decision import Decision
from tltf.serving.inputs import Item
from tltf.serving.textintake import TextIntake
from tltf.stages import exporting

hypothesis = pytest.importorskip("hypothesis", reason="no hypothesis: make test installs it")
st = hypothesis.strategies

TOKENS = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##b", "b", "?", "##?", "é", "😀"])
CASED = WordPiece(TOKENS.vocabulary, lowercase=False)
LENGTH = 12
ANY = st.characters(exclude_categories=())
"""All of Unicode, and the halves of pairs that are none of it."""
LIKELY = st.sampled_from(list("ab? é\u0301😀\ud83d\ude00\ud800\udcff\ufffd\0\x85\u2028\u00ad中"))
TEXTS = st.lists(st.text(st.one_of(LIKELY, ANY), max_size=12), min_size=1, max_size=20)


def trained(tokens: Any, texts: list[str]) -> list[list[int]]:
    return encode(tokens, texts, max_length=LENGTH).ids.to_list()


def served(tokens: Any, rows: list[bytes]) -> list[list[int]]:
    ids, readable = TextIntake(tokenizer=tokens, max_length=LENGTH).read(tf.constant(rows))
    assert readable.numpy().all()
    return [row[row != tokens.pad].tolist() for row in np.asarray(ids)]


@pytest.mark.parametrize(
    "tokens", [TOKENS, CASED, CodePoints()], ids=["uncased", "cased", "points"]
)
@hypothesis.given(TEXTS)
@hypothesis.example(["a\ud800b", "a?b", "\ud83d\ude00", "😀", "\udcff a"])
@hypothesis.settings(
    max_examples=int(os.environ.get("TLTF_FUZZ_EXAMPLES", "25")), deadline=None, database=None,
    derandomize="TLTF_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(hypothesis.HealthCheck),
)  # fmt: skip
def test_what_is_trained_is_what_is_served(tokens: Any, texts: list[str]) -> None:
    expected = [[i for i in row if i != tokens.pad] for row in trained(tokens, texts)]
    by_predict = [predicting._read(Item("1", text=text), 64_000_000)[0] for text in texts]
    by_rest = rest._strings(json.loads(json.dumps(texts)))
    by_gate = [exporting._bytes(Record(id="1", text=text)) for text in texts]
    assert by_predict == by_gate == [text_bytes(text) for text in texts]
    assert by_rest == by_predict
    assert served(tokens, by_predict) == expected


def test_half_a_pair_is_a_lost_character_and_both_halves_are_one() -> None:
    assert trained(TOKENS, ["a\ud800b", "\ud83d\ude00"]) == trained(TOKENS, ["a\ufffdb", "😀"])
    assert trained(TOKENS, ["a\ud800b"]) != trained(TOKENS, ["a?b"])


def test_a_class_may_have_any_name() -> None:
    names = Decision(task="single_label", classes=("caf\udce9", "\ud800x", "ok")).names
    assert names == [b"caf\xe9", "\ufffdx".encode(), b"ok"]

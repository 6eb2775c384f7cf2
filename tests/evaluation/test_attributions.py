"""Attributions add up, find the word that matters, and escape what people write."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

import tltf
from tltf.errors import ArgumentError
from tltf.evaluation.attributions import Attribution, attribute, highlighted, page

GOLDEN = Path(__file__).parents[1] / "backbones" / "golden_encoders"


def test_the_scores_sum_to_what_the_text_adds() -> None:
    model = tltf.classifier(tltf.backbone(f"bert:{GOLDEN / 'bert'}"), tltf.head(2))
    found = attribute(model, ["abc de", "h"], classes=("x", "y"), max_length=16, steps=200)
    for one in found:
        assert sum(one.scores) == pytest.approx(one.total, abs=0.02 + 0.02 * abs(one.total))
        assert len(one.tokens) == len(one.scores)
    other = attribute(model, ["abc de"], classes=("x", "y"), max_length=16, labels=["x"], steps=8)
    assert other[0].label == "x"


def test_the_word_that_decides_has_the_largest_score(tmp_path: Path) -> None:
    file = tmp_path / "v.txt"
    file.write_text("good 1 0\nbad -1 0\nfilm 0 0.1\n")
    model = tltf.classifier(tltf.backbone(f"vectors:{file}"), tltf.head(1))
    model.get_layer("head").set_weights([np.array([[1.0], [0.0]]), np.zeros(1)])
    (found,) = attribute(model, ["a good film"], classes=("value",), max_length=16)
    assert found.tokens[int(np.argmax(found.scores))] == "good"
    assert found.scores[found.tokens.index("good")] == pytest.approx(0.5, abs=1e-4)


def test_the_page_escapes_everything() -> None:
    one = Attribution(
        text="<b>", label="<script>", tokens=("[CLS]", "<", "##b>", "[SEP]"),
        scores=(0.0, 1.0, -0.5, 0.0), total=0.5,
    )  # fmt: skip
    assert "<script>" not in page([one], title="<x>")
    assert highlighted(one).count("<span") == 2
    assert "&lt;</span><span" in highlighted(one)


def test_images_have_no_tokens() -> None:
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
    with pytest.raises(ArgumentError, match="text model"):
        attribute(model, ["a"], classes=("x",), max_length=8)

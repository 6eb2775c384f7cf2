"""Word vectors as a backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tltf
from tltf.errors import ArgumentError, DataError, InputMissingError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "vectors.txt"
    path.write_text("3 2\ngood 1 2\nbad -1 0.5\n, 0 4\ngood 9 9\n")
    return path


def features(file: Path, texts: list[str], **settings: str) -> np.ndarray:
    model = tltf.backbone(f"vectors:{file}", **settings)
    ids = model.tokenizer.padded(model.tokenizer.encode(texts, max_length=16))
    return model(ids).numpy()


def test_a_text_is_the_mean_of_its_known_words(file: Path) -> None:
    found = features(file, ["Good, BAD", "good unheard-of", "unknown", ""])
    np.testing.assert_allclose(found, [[0, 6.5 / 3], [1, 2], [0, 0], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(features(file, ["good bad"], pooling="max"), [[1, 2]])
    model = tltf.backbone(f"vectors:{file}")
    assert list(model.blocks) == ["embeddings"]


def test_words_with_accents_are_found_and_words_with_blanks_left_out(file: Path) -> None:
    lines = ["schön 1 0", "schon 0 1", "café 5 5", "at name@domain.example 7 7", ". . 8 8"]
    file.write_text("\n".join(lines) + "\n", "utf-8")
    found = features(file, ["Café", "schon", "at"])
    np.testing.assert_allclose(found, [[5, 5], [0, 1], [0, 0]])
    file.write_text("a  1  2 \nb  3 4\n")
    np.testing.assert_allclose(features(file, ["a b"]), [[2, 3]])
    file.write_text("a 1 2\nb 3 4 5\n")
    with pytest.raises(DataError, match="1 lines are no word with 2 numbers: 2"):
        tltf.backbone(f"vectors:{file}")


def test_what_is_no_file_of_vectors(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no first token"):
        tltf.backbone(f"vectors:{file}", pooling="cls")
    with pytest.raises(InputMissingError, match="no such file"):
        tltf.backbone(f"vectors:{tmp_path / 'none'}")
    file.write_text("a 1 2\nb 1\nc x y\nd 1 nan\n")
    with pytest.raises(DataError, match="3 lines are no word with 2 numbers: 2, 3, 4"):
        tltf.backbone(f"vectors:{file}")

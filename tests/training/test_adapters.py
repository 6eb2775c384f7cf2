"""LoRA in phases: what trains, what stands still bit for bit, and the ordinary model at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tltf
from tltf import transfer
from tltf.errors import ArgumentError, InterruptedRun
from tltf.methods import AdaptSpec
from tltf.spec import BackboneSpec, DataSpec, Phase, TransferSpec
from tltf.training import adapters, freezing, phases
from tltf.training.callbacks import FrozenCheck, TrainabilityGuard

ENCODER = f"bert:{Path(__file__).parents[1] / 'backbones' / 'golden_encoders' / 'bert'}"
IDS = np.array([[2, 4, 5, 3], [2, 6, 4, 3], [2, 5, 5, 3], [2, 7, 6, 3]] * 2, np.int32)
LABELS = np.eye(2, dtype="float32")[[0, 1] * 4]
PLAN = (
    Phase("head", 1, 1e-2, unfreeze="none"),
    Phase("tune", 3, 1e-2, unfreeze="last:1", optimizer="adamw", weight_decay=0.01, lora=2),
)


def encoder() -> keras.Model:
    return tltf.classifier(tltf.backbone(ENCODER), tltf.head(2, dropout=0.2))


def texts() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((IDS, LABELS)).batch(4)


def lora_kernel(layer: Any) -> np.ndarray:
    """W + A B, in NumPy, of a layer of Keras."""
    a, b = (v.numpy().astype(np.float64) for v in adapters.factors(layer))
    before, layer.lora_enabled = layer.lora_enabled, False
    kernel = layer.kernel.numpy().astype(np.float64)
    layer.lora_enabled = before
    return kernel + a @ b


def test_only_adapters_and_the_head_train() -> None:
    model = encoder()
    found = tltf.enter_phase(model, PLAN[1], steps_per_epoch=2)
    assert found.blocks == ("layer_1",)
    assert {path.rpartition("/")[2] for path in found.trainable if "layer_1" in path} == {
        "lora_kernel_a", "lora_kernel_b", "lora_qkv_a", "lora_qkv_b", "lora_output_a",
        "lora_output_b",
    }  # fmt: skip
    assert {p for p in found.trainable if "layer_1" not in p} == {
        "head/logits/kernel", "head/logits/bias",
    }  # fmt: skip
    start = model(IDS).numpy()
    before = tiny.values(model)
    model.fit(texts(), epochs=3, verbose=0, callbacks=[TrainabilityGuard(found), FrozenCheck()])
    assert tiny.moved(before, tiny.values(model)) == set(found.trainable)
    answers = model(IDS).numpy()
    assert np.abs(answers - start).max() > 1e-2
    layer = model.get_layer("bert").get_layer("layer_1_output")
    expected = lora_kernel(layer)
    paths = [v.path for v in encoder().variables]
    assert transfer.merge_lora(model) == 3
    np.testing.assert_allclose(layer.kernel.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(model(IDS).numpy(), answers, atol=1e-5)
    assert [v.path.partition("seed")[0] for v in model.variables] == [
        path.partition("seed")[0] for path in paths
    ]
    assert (
        layer.get_config() == encoder().get_layer("bert").get_layer("layer_1_output").get_config()
    )
    assert not model.compiled


def test_self_attention_is_the_papers_equation() -> None:
    """h = W0 x + B A x for query, key, value and output, by a slow transcription."""
    layer = tltf.backbones.tokens.SelfAttention(2)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4)).astype("float32")
    layer(x, np.ones((2, 3), "float32"))
    layer.enable_lora(2)
    for variable in adapters.factors(layer):
        variable.assign(rng.normal(size=variable.shape))
    a, b = layer.lora_qkv_a.numpy(), layer.lora_qkv_b.numpy()
    parts = []
    for k in range(3):
        w0 = layer.qkv_kernel.numpy()[:, 4 * k : 4 * k + 4]
        parts.append(w0 + a[:, 2 * k : 2 * k + 2] @ b[k])
    query, key, value = (x @ part for part in parts)
    out = layer.output_kernel.numpy() + layer.lora_output_a.numpy() @ layer.lora_output_b.numpy()
    expected = np.zeros((2, 3, 4))
    for i in range(2):
        for h in (slice(0, 2), slice(2, 4)):
            scores = query[i, :, h] @ key[i, :, h].T / np.sqrt(2)
            weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            expected[i] += (weights @ value[i, :, h]) @ out[h]
    mask = np.ones((2, 3), "float32")
    np.testing.assert_allclose(layer(x, mask), expected, atol=1e-4)
    again = tltf.backbones.tokens.SelfAttention.from_config(layer.get_config())
    again(x, mask)
    again.set_weights(layer.get_weights())
    np.testing.assert_allclose(again(x, mask), expected, atol=1e-4)
    assert adapters.merge([layer]) == 1
    np.testing.assert_allclose(layer(x, mask), expected, atol=1e-4)
    assert adapters.factors(layer) == []


def test_the_phases_leave_an_ordinary_model(tmp_path: Path) -> None:
    model = encoder()
    before = tiny.values(model)
    result = tltf.fit_phases(
        model, PLAN, texts(), validation=texts(), progress=False, folder=tmp_path
    )
    assert "layer_1_output/lora_kernel_b" in str(result.movements["tune"].moved)
    assert {k.rpartition("/")[0] for k in tiny.moved(before, tiny.values(model))} == {
        "layer_1_attention", "layer_1_intermediate", "layer_1_output", "head/logits",
    }  # fmt: skip
    assert not [v for v in model.variables if "lora" in v.path]
    # What was compiled answers for the merged kernels.
    last = result.history[-1]
    measured = model.evaluate(texts(), verbose=0, return_dict=True)
    best = min(row["val_loss"] for row in result.history if row["phase"] == "tune")
    assert measured["loss"] == pytest.approx(best, abs=1e-5), last
    assert float(model.optimizer.learning_rate) == pytest.approx(5e-5), "for whole kernels"
    tltf.enter_phase(model, Phase("more", 1, 1e-3, unfreeze="last:1"))
    model.fit(texts(), verbose=0)


def test_a_single_step_is_no_error() -> None:
    """B begins with zeros, so that A has no gradient in the first step, and one in the second."""
    for epochs, still in ((1, ("top_3_conv/lora_kernel_a",)), (2, ())):
        plan = [Phase("tune", epochs, 1e-2, unfreeze="last:1", lora=2)]
        result = tltf.fit_phases(tiny.classifier(), plan, tiny.dataset(4), progress=False)
        assert result.movements["tune"].without_gradient == still
        assert "top_3_conv/lora_kernel_b" in result.movements["tune"].moved


def test_adapters_that_were_there_before_stay() -> None:
    """Only those that a phase put there are merged at its end."""
    model = tiny.classifier()
    transfer.enable_lora(model, 2, unfreeze="last:1")
    plan = [
        Phase("one", 2, 1e-2, unfreeze="last:1"),
        Phase("two", 2, 1e-2, unfreeze="last:1"),
    ]
    result = tltf.fit_phases(model, plan, tiny.dataset(), progress=False)
    assert "top_3_conv/lora_kernel_a" in result.movements["two"].moved
    assert "top_3_conv/kernel" not in result.movements["two"].moved
    with pytest.raises(ArgumentError, match="rank=3, and top_3_conv has an adapter of rank 2"):
        transfer.enable_lora(model, 3, unfreeze="last:1")
    assert transfer.merge_lora(model) == 1


def test_a_phase_without_epochs_gets_no_adapters() -> None:
    model = encoder()
    plan = [Phase("tune", 0, 1e-2, unfreeze="last:1", lora=2)]
    before = tiny.values(model)
    tltf.fit_phases(model, plan, texts(), progress=False)
    assert not tiny.moved(before, tiny.values(model))
    assert before.keys() == tiny.values(model).keys()


def test_convolutions_take_adapters_and_their_normalisation_may_adapt() -> None:
    for batch_norm, own in (("frozen", set()), ("adapt", {"gamma", "beta"})):
        model = tiny.classifier()
        phase = Phase("tune", 1, 1e-2, unfreeze="last:1", lora=2, batch_norm=batch_norm)
        found = tltf.enter_phase(model, phase)
        names = {path.rpartition("/")[2] for path in found.trainable if path.startswith("top_3")}
        assert names == own | {"lora_kernel_a", "lora_kernel_b"}
        assert bool(found.adapting) == bool(own)
        before = tiny.values(model)
        model.fit(tiny.dataset(), verbose=0, callbacks=[FrozenCheck()])
        moved = tiny.moved(before, tiny.values(model))
        assert moved == {*found.trainable, *found.adapting}


def test_flags_set_again_leave_the_kernel_fixed() -> None:
    """set_trainable sets every leaf; the kernel below an adapter must not come back."""
    model = tiny.classifier()
    transfer.enable_lora(model, 2)
    for unfreeze in ("all", "none", "last:2"):
        found = freezing.set_trainable(model, unfreeze)
        assert not [path for path in found.trainable if path.endswith("conv/kernel")]
        assert bool([p for p in found.trainable if "lora" in p]) == (unfreeze != "none")
    adapters.merge(freezing.leaves(model), keep=False)
    found = freezing.set_trainable(model, "all")
    assert len([path for path in found.trainable if path.endswith("conv/kernel")]) == 3


class Stop(keras.callbacks.Callback):
    """Ctrl-C behind the third batch of the phase with adapters."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        import os
        import signal

        if any("lora" in v.path for v in self.model.trainable_variables):
            self.seen = getattr(self, "seen", 0) + 1
            if self.seen == 3:
                os.kill(os.getpid(), signal.SIGINT)


def fitted(folder: Path, *callbacks: Any) -> list[bytes]:
    model = encoder()
    for variable in model.get_layer("head").variables:
        variable.assign(np.zeros(variable.shape, variable.dtype))
    tltf.fit_phases(
        model, PLAN, texts(), validation=texts(), progress=False, folder=folder,
        callbacks=callbacks, save_every="1000000s",
    )  # fmt: skip
    return [np.asarray(v.numpy()).tobytes() for v in model.variables]


def test_interrupted_among_adapters_and_resumed_gives_the_same_bits(tmp_path: Path) -> None:
    whole = fitted(tmp_path / "whole")
    with pytest.raises(InterruptedRun):
        fitted(tmp_path / "cut", Stop())
    assert fitted(tmp_path / "cut") == whole
    # Finished: nothing trains, and what is read back is an ordinary model.
    assert fitted(tmp_path / "cut") == whole


def test_what_takes_no_adapter_is_said() -> None:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.DepthwiseConv2D(3, name="only_1")(inputs)
    model = tltf.classifier(keras.Model(inputs, x, name="body"), tltf.head(2))
    words = r"takes a low-rank adapter: it has weights in DepthwiseConv2D; adapters are for Dense"
    with pytest.raises(ArgumentError, match=words) as error:
        phases.freeze(model, Phase("tune", 1, 1e-2, unfreeze="all", lora=2))
    assert "tune the weights" in error.value.next_action
    with pytest.raises(ArgumentError, match="rank=0, expected at least 1"):
        transfer.enable_lora(model, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora": -1, "unfreeze": "all"}, "expected a rank of at least 1"),
        ({"lora": 2, "unfreeze": "none"}, "blocks to adapt"),
    ],
)
def test_a_wrong_phase_is_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Phase("tune", 1, 1e-2, **options)


def test_l2_sp_has_nothing_to_hold() -> None:
    with pytest.raises(ArgumentError, match="leaves those weights alone"):
        TransferSpec(data=DataSpec(source="x"), backbone=BackboneSpec(name="mlp"), phases=PLAN,
                     regularizer="l2sp:0.1")  # fmt: skip


@pytest.mark.parametrize("options", [{"lora": 2}, {"average": "ema:0.9"}])
def test_adaptation_to_a_domain_has_neither(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="which knows neither"):
        TransferSpec(data=DataSpec(source="x"), backbone=BackboneSpec(name="mlp"),
                     phases=(Phase("adapt", 1, 1e-3, unfreeze="last:1", **options),),
                     adapt=AdaptSpec(target="y"))  # fmt: skip

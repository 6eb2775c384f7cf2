"""Every family of backbones as a servable: the same answers from the same bytes, elsewhere."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, pixels
from PIL import Image

import tltf
from tltf.backbones.catalog import SCRATCH, TABLE
from tltf.data import decoding
from tltf.serving import elsewhere
from tltf.serving.predicting import open_servable

FAMILIES = (
    *("VGG16", "ResNet50", "ResNet50V2", "DenseNet121", "InceptionV3", "InceptionResNetV2"),
    *("Xception", "NASNetMobile", "MobileNet", "MobileNetV2", "MobileNetV3Small"),
    *("EfficientNetB0", "EfficientNetV2B0", "ConvNeXtTiny"),
)
GRAPH_BYTES, GRAPH_BYTES_A_VARIABLE = 300_000, 7_000
"""A graph costs the same however wide its layers are: about 5 kB for each variable, since the
network, TensorFlow's functions that save and restore, and every signature name them all."""


def sixteen_bits(seed: int) -> bytes:
    """Pillow writes 16-bit grey only; TensorFlow writes the colours."""
    values = np.random.default_rng(seed).integers(0, 65536, (20, 24, 3), np.uint16)
    return tf.io.encode_png(values).numpy()


def files() -> Mapping[str, bytes]:
    """One file of every kind that the decoder reads."""
    rgb = Image.fromarray(pixels(1, height=40, width=30))
    grey = Image.fromarray(pixels(2)[:, :, 0])
    found = {
        "rgb.jpg": encoded(rgb, "JPEG"),
        "progressive.jpg": encoded(rgb, "JPEG", progressive=True),
        "grey.jpg": encoded(grey, "JPEG"),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG"),
        "rgb.png": encoded(rgb, "PNG"),
        "rgba.png": encoded(Image.fromarray(pixels(3, channels=4)), "PNG"),
        "grey.png": encoded(grey, "PNG"),
        "palette.png": encoded(rgb.quantize(16), "PNG"),
        "one_bit.png": encoded(grey.point(lambda x: 255 * (x > 127)).convert("1"), "PNG"),
        "16_bits.png": sixteen_bits(4),
        "still.gif": encoded(rgb.quantize(16), "GIF"),
        "rgb.bmp": encoded(rgb, "BMP"),
        "palette.bmp": encoded(rgb.quantize(16), "BMP"),
        "lossy.webp": encoded(rgb, "WEBP"),
        "lossless.webp": encoded(rgb, "WEBP", lossless=True),
    }
    frames = [Image.fromarray(pixels(seed)).quantize(8) for seed in (5, 6)]
    moving = io.BytesIO()
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    return {**found, "moving.gif": moving.getvalue()}


def check_servable(name: str, tmp_path: Path) -> None:
    """Exported with one file of every kind as examples: the gate compares them in both loaders."""
    side = 32 if name in SCRATCH else TABLE[name].minimum
    backbone = tltf.backbone(name, weights="none", input_size=side)
    model = tltf.classifier(backbone, tltf.head(3, dropout=0.3))
    paths = []
    for file, data in files().items():
        paths.append(tmp_path / file)
        paths[-1].write_bytes(data)
    folder = tltf.export(model, labels="abc", to=tmp_path / "served", examples=paths)
    opened = open_servable(folder)
    rows = list(files().values())
    answered = opened.answer(rows)
    assert (answered["label_id"] >= 0).all()
    images = [decoding.resize(decoding.decode(tf.constant(row)), side) for row in rows]
    floats = tf.saved_model.load(str(folder)).signatures["predict"](images=tf.stack(images))
    np.testing.assert_allclose(floats["probabilities"], answered["probabilities"], atol=1e-6)
    weights = sum(v.numpy().nbytes for v in model.weights)
    stored = sum(path.stat().st_size for path in (folder / "variables").iterdir())
    assert weights <= stored + 64 <= 1.1 * weights + 30_000
    graph = (folder / "saved_model.pb").stat().st_size
    assert graph <= GRAPH_BYTES + GRAPH_BYTES_A_VARIABLE * len(model.weights)
    whole = [p for p in folder.rglob("*") if p.is_file() and p.parent.name != "assets.extra"]
    share = sum(p.stat().st_size for p in whole) / weights
    print(f"{name}: weights {weights / 1e6:.1f} MB, servable {100 * share:.1f} % of that,"
          f" graph {graph / 1e6:.2f} MB for {len(model.weights)} variables")  # fmt: skip


def test_a_small_backbone(tmp_path: Path) -> None:
    check_servable("small_cnn", tmp_path)
    assert elsewhere.cpp_library() is not None, "this wheel has no C++ library to try"


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_servable(name, tmp_path)
    with capsys.disabled():
        print(f"\n{capsys.readouterr().out.strip()}")

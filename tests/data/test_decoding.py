"""Golden pixels: what the shared decoder gives, against Pillow."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, pixels
from PIL import Image

from tltf.data.decoding import decode, load_image, resize
from tltf.data.scan import reason_against
from tltf.serving.intake import ImageIntake

RGB = Image.fromarray(pixels(1))
RGBA = Image.fromarray(pixels(2, channels=4))
GREY = Image.fromarray(pixels(3)[:, :, 0])
PALETTE = RGB.quantize(16)
BITS = Image.fromarray(pixels(4)[:, :, 0] > 127)

EXACT = {
    "JPEG": (RGB, "JPEG", {"quality": 90}),
    "progressive JPEG": (RGB, "JPEG", {"progressive": True}),
    "JPEG 4:4:4": (RGB, "JPEG", {"subsampling": 0}),
    "grey JPEG": (GREY, "JPEG", {}),
    "PNG": (RGB, "PNG", {}),
    "grey PNG": (GREY, "PNG", {}),
    "palette PNG": (PALETTE, "PNG", {}),
    "1-bit PNG": (BITS, "PNG", {}),
    "GIF": (PALETTE, "GIF", {}),
    "BMP": (RGB, "BMP", {}),
    "grey BMP": (GREY, "BMP", {}),
    "palette BMP": (PALETTE, "BMP", {}),
    "WebP": (RGB, "WEBP", {"quality": 80}),
    "lossless WebP": (RGB, "WEBP", {"lossless": True}),
}


@pytest.mark.parametrize("name", EXACT)
def test_same_pixels_as_pillow(name: str) -> None:
    image, kind, options = EXACT[name]
    data = encoded(image, kind, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_alpha_is_dropped_not_composited(kind: str) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encoded(RGBA, kind, **options)
    np.testing.assert_array_equal(decode(data), np.asarray(RGBA)[:, :, :3])


def test_transparency_of_a_palette_png_is_dropped() -> None:
    data = encoded(PALETTE, "PNG", transparency=3)
    np.testing.assert_array_equal(decode(data), np.asarray(PALETTE.convert("RGB")))


def test_transparent_pixels_of_a_gif_are_black() -> None:
    data = encoded(PALETTE, "GIF", transparency=3)
    opened = Image.open(io.BytesIO(data))
    clear = np.asarray(opened) == opened.info["transparency"]
    expected = np.where(clear[:, :, None], 0, np.asarray(PALETTE.convert("RGB")))
    assert clear.any()
    np.testing.assert_array_equal(decode(data), expected)


def test_of_an_animated_gif_the_first_frame() -> None:
    data = encoded(RGB, "GIF", save_all=True, append_images=[GREY.convert("RGB")])
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)


def test_of_16_bits_the_upper_8() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 6), np.uint16)
    result = decode(encoded(Image.fromarray(values), "PNG")).numpy()
    np.testing.assert_array_equal(result, np.repeat((values >> 8)[:, :, None], 3, axis=2))


def test_cmyk_is_converted_and_not_inverted() -> None:
    ink = pixels(5, channels=4)
    data = encoded(Image.frombytes("CMYK", ink.shape[1::-1], ink.tobytes()), "JPEG", quality=100)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    # Pillow and TensorFlow round channel * black / 255 differently.
    assert np.abs(decode(data).numpy() - expected).max() <= 1


def test_exif_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(RGB, "JPEG", exif=exif.tobytes())
    np.testing.assert_array_equal(decode(data), decode(encoded(RGB, "JPEG")))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"<!DOCTYPE html>",
        encoded(RGB, "JPEG")[:-60],
        encoded(RGB, "PNG")[:-60],
        encoded(PALETTE, "BMP")[:-60],
        encoded(RGB, "BMP")[:20],
        encoded(RGB, "WEBP")[:-60],
        encoded(RGB, "TIFF"),
    ],
)
def test_what_is_no_image_is_an_error(data: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(data)


def test_the_same_in_a_data_pipeline_and_after_export(tmp_path: Path) -> None:
    files = [encoded(*EXACT[name][:2], **EXACT[name][2]) for name in EXACT]
    eager = np.stack([resize(decode(data), 8) for data in files])

    module = tf.Module()
    module.read = tf.function(
        lambda batch: tf.map_fn(
            lambda data: resize(decode(data), 8),
            batch,
            fn_output_signature=tf.TensorSpec([8, 8, 3], tf.float32),
        ),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path / "export"))
    served = tf.saved_model.load(str(tmp_path / "export")).read(tf.constant(files))
    piped = tf.data.Dataset.from_tensor_slices(files).map(lambda data: resize(decode(data), 8))
    np.testing.assert_array_equal(served, eager)
    np.testing.assert_array_equal(np.stack(list(piped.as_numpy_iterator())), eager)


def test_resize_is_close_to_pillow_and_static() -> None:
    photo = Image.fromarray(pixels(6, height=60, width=90))
    expected = np.asarray(photo.resize((24, 24), Image.Resampling.BILINEAR), np.float32)
    result = resize(np.asarray(photo), 24)
    assert result.dtype == tf.float32
    assert np.abs(result - expected).max() <= 1.0

    traced = tf.function(lambda x: resize(x, 24)).get_concrete_function
    assert traced(tf.TensorSpec([None, None, 3], tf.uint8)).output_shapes == (24, 24, 3)
    batch = traced(tf.TensorSpec([None, None, None, 3], tf.uint8)).output_shapes
    assert batch.as_list() == [None, 24, 24, 3]


def test_resize_to_the_same_size_changes_nothing() -> None:
    square = pixels(7, height=16, width=16)
    np.testing.assert_array_equal(resize(square, 16), square.astype(np.float32))


def test_load_image_reads_a_file_of_any_name(tmp_path: Path) -> None:
    path = tmp_path / "a\nb 😀.png"
    path.write_bytes(encoded(RGB, "PNG"))
    np.testing.assert_array_equal(load_image(path, 9), resize(pixels(1), 9))
    with pytest.raises(tf.errors.NotFoundError):
        load_image(tmp_path / "none.png", 9)


def test_an_animated_webp_is_refused_as_by_the_scan(tmp_path: Path) -> None:
    """In training and in a servable alike; a still one with the same extended header is read."""
    frames = [Image.fromarray(pixels(seed)) for seed in (1, 2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    moving = buffer.getvalue()
    still = encoded(frames[0].convert("RGBA"), "WEBP", lossless=True, exif=b"Exif\0\0MM\0*")
    assert moving[12:16] == still[12:16] == b"VP8X"
    with pytest.raises(tf.errors.InvalidArgumentError, match="animated"):
        decode(moving)
    assert decode(still).shape == (12, 16, 3)
    path = tmp_path / "moving.webp"
    path.write_bytes(moving)
    assert "animated" in reason_against(str(path))
    _, good = ImageIntake(image_size=8).read(tf.constant([moving, still]))
    assert good.numpy().tolist() == [False, True]

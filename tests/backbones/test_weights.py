"""Weight files: official ones from a cache, anybody's as data, errors that say what to do."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import threading
import time
import urllib.error
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from tltf import sealed, storage, tensorfile, variables
from tltf.backbones import backbone, runfile, weights
from tltf.errors import (
    ArgumentError,
    DataError,
    DownloadError,
    InputMissingError,
    OutputError,
    SecurityError,
)

ORIGIN = "https://host.example/folder/a.h5"
SHA = hashlib.sha256(b"good").hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return tmp_path / "models"


@pytest.fixture
def offline(monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(weights.urllib.request, "urlopen", refuse)


class Response(io.BytesIO):
    def __init__(self, body: bytes, length: int | None = None) -> None:
        super().__init__(body)
        self.headers = {"Content-Length": str(len(body) if length is None else length)}


def serve(monkeypatch, body: bytes, **fields) -> list[str]:
    asked: list[str] = []

    def urlopen(origin: str, timeout: float) -> Response:
        asked.append(origin)
        time.sleep(0.05)
        return Response(body, **fields)

    monkeypatch.setattr(weights.urllib.request, "urlopen", urlopen)
    return asked


def test_missing_and_offline_says_everything(cache, offline) -> None:
    with pytest.raises(DownloadError) as error:
        backbone("EfficientNetB0", input_size=32)
    assert error.value.exit_code == 69
    text = str(error.value)
    for part in ("efficientnetb0_notop.h5", "https://", str(cache), "50bc09e76180e00e4465e1a485"):
        assert part in text
    assert not list(cache.glob("*.part"))


def test_a_file_named_otherwise_in_the_cache_is_named_so(cache, offline) -> None:
    with pytest.raises(DownloadError, match=r"put it into \S+ as b\.h5 from https"):
        weights.fetch("b.h5", ORIGIN)


def test_keras_gets_its_own_function_back(cache, offline) -> None:
    module = sys.modules[keras.utils.get_file.__module__]
    before = module.get_file
    with pytest.raises(DownloadError):
        backbone("VGG16", input_size=32)
    assert module.get_file is before


def test_download_once_by_two(cache, monkeypatch) -> None:
    asked = serve(monkeypatch, b"good")
    threads = [
        threading.Thread(target=weights.fetch, args=("a.h5", ORIGIN), kwargs={"file_hash": SHA})
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [ORIGIN]
    assert (cache / "a.h5").read_bytes() == b"good"


def test_a_bad_file_is_set_aside(cache, monkeypatch) -> None:
    cache.mkdir()
    (cache / "a.h5").write_bytes(b"bad")
    serve(monkeypatch, b"good")
    path = weights.fetch("a.h5", ORIGIN, file_hash=SHA)
    assert Path(path).read_bytes() == b"good"
    assert (cache / "a.h5.bad").read_bytes() == b"bad"


@pytest.mark.parametrize(
    ("body", "length", "reason"), [(b"evil", None, "wrong hash"), (b"goo", 4, "cut short")]
)
def test_what_comes_wrong_is_not_kept(cache, monkeypatch, body, length, reason) -> None:
    serve(monkeypatch, body, length=length)
    with pytest.raises(DownloadError, match=reason):
        weights.fetch("a.h5", ORIGIN, file_hash=SHA)
    assert [path.name for path in cache.iterdir()] == [".a.h5.lock"]


def test_no_answer_and_no_https(cache, monkeypatch) -> None:
    monkeypatch.setattr(weights, "CONNECT_SECONDS", 0.05)
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda *a, **k: time.sleep(0.5))
    with pytest.raises(DownloadError, match="no answer"):
        weights.fetch("a.h5", ORIGIN)
    with pytest.raises(DownloadError, match="not https"):
        weights.fetch("a.h5", "file:///etc/passwd")


def test_not_found(cache, monkeypatch) -> None:
    def urlopen(origin, timeout):
        raise urllib.error.HTTPError(origin, 404, "gone", {}, None)

    monkeypatch.setattr(weights.urllib.request, "urlopen", urlopen)
    with pytest.raises(DownloadError, match="HTTP 404"):
        weights.fetch("a.h5", ORIGIN)


def test_a_cache_that_cannot_be(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="cannot write the weights cache"):
        weights.fetch("a.h5", ORIGIN)


@pytest.fixture(scope="module")
def small() -> keras.Model:
    """A MobileNet whose weights go into files of every kind."""
    return keras.applications.MobileNet(
        include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.25
    )


NAME = "MobileNet:alpha=0.25"


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras"])
def test_files_of_ones_own(small, tmp_path, suffix) -> None:
    path = tmp_path / f"w{suffix}"
    (small.save_weights if suffix == ".weights.h5" else small.save)(path)
    base = backbone(NAME, str(path), 32)
    assert weights.weights_digest(base) == weights.weights_digest(small)


def test_code_in_an_archive_is_not_run(small, tmp_path) -> None:
    """What the archive says of classes is never looked at: only its arrays are."""
    small.save(tmp_path / "good.keras")
    trap = {"module": "os", "class_name": "system", "config": f"touch {tmp_path / 'ran'}"}
    with zipfile.ZipFile(tmp_path / "good.keras") as good:
        weights_file = good.read("model.weights.h5")
    with zipfile.ZipFile(tmp_path / "w.keras", "w") as bad:
        bad.writestr("config.json", json.dumps(trap))
        bad.writestr("metadata.json", json.dumps(trap))
        bad.writestr("model.weights.h5", weights_file)
    base = backbone(NAME, str(tmp_path / "w.keras"), 32)
    assert weights.weights_digest(base) == weights.weights_digest(small)
    assert not (tmp_path / "ran").exists()


def write_run(folder: Path, base: keras.Model) -> None:
    """What a finished run leaves of its backbone."""
    weights_folder = folder / runfile.FOLDER
    weights_folder.mkdir(exist_ok=True)
    storage.write_text(weights_folder / runfile.ARCHITECTURE, base.to_json())
    arrays = variables.named_arrays(base.variables, prefix=runfile.PREFIX)
    tensorfile.write_tensors(weights_folder / runfile.WEIGHTS, arrays)
    sealed.seal(weights_folder)


def test_the_backbone_of_a_run_is_read_back(tmp_path) -> None:
    base = backbone("small_cnn", "none", 8)
    assert weights.weights_digest(base) != weights.weights_digest(backbone("small_cnn", "none", 8))
    write_run(tmp_path, base)
    again = backbone(f"file:{tmp_path}")
    assert weights.weights_digest(again) == weights.weights_digest(base)
    assert list(again.blocks) == ["block1", "block2", "block3"]
    fresh = backbone(f"file:{tmp_path}", "none", 8)
    assert weights.weights_digest(fresh) != weights.weights_digest(base)
    with pytest.raises(ArgumentError, match="trained at 8 pixels"):
        backbone(f"file:{tmp_path}", input_size=16)


def test_run_folders_that_are_not(tmp_path) -> None:
    with pytest.raises(InputMissingError, match="holds no backbone"):
        backbone(f"file:{tmp_path}")
    path = tmp_path / runfile.FOLDER / runfile.ARCHITECTURE
    path.parent.mkdir()
    path.write_text("not a model")
    sealed.seal(path.parent)
    with pytest.raises(DataError, match="cannot read the backbone"):
        backbone(f"file:{tmp_path}")
    path.write_text(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]).to_json())
    sealed.seal(path.parent)
    with pytest.raises(DataError, match="holds a Sequential, not a Backbone"):
        backbone(f"file:{tmp_path}")


def test_another_architecture_is_refused(small, tmp_path) -> None:
    path = tmp_path / "w.weights.h5"
    small.save_weights(path)
    with pytest.raises(DataError, match=r"another architecture.*conv1/kernel\[3, 3, 3, 16\].*more"):
        backbone("MobileNet:alpha=0.5", str(path), 32)


def test_surplus_arrays_are_refused(small, tmp_path) -> None:
    path = tmp_path / "w.weights.h5"
    small.save_weights(path)
    with h5py.File(path, "a") as file:
        file["layers/dense/vars/0"] = np.zeros((7, 7), "float32")
    with pytest.raises(DataError, match=r"layers/dense/vars/0\[7, 7\] is not in the model"):
        backbone(NAME, str(path), 32)


def test_damaged_and_foreign_files(tmp_path) -> None:
    with pytest.raises(InputMissingError, match="no such weights file"):
        backbone(NAME, str(tmp_path / "none.h5"), 32)
    for name, error, message in (
        ("w.bin", ArgumentError, "expected .weights.h5, .h5, .keras"),
        ("w.h5", DataError, "damaged weights file"),
        ("w.keras", DataError, "damaged weights file"),
    ):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(error, match=message):
            backbone(NAME, str(tmp_path / name), 32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("a", (4,), "u1", external=[(str(tmp_path / "w.bin"), 0, 4)])
    with pytest.raises(SecurityError, match="lies in other files"):
        backbone(NAME, str(tmp_path / "x.h5"), 32)


def test_not_a_number_is_named(small, tmp_path) -> None:
    clone = keras.models.clone_model(small)
    bad = clone.get_layer("conv_pw_3_bn").gamma
    bad.assign(np.full(bad.shape, np.nan, "float32"))
    clone.save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(DataError, match=r"conv_pw_3_bn/gamma holds NaN or infinity"):
        backbone(NAME, str(tmp_path / "w.weights.h5"), 32)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_efficientnet_from_a_file_is_the_imagenet_network(cache, tmp_path, monkeypatch) -> None:
    """Keras leaves one division out when EfficientNet weights are given as a path."""
    plain = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    normal = next(x for x in plain.layers if isinstance(x, keras.layers.Normalization))
    normal.adapt_mean.assign([0.485, 0.456, 0.406])
    normal.adapt_variance.assign([0.229, 0.224, 0.225])
    cache.mkdir()
    path = cache / "efficientnetb0_notop.h5"
    plain.save(path)  # as HDF5
    monkeypatch.setattr(weights, "_intact", lambda path, expected: path.is_file())
    official = backbone("EfficientNetB0", "imagenet", 32)
    own = backbone("EfficientNetB0", str(path), 32)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = backbone("EfficientNetB0", str(path), 32)
    finally:
        keras.config.set_dtype_policy("float32")
    x = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(official(x), own(x))
    write_run(tmp_path, own)  # assigns variable by variable
    np.testing.assert_array_equal(backbone(f"file:{tmp_path}")(x), own(x))
    own.save(tmp_path / "own.keras")
    np.testing.assert_array_equal(
        backbone("EfficientNetB0", str(tmp_path / "own.keras"), 32)(x), own(x)
    )
    seen = [np.array(keras.Model(b.input, b.layers[4].input)(x)) for b in (official, own, half)]
    expected = (x / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    for values in seen:
        np.testing.assert_allclose(values, expected, atol=1e-5)


@pytest.fixture
def real(cache) -> Path:
    """A writable copy of a Keras cache with real weights."""
    root = os.environ.get("TLTF_TEST_DATA")
    source = Path(root or "", "weights", "keras_home", "models")
    if not root or not source.is_dir():
        pytest.skip("needs pretrained weights: set TLTF_TEST_DATA")
    shutil.copytree(source, cache, copy_function=shutil.copyfile)
    cache.chmod(0o755)
    return cache


@pytest.mark.parametrize("name", ["MobileNetV2:alpha=0.35", "MobileNet:alpha=0.25"])
def test_real_weights(real, offline, name) -> None:
    base = backbone(name, input_size=64)
    x = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")
    features = np.array(base(x))
    assert np.isfinite(features).all()
    assert features.std() > 0.1
    again = backbone(name, input_size=64)
    assert weights.weights_digest(again) == weights.weights_digest(base)


def test_a_flipped_byte_is_refused(real, offline) -> None:
    path = next(real.glob("*0.35_224_no_top.h5"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DownloadError, match=r"0\.35_224_no_top\.h5"):
        backbone("MobileNetV2:alpha=0.35", input_size=64)
    assert path.with_name(path.name + ".bad").exists()
    assert not path.exists()


def test_real_weights_see_what_is_there(real, offline, tmp_path) -> None:
    """Top-1 of the whole classifier, through the backbone: preprocessing and weights agree."""
    root = Path(os.environ["TLTF_TEST_DATA"])
    packed = root / "images" / "imagenet_photos" / "public.tar.gz"
    if not packed.is_file():
        pytest.skip("needs imagenet_photos in TLTF_TEST_DATA")
    with tarfile.open(packed) as archive:
        member = next(m for m in archive.getmembers() if m.name.endswith("parrot.jpg"))
        (tmp_path / "parrot.jpg").write_bytes(archive.extractfile(member).read())
    base = backbone("MobileNet:alpha=0.25")
    with weights.official_files():
        whole = keras.applications.MobileNet(alpha=0.25, weights="imagenet")
    photo = keras.utils.load_img(tmp_path / "parrot.jpg", target_size=(224, 224))
    top = base(keras.utils.img_to_array(photo)[None])
    below = next(i for i, layer in enumerate(whole.layers) if layer.name == "conv_pw_13_relu")
    for layer in whole.layers[below + 1 :]:
        top = layer(top, training=False)
    assert int(np.argmax(top)) == 88  # macaw

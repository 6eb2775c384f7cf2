"""``hub:`` names: the module as a Backbone, with its blocks, in phases and in the feature store."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tltf
from tltf import sealed
from tltf.backbones.catalog import lookup
from tltf.backbones.hub.archives import extract
from tltf.backbones.hub.layer import SavedModelLayer
from tltf.backbones.layers import Preprocess
from tltf.errors import ArgumentError, DataError, InputMissingError
from tltf.models import saved
from tltf.serving.reusable import export_reusable
from tltf.training import boundary, features, freezing

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype("float32")


def backbone_of(folder: Path, **options: int) -> tltf.Backbone:
    return tltf.backbone(f"hub:{folder}", **options)


def classifier_of(folder: Path) -> keras.Model:
    return tltf.classifier(backbone_of(folder), tltf.head(2))


@pytest.mark.parametrize("name", ["keras2", "vision"])
def test_a_module_is_a_backbone(modules: dict[str, Path], name: str) -> None:
    base = backbone_of(modules[name])
    layer = SavedModelLayer(modules[name])
    np.testing.assert_allclose(base(IMAGES)[:, 0, 0], layer(IMAGES / 255), rtol=1e-5)
    assert list(base.blocks) == list(layer.blocks)
    inside = [part for parts in base.blocks.values() for part in parts]
    assert len(inside) == len({id(part) for part in inside})
    assert {id(v) for part in inside for v in part.variables} == {id(v) for v in base.variables}
    assert isinstance(inside[1], Preprocess)


def test_sizes(tmp_path: Path, modules: dict[str, Path]) -> None:
    import hub_modules

    free = hub_modules.vision(tmp_path / "free", side=None)
    assert backbone_of(free).input_shape == (None, 224, 224, 3)
    assert backbone_of(free, input_size=16).input_shape == (None, 16, 16, 3)
    with pytest.raises(ArgumentError, match="input_size=16, but this module takes 8 pixels"):
        backbone_of(modules["vision"], input_size=16)


def test_bytes_are_rounded() -> None:
    found = Preprocess("bytes")(np.array([[[[-1.0, 99.6, 300.0]]]]))
    assert found.dtype == "uint8"
    np.testing.assert_array_equal(found, [[[[0, 100, 255]]]])


def test_names() -> None:
    choice = lookup("hub:https://example.org/m/1#features")
    assert (choice.kind, choice.path, choice.output) == (
        "hub", "https://example.org/m/1", "features",
    )  # fmt: skip
    with pytest.raises(ArgumentError, match="names no module"):
        lookup("hub:")


def test_bad_modules(modules: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="TensorFlow 1"):
        backbone_of(modules["tf1"])
    with pytest.raises(DataError, match=r"takes float32 \[None, 3\], expected images"):
        backbone_of(modules["serving"])
    with pytest.raises(InputMissingError, match="no such module"):
        tltf.backbone("hub:/no/such/folder")
    with pytest.raises(ArgumentError, match="brings its own"):
        tltf.backbone(f"hub:{modules['vision']}", weights="none")


class TwoOutputs(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.ones((3, 2)), name="stage_1/kernel")

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32)])
    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        maps = tf.einsum("bhwc,cd->bhwd", images, self.kernel)
        return {"map": maps, "vector": tf.reduce_mean(maps, (1, 2))}


def test_one_of_several_outputs(tmp_path: Path) -> None:
    tf.saved_model.save(TwoOutputs(), str(tmp_path / "m"))
    with pytest.raises(ArgumentError, match=re.escape("gives map, vector")):
        backbone_of(tmp_path / "m")
    assert tltf.backbone(f"hub:{tmp_path / 'm'}#vector").output_shape == (None, 1, 1, 2)
    assert tltf.backbone(f"hub:{tmp_path / 'm'}#map").output_shape == (None, 8, 8, 2)
    with pytest.raises(ArgumentError, match="did you mean 'vector'"):
        tltf.backbone(f"hub:{tmp_path / 'm'}#vektor")


@pytest.mark.parametrize(
    ("unfreeze", "batch_norm", "moving"),
    [
        ("none", "frozen", set()),
        ("last:1", "frozen", {"conv_2/kernel", "conv_2/bias"}),
        pytest.param(
            "blocks:conv_1", "frozen", {"conv_1/kernel", "conv_1/bias"}, marks=pytest.mark.slow
        ),
        pytest.param(
            "all",
            "frozen",
            {"conv_1/kernel", "conv_1/bias", "conv_2/kernel", "conv_2/bias"},
            marks=pytest.mark.slow,
        ),
        ("all", "adapt", None),
    ],
)
def test_phases_move_what_they_say(
    modules: dict[str, Path], unfreeze: str, batch_norm: str, moving: set[str] | None
) -> None:
    model = classifier_of(modules["keras2"])
    layer = next(x for x in model.layers[1].layers if isinstance(x, SavedModelLayer))
    phase = tltf.Phase("p", 2, 1e-2, unfreeze=unfreeze, batch_norm=batch_norm)
    trains = tltf.enter_phase(model, phase, steps_per_epoch=3)
    before = {name: v.numpy() for name, v in layer.names.items()}
    data = tiny.dataset().map(lambda x, y: (255 * x, y))
    model.fit(
        data,
        epochs=2,
        verbose=0,
        callbacks=[tltf.TrainabilityGuard(trains), tltf.FrozenCheck()],
    )
    moved = {name for name, v in layer.names.items() if not np.array_equal(v, before[name])}
    assert moved == (set(before) if moving is None else moving)


def test_statistics_of_a_part_cannot_adapt(modules: dict[str, Path]) -> None:
    phase = tltf.Phase("p", 1, 1e-3, unfreeze="last:1", batch_norm="adapt")
    with pytest.raises(ArgumentError, match=r"only when all of it trains.*--unfreeze=all"):
        tltf.enter_phase(classifier_of(modules["keras2"]), phase, steps_per_epoch=1)


def test_a_frozen_module_is_kept_as_a_whole(modules: dict[str, Path]) -> None:
    model = classifier_of(modules["keras2"])
    freezing.set_trainable(model, "none")
    cut = boundary.split(model)
    assert cut is not None
    assert cut.pooled
    assert cut.shapes == ((4,),)
    np.testing.assert_allclose(cut.tail(cut.prefix(IMAGES)), model(IMAGES), rtol=1e-6)
    freezing.set_trainable(model, "last:1")
    assert boundary.split(model) is None  # nothing below the module is worth keeping


def test_the_store_knows_variables_and_graph(modules: dict[str, Path], tmp_path: Path) -> None:
    def digest(folder: Path, *, nudge: float = 0.0) -> str:
        model = classifier_of(folder)
        freezing.set_trainable(model, "none")
        layer = next(x for x in model.layers[1].layers if isinstance(x, SavedModelLayer))
        kernel = next(iter(layer.names.values()))
        kernel.assign_add(keras.ops.ones_like(kernel) * nudge)
        cut = boundary.split(model)
        store = features.opened_store(
            tmp_path / "store", cut, reading={"image_size": 8}, dtype="float16"
        )
        return store.folder.name

    same = digest(modules["vision"])
    elsewhere = shutil.copytree(modules["vision"], tmp_path / "elsewhere")
    assert digest(elsewhere) == same
    assert digest(modules["vision"], nudge=1e-3) != same
    (elsewhere / "fingerprint.pb").write_bytes(b"another graph")
    assert digest(elsewhere) != same


def test_a_run_folder_names_its_module(modules: dict[str, Path], tmp_path: Path) -> None:
    own = shutil.copytree(modules["vision"], tmp_path / "module")
    model = classifier_of(own)
    for variable in model.variables:
        variable.assign(variable + 0.5)
    saved.save_model(tmp_path / "weights", model)
    again = saved.load_model(tmp_path / "weights")
    np.testing.assert_array_equal(again(IMAGES), model(IMAGES))
    sealed.seal(tmp_path / "weights")
    base = tltf.backbone(f"file:{tmp_path}")
    np.testing.assert_array_equal(base(IMAGES), model.layers[1](IMAGES))
    (own / "saved_model.pb").write_bytes((modules["keras2"] / "saved_model.pb").read_bytes())
    with pytest.raises(DataError, match=f"not the one that was recorded.*{own}"):
        saved.load_model(tmp_path / "weights")
    shutil.rmtree(own)
    with pytest.raises(InputMissingError, match=f"no such module.*{own}"):
        saved.load_model(tmp_path / "weights")


@pytest.mark.slow
def test_export_tracks_the_module_and_stores_weights_once(
    modules: dict[str, Path], tmp_path: Path
) -> None:
    model = classifier_of(modules["keras2"])
    folder = tltf.export(model, labels=["a", "b"], to=tmp_path / "servable")
    stored = tf.train.list_variables(str(folder / "variables" / "variables"))
    assert [shape for _, shape in stored].count([3, 3, 3, 4]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("unfreeze", "batch_norm"), [("last:3", "frozen"), ("all", "adapt")])
def test_the_same_mobilenet_trains_to_the_same_losses(
    shared_data: Path, keras_home: Path, tmp_path: Path, unfreeze: str, batch_norm: str
) -> None:
    """As keras.applications and as a module: same weights, same blocks, same losses.

    Four steps only: rounding grows with every step, in a network against itself as well.
    """
    name, photos = "MobileNetV2:alpha=0.35", _photos(shared_data, tmp_path)
    folder = export_reusable(tltf.backbone(name, input_size=112), to=tmp_path / "module")
    y = np.repeat(np.eye(2, dtype="float32"), 8, axis=0)

    def losses(base: tltf.Backbone) -> tuple[list[float], list[str]]:
        model = tltf.classifier(base, tltf.head(2, seed=1))
        phase = tltf.Phase(
            "p", 3, 1e-3, unfreeze=unfreeze, batch_norm=batch_norm, optimizer="sgd",
            schedule="constant", warmup=0.0,
        )  # fmt: skip
        trains = tltf.enter_phase(model, phase, steps_per_epoch=1)
        found = [float(model.train_on_batch(photos, y)[0]) for _ in range(4)]
        return found, list(trains.blocks)

    ours, blocks = losses(tltf.backbone(name, input_size=112))
    theirs, module_blocks = losses(tltf.backbone(f"hub:{folder}"))
    assert blocks == module_blocks
    np.testing.assert_allclose(theirs, ours, rtol=1e-4)
    assert ours[-1] < ours[0]


def _photos(shared_data: Path, folder: Path) -> np.ndarray:
    """Eight cats and eight dogs, float32 ``[16, 112, 112, 3]``."""
    with tarfile.open(shared_data / "images/cats_dogs/public.tar") as archive:
        extract(archive, folder)
    files = [
        x for kind in ("cat", "dog") for x in sorted((folder / "cats_dogs" / kind).iterdir())[:8]
    ]
    images = [tf.io.decode_jpeg(x.read_bytes(), channels=3) for x in files]
    return np.stack([tf.image.resize(image, (112, 112)).numpy().round() for image in images])

"""Names, options and their errors; no TensorFlow."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tltf.backbones.blocks import LayerFacts, assign, family_of
from tltf.backbones.catalog import FAMILIES, TABLE, check_published, input_side, lookup, names
from tltf.errors import ArgumentError, InputMissingError


def test_forty_models_of_keras_and_two_of_our_own() -> None:
    assert len(names()) == len(TABLE) == 42
    assert sum(TABLE[name].pretrained for name in names()) == 40
    assert {TABLE[name].family for name in names()} == set(FAMILIES)


def test_the_catalog_needs_no_tensorflow() -> None:
    code = (
        "import sys; import tltf.backbones, tltf.backbones.catalog, tltf.backbones.blocks;"
        "bad = {'tensorflow', 'keras', 'h5py', 'numpy'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_options() -> None:
    choice = lookup("MobileNetV2:alpha=0.35")
    assert (choice.kind, choice.entry, choice.options) == (
        "applications",
        TABLE["MobileNetV2"],
        {"alpha": 0.35},
    )
    assert lookup("MobileNetV3Small:alpha=1,minimalistic=true").options == {
        "alpha": 1.0,
        "minimalistic": True,
    }
    assert lookup("mlp:units=64").options == {"units": 64}
    assert lookup("VGG16").options == {}
    assert lookup("file:runs/a:b").path == "runs/a:b"
    assert lookup("bert:a/b:c").path == "a/b:c"
    assert (lookup("minilm").kind, lookup("hf:x/y").kind) == ("minilm", "hf")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MobilNetV2", "unknown backbone 'MobilNetV2'; did you mean 'MobileNetV2'"),
        ("vgg16", "did you mean 'VGG16'"),
        ("VGG16:alpha=0.5", "which takes no options"),
        ("MobileNet:alpa=0.5", "takes alpha=…; did you mean 'alpha'"),
        ("MobileNet:alpha", "option 'alpha'"),
        ("MobileNet:", "option ''"),
        ("MobileNet:alpha=-1", "alpha='-1', expected a positive float"),
        ("MobileNet:alpha=nan", "expected a positive float"),
        ("mlp:units=1.5", "expected a positive int"),
        ("MobileNetV3Small:minimalistic=1", "expected true or false"),
        ("hub:", "hub: names no module"),
        ("bert:", "bert: names nothing"),
        ("hf:", "hf: names nothing"),
        ("vectors:", "vectors: names nothing"),
        ("minilm:x", "unknown backbone 'minilm'"),
    ],
)
def test_bad_names(name: str, message: str) -> None:
    with pytest.raises(ArgumentError) as error:
        lookup(name)
    assert message in str(error.value)


def test_other_errors() -> None:
    with pytest.raises(InputMissingError, match="names no folder"):
        lookup("file:")
    with pytest.raises(ArgumentError, match=r"takes whole numbers from 75 pixels"):
        input_side(TABLE["InceptionV3"], 74)
    with pytest.raises(ArgumentError, match=r"for alpha in 0\.25, 0\.5, 0\.75, 1 "):
        check_published(lookup("MobileNet:alpha=0.3"))
    with pytest.raises(ArgumentError, match=r"for alpha in 1 "):
        check_published(lookup("MobileNetV3Small:alpha=0.75,minimalistic=true"))
    with pytest.raises(ArgumentError, match="small_cnn has no pretrained weights"):
        check_published(lookup("small_cnn"))
    assert input_side(TABLE["InceptionV3"], None) == 299


def facts(*layers: tuple[str, bool]) -> list[LayerFacts]:
    return [LayerFacts(name, "Layer", kernel) for name, kernel in layers]


def test_the_general_rule() -> None:
    prefixed = facts(("in", False), ("stage1_conv", True), ("relu", False), ("stage2_conv", True))
    assert assign(prefixed) == ["stage1", "stage1", "stage1", "stage2"]
    plain = facts(("in", False), ("a", True), ("bn", False), ("b", True))
    assert assign(plain) == ["a", "a", "a", "b"]
    assert assign(facts(("in", False))) == ["block"]


def test_the_family_follows_from_the_name_only_if_the_layers_agree() -> None:
    layers = facts(("conv1_conv", True), ("conv2_block1_conv", True))
    assert family_of("resnet50", layers) == "resnet"
    assert family_of("resnet50v2", layers) == "resnet_v2"
    assert family_of("my_resnet50", layers) == ""
    assert family_of("resnet50", facts(("a", True), ("b", True))) == ""

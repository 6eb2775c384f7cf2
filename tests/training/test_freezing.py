"""Which variables a phase trains, on tltf's models and on anybody's."""

from __future__ import annotations

import keras
import pytest
import tiny

import tltf
from tltf.errors import ArgumentError, TrainabilityError
from tltf.training import freezing, phases


def nested() -> keras.Model:
    """As the Keras guide writes it."""
    image = keras.Input((tiny.SIDE, tiny.SIDE, 3))
    x = tiny.body()(image, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(tiny.CLASSES, name="logits")(x))


def sequential() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((tiny.SIDE, tiny.SIDE, 3)),
            tiny.body(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(tiny.CLASSES, name="logits"),
        ]
    )


def flat() -> keras.Model:
    """All layers in one model, the last one with weights is the head."""
    body = tiny.body()
    x = keras.layers.GlobalAveragePooling2D()(body.output)
    return keras.Model(body.input, keras.layers.Dense(tiny.CLASSES, name="logits")(x))


KINDS = {"classifier": tiny.classifier, "nested": nested, "sequential": sequential, "flat": flat}
# What each setting unfreezes; flat's blocks are named by their convolution.
SETTINGS = {
    "none": (),
    "last:1": ("top_3",),
    "last:2": ("mid_2", "top_3"),
    "all": ("low_1", "mid_2", "top_3"),
    "regex:(low|top).*conv": ("low_1", "top_3"),
}


def shorn(path: str) -> str:
    """A variable's path without the models around its layer."""
    return "/".join(path.split("/")[-2:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unfreeze", SETTINGS)
def test_exactly_the_named_blocks_and_the_head_train(kind: str, unfreeze: str) -> None:
    model = KINDS[kind]()
    found = freezing.set_trainable(model, unfreeze)
    kernels = {f"{block}_conv/{v}" for block in SETTINGS[unfreeze] for v in ("kernel", "bias")}
    expected = kernels | {"logits/kernel", "logits/bias"}
    assert {shorn(path) for path in found.trainable} == expected
    assert {shorn(v.path) for v in model.trainable_variables} == expected
    assert {*found.trainable, *found.frozen} == {v.path for v in model.variables}
    assert found.adapting == ()


@pytest.mark.parametrize("kind", KINDS)
def test_batch_norm_adapts_where_it_is_asked_to(kind: str) -> None:
    model = KINDS[kind]()
    found = freezing.set_trainable(model, "last:1", batch_norm="adapt")
    assert {shorn(path) for path in found.adapting} == {
        "top_3_bn/moving_mean",
        "top_3_bn/moving_variance",
    }
    assert {"top_3_bn/gamma", "top_3_bn/beta"} <= {shorn(path) for path in found.trainable}
    assert not {"mid_2_bn/gamma", "mid_2_bn/moving_mean"} & {shorn(p) for p in found.trainable}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_frozen_one_by_one_comes_back(kind: str) -> None:
    """FACTS 5.3: ``model.trainable = True`` would leave the leaves frozen."""
    model = KINDS[kind]()
    for leaf in freezing.leaves(model):
        leaf.trainable = False
    freezing.set_trainable(model, "none")
    found = freezing.set_trainable(model, "all", batch_norm="adapt")
    assert len(found.trainable) == 3 * 4 + 2
    model.trainable = False
    assert len(freezing.set_trainable(model, "all").trainable) == 3 * 2 + 2


def test_blocks_by_name_and_in_the_summary() -> None:
    model = tiny.classifier()
    found = freezing.set_trainable(model, "blocks: mid_2 , low_1")
    assert found.blocks == ("low_1", "mid_2")
    assert found.summary() == "head and low_1, mid_2: 6 variables train, 14 are frozen"
    assert "head only" in freezing.set_trainable(model, "none").summary()


REFUSED = {
    "blocks:tip": "there is no block 'tip'",
    "last:4": "there are 3 blocks",
    "regex:nothing": "no layer has such a name",
    "regex:_relu$": "it matches only low_1_relu, mid_2_relu, top_3_relu, without weights",
    "regex:_bn$": "it holds only BatchNorm, which batch_norm='frozen' keeps fixed",
}


@pytest.mark.parametrize(("unfreeze", "why"), REFUSED.items())
def test_what_selects_nothing_is_an_error_with_the_blocks(unfreeze: str, why: str) -> None:
    with pytest.raises(ArgumentError) as error:
        freezing.set_trainable(tiny.classifier(), unfreeze)
    assert why in str(error.value)
    assert "blocks, bottom to top: low_1, mid_2, top_3" in str(error.value)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ArgumentError, match="batch_norm='thaw'"):
        freezing.set_trainable(tiny.classifier(), "all", batch_norm="thaw")
    with pytest.raises(ArgumentError, match="expected none, all"):
        freezing.set_trainable(tiny.classifier(), "top")


def test_an_open_phase_cannot_be_entered() -> None:
    with pytest.raises(ArgumentError, match="leaves epochs or unfreeze to the recipe"):
        tltf.enter_phase(tiny.classifier(), tltf.Phase("head"))
    with pytest.raises(ArgumentError, match="has no learning_rate"):
        tltf.enter_phase(tiny.classifier(), tltf.Phase("head", 1, unfreeze="none"))


def test_each_phase_has_an_optimizer_of_its_own() -> None:
    """FACTS 5.4: slots of an old optimizer give newly unfrozen variables wild first steps."""
    model = tiny.classifier()
    tltf.enter_phase(model, tltf.Phase("head", 1, 1e-3, unfreeze="none"))
    model.fit(tiny.dataset(), verbose=0)
    first = model.optimizer
    assert int(first.iterations) == 3
    found = tltf.enter_phase(model, tltf.Phase("tune", 1, 1e-3, unfreeze="last:1"))
    assert model.optimizer is not first
    assert int(model.optimizer.iterations) == 0
    assert phases.compiled_variables(model) == {id(v) for v in model.trainable_variables}
    assert len(found.trainable) == 4


def test_a_change_after_entering_is_seen() -> None:
    model = tiny.classifier()
    found = tltf.enter_phase(model, tltf.Phase("head", 1, 1e-3, unfreeze="none"))
    model.get_layer("head").get_layer("logits").trainable = False
    with pytest.raises(TrainabilityError, match="the trainable set changed: head/logits/bias"):
        phases.check_trainable(model, found)


def test_a_frozen_part_is_quiet_inside_fit() -> None:
    """Its Dropout too: the loss that ``fit`` sees is the one that ``evaluate`` sees."""
    model = tiny.classifier(dropout=0.9)
    tltf.enter_phase(model, tltf.Phase("head", 1, 1e-12, unfreeze="none"))
    expected = model.evaluate(*tiny.arrays(), verbose=0, return_dict=True)["loss"]
    assert model.train_on_batch(*tiny.arrays(), return_dict=True)["loss"] == pytest.approx(expected)
    tltf.enter_phase(model, tltf.Phase("tune", 1, 1e-12, unfreeze="last:1"))
    assert model.train_on_batch(*tiny.arrays(), return_dict=True)["loss"] != pytest.approx(expected)

"""Each rule fills in what was left open, says why, and leaves alone what was given."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tltf.recipes import Choice, Facts, Plan, resolve, scratch_size
from tltf.rundir import completed
from tltf.spec import BackboneSpec, DataSpec, HeadSpec, Phase, TransferSpec

PHOTOS = Facts(n_train=210, median_side=375, input_size=224, n_blocks=18, pretrained=True)
OPEN = TransferSpec(data=DataSpec(source="photos"), backbone=BackboneSpec(name="MobileNetV2"))


def chosen(plan: Plan) -> dict[str, Choice]:
    return {choice.field: choice for choice in plan.choices}


def test_photos_with_a_pretrained_backbone() -> None:
    plan = resolve(OPEN, PHOTOS)
    spec = plan.spec
    head, tune = spec.phases
    assert (spec.backbone.image_size, spec.batch_size, spec.augment) == (224, 32, "light")
    assert (head.unfreeze, head.epochs, head.learning_rate) == ("none", 20, 1e-3)
    assert (tune.unfreeze, tune.epochs, tune.learning_rate) == ("last:7", 15, 1e-4)
    assert spec.early_stop == 7
    assert chosen(plan).keys() == {
        *("image_size", "batch_size", "augment", "views", "early_stop"),
        *("head.epochs", "head.learning_rate"),
        *("tune.unfreeze", "tune.epochs", "tune.learning_rate"),
    }
    assert all(choice.reason and str(choice.value) in str(choice) for choice in plan.choices)
    assert "40%" in chosen(plan)["tune.unfreeze"].reason
    assert "pretrained at this size" in chosen(plan)["image_size"].reason


def test_nothing_is_left_open_and_nothing_is_decided_twice() -> None:
    plan = resolve(OPEN, PHOTOS)
    again = resolve(plan.spec, dataclasses.replace(PHOTOS, n_train=9, median_side=8))
    assert again.choices == ()
    assert again.spec == plan.spec


@pytest.mark.parametrize("tokens", [None, (40, 61, 512)], ids=["photos", "texts"])
def test_the_same_command_asks_for_what_was_decided(tokens: tuple[int, int, int] | None) -> None:
    """A run that goes on compares what is asked with what its plan became."""
    plan = resolve(OPEN, dataclasses.replace(PHOTOS, tokens=tokens))
    assert not plan.spec.differences(completed(OPEN, plan.spec))


def test_a_decay_of_zero_is_one_that_was_given() -> None:
    phases = (Phase("tune", weight_decay=0.0),)
    facts = dataclasses.replace(PHOTOS, tokens=(40, 61, 512))
    assert resolve(dataclasses.replace(OPEN, phases=phases), facts).spec.phases[0].weight_decay == 0


def test_adapters_learn_faster_than_pretrained_weights() -> None:
    phases = (Phase("tune", lora=4),)
    for tokens, rate in ((None, 1e-3), ((40, 61, 512), 4e-4)):
        facts = dataclasses.replace(PHOTOS, tokens=tokens)
        found = resolve(dataclasses.replace(OPEN, phases=phases), facts)
        assert found.spec.phases[0].learning_rate == rate
        assert "begin at zero" in chosen(found)["tune.learning_rate"].reason


RULES = [
    ({}, "views", 4),
    ({"median_side": 8}, "views", 1),
    ({"n_train": 127}, "batch_size", 16),
    ({"n_train": 127}, "head_solver", "lbfgs"),
    ({"n_train": 127}, "head.epochs", 1),
    ({"n_train": 48}, "batch_size", 16),
    ({"n_train": 47}, "batch_size", 8),
    ({"n_train": 128}, "batch_size", 32),
    ({"median_side": 47}, "augment", "none"),
    ({"median_side": 48}, "augment", "light"),
    ({"pretrained": False}, "augment", "medium"),
    ({"pretrained": False}, "tune.unfreeze", "all"),
    ({"pretrained": False}, "tune.learning_rate", 1e-3),
    ({"n_blocks": 1}, "tune.unfreeze", "last:1"),
    ({"n_blocks": 5}, "tune.unfreeze", "last:2"),
    ({"n_train": 100_000}, "head.epochs", 3),
    ({"n_train": 100_000}, "tune.epochs", 3),
    ({"n_train": 640}, "head.epochs", 10),
    ({"n_train": 640}, "tune.epochs", 10),
]


@pytest.mark.parametrize(("facts", "field", "value"), RULES)
def test_the_rules(facts: dict[str, Any], field: str, value: object) -> None:
    assert chosen(resolve(OPEN, dataclasses.replace(PHOTOS, **facts)))[field].value == value


def test_texts() -> None:
    facts = dataclasses.replace(PHOTOS, n_blocks=7, input_size=0, tokens=(40, 61, 512))
    plan = resolve(OPEN, facts)
    assert (plan.spec.backbone.image_size, plan.spec.backbone.max_length) == (None, 64)
    assert (plan.spec.augment, plan.spec.views) == ("none", 1)
    for phase in plan.spec.phases:
        assert (phase.optimizer, phase.weight_decay, phase.clipnorm) == ("adamw", 0.01, 1.0)
    tune = plan.spec.phases[1]
    assert (tune.unfreeze, tune.learning_rate) == ("last:6", 5e-5)
    assert (plan.spec.restore, plan.spec.early_stop) == ("last", 0)
    for width, rate in ((384, 1e-4), (128, 1e-4), (512, 7.5e-5), (1024, 3.8e-5)):
        found = resolve(OPEN, dataclasses.replace(facts, width=width))
        assert found.spec.phases[1].learning_rate == rate
        assert f"here {width}" in chosen(found)["tune.learning_rate"].reason
    one = resolve(OPEN, dataclasses.replace(facts, n_blocks=1))
    assert one.spec.phases[1].unfreeze == "last:1"
    longer = resolve(OPEN, dataclasses.replace(facts, tokens=(300, 900, 512)))
    assert longer.spec.backbone.max_length == 256
    assert {phase.optimizer for phase in resolve(OPEN, PHOTOS).spec.phases} == {"adam"}


LINEAR_LATER = [
    {"n_train": 128},
    {"pretrained": False},
    {"head": HeadSpec(hidden=(8,))},
    {"mix": "mixup"},
    {"phases": (Phase("head", 5, unfreeze="none"), Phase("tune"))},
    {"phases": (Phase("head", None, "auto", unfreeze="none"), Phase("tune"))},
    {"phases": (Phase("tune", unfreeze="all"),)},
    {"head_solver": "gradient"},
]


@pytest.mark.parametrize("change", LINEAR_LATER)
def test_few_examples_solve_a_linear_head_unless_something_speaks_against_it(
    change: dict[str, Any],
) -> None:
    few = {"n_train": 60}
    assert resolve(OPEN, dataclasses.replace(PHOTOS, **few)).spec.head_solver == "lbfgs"
    facts = {k: v for k, v in change.items() if hasattr(PHOTOS, k)}
    asked = {k: v for k, v in change.items() if k not in facts}
    plan = resolve(dataclasses.replace(OPEN, **asked), dataclasses.replace(PHOTOS, **few | facts))
    assert plan.spec.head_solver == "gradient"
    assert "head_solver" not in chosen(plan)


def test_without_stored_features_every_epoch_has_its_own_view() -> None:
    for change in ({"cache": "off"}, {"mix": "mixup"}):
        assert resolve(dataclasses.replace(OPEN, **change), PHOTOS).spec.views == 0


def test_sgd_learns_ten_times_faster() -> None:
    phases = (Phase("head", unfreeze="none", optimizer="sgd"), Phase("tune", optimizer="sgd"))
    plan = resolve(dataclasses.replace(OPEN, phases=phases), PHOTOS)
    assert [phase.learning_rate for phase in plan.spec.phases] == [1e-2, 1e-3]


def test_what_is_given_stays() -> None:
    given = TransferSpec(
        data=DataSpec(source="photos"),
        backbone=BackboneSpec(name="MobileNetV2", image_size=96),
        phases=(
            Phase("head", 0, 0.5, unfreeze="none", optimizer="adam", weight_decay=0.0),
            Phase("tune", 1, 0.25, unfreeze="all", optimizer="sgd", weight_decay=0.0),
        ),
        augment="strong",
        batch_size=5,
        views=2,
        early_stop=0,
        restore="last",
        head_solver="gradient",
    )
    plan = resolve(given, PHOTOS)
    assert (plan.spec, plan.choices) == (given, ())


def test_the_size_of_a_network_from_scratch() -> None:
    assert scratch_size(median_side=8, default=32, minimum=16) == 16
    assert scratch_size(median_side=24, default=32, minimum=16) == 24
    assert scratch_size(median_side=375, default=32, minimum=16) == 32

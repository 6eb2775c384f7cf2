"""How much is tried: decided from the specification alone."""

from __future__ import annotations

import dataclasses

import pytest

from tltf import effort
from tltf.errors import ArgumentError
from tltf.spec import BackboneSpec, DataSpec, HeadSpec, Phase, TransferSpec

HEAD = Phase("head", unfreeze="none")


def asked(**fields) -> TransferSpec:
    given = {"data": DataSpec(source="photos"), "backbone": BackboneSpec(name="MobileNetV2")}
    return TransferSpec(**given | fields)


def test_nothing_said_tries_the_default() -> None:
    value, choice = effort.decided(asked())
    assert value == "default"
    assert "only where it is shown to help" in choice.reason


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"phases": (Phase("head", 3, unfreeze="none"), Phase("tune"))}, "head_epochs"),
        ({"phases": (HEAD, Phase("tune", None, 1e-4))}, "tune_lr"),
        ({"phases": (Phase("only", 3, 1e-3, unfreeze="none"),)}, "phases"),
        ({"phases": (HEAD, Phase("tune", unfreeze="last:2"))}, "unfreeze"),
        ({"augment": "strong"}, "augment"),
        ({"head": HeadSpec(hidden=(8,))}, "hidden"),
        ({"views": 2}, "views"),
    ],
)  # fmt: skip
def test_whoever_says_how_to_train_gets_exactly_that(fields, said) -> None:
    value, choice = effort.decided(asked(**fields))
    assert (value, effort.wants_folds(asked(**fields))) == ("plan", 0)
    assert choice.reason == f"{said} say how to train"
    with pytest.raises(ArgumentError, match=f"effort='fast' with --{said}, which says how"):
        effort.check(asked(effort="fast", **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"backbone": BackboneSpec(name="MobileNetV2", weights="none")},
        {"backbone": BackboneSpec(name="small_cnn")},
    ],
)
def test_what_has_nothing_to_probe_is_a_plan(fields) -> None:
    assert effort.decided(asked(**fields))[0] == "plan"
    with pytest.raises(ArgumentError, match="which only a plan of phases can do"):
        effort.check(asked(effort="best", **fields))


def test_several_devices_are_a_matter_of_phases() -> None:
    with pytest.raises(ArgumentError, match="effort='fast' with --strategy"):
        effort.check(asked(effort="fast"), execution=["strategy"])
    effort.check(asked(), execution=["strategy"])


def test_a_resolved_specification_keeps_its_effort() -> None:
    spec = asked(effort="fast", augment="light")
    assert effort.decided(spec) == ("fast", None)


@pytest.mark.parametrize(
    ("validation", "below"),
    [("auto", effort.FOLDS_BELOW), ("split", 0), ("folds", 2**62), ("folds:3", 2**62)],
)
def test_below_how_many_labels_there_are_folds(validation, below) -> None:
    assert effort.wants_folds(asked(validation=validation)) == below
    plan = dataclasses.replace(asked(validation=validation), effort="plan")
    assert effort.wants_folds(plan) == 0


@pytest.mark.parametrize("text", ["fold", "folds:1", "folds:x", "folds:101"])
def test_an_odd_validation_is_named(text) -> None:
    with pytest.raises(ArgumentError, match="expected auto, split, folds or folds:K"):
        asked(validation=text)

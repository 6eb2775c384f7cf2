"""What a search varies, what it keeps, and how it goes on after a kill."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tltf.errors import ArgumentError
from tltf.selection import search
from tltf.spec import BackboneSpec, DataSpec, HeadSpec, Phase, TransferSpec

optuna = pytest.importorskip("optuna")


def asked(**fields: Any) -> TransferSpec:
    given = {"data": DataSpec(source="photos"), "backbone": BackboneSpec(name="MobileNetV2")}
    return TransferSpec(**{**given, **fields})


def planned(spec: TransferSpec) -> TransferSpec:
    phases = (
        Phase("head", 10, 1e-3, unfreeze="none", optimizer="adam"),
        Phase("tune", 5, 1e-4, unfreeze="last:7", optimizer="adam"),
    )
    return dataclasses.replace(spec, phases=phases, augment="light", views=4)


def found(spec: TransferSpec) -> dict[str, search.Knob]:
    return {knob.name: knob for knob in search.knobs(spec, planned(spec), n_blocks=18)}


def test_what_is_left_open_is_varied_around_the_plan() -> None:
    knobs = found(asked())
    assert set(knobs) == {
        *("head_lr", "tune_lr", "unfreeze", "hidden", "dropout", "l2", "augment", "views")
    }
    assert (knobs["tune_lr"].low, knobs["tune_lr"].high) == (1e-5, 1e-3)
    assert knobs["unfreeze"].choices[0] == knobs["unfreeze"].default == "last:7"
    assert knobs["hidden"].choices == ("", "256")
    for knob in knobs.values():
        assert not knob.choices or knob.default in knob.choices


def test_adapters_are_searched_around_their_own_rate() -> None:
    phases = (Phase("head", 0, unfreeze="none"), Phase("tune", 5, "auto", lora=4))
    plan = (phases[0], Phase("tune", 5, "auto", unfreeze="last:7", optimizer="adam", lora=4))
    spec = asked(phases=phases)
    resolved = dataclasses.replace(planned(spec), phases=plan)
    knobs = {knob.name: knob for knob in search.knobs(spec, resolved, n_blocks=18)}
    assert knobs["tune_lr"].default == 1e-3
    assert "unfreeze" not in knobs, "a drawn depth could name blocks that take no adapter"


def test_what_is_given_stays() -> None:
    phases = (Phase("head", unfreeze="none"), Phase("tune", unfreeze="last:2"))
    spec = asked(head=HeadSpec(dropout=0.1, hidden=(64,)), augment="none", views=1, phases=phases)
    assert set(found(spec)) == {"head_lr", "tune_lr", "l2"}
    given = asked(head=HeadSpec(dropout=0.1, hidden=(64,), l2=1.0), augment="none",
                  phases=(Phase("head", None, 1e-3, unfreeze="none"),))  # fmt: skip
    with pytest.raises(ArgumentError, match="nothing to search"):
        search.knobs(given, dataclasses.replace(given, views=1), n_blocks=3)


def test_a_trial_is_a_specification() -> None:
    values = {"head_lr": 0.00123456, "tune_lr": 5e-5, "unfreeze": "last:2", "hidden": "256",
              "dropout": 0.5, "l2": 1e-4, "augment": "medium", "views": 8}  # fmt: skip
    spec = search.applied(asked(), values)
    assert [phase.learning_rate for phase in spec.phases] == [0.00123, 5e-5]
    assert [phase.unfreeze for phase in spec.phases] == ["none", "last:2"]
    assert spec.head == HeadSpec(hidden=(256,), dropout=0.5, l2=1e-4)
    assert (spec.augment, spec.views) == ("medium", 8)
    plain = search.applied(asked(), {**values, "augment": "none", "hidden": ""})
    assert (plain.views, plain.head.hidden) == (None, ())


def test_the_plan_comes_first_and_a_killed_trial_goes_on(tmp_path: Path) -> None:
    knobs = tuple(found(asked()).values())
    study = search.study(tmp_path / "log", seed=3)
    search.asked_first(study, knobs)
    first = study.ask()
    assert {knob.name: knob.draw(first) for knob in knobs} == {k.name: k.default for k in knobs}
    assert first.user_attrs == {"default": True}
    study.tell(first, 0.5)
    second = study.ask()
    drawn = {knob.name: knob.draw(second) for knob in knobs}
    second.set_user_attr("folder", "0001")

    later = search.study(tmp_path / "log", seed=3)  # the process died; this is the next start
    search.asked_first(later, knobs)
    third = later.ask()
    assert third.number == 2
    assert {knob.name: knob.draw(third) for knob in knobs} == drawn
    assert third.user_attrs["folder"] == "0001"
    fourth = later.ask()
    assert {knob.name: knob.draw(fourth) for knob in knobs} != drawn


def test_poor_trials_end_early_and_the_plan_never_does(tmp_path: Path) -> None:
    study = search.study(tmp_path / "log", seed=0)
    study.enqueue_trial({}, {"default": True})
    spent = {"over": False}
    for loss in (1.0, 1.1, 0.9, 1.05):
        trial = study.ask()
        told = search.reporter(trial, lambda: spent["over"])
        for epoch in range(1, 6):
            told(epoch, loss)
        study.tell(trial, loss)
    poor = study.ask()
    told = search.reporter(poor, lambda: spent["over"])
    for epoch in range(1, 5):
        told(epoch, 5.0)
    with pytest.raises(optuna.TrialPruned):
        told(5, 5.0)
    assert "worse than the median" in poor.user_attrs["ended"]
    spent["over"] = True
    late = study.ask()
    with pytest.raises(optuna.TrialPruned):
        search.reporter(late, lambda: spent["over"])(1, 0.1)
    assert late.user_attrs["ended"] == "the budget was spent"
    plan = optuna.trial.FixedTrial({})
    plan.set_user_attr("default", True)
    search.reporter(plan, lambda: spent["over"])(1, 9.0)

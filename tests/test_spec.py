"""TransferSpec: every field checked, JSON both ways, differences by name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tltf.errors import ArgumentError
from tltf.methods import AdaptSpec
from tltf.spec import BackboneSpec, DataSpec, HeadSpec, Phase, TransferSpec

PLAIN = TransferSpec(data=DataSpec(source="photos"), backbone=BackboneSpec(name="VGG16"))

# One other legal value for each field, so that each takes part in a round trip.
CHANGES: dict[str, dict[str, Any]] = {
    "data": {
        "source": "größe/猫.csv",
        "task": "multi_label",
        "val_fraction": 0.5,
        "test_fraction": 0.0,
        "group_column": "person",
        "label_separator": ";",
        "encoding": "latin-1",
        "bad_files": "skip",
        "max_bad_fraction": 0.5,
        "max_image_pixels": 1,
        "fail_on_leak": True,
    },
    "backbone": {"name": "small_cnn", "weights": "none", "image_size": 8, "max_length": 64},
    "head": {"pooling": "flatten", "hidden": (7, 5), "activation": "tanh", "dropout": 0, "l2": 1},
    "adapt": {"target": "other", "method": "mmd", "weight": 0.5, "shots": 3, "sources": ("b", "c")},
    "": {
        "effort": "fast",
        "validation": "folds:7",
        "augment": "strong",
        "mix": "cutmix",
        "batch_size": 3,
        "class_weight": '{"ä": 2.5}',
        "label_smoothing": 0.1,
        "early_stop": 0,
        "seed": 2**31 - 1,
        "precision": "bfloat16",
        "jit": "on",
        "deterministic": True,
        "views": 4,
        "cache": "off",
        "cache_dtype": "float32",
        "head_solver": "lbfgs",
        "restore": "last",
        "baselines": True,
        "unknown": "strangers",
        "export": "none",
        "regularizer": "l2sp:0.1",
        "teacher": "run",
        "distill": "features,angles:2",
        "phases": (
            Phase("one", 3, 0.5, unfreeze="regex:a|b", batch_norm="adapt", optimizer="sgd"),
            Phase("two", unfreeze="blocks:a, b", optimizer="adamw", weight_decay=1e-4),
            Phase("three", 0, schedule="linear", warmup=0.0, block_lr_decay=0.5, clipnorm=1.0),
        ),
    },
}


def changed(part: str, field: str, value: Any) -> TransferSpec:
    if not part:
        return dataclasses.replace(PLAIN, **{field: value})
    inner = dataclasses.replace(getattr(PLAIN, part), **{field: value})
    return dataclasses.replace(PLAIN, **{part: inner})


EVERY = [(p, field, value) for p, table in CHANGES.items() for field, value in table.items()]


def test_every_field_takes_part() -> None:
    for part, kind in (("data", DataSpec), ("backbone", BackboneSpec), ("head", HeadSpec),
                       ("adapt", AdaptSpec)):  # fmt: skip
        assert CHANGES[part].keys() == {f.name for f in dataclasses.fields(kind)}
    own = {f.name for f in dataclasses.fields(TransferSpec)} - {"data", "backbone", "head", "adapt"}
    assert CHANGES[""].keys() == own


@pytest.mark.parametrize(("part", "field", "value"), EVERY)
def test_json_gives_the_same_back(part: str, field: str, value: Any) -> None:
    spec = changed(part, field, value)
    assert TransferSpec.from_json(spec.to_json()) == spec
    assert hash(TransferSpec.from_json(spec.to_json())) == hash(spec)
    if field != "phases":
        (difference,) = PLAIN.differences(spec)
        assert difference.startswith(f"{part}.{field}: " if part else f"{field}: ")


def test_differences_name_the_phase() -> None:
    tuned = dataclasses.replace(PLAIN, phases=(PLAIN.phases[0], Phase("tune", 7)))
    assert PLAIN.differences(tuned) == ["phases.tune.epochs: None -> 7"]
    assert PLAIN.differences(PLAIN) == []
    single = dataclasses.replace(PLAIN, phases=PLAIN.phases[:1])
    assert "phases.tune.optimizer: None -> 'absent'" in PLAIN.differences(single)


REFUSED = [
    (lambda: DataSpec(source=""), "no data was named"),
    (lambda: DataSpec(source="x", task="multilabel"), "did you mean 'multi_label'"),
    (lambda: DataSpec(source="x", bad_files="skp"), "did you mean 'skip'"),
    (lambda: DataSpec(source="x", val_fraction=1.0), r"expected a number in \[0, 1\)"),
    (lambda: DataSpec(source="x", val_fraction=float("nan")), "val_fraction=nan"),
    (lambda: DataSpec(source="x", test_fraction=-0.1), "test_fraction=-0.1"),
    (lambda: DataSpec(source="x", val_fraction=0.5, test_fraction=0.5), "nothing is left"),
    (lambda: DataSpec(source="x", max_bad_fraction=True), "max_bad_fraction=True"),
    (lambda: DataSpec(source="x", max_image_pixels=0), "max_image_pixels=0"),
    (lambda: BackboneSpec(name=""), "no backbone was named"),
    (lambda: BackboneSpec(name="x", image_size=7), r"\[8, 4096\]"),
    (lambda: HeadSpec(pooling="mean"), "pooling='mean'"),
    (lambda: HeadSpec(hidden=(0,)), "head_hidden=0"),
    (lambda: HeadSpec(dropout=1.0), "dropout=1.0"),
    (lambda: HeadSpec(l2=-1.0), "l2=-1.0"),
    (lambda: Phase("p", -1), "epochs=-1"),
    (lambda: Phase("p", 1, 0.0), r"learning_rate=0.0, expected a number in \(0, inf\)"),
    (lambda: Phase("p", 1, float("inf")), "learning_rate=inf"),
    (lambda: Phase("p", unfreeze="last:0"), "expected none, all, last:N"),
    (lambda: Phase("p", unfreeze="last:x"), "expected none, all, last:N"),
    (lambda: Phase("p", unfreeze="blocks:"), "expected none, all, last:N"),
    (lambda: Phase("p", unfreeze="blocks:a,,b"), "expected none, all, last:N"),
    (lambda: Phase("p", unfreeze="regex:("), "expected none, all, last:N"),
    (lambda: Phase("p", unfreeze="regex:"), "expected none, all, last:N"),
    (lambda: Phase("p", unfreeze="nothing"), "expected none, all, last:N"),
    (lambda: Phase("p", batch_norm="freeze"), "did you mean 'frozen'"),
    (lambda: Phase("p", optimizer="adams"), "did you mean 'adam'"),
    (lambda: Phase("p", schedule="cosin"), "did you mean 'cosine'"),
    (lambda: Phase("p", momentum=1.0), "momentum=1.0"),
    (lambda: Phase("p", warmup=1.0), "warmup=1.0"),
    (lambda: Phase("p", block_lr_decay=0.0), "block_lr_decay=0.0"),
    (lambda: Phase("p", weight_decay=-1.0), "weight_decay=-1.0"),
    (lambda: Phase("p", weight_decay=0.1), "with optimizer='adam'"),
    (lambda: Phase("p", clipnorm=0.0), "clipnorm=0.0"),
    (lambda: dataclasses.replace(PLAIN, augment="lite"), "augment='lite'"),
    (lambda: dataclasses.replace(PLAIN, mix="mixupp"), "did you mean 'mixup'"),
    (lambda: dataclasses.replace(PLAIN, precision="half"), "precision='half'"),
    (lambda: dataclasses.replace(PLAIN, jit="yes"), "jit='yes'"),
    (lambda: dataclasses.replace(PLAIN, views=-1), "views=-1"),
    (lambda: dataclasses.replace(PLAIN, restore="first"), "restore='first'"),
    (lambda: dataclasses.replace(PLAIN, cache_dtype="half"), "cache_dtype='half'"),
    (lambda: dataclasses.replace(PLAIN, batch_size=0), "batch_size=0"),
    (lambda: dataclasses.replace(PLAIN, early_stop=-1), "early_stop=-1"),
    (lambda: dataclasses.replace(PLAIN, label_smoothing=1.0), "label_smoothing=1.0"),
    (lambda: dataclasses.replace(PLAIN, seed=-1), "seed=-1"),
    (lambda: dataclasses.replace(PLAIN, class_weight="fair"), "expected none, auto or JSON"),
    (lambda: dataclasses.replace(PLAIN, class_weight='{"a": -1}'), "expected none, auto"),
    (lambda: dataclasses.replace(PLAIN, class_weight='{"a": true}'), "expected none, auto"),
    (lambda: dataclasses.replace(PLAIN, class_weight="[" * 9999), "class_weight="),
    (lambda: dataclasses.replace(PLAIN, phases=()), "a run without phases"),
    (lambda: dataclasses.replace(PLAIN, phases=(Phase("a"), Phase("a"))), "share a name"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_a_bad_value_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def as_dict(**changes: Any) -> dict[str, Any]:
    return {**json.loads(PLAIN.to_json()), **changes}


BAD_JSON = [
    ("{", "not JSON"),
    ("[" * 99999, "not JSON"),
    ("[]", "got list, expected an object"),
    (json.dumps(as_dict(batchsize=3)), "unknown key 'batchsize'; did you mean 'batch_size'"),
    (json.dumps(as_dict(head={"pool": "avg"})), r"unknown key 'pool'.*spec\.head"),
    (json.dumps(as_dict(head={"hidden": 3})), r"expected a list.*spec\.head\.hidden"),
    (json.dumps(as_dict(head={"hidden": ["x"]})), "head_hidden='x'"),
    (json.dumps(as_dict(seed="1")), r"got '1', expected .*spec\.seed"),
    (json.dumps(as_dict(batch_size=True)), r"got True, expected .*spec\.batch_size"),
    (json.dumps(as_dict(phases=[{"name": "a", "epoch": 1}])), "did you mean 'epochs'"),
    (json.dumps(as_dict(phases=[3])), "got int, expected an object"),
    (json.dumps({"backbone": {"name": "VGG16"}}), "missing"),
    (json.dumps(as_dict(data={"source": "x", "task": "nope"})), "task='nope'"),
]


@pytest.mark.parametrize(("text", "message"), BAD_JSON, ids=[m for _, m in BAD_JSON])
def test_bad_json_is_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        TransferSpec.from_json(text)

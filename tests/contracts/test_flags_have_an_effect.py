"""Every flag that a command defines changes what the command does, or is refused with a sentence.

Each command is run with its smallest sensible arguments, then once more for each of its flags with
that flag changed. What does the work is replaced by a recorder, so that nothing is trained: what
counts is what it was handed, what was said, and the exit code.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from absl import flags
from PIL import Image

from tltf import rundir
from tltf.cli import app
from tltf.errors import ArgumentError
from tltf.spec import BackboneSpec, DataSpec, TransferSpec

DEBUG_ONLY = {"debug"}
"""Read by the application for every command, and tried in tests/faults."""
GIVEN = {"flagfile", "undefok", "help", "helpfull", "helpshort", "helpxml", "only_check_args"}
"""absl's own."""


class Stopped(BaseException):
    """The work would begin here."""


@dataclass
class Recorder:
    """What the command handed on, in order, as text."""

    calls: list[str] = field(default_factory=list)

    def stop(self, name: str) -> Callable[..., Any]:
        """A function that notes its arguments and ends the command."""

        def stopped(*args: Any, **options: Any) -> Any:
            self.calls.append(_text((name, args, options)))
            raise Stopped

        return stopped

    def answer(self, name: str, value: Any) -> Callable[..., Any]:
        """A function that notes its arguments and returns ``value``."""

        def answered(*args: Any, **options: Any) -> Any:
            self.calls.append(_text((name, args, options)))
            return value

        return answered

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, noted."""

        def called(*args: Any, **options: Any) -> Any:
            self.calls.append(_text((name, args, options)))
            return function(*args, **options)

        return called


def _text(value: object) -> str:
    """Without addresses, which differ between two calls."""
    return re.sub(r" at 0x[0-9a-f]+|command=\[.*?\]", "", repr(value))


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("flags")
    rng = np.random.default_rng(0)
    for name in ("photos", "others"):
        for label in ("a", "b"):
            (top / name / label).mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 255, (9, 9, 3), np.uint8)
                Image.fromarray(pixels).save(top / name / label / f"{i}.png")
    (top / "table.csv").write_text("path,label\nphotos/a/0.png,a\nphotos/b/0.png,b\n")
    spec = TransferSpec(data=DataSpec(source="photos"), backbone=BackboneSpec(name="small_cnn"))
    for name in ("run", "run2"):
        with rundir.opened(top / name) as run:
            run.commit(run.spec, spec.to_json())
    (top / "weights.h5").write_bytes(b"")
    (top / "versions" / "1").mkdir(parents=True)
    (top / "versions" / "1" / "saved_model.pb").write_bytes(b"")
    return {path.name: path for path in top.iterdir()} | {"top": top}


RUN = SimpleNamespace(
    path=Path("/nonexistent"), spec=SimpleNamespace(backbone=SimpleNamespace(max_length=None)),
    report={"metrics": {}, "baselines": {}}, servable=None, already_complete=True,
    resumed_from=None,
)  # fmt: skip


def trained(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    from tltf import pipeline

    patch.setattr(pipeline, "transfer", recorder.answer("transfer", RUN))
    patch.setattr(pipeline, "plan_only", recorder.stop("plan_only"))
    patch.setattr(pipeline, "tune", recorder.stop("tune"))
    patch.setattr(rundir, "opened", recorder.around("opened", rundir.opened))


def evaluated(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    from tltf.evaluation import gate
    from tltf.stages import reporting

    patch.setattr(reporting, "evaluate_run", recorder.answer("evaluate", {"metrics": {}}))
    patch.setattr(gate.Gate, "check", recorder.around("gate", lambda *_, **__: None))


def exported(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    from tltf.stages import exporting

    patch.setattr(exporting, "export_run", recorder.stop("export"))
    patch.setattr(exporting, "export_reusable_run", recorder.stop("reusable"))


def compared(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    from tltf.stages import comparing

    nothing = {"baselines": {}, "verdict": None, "verdicts": {}, "label_curve": None,
               "skipped_baselines": {}, "metrics": {}}  # fmt: skip
    patch.setattr(comparing, "side_by_side", recorder.stop("side by side"))
    patch.setattr(comparing, "compare_with", recorder.stop("with"))
    patch.setattr(comparing, "compare_run", recorder.answer("run", nothing))


def predicted(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    from tltf import trained as trained_of
    from tltf.serving import inputs, predicting
    from tltf.stages import beampasses

    opened = SimpleNamespace(key="image_bytes", classes=("a", "b"), task="single_label")
    patch.setattr(trained_of, "opened_model", recorder.answer("model", opened))
    patch.setattr(inputs, "items", recorder.around("items", inputs.items))
    rows = [{"id": "a", "error": "no image"}]
    patch.setattr(predicting, "predictions", recorder.answer("predictions", iter(rows)))
    total = SimpleNamespace(inputs=2, failed=1)
    patch.setattr(beampasses, "run_job", recorder.answer("job", total))


def audited(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    from tltf.stages import auditing

    patch.setattr(auditing, "run_audit", recorder.stop("audit"))


def indexed(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    from tltf.data import indexing

    patch.setattr(indexing, "build", recorder.stop("build"))


def ranked(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    from tltf.stages import episodes, ranking

    patch.setattr(ranking, "run_ranking", recorder.stop("rank"))
    patch.setattr(episodes, "run_episodes", recorder.stop("episodes"))


def served(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    from tltf.serving import server, versions

    socket = SimpleNamespace(getsockname=lambda: ("127.0.0.1", 1))
    patch.setattr(server, "bound", recorder.answer("bound", socket))
    patch.setattr(versions, "Versions", recorder.answer("versions", None))
    patch.setattr(server, "application", recorder.answer("application", None))
    patch.setattr(server, "serve", recorder.stop("serve"))


def told(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    from tltf import demo, doctor
    from tltf.cli import launch
    from tltf.training import stored

    patch.setattr(demo, "tell", recorder.stop("tell"))
    patch.setattr(doctor, "findings", recorder.answer("findings", []))
    patch.setattr(launch, "started", recorder.stop("started"))
    patch.setattr(stored, "evict", recorder.answer("evict", []))
    patch.setattr(stored, "stored_prefixes", recorder.answer("prefixes", []))


@dataclass(frozen=True)
class Case:
    """A command: what does its work, its smallest arguments, and flags that go with others."""

    work: Callable[[Recorder, pytest.MonkeyPatch], None]
    smallest: Callable[[dict[str, Path]], dict[str, Any]]
    with_: dict[str, Callable[[dict[str, Path]], dict[str, Any]]] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)


def _training(things: dict[str, Path]) -> dict[str, Any]:
    return {"data": things["photos"], "backbone": "small_cnn", "weights": "none",
            "workdir": things["top"] / "new"}  # fmt: skip


def _files(things: dict[str, Path]) -> dict[str, Any]:
    return {"inputs": things["photos"] / "a", "out": things["top"] / "shards"}


OF_TRAINING = {
    "max_bad_fraction": lambda _: {"bad_files": "skip"},
    "momentum": lambda _: {"optimizer": "sgd"},
    "distill": lambda t: {"teacher": t["run"]},
    "gradual": lambda _: {"unfreeze": "last:3"},
    "lora": lambda _: {"unfreeze": "last:1"},
    "weight_decay": lambda _: {"optimizer": "adamw"},
}
CASES = {
    "train": Case(trained, _training, OF_TRAINING),
    "pretrain": Case(trained, _training, OF_TRAINING),
    "tune": Case(trained, _training, OF_TRAINING),
    "adapt": Case(
        trained,
        lambda t: {"source": t["photos"], "target": t["others"], "backbone": "small_cnn",
                   "weights": "none", "workdir": t["top"] / "new"},
    ),
    "evaluate": Case(evaluated, lambda t: {"run": t["run"], "data": t["photos"]}),
    "export": Case(
        exported,
        lambda t: {"run": t["run"], "to": t["top"] / "to"},
        {"max_drop": lambda _: {"litert": "float"}},
    ),
    "compare": Case(compared, lambda t: {"run": t["run"]},
                    {"runs": lambda t: {"run": None, "runs": f"{t['run']},{t['run2']}"}},
                    {"runs": lambda t: f"{t['run2']},{t['run']}"}),
    "predict": Case(
        predicted,
        lambda t: {"model": t["run"], "inputs": t["photos"] / "a"},
        {name: _files for name in ("shards", "runner", "beam")},
        changed={"inputs": lambda t: t["others"] / "a", "out": lambda t: t["top"] / "shards"},
    ),
    "embed": Case(
        predicted, lambda t: {"backbone": "small_cnn", "weights": "none", **_files(t)},
        changed={"inputs": lambda t: t["others"] / "a", "format": "tfrecord"},
    ),
    "audit": Case(audited, lambda t: {"data": t["photos"]}),
    "index": Case(indexed, lambda t: {"data": t["table.csv"], "out": t["top"] / "index"},
                  {"max_bad_fraction": lambda _: {"bad_files": "skip"}}),
    "rank": Case(ranked, lambda t: {"data": t["photos"]}),
    "episodes": Case(ranked, lambda t: {"data": t["photos"], "backbone": "MobileNetV2"},
                     changed={"backbone": "MobileNet", "shots": "3", "ways": 2, "queries": 3,
                              "episodes": 700,
                              "method": "prototypes", "novel": "a,b"}),
    "serve": Case(served, lambda t: {"model": t["versions"]}),
    "demo": Case(told, lambda t: {"workdir": t["top"] / "demo"}),
    "doctor": Case(told, lambda _: {}),
    "launch": Case(told, lambda _: {"command": "train,--data=digits"},
                   changed={"command": "train,--data=digits:0-4"}),
    "cache": Case(told, lambda _: {"clear": True}, changed={"list": True, "clear": False}),
}  # fmt: skip
CHANGED: dict[str, Any] = {
    "data": lambda t: t["others"], "source": lambda t: t["others"],
    "target": lambda t: t["photos"], "backbone": "mlp", "weights": lambda t: t["weights.h5"],
    "workdir": lambda t: t["top"] / "new2", "out": lambda t: t["top"] / "out",
    "to": lambda t: t["top"] / "to2", "run": lambda t: t["run2"], "model": lambda t: t["run2"],
    "other": lambda t: t["others"], "teacher": lambda t: t["run"], "unknown": lambda t: t["others"],
    "cache": lambda t: t["top"] / "cache", "export": lambda t: t["top"] / "export",
    "group_column": "patient", "encoding": "latin-1", "max_bad_fraction": 0.5, "hidden": "8",
    "activation": "gelu", "augment": "light", "class_weight": "auto", "views": 3,
    "unfreeze": "last:2", "average": "swa", "regularizer": "l2sp:0.1", "distill": "features:0.5",
    "save_every": "5s", "data_service": "grpc://here:1", "micro_batch": 3, "gradual": 1,
    "assert_metric": "accuracy>=0.1", "backbones": "MobileNetV2", "beam": "--streaming",
    "name": "mine", "host": "0.0.0.0", "runner": "DirectRunner", "task": "single_label",
    "clipnorm": 2.0, "image_size": 48, "max_length": 9, "batch_size": 7, "precision": "float32",
    "strategy": "mirrored", "litert": "float", "budget": 3.0,
}  # fmt: skip


def changed(command: str, flag: flags.Flag, things: dict[str, Path]) -> Any:
    """A value of the flag that is not its default."""
    own = CASES[command].changed
    if flag.name in own or flag.name in CHANGED:
        value = own[flag.name] if flag.name in own else CHANGED[flag.name]
        return value(things) if callable(value) else value
    if isinstance(flag, flags.BooleanFlag):
        return not flag.default
    if isinstance(flag, flags.EnumFlag):
        return next(v for v in flag.parser.enum_values if v != flag.default)
    if flag.flag_type() == "int":
        return (flag.default or 0) + 3
    if flag.flag_type() == "float":
        return (flag.default or 0.0) / 2 + 0.03
    return "0.003"


def seen(command: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """What the command handed on, said, and its exit code."""
    recorder, out = Recorder(), io.StringIO()
    forms = {True: "--{0}", False: "--no{0}"}
    written = [
        forms[value].format(name) if isinstance(value, bool) else f"--{name}={value}"
        for name, value in options.items()
        if value is not None
    ]
    app.command_module(command).FLAGS.unparse_flags()
    with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(out):
        CASES[command].work(recorder, patch)
        try:
            code = app.dispatch([command, *written])
        except Stopped:
            code = None
    return recorder.calls, out.getvalue(), code


def _flags() -> Iterator[tuple[str, str]]:
    for command in app.COMMANDS:
        values = app.command_module(command).FLAGS
        for name, flag in list(values._flags().items()):
            if name == flag.name and name not in GIVEN | DEBUG_ONLY:
                yield command, name


def test_every_command_is_tried() -> None:
    assert set(CASES) == set(app.COMMANDS)


@pytest.mark.parametrize("command", list(CASES))
def test_every_flag_has_an_effect_or_is_refused(
    command: str, things: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(things["top"])
    case, without = CASES[command], []
    for _, name in [row for row in _flags() if row[0] == command]:
        base = {**case.smallest(things), **case.with_.get(name, lambda _: {})(things)}
        flag = app.command_module(command).FLAGS[name]
        calls, said, code = before = seen(command, {**base, name: base.get(name)}, monkeypatch)
        if name not in base:
            assert calls, f"tltf {command} {base}: {said}"
        assert code in (None, 0, 65), said
        value = changed(command, flag, things)
        after = seen(command, {**base, name: value}, monkeypatch)
        if after == before:
            without.append(f"--{name}={value}")
        assert after[2] != 1, after[1]
        if after[2] == 64:
            assert f"--{name}" in after[1].splitlines()[-1], after[1]
    assert not without, f"tltf {command} reads no {', '.join(without)}"


@pytest.mark.parametrize(
    ("command", "more", "flag"),
    [
        ("adapt", {"save_every": "5s"}, "save_every"),
        ("adapt", {"strategy": "mirrored"}, "strategy"),
        ("export", {"reusable": True, "keep": 2}, "keep"),
        ("export", {"reusable": True, "litert": "float"}, "litert"),
        ("export", {"reusable": True, "onnx": True}, "onnx"),
        ("export", {"max_drop": 2.0}, "max_drop"),
        ("compare", {"other": "photos", "seeds": 1}, "seeds"),
        ("compare", {"run": None, "runs": "run,run2", "seeds": 1}, "seeds"),
        ("compare", {"run": None, "runs": "run,run2", "other": "photos"}, "other"),
        ("predict", {"shards": 2}, "shards"),
        ("predict", {"runner": "DirectRunner"}, "runner"),
        ("predict", {"out": "shards", "beam": "--streaming"}, "beam"),
        ("embed", {"beam": "--streaming"}, "beam"),
        ("cache", {"clear": None, "list": True, "keep_megabytes": 3.0}, "keep_megabytes"),
    ],
)
def test_a_flag_that_another_makes_idle_is_refused(
    command: str, more: dict[str, Any], flag: str, things: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(things["top"])
    calls, said, code = seen(command, {**CASES[command].smallest(things), **more}, monkeypatch)
    assert (calls, code) == ([], 64), said
    assert f"--{flag}" in said.splitlines()[-1]


def test_strict_holds_for_shards_too(
    things: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {**CASES["predict"].smallest(things), **_files(things)}
    assert seen("predict", base, monkeypatch)[2] == 0
    _, said, code = seen("predict", {**base, "strict": True}, monkeypatch)
    assert code == 65
    assert "1 of 2 inputs failed" in said.splitlines()[-1]


def test_the_flag_file_of_an_earlier_adaptation_still_works(things: dict[str, Path]) -> None:
    """It names every flag with its value, those too that the command takes no longer."""
    earlier = things["top"] / "flagfile.txt"
    earlier.write_text("--strategy=none\n--notensorboard\n--micro_batch=0\n--save_every=auto\n")
    done = app.dispatch(["adapt", f"--flagfile={earlier}", "--source=", "--target=x"])
    assert done == 64  # for what is missing, not for these
    assert "--strategy" not in app.help_text(app.command_module("adapt").PROGRAM)


def test_the_library_refuses_what_adaptation_does_not_have(things: dict[str, Path]) -> None:
    from tltf import pipeline
    from tltf.methods import NOT_OF_ADAPTATION, AdaptSpec

    spec = TransferSpec(data=DataSpec(source="photos"), adapt=AdaptSpec(target="others"),
                        backbone=BackboneSpec(name="small_cnn", weights="none"))  # fmt: skip
    values = {"strategy": "mirrored", "data_service": "grpc://here:1", "micro_batch": 3,
              "tensorboard": True, "save_every": "5s"}  # fmt: skip
    assert set(values) == set(NOT_OF_ADAPTATION)
    for name, value in values.items():
        with pytest.raises(ArgumentError, match=f"{name}={value!r}"):
            pipeline.transfer(spec, workdir=things["top"] / "never", **{name: value})

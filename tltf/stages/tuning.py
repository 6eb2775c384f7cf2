"""A search as a whole: trials on the training split, judged on the validation split.

Each trial is an ordinary training in a folder of its own below ``trials/``; the features of the
frozen part are kept in the FeatureStore, which all trials share. The test split is not looked at.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tltf import rundir, storage
from tltf.data import prepare
from tltf.data.manifest import Manifest, groups_of
from tltf.errors import DivergenceError, MismatchError, named_list
from tltf.evaluation import calibration, evaluate, tunepage
from tltf.interval import save_interval
from tltf.selection import search
from tltf.spec import TransferSpec
from tltf.stages.data import described
from tltf.stages.fitting import run_training
from tltf.stages.planning import planned_model
from tltf.stages.training import TrainingResult, answers, targets_of
from tltf.training import freezing

if TYPE_CHECKING:
    import optuna

Say = Callable[[str], None]
TRIALS, JOURNAL, ASKED = "trials", "trials.log", "asked.json"
TABLE, PAGE, SPEC = "tune.json", "tune.html", "spec.json"
SHOWN = {"single_label": "accuracy", "multi_label": "micro_f1", "regression": "mae"}


@dataclass(frozen=True, kw_only=True)
class Found:
    """The best trial: its resolved specification, and the folder of its training."""

    spec: TransferSpec
    folder: Path
    table: dict[str, Any]


def run_search(
    asked: TransferSpec,
    *,
    folder: Path,
    budget_seconds: float,
    most_trials: int = 0,
    say: Say,
    progress: bool = True,
) -> Found:
    """Tries specifications until the budget is spent; the same call goes on where it was ended.

    Args:
      asked: what is given in it stays, the rest is varied (:func:`tltf.selection.search.knobs`).
      folder: for ``trials/``, ``tune.json``, ``tune.html`` and ``spec.json``; locked by the caller.
      budget_seconds: of training, over all starts; the plan without a search is always finished.
      most_trials: at most so many; 0 for no limit.
      say: receives a sentence for each trial.
      progress: show what trains.

    Raises:
      As :func:`tltf.stages.training.run_training`; a trial whose loss is not finite is passed over.
    """
    _agree(asked, folder)
    manifest = prepare.prepared(asked.data, seed=asked.seed)
    for sentence in described(manifest):
        say(sentence)
    plan, model = planned_model(asked, manifest)
    # Rates and epochs that a trial draws must not change how the plan trains the head.
    asked = dataclasses.replace(asked, head_solver=plan.spec.head_solver)
    blocks = freezing.model_blocks(model)
    n_blocks = sum(any(layer.weights for layer in layers) for layers in blocks.values())
    knobs = search.knobs(asked, plan.spec, n_blocks=n_blocks)
    say(f"searching {', '.join(knob.name for knob in knobs)} for {budget_seconds:.0f} s")
    (folder / TRIALS).mkdir(exist_ok=True)
    study = search.study(folder / JOURNAL, seed=asked.seed)
    search.asked_first(study, knobs)
    clock = _Clock(study, budget_seconds)
    while not clock.over() and not 0 < most_trials <= _ended(study):
        trial = study.ask()
        spec = search.applied(asked, {knob.name: knob.draw(trial) for knob in knobs})
        _Trial(study, trial, spec, manifest, folder / TRIALS, clock)(say=say, progress=progress)
        if _best(study) is not None:
            _keep_the_best(study, folder / TRIALS)
            _write(study, knobs, folder, manifest, clock)
    return _found(study, folder)


def _agree(asked: TransferSpec, folder: Path) -> None:
    """Notes what was asked for; refuses to go on with a search for something else."""
    if not (folder / ASKED).exists():
        storage.write_text(folder / ASKED, asked.to_json())
        return
    before = TransferSpec.from_json((folder / ASKED).read_text("utf-8"))
    differences = before.differences(asked)
    if differences:
        raise MismatchError(
            f"this search was begun with other settings: {named_list(differences, most=3)}",
            where=folder,
            kept="the search as it is",
            next_action="use the same settings, or another --workdir",
        )


class _Clock:
    """How much of the budget is left; what earlier starts used counts."""

    def __init__(self, study: optuna.Study, budget_seconds: float) -> None:
        self.budget = budget_seconds
        self.used = sum(trial.user_attrs.get("seconds", 0.0) for trial in study.trials)
        self.started = time.monotonic()

    def seconds(self) -> float:
        """Used so far."""
        return self.used + time.monotonic() - self.started

    def over(self) -> bool:
        """Whether the budget is spent."""
        return self.seconds() >= self.budget


class _Trial:
    """One trial: trained, judged on the validation split, told to the study."""

    def __init__(
        self,
        study: optuna.Study,
        trial: optuna.Trial,
        spec: TransferSpec,
        manifest: Manifest,
        trials: Path,
        clock: _Clock,
    ) -> None:
        self.study, self.trial, self.spec, self.manifest = study, trial, spec, manifest
        self.clock = clock
        if "folder" not in trial.user_attrs:
            trial.set_user_attr("folder", f"{trial.number:04d}")
        self.folder = trials / trial.user_attrs["folder"]

    def __call__(self, *, say: Say, progress: bool) -> None:
        import optuna

        started = time.monotonic()
        state, value, words = optuna.trial.TrialState.COMPLETE, None, ""
        try:
            metrics = self._trained(progress=progress)
            value = metrics[_objective(self.manifest)]["value"]
            self.trial.set_user_attr("metrics", metrics)
            name = SHOWN[self.manifest.task]
            words = f"{_objective(self.manifest)} {value:.4f}, {name} {metrics[name]['value']:.4f}"
        except optuna.TrialPruned:
            state, words = optuna.trial.TrialState.PRUNED, self.trial.user_attrs["ended"]
        except DivergenceError as error:
            state, words = optuna.trial.TrialState.FAIL, str(error)
            self.trial.set_user_attr("ended", words)
        seconds = time.monotonic() - started
        self.trial.set_user_attr("seconds", round(seconds, 1))
        self.study.tell(self.trial, value, state=state)
        told = ", ".join(f"{k}={_short(v)}" for k, v in self.trial.params.items())
        say(f"trial {self.trial.number}: {words}, {seconds:.0f} s ({told})")

    def _trained(self, *, progress: bool) -> dict[str, Any]:
        """The metrics on the validation split."""
        keras.backend.clear_session()
        told = search.reporter(self.trial, self.clock.over)
        with rundir.opened(self.folder) as run:
            spec = run.agree(self.spec) if run.has(run.spec) else self.spec
            result = run_training(
                spec,
                self.manifest,
                run,
                interval=save_interval("auto"),
                say=_silent,
                progress=progress,
                callbacks=[_Course(told)],
            )
        return judged(result, self.manifest)


class _Course(keras.callbacks.Callback):
    """Tells the study the validation loss of every epoch, counted over all phases."""

    def __init__(self, told: Callable[[int, float], None]) -> None:
        super().__init__()
        self._told = told
        self.epochs = 0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.epochs += 1
        self._told(self.epochs, float((logs or {}).get("val_loss", np.inf)))


def judged(result: TrainingResult, manifest: Manifest) -> dict[str, Any]:
    """Metrics of a trained model on the validation split, as it would be served."""
    trained = result.trained
    data = trained.batches(manifest.split("val"))
    outputs = calibration.apply_temperature(
        answers(trained, result.fit, data), trained.rule.temperature, task=trained.task
    )
    found = evaluate.evaluate(outputs, targets_of(data), task=trained.task,
                              classes=trained.classes,
                              groups=groups_of(data.records))  # fmt: skip
    return dict(found["metrics"])


def _objective(manifest: Manifest) -> str:
    """What is minimised: accuracy is too coarse on a few dozen validation examples."""
    return "rmse" if manifest.task == "regression" else "nll"


def _best(study: optuna.Study) -> Any:
    """The best trial that came to its end; None while there is none."""
    ended = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    return min(ended, key=lambda trial: trial.value, default=None)


def _ended(study: optuna.Study) -> int:
    """Trials that came to an end of their own, not by a kill."""
    return sum("seconds" in trial.user_attrs for trial in study.trials)


def _keep_the_best(study: optuna.Study, trials: Path) -> None:
    """Removes the folders of ended trials but the best one's; their numbers stay."""
    best = _best(study).user_attrs["folder"]
    for trial in study.trials:
        name = trial.user_attrs.get("folder")
        if name not in (None, best) and "seconds" in trial.user_attrs:
            shutil.rmtree(trials / name, ignore_errors=True)


def _write(
    study: optuna.Study,
    knobs: Sequence[search.Knob],
    folder: Path,
    manifest: Manifest,
    clock: _Clock,
) -> None:
    """``tune.json`` and ``tune.html``, anew after every trial."""
    best = _best(study)
    table = {
        "objective": _objective(manifest),
        "shown": SHOWN[manifest.task],
        "n": len(manifest.split("val")),
        "budget_seconds": clock.budget,
        "seconds": round(clock.seconds(), 1),
        "searched": [dataclasses.asdict(knob) for knob in knobs],
        "best": best.number,
        "trials": list(_rows(study)),
    }
    storage.write_json(folder / TABLE, table)
    storage.write_text(folder / PAGE, tunepage.write_html(table))
    spec = folder / TRIALS / best.user_attrs["folder"] / SPEC
    storage.write_text(folder / SPEC, spec.read_text("utf-8"))


def _rows(study: optuna.Study) -> Iterator[dict[str, Any]]:
    for trial in study.trials:
        if "seconds" in trial.user_attrs:
            yield {
                "trial": trial.number,
                "default": bool(trial.user_attrs.get("default")),
                "state": trial.state.name.lower(),
                "ended": trial.user_attrs.get("ended", ""),
                "value": trial.value if trial.state.name == "COMPLETE" else None,
                "metrics": trial.user_attrs.get("metrics", {}),
                "seconds": trial.user_attrs["seconds"],
                "params": trial.params,
            }


def _found(study: optuna.Study, folder: Path) -> Found:
    best = _best(study)
    if best is None:
        ended = [trial.user_attrs.get("ended", "") for trial in study.trials]
        raise DivergenceError(
            f"no trial of {len(ended)} came to its end: {named_list(ended, most=2)}",
            where=folder,
            next_action="lower --head_lr and --tune_lr, or look for broken labels",
        )
    trial = folder / TRIALS / best.user_attrs["folder"]
    spec = TransferSpec.from_json((folder / SPEC).read_text("utf-8"))
    return Found(spec=spec, folder=trial, table=storage.read_json(folder / TABLE))


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _silent(sentence: str) -> None:
    del sentence

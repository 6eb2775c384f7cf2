"""What ``tltf tune`` tries: the knobs of a TransferSpec, and Optuna's study over them.

Optuna draws the trials (tree-structured Parzen estimator), stops poor ones early (median rule)
and keeps a journal that a later start reads. It was chosen over KerasTuner because a search here
is over whole specifications and not over a function that builds a model, because a trial can be
asked for, told about and continued after a kill, and because it does not import Keras.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tltf import recipes
from tltf.errors import ArgumentError
from tltf.spec import AUTO, Phase, TransferSpec

if TYPE_CHECKING:
    import optuna

STUDY = "tltf tune"
STARTUP = 8
DEPTHS = (0.1, 0.2, 0.4, 0.7, 1.0)
WIDER = 10.0

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One thing that is varied.

    Args:
      name: as the flag is called.
      default: what the plan without a search takes.
      choices: for one of several values; empty for a rate.
      low, high: of a rate, drawn evenly in its logarithm.
    """

    name: str
    default: Any
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0

    def draw(self, trial: optuna.Trial) -> Any:
        """This trial's value."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        return trial.suggest_float(self.name, self.low, self.high, log=True)


def check_optuna() -> None:
    """Raises ArgumentError when the extra is not there; before any work is done."""
    if importlib.util.find_spec("optuna") is None:
        raise ArgumentError(
            "optuna is not installed", where="tltf tune", next_action="pip install 'tltf[tune]'"
        )


def knobs(asked: TransferSpec, planned: TransferSpec, *, n_blocks: int) -> tuple[Knob, ...]:
    """What the person left open, with ranges around what the plan takes.

    Args:
      asked: as the person wrote it; what differs from the library's default is not varied.
      planned: the same with every field filled in by :mod:`tltf.recipes`.
      n_blocks: blocks with weights that can be unfrozen.
    """
    found = []
    for given, phase in zip(asked.phases, planned.phases, strict=True):
        if planned.head_solver != "lbfgs" or phase.unfreeze != "none":
            found += _of_phase(given, phase, n_blocks)
    head, usual = asked.head, type(asked.head)()
    options = {
        "hidden": ((), (256,)), "dropout": (0.0, 0.2, 0.5), "l2": (0.0, 1e-4, 1e-3),
    }  # fmt: skip
    for name, values in options.items():
        if getattr(head, name) == getattr(usual, name) and planned.head_solver != "lbfgs":
            found.append(_one_of(name, getattr(planned.head, name), values))
    texts = planned.backbone.max_length is not None
    if asked.augment is None and not texts:
        found.append(_one_of("augment", planned.augment, ("none", "light", "medium")))
    if asked.views is None and asked.cache != "off" and not texts and planned.augment != "none":
        found.append(_one_of("views", planned.views, (2, 4, 8)))
    if not found:
        raise ArgumentError(
            "every field is given, there is nothing to search",
            where="tltf tune",
            next_action="leave some flags out, for example --tune_lr and --unfreeze",
        )
    return tuple(found)


def applied(asked: TransferSpec, values: Values) -> TransferSpec:
    """The specification of a trial: as asked, with the values that were drawn."""
    phases = tuple(_phase(phase, values) for phase in asked.phases)
    head: dict[str, Any] = {k: values[k] for k in ("dropout", "l2") if k in values}
    if "hidden" in values:
        head["hidden"] = tuple(int(units) for units in values["hidden"].split(",") if units)
    augment = values.get("augment", asked.augment)
    views = values.get("views", asked.views)
    return dataclasses.replace(
        asked,
        phases=phases,
        head=dataclasses.replace(asked.head, **head),
        augment=augment,
        views=None if augment == "none" else views,
    )


def study(path: Path, *, seed: int) -> optuna.Study:
    """The study that is kept in the journal ``path``; what a killed start left is taken up.

    Trials that were running when the process ended are closed and put first in the queue, with
    the folder in which their training can go on.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(path)))
    begun = optuna.create_study(study_name=STUDY, storage=storage, load_if_exists=True)
    left = begun.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    for trial in left:
        begun.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        begun.enqueue_trial(trial.params, user_attrs={**trial.user_attrs, "again": True})
    # The seed moves with the trials, or a later start would draw the same ones again.
    seed += 1000 * len(begun.trials)
    begun.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
    begun.pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=5)
    return begun


def asked_first(begun: optuna.Study, found: tuple[Knob, ...]) -> None:
    """Puts the plan without a search first, so that nothing worse than it can be chosen."""
    if not begun.trials:
        begun.enqueue_trial({k.name: _plain(k.default) for k in found}, {"default": True})


def reporter(trial: optuna.Trial, over: Callable[[], bool]) -> Callable[[int, float], None]:
    """Called with (epoch of the run, validation loss); raises TrialPruned for a poor trial.

    Args:
      trial: whose course it is.
      over: whether the budget is spent; the default plan goes on all the same.
    """
    import optuna

    def told(epoch: int, loss: float) -> None:
        trial.report(loss, epoch)
        if trial.user_attrs.get("default"):
            return
        if over():
            trial.set_user_attr("ended", "the budget was spent")
            raise optuna.TrialPruned
        if trial.should_prune():
            trial.set_user_attr("ended", "worse than the median of the others at this epoch")
            raise optuna.TrialPruned

    return told


def _of_phase(given: Phase, phase: Phase, n_blocks: int) -> list[Knob]:
    found = []
    if phase.epochs and given.learning_rate in (None, AUTO):
        head, lora = phase.unfreeze == "none", bool(phase.lora)
        usual = recipes.usual_rate(phase.optimizer, new=head, lora=lora)
        default = usual if phase.learning_rate == AUTO else float(str(phase.learning_rate))
        found.append(Knob(name=f"{phase.name}_lr", default=default,
                          low=default / WIDER, high=default * WIDER))  # fmt: skip
    # Other blocks may hold nothing that takes an adapter: with them the depth stays the plan's.
    if phase.epochs and not phase.lora and given.unfreeze is None and phase.unfreeze != "all":
        depths = [f"last:{max(1, round(share * n_blocks))}" for share in DEPTHS]
        found.append(_one_of("unfreeze", phase.unfreeze, tuple(dict.fromkeys(depths))))
    return found


def _one_of(name: str, default: Any, values: tuple[Any, ...]) -> Knob:
    """A choice that has the plan's own value among its values."""
    plain = dict.fromkeys((_plain(default), *map(_plain, values)))
    return Knob(name=name, default=_plain(default), choices=tuple(plain))


def _plain(value: Any) -> Any:
    """A tuple of units as text: the journal holds only numbers and texts."""
    return value if not isinstance(value, tuple) else ",".join(map(str, value))


def _phase(phase: Phase, values: Values) -> Phase:
    fields: dict[str, Any] = {}
    if f"{phase.name}_lr" in values:
        fields["learning_rate"] = float(f"{values[f'{phase.name}_lr']:.3g}")
    if phase.unfreeze is None and "unfreeze" in values:
        fields["unfreeze"] = values["unfreeze"]
    return dataclasses.replace(phase, **fields)

"""transfer(spec): the one place that knows the whole order.

data -> plan, model, phases -> report -> servable. Each stage commits its part to the run
folder before the next begins, so that the same call goes on where it was stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging

from tltf import effort, recipes, rundir, sealed, storage
from tltf.backbones import catalog
from tltf.errors import ArgumentError, MismatchError
from tltf.evaluation import tunepage
from tltf.evaluation.gate import Gate
from tltf.interval import save_interval
from tltf.methods import NOT_OF_ADAPTATION, distillation
from tltf.rundir import RunDir
from tltf.selection.search import check_optuna
from tltf.spec import TransferSpec
from tltf.stages.adapting import run_adaptation_report, run_adapting
from tltf.stages.data import committed_manifest, described, read_data, run_data
from tltf.stages.environment import run_environment
from tltf.stages.explaining import run_explaining
from tltf.stages.exporting import run_exporting
from tltf.stages.failures import recorded
from tltf.stages.fitting import run_training
from tltf.stages.planning import planned_model
from tltf.stages.reporting import run_reporting
from tltf.stages.tensorboard import write_logs
from tltf.stages.training import join_training
from tltf.stages.tuning import run_search
from tltf.training import environment
from tltf.training.strategies import distribution

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a finished run gives: its folder, specification, report and published servable."""

    path: Path
    spec: TransferSpec
    report: dict[str, Any]
    servable: Path | None
    already_complete: bool = False
    resumed_from: dict[str, Any] | None = None


def transfer(
    spec: TransferSpec,
    *,
    workdir: str | Path | RunDir,
    fresh: bool = False,
    gate: Gate | None = None,
    save_every: str | float = "auto",
    require_exact: bool = False,
    say: Say = logging.info,
    progress: bool = True,
    command: Sequence[str] = (),
    tensorboard: bool = False,
    strategy: str = "none",
    data_service: str = "",
    micro_batch: int | str = 0,
) -> Run:
    """Runs ``spec`` in ``workdir``, or goes on with the run that was begun there.

    Args:
      spec: what to do; fields that are None are decided by :mod:`tltf.recipes`.
      workdir: the run folder (DESIGN 4.4), new, empty, or of this very specification; or one
        that :func:`tltf.rundir.opened` has locked for the caller already.
      fresh: start over in a folder that holds another run.
      gate: what the report must meet before anything is exported.
      save_every: at most this much training is lost by a kill: ``30s``, ``50steps``, or ``auto``.
      require_exact: refuse to go on in another environment (versions, threads, processor) than
        the one that began the run, in which the last bits may differ.
      say: receives the sentences for the person.
      progress: show progress lines on stderr.
      command: argv, for the report.
      tensorboard: leave logs for TensorBoard in the run folder.
      strategy: ``none``; ``mirrored`` for all GPUs of this machine (its logical CPU devices, where
        it has none); ``multiworker`` for the processes of TF_CONFIG, of which this is worker 0 and
        the others call :func:`join`; ``tpu``. The batch is shared out, the result is that of one
        device to rounding.
      data_service: ``grpc://host:port`` of a ``tf.data`` service whose workers decode the training
        images, where these are not taken from stored features; the batches are the same.
      micro_batch: see :func:`tltf.fit_phases`; for what does not fit into memory as a whole batch.

    Raises:
      TltfError: with the exit code of DESIGN 5; the same fields are in ``error.json``.

    Example::

      spec = TransferSpec(data=DataSpec(source="photos"), backbone=BackboneSpec(name="VGG16"))
      run = tltf.transfer(spec, workdir="run")
      print(run.report["metrics"]["accuracy"])
    """
    interval = save_interval(save_every)
    check_parts(spec, micro_batch, strategy)
    if spec.adapt.target:
        check_adaptation(strategy=strategy, data_service=data_service, tensorboard=tensorboard,
                         save_every=save_every)  # fmt: skip
    placed = distribution(strategy)
    _check_backbone(spec)
    with _held(workdir, fresh=fresh) as run:
        if run.has(run.spec):
            spec = run.agree(spec)
        else:
            spec = _with_effort(spec, _parts_of_plans(strategy, data_service, micro_batch))
        if run.stage()["finished"]:
            return _finished(run, gate, already_complete=True)
        with recorded(run), environment.determinism(spec.deterministic):
            run_environment(run, require_exact=require_exact, replicas=placed.replicas, say=say)
            _get_module(spec, run)
            manifest = run_data(spec, run, say=say)
            if spec.adapt.target:
                adapted = run_adapting(spec, manifest, run, say=say, progress=progress)
                report = run_adaptation_report(adapted, manifest, run, command=command)
                trained, plan, fit, resumed_from = adapted.trained, adapted.plan, None, None
            else:
                result = run_training(
                    spec, manifest, run, interval=interval, say=say, progress=progress,
                    placed=placed, data_service=data_service, micro_batch=micro_batch,
                )  # fmt: skip
                report = run_reporting(result, manifest, run, command=command, say=say)
                if tensorboard:
                    write_logs(run, report, result.references)
                trained, plan, fit = result.trained, result.plan, result.fit
                resumed_from = fit.resumed_from
            run_explaining(trained, manifest, run, fit=fit)
            if gate is not None:
                gate.check(report, kept=f"the model and its report in {run.path}")
            servable = run_exporting(trained, plan.spec, manifest, run)
            run.commit(
                run.history,
                run.history.read_text("utf-8") if run.history.exists() else "",
                finished=True,
                resumed_from=resumed_from,
                servable=str(servable) if servable else None,
            )
        return _finished(run, None)


def join(
    spec: TransferSpec,
    *,
    workdir: str | Path,
    save_every: str | float = "auto",
    micro_batch: int | str = 0,
    say: Say = logging.info,
) -> None:
    """Takes part in the training that worker 0 runs by :func:`transfer` with ``multiworker``.

    The run folder is one that all processes see; this one only reads it.

    Args:
      spec, workdir, save_every, micro_batch: the same as those of worker 0.
      say: receives sentences for the person.

    Raises:
      MismatchError: worker 0 was started with another specification.
      WorkerLostError: another process ended; the state that worker 0 saved last is kept.
    """
    placed = distribution("multiworker")
    with placed.naming_lost():
        placed.barrier()
        run = rundir.existing(workdir)
        join_training(run.agree(spec), committed_manifest(run), run, placed,
                      interval=save_interval(save_every), say=say,
                      micro_batch=micro_batch)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a search gives: its folder, its outcome in words, and the finished run of the best."""

    folder: Path
    sentence: str
    run: Run


def tune(
    spec: TransferSpec,
    *,
    workdir: str | Path,
    budget_minutes: float = 10.0,
    most_trials: int = 0,
    say: Say = logging.info,
    progress: bool = True,
    command: Sequence[str] = (),
) -> Tuned:
    """Searches what ``spec`` leaves open on the validation split, then finishes the best trial.

    Args:
      spec: what is given in it stays; the plan of :func:`transfer` is the first trial.
      workdir: a folder for the search; the same call goes on where it was stopped.
      budget_minutes: of trials; the report and the export of the best come after.
      most_trials: at most so many; 0 for no limit.
      say, progress, command: as for :func:`transfer`.

    Raises:
      ArgumentError: nothing is left open, or Optuna is not installed.
      MismatchError: the folder holds a search for something else.
    """
    check_optuna()
    _check_backbone(spec)
    folder = Path(workdir)
    found = run_search(
        spec,
        folder=folder,
        budget_seconds=60 * budget_minutes,
        most_trials=most_trials,
        say=say,
        progress=progress,
    )
    finished = transfer(found.spec, workdir=found.folder, say=say, progress=progress,
                        command=command)  # fmt: skip
    storage.point(folder / "best", found.folder)
    return Tuned(folder=folder, sentence=tunepage.sentence(found.table), run=finished)


def plan_only(spec: TransferSpec, *, say: Say = logging.info) -> recipes.Plan:
    """What :func:`transfer` would do, without a folder or a step of training."""
    _check_backbone(spec)
    effort.check(spec)
    manifest = read_data(spec)
    for sentence in described(manifest):
        say(sentence)
    plan, _ = planned_model(spec, manifest)
    return plan


def check_parts(spec: TransferSpec, micro_batch: int | str, strategy: str = "none") -> None:
    """What takes a batch as a whole cannot be taken in parts.

    Raises:
      ArgumentError: adaptation, spectral shrinkage, relations of examples, or ``auto`` with several
        processes.
    """
    if not micro_batch:
        return
    whole = "adaptation" if spec.adapt.target else ""
    if spec.regularizer.startswith("bss"):
        whole = f"--regularizer={spec.regularizer}"
    if {kind for kind, _ in distillation(spec.distill)} & {"distances", "angles", "similarity"}:
        whole = f"--distill={spec.distill}"
    if whole or (micro_batch == "auto" and strategy == "multiworker"):
        raise ArgumentError(
            f"micro_batch={micro_batch!r} with {whole}, which compares the examples of a batch"
            if whole else "micro_batch='auto' with several processes, which would not fail alike",
            where="--micro_batch",
            next_action="leave it out, and use a smaller --batch_size" if whole
            else "pass a number",
        )  # fmt: skip


def _parts_of_plans(strategy: str, data_service: str, micro_batch: int | str) -> list[str]:
    """What of the execution only phases know, by the names of the flags."""
    given = {"strategy": strategy != "none", "data_service": bool(data_service),
             "micro_batch": bool(micro_batch)}  # fmt: skip
    return [name for name, is_given in given.items() if is_given]


def _with_effort(spec: TransferSpec, execution: Sequence[str]) -> TransferSpec:
    """The specification of a new run: one that runs as only phases can is one of phases."""
    effort.check(spec, execution=execution)
    if spec.effort is None and execution:
        return dataclasses.replace(spec, effort=effort.PLAN)
    return spec


def check_adaptation(**given: object) -> None:
    """Raises ArgumentError for a setting of :func:`transfer` that an adaptation does not have."""
    for name, value in given.items():
        if value not in (False, "", "none", "auto"):
            raise ArgumentError(
                f"{name}={value!r} with an adaptation, {NOT_OF_ADAPTATION[name]}",
                where=f"--{name}",
                next_action="leave it out",
            )


def _check_backbone(spec: TransferSpec) -> None:
    """Before anything is read or written: does the name exist, with such weights?"""
    choice = catalog.lookup(spec.backbone.name)
    if spec.backbone.weights == "imagenet":
        catalog.check_published(choice)


def _get_module(spec: TransferSpec, run: RunDir) -> None:
    """Fetches the SavedModel of ``hub:`` before anything slow, and pins it for a resumed run.

    Raises:
      MismatchError: it is not the one that the run began with.
    """
    choice = catalog.lookup(spec.backbone.name)
    if choice.kind != "hub":
        return
    from tltf.backbones.hub import handles

    found, before = handles.resolve(choice.path), run.stage().get("module_sha256")
    if before not in (None, found.sha256):
        raise MismatchError(
            f"the module changed since the run began: SHA-256 {before} -> {found.sha256[:16]}…",
            where=found.folder,
            kept=f"the run folder {run.path}",
            next_action="put the original back, or use --fresh to start over",
        )
    run.record(module_sha256=found.sha256)


@contextlib.contextmanager
def _held(workdir: str | Path | RunDir, *, fresh: bool) -> Iterator[RunDir]:
    if isinstance(workdir, RunDir):
        yield workdir
        return
    with rundir.opened(workdir, fresh=fresh) as run:
        yield run


def _finished(run: RunDir, gate: Gate | None, *, already_complete: bool = False) -> Run:
    stage = run.stage()
    sealed.verify(run.report)
    report = storage.read_json(run.report / "report.json")
    if gate is not None:
        gate.check(report, kept=f"the model and its report in {run.path}")
    return Run(
        path=run.path,
        spec=run.read_spec(),
        report=report,
        servable=Path(stage["servable"]) if stage["servable"] else None,
        already_complete=already_complete,
        resumed_from=stage["resumed_from"],
    )

"""Flags of how a run is carried out; they do not change its result."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from tltf import cluster, rundir, storage
from tltf.backbones import catalog
from tltf.checks import parsed_micro_batch
from tltf.cli import spec_flags
from tltf.cli.quiet import import_tensorflow
from tltf.data.textfiles import check_encoding
from tltf.errors import ArgumentError, InputMissingError, printable
from tltf.evaluation.gate import Gate, parse_gate
from tltf.evaluation.summary import interval_words
from tltf.interval import save_interval
from tltf.spec import TransferSpec

if TYPE_CHECKING:
    from tltf.pipeline import Run


def define(values: flags.FlagValues) -> None:
    """Where, how often to save, and what must hold before the export."""
    flags.DEFINE_string("workdir", None, "The run folder; new, empty, or of the same run.",
                        flag_values=values)  # fmt: skip
    flags.DEFINE_bool("fresh", False, "Start over in a folder that holds another run.",
                      flag_values=values)  # fmt: skip
    flags.DEFINE_bool("dry_run", False, "Print the plan and stop.", flag_values=values)
    flags.DEFINE_bool("tensorboard", False, "Leave logs for TensorBoard in the run folder;"
                      " needs the extra tltf[tensorboard].", flag_values=values)  # fmt: skip
    flags.DEFINE_string("save_every", "auto", "Training between two saved states: 30s, 50steps, or"
                        " auto: 30 s, and longer where saving would cost more than 5 % of the"
                        " time. A bare number means seconds.", flag_values=values)  # fmt: skip
    flags.DEFINE_enum("strategy", "none", ["none", "mirrored", "multiworker", "tpu"],
                      "Shares each batch out: to all GPUs of this machine, to the workers of"
                      " TF_CONFIG, or to a TPU.", flag_values=values)  # fmt: skip
    flags.DEFINE_string("data_service", "", "grpc://host:port of a tf.data service that decodes the"
                        " training images.", flag_values=values)  # fmt: skip
    flags.DEFINE_string("micro_batch", "0", "Most examples that go through the network at once on"
                        " each device, for a batch that does not fit into memory: a number, or auto"
                        " to try. The step is that of the whole batch.",
                        flag_values=values)  # fmt: skip
    flags.DEFINE_bool("require_exact", False, "Exit 78 instead of going on in another environment"
                      " than the run began in.", flag_values=values)  # fmt: skip
    flags.DEFINE_string("assert_metric", None, "Exit 79 and export nothing unless it holds,"
                        " for example accuracy>=0.9.", flag_values=values)  # fmt: skip


def required(values: flags.FlagValues, *names: str) -> None:
    """Raises ArgumentError naming the first of these flags that was not given."""
    for name in names:
        if not values[name].value:
            raise ArgumentError(
                f"--{name} is missing", where="flags", next_action=f"pass --{name}=..."
            )


def only_where(holds: bool, values: flags.FlagValues, *names: str, what: str) -> None:
    """Raises ArgumentError for a flag that was given where it would change nothing.

    Args:
      holds: whether these flags have an effect here.
      names: of the flags.
      what: when they have one, for example ``--litert or --onnx``.
    """
    for name in names:
        if not holds and values[name].value != values[name].default:
            raise ArgumentError(
                f"--{name} has an effect only with {what}",
                where=f"--{name}",
                next_action=f"leave it out, or use {what}",
            )


def run_spec(values: flags.FlagValues, default: TransferSpec) -> Run | None:
    """Carries out what the flags describe; None for ``--dry_run`` and for a worker that helps.

    Everything that can be wrong with the flags is found before TensorFlow is imported.
    """
    dry = values["dry_run"].value
    required(values, "data", "backbone", *([] if dry else ["workdir"]))
    spec = spec_flags.to_spec(values, default)
    gate = parsed_gate(values)
    save_interval(values["save_every"].value)
    micro_batch = parsed_micro_batch(values["micro_batch"].value)
    check_early(spec, values)
    from tltf.data import decoders

    if values["tensorboard"].value:
        check_tensorboard()
    if dry:
        decoders.start_if_new(spec.data.source)
        import_tensorflow()
        from tltf import pipeline

        plan = pipeline.plan_only(spec, say=say)
        print(*plan.choices, sep="\n")
        return None
    if values["strategy"].value == "multiworker" and not cluster.from_environment().chief:
        import_tensorflow()
        from tltf import pipeline

        pipeline.join(spec, workdir=values["workdir"].value,
                      save_every=values["save_every"].value, micro_batch=micro_batch,
                      say=say)  # fmt: skip
        return None
    # The lock is taken before the seconds that TensorFlow takes to be imported.
    with rundir.opened(values["workdir"].value, fresh=values["fresh"].value) as run:
        decoders.start_if_new(spec.data.source)
        import_tensorflow()
        from tltf import pipeline

        done = pipeline.transfer(
            spec,
            workdir=run,
            gate=gate,
            save_every=values["save_every"].value,
            require_exact=values["require_exact"].value,
            say=say,
            command=sys.argv,
            tensorboard=values["tensorboard"].value,
            strategy=values["strategy"].value,
            data_service=values["data_service"].value,
            micro_batch=micro_batch,
        )
        if not done.already_complete:
            storage.write_text(done.path / "flagfile.txt", values.flags_into_string())
    print(*summary(done, gate), sep="\n")
    return done


def parsed_gate(values: flags.FlagValues) -> Gate | None:
    """The condition of ``--assert_metric``, if it was given."""
    text = values["assert_metric"].value
    return parse_gate(text) if text else None


def check_tensorboard() -> None:
    """Raises ArgumentError when the extra is not there; before any work is done."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ArgumentError(
            "tensorboard is not installed",
            where="--tensorboard",
            next_action="pip install 'tltf[tensorboard]'",
        )


def check_source(source: str, *, flag: str = "data") -> None:
    """Raises InputMissingError when a flag names a path that does not exist."""
    if not source.startswith(("tfds:", "digits")) and not Path(source).exists():
        raise InputMissingError(
            "there is no such folder or file",
            where=f"--{flag}={source}",
            next_action="pass a folder with one sub-folder per class, or a table",
        )


def say(sentence: str) -> None:
    """A sentence for the person, on stderr: stdout is for results."""
    print(printable(sentence), file=sys.stderr, flush=True)


def summary(done: Run, gate: Gate | None = None) -> list[str]:
    """The last lines on stdout: how good, where, and what next."""
    lines = [f"already complete: {done.path}"] if done.already_complete else []
    if done.resumed_from:
        lines.append(
            "resumed_from: {phase}, epoch {epoch}, step {step}".format(**done.resumed_from)
        )
    for name in ("accuracy", "macro_f1", "mae", "r2"):
        if name in done.report["metrics"]:
            lines.append(metric_line(name, done.report["metrics"][name]))
    if done.report.get("verdict"):
        lines.append(done.report["verdict"]["sentence"])
    lines.append(f"report: {done.path / 'report' / 'report.html'}")
    if done.servable is not None:
        lines.append(f"servable: {done.servable}")
        texts = done.spec.backbone.max_length is not None
        inputs = "TEXTS.csv" if texts else "'PHOTOS/*'"
        lines.append(f"next: tltf predict --model={done.path} --inputs={inputs}")
    return lines


def metric_line(name: str, estimate: dict[str, float]) -> str:
    """``accuracy 0.978 (95 % interval 0.882 to 0.996, n=45)``, with groups ``n=45 in 9 groups``."""
    return f"{name} {estimate['value']:.3f} ({interval_words(estimate)})"


def check_early(spec: TransferSpec, values: flags.FlagValues, *, flag: str = "data") -> None:
    """The name of the backbone, the folder of the data, the run folder: in that order."""
    choice = catalog.lookup(spec.backbone.name)
    if spec.backbone.weights == "imagenet":
        catalog.check_published(choice)
    check_source(spec.data.source, flag=flag)
    if spec.unknown:
        check_source(spec.unknown, flag="unknown")
    check_encoding(spec.data.encoding)
    if values["workdir"].value:
        rundir.check_output(Path(values["workdir"].value))

"""``make bench-choosing``: do scores, rehearsals and searches choose well?

    python -m experiments.benchmarks.choosing --rows=rank,rates,tune --workdir=FOLDER

- ``rank``: backbones, their truncations and random controls, scored by one pass each and then
  really fine-tuned; the weighted Kendall tau between each score and the test accuracy, beside
  those of the order of ImageNet accuracy and of k-NN.
- ``cost``: what a candidate's pass costs beside one of the bare network.
- ``rates``: learning rates by rehearsals against the recipe's fixed ones.
- ``tune``: a search of ``--minutes`` against the plan without one.

Every seed draws other training photos; what is not drawn is the test split, up to ``--tests``.
Photos are looked for in ``$TLTF_TEST_DATA``, weights in ``$KERAS_HOME``. What is done is kept in
``FOLDER``: the same command again goes on.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from scipy import stats

from experiments.benchmarks.protocol import bootstrapped
from experiments.benchmarks.samples import sample
from tltf.cli.app import Program, execute
from tltf.cli.quiet import import_tensorflow
from tltf.cli.run_flags import required
from tltf.errors import ArgumentError, nearest
from tltf.spec import BackboneSpec, DataSpec, Phase, TransferSpec

SETS = ("cats_dogs", "hymenoptera", "sign_digits", "cifar10")
CANDIDATES = (
    "MobileNetV2", "MobileNetV2@block_13", "MobileNetV2@block_6", "MobileNetV2:alpha=0.35",
    "MobileNetV2:alpha=0.35@block_13", "MobileNet:alpha=0.25", "MobileNet:alpha=0.25@block_6",
    "MobileNetV2:alpha=0.35@random", "MobileNet:alpha=0.25@random",
)  # fmt: skip
# Top-1 on ImageNet as the Keras and MobileNet pages give it; a truncation has none of its own, it
# counts as just below its whole network, deeper before shallower.
IMAGENET = {"MobileNetV2": 71.3, "MobileNetV2:alpha=0.35": 60.3, "MobileNet:alpha=0.25": 49.8}
SCORES = ("probe", "neighbours", "class_mean", "logme", "h_score", "leep", "nce", "imagenet")
ROWS = ("rank", "cost", "rates", "tune")
Tables = dict[str, list[Path]]

FLAGS = flags.FlagValues()
flags.DEFINE_list("rows", list(ROWS), "Which.", flag_values=FLAGS)
flags.DEFINE_list("sets", list(SETS), "Image sets.", flag_values=FLAGS)
flags.DEFINE_integer("photos", 160, "To train on and to validate.", lower_bound=40,
                     flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("tests", 300, "Test photos at most.", lower_bound=40, flag_values=FLAGS)
flags.DEFINE_integer("seeds", 3, "Splits.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("backbone", "MobileNetV2", "Of rates and tune.", flag_values=FLAGS)
flags.DEFINE_float("minutes", 10.0, "Of each search.", lower_bound=0.1, flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "Where everything goes.", flag_values=FLAGS)


def run(values: flags.FlagValues) -> None:
    required(values, "workdir")
    for name in values["rows"].value:
        if name not in ROWS:
            raise ArgumentError(f"rows={name!r}, expected some of {', '.join(ROWS)}"
                                f"{nearest(name, ROWS)}", where="--rows")  # fmt: skip
    import_tensorflow()
    work = Path(values["workdir"].value)
    work.mkdir(parents=True, exist_ok=True)
    rows = {"rank": ranked, "cost": cost, "rates": rates, "tune": tuned}
    sizes = {name: values[name].value for name in ("photos", "tests")}
    tables = {
        name: [sample(name, seed=seed, work=work, **sizes) for seed in range(values["seeds"].value)]
        for name in values["sets"].value
    }
    for name in values["rows"].value:
        for line in rows[name](tables, values, work):
            print(line, flush=True)


def kept(path: Path, compute: Callable[[], Any]) -> Any:
    """What ``compute`` gave, now or in an earlier call."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(compute())
        path.write_text(text)
    return json.loads(path.read_text())


def ranked(tables: Tables, values: flags.FlagValues, work: Path) -> list[str]:
    """Weighted Kendall tau of each score with real fine-tuning, by set and on average."""
    lines, taus = [], {name: [] for name in SCORES}
    del values
    for data, drawn in tables.items():
        scored = kept(work / "rank" / drawn[0].stem / "scores.json",
                      lambda t=drawn[0]: _scores(t))  # fmt: skip
        accuracies = {}
        for name in CANDIDATES:
            found = [
                kept(work / "rank" / table.stem / f"{name}.json",
                     lambda t=table, n=name, s=seed: _fine_tuned(t, n, s))
                for seed, table in enumerate(drawn)
            ]  # fmt: skip
            accuracies[name] = float(np.mean(found))
        for name in SCORES:
            taus[name].append(_tau(name, scored["rows"], accuracies))
        order = sorted(accuracies, key=accuracies.get, reverse=True)
        shown = ", ".join(f"{name} {accuracies[name]:.3f}" for name in order)
        lines.append(f"rank {data}: fine-tuned {shown}")
        last = [row["name"] for row in scored["rows"]][-2:]
        lines.append(f"rank {data}: last by probe {last}")
    for name in SCORES:
        each = ", ".join("–" if np.isnan(t) else f"{t:+.2f}" for t in taus[name])
        mean = "–" if np.isnan(taus[name]).all() else f"{np.nanmean(taus[name]):+.3f}"
        lines.append(f"rank tau_w {name:<12} mean {mean} ({each})")
    return lines


def _tau(name: str, rows: list[dict[str, Any]], accuracies: dict[str, float]) -> float:
    """Over the candidates that have the score; a few have none of LEEP and NCE."""
    pairs = []
    for row in rows:
        score = _imagenet(row["name"]) if name == "imagenet" else row[name]
        if score is not None:
            pairs.append((score, accuracies[row["name"]]))
    if len(pairs) < 3:
        return float("nan")
    return float(stats.weightedtau(*zip(*pairs, strict=True)).statistic)


def _imagenet(name: str) -> float:
    whole, _, place = name.partition("@")
    if place == "random":
        return 0.1
    depth = int(place.removeprefix("block_")) if place else 99
    return IMAGENET[whole] - (99 - depth) / 1000


def _scores(table: Path) -> dict[str, Any]:
    """Every score of every candidate."""
    from tltf.selection.candidates import candidates
    from tltf.stages.ranking import run_ranking

    data = DataSpec(source=str(table))
    found = run_ranking(data, candidates(",".join(CANDIDATES)), say=print, progress=False)
    rows = [row.as_dict() for row in found.rows]
    return {"rows": rows, "notes": found.notes}


def cost(tables: Tables, values: flags.FlagValues, work: Path) -> list[str]:
    """What a candidate's pass costs, in passes of the bare network over the same photos."""
    del values
    lines = []
    for drawn in tables.values():
        found = kept(work / "cost" / f"{drawn[0].stem}.json", lambda t=drawn[0]: _cost(t))
        each = {k: f"{np.median(v):.2f} ({min(v):.2f} to {max(v):.2f})" for k, v in found.items()
                if k != "photos"}  # fmt: skip
        lines.append(f"cost {found['photos']} photos: {each['begun']} passes of a network that"
                     f" begins too, {each['running']} of one that runs; n=3")  # fmt: skip
    return lines


def _cost(table: Path) -> dict[str, Any]:
    """Seconds of a ranking's pass over those of the bare network, whose first call, which traces
    it, counts (``begun``) or does not (``running``)."""
    import tltf
    from tltf.data import prepare
    from tltf.data.batches import Batches
    from tltf.selection.passes import run_pass
    from tltf.training import features

    manifest = prepare.prepared(DataSpec(source=str(table)), seed=0)
    network = tltf.backbone("MobileNetV2")
    network.trainable = False
    settings = {"classes": manifest.classes, "task": manifest.task, "image_size": 224}
    records = [*manifest.split("train"), *manifest.split("val")]
    data = Batches(records, batch_size=32, **settings)

    def bare(step: Callable[[Any], Any]) -> float:
        started = time.monotonic()
        for x, _, _ in data.eval_dataset():
            step(x)[0].numpy()
        return time.monotonic() - started

    found: dict[str, Any] = {"photos": len(records), "begun": [], "running": []}
    bare(features.compiled(network))
    for _ in range(3):
        step = features.compiled(network)
        ours, begun, running = run_pass(network, data).seconds, bare(step), bare(step)
        found["begun"].append(ours / begun)
        found["running"].append(ours / running)
    return found


def _fine_tuned(table: Path, name: str, seed: int) -> float:
    """Test accuracy of the default two phases on a candidate; with so few photos the recipe solves
    the head of a pretrained network."""
    import keras

    import tltf
    from tltf import recipes
    from tltf.backbones.network import as_backbone
    from tltf.data import prepare
    from tltf.data.batches import Batches
    from tltf.data.cachefolder import cache_folder
    from tltf.models.initial import seeded_initializers
    from tltf.selection.candidates import candidates
    from tltf.training.caching import Cache

    keras.backend.clear_session()
    [candidate] = candidates(name)
    manifest = prepare.prepared(DataSpec(source=str(table)), seed=seed)
    with seeded_initializers(seed):
        network = tltf.backbone(candidate.backbone, candidate.weights)
        if candidate.block:
            output = network.blocks[candidate.block][-1].output
            network = as_backbone(keras.Model(network.inputs, output))
        model = tltf.classifier(network, tltf.head(len(manifest.classes), dropout=0.2, seed=seed))
    blocks = sum(any(x.weights for x in layers) for layers in network.blocks.values())
    depth = max(1, round(recipes.TUNED_SHARE * blocks))
    pretrained = candidate.weights != "none"
    plan = [
        Phase("head", 15, 1e-3, unfreeze="none"),
        Phase("tune", 15, 1e-4 if pretrained else 1e-3, batch_norm="frozen" if pretrained
              else "adapt", unfreeze=f"last:{depth}" if pretrained else "all"),
    ]  # fmt: skip
    settings = {"classes": manifest.classes, "task": manifest.task, "image_size": 224}
    train, val, test = (
        Batches(manifest.split(s), batch_size=32, seed=seed, **settings)
        for s in ("train", "val", "test")
    )
    cache = Cache(folder=cache_folder() / "features", always=pretrained, say=lambda _: None)
    fit = tltf.fit_phases(model, plan, train, validation=val, cache=cache, progress=False,
                          head_solver="lbfgs" if pretrained else "gradient")  # fmt: skip
    logits = fit.stored.logits(test) if fit.stored else None
    if logits is None:
        logits = model.predict(test.eval_dataset().map(lambda x, *_: x), verbose=0)
    accuracy = float((logits.argmax(axis=1) == test.targets().argmax(axis=1)).mean())
    print(f"  {table.stem} {name} seed {seed}: {accuracy:.3f}", flush=True)
    return accuracy


def rates(tables: Tables, values: flags.FlagValues, work: Path) -> list[str]:
    """``--head_lr=auto --tune_lr=auto`` against the recipe's rates: paired by test image."""
    lines, backbone = [], values["backbone"].value
    for data, drawn in tables.items():
        right = {
            kind: [
                kept(work / "rates" / table.stem / f"{backbone}-{kind}.json",
                     lambda t=table, s=seed, auto=kind == "auto":
                     _right(t, s, work, backbone=backbone, auto=auto))
                for seed, table in enumerate(drawn)
            ]
            for kind in ("fixed", "auto")
        }  # fmt: skip
        pairs = list(zip(right["auto"], right["fixed"], strict=True))
        found = bootstrapped([{i: a["right"][i] - b["right"][i] for i in a["right"]}
                              for a, b in pairs])  # fmt: skip
        means = {k: np.mean([np.mean(list(r["right"].values())) for r in v])
                 for k, v in right.items()}  # fmt: skip
        seconds = {k: np.median([r["seconds"] for r in v]) for k, v in right.items()}
        lines.append(
            f"rates {data:<12} auto {means['auto']:.4f} fixed {means['fixed']:.4f} difference"
            f" {100 * found.difference:+.2f} points ({100 * found.low:+.2f} to"
            f" {100 * found.high:+.2f}), {found.images} images, {len(pairs)} seeds;"
            f" {seconds['auto']:.0f} s against {seconds['fixed']:.0f} s;"
            f" found {[r['rates'] for r in right['auto']]}"
        )
    return lines


def _right(table: Path, seed: int, work: Path, *, backbone: str, auto: bool) -> dict[str, Any]:
    phases = (Phase("head", unfreeze="none"), Phase("tune"))
    if auto:
        phases = tuple(dataclasses.replace(phase, learning_rate="auto") for phase in phases)
    # With few photos the plan solves the head, which has no rate: rates are compared by gradient.
    spec = TransferSpec(data=DataSpec(source=str(table)), seed=seed, export="none",
                        head_solver="gradient", backbone=BackboneSpec(name=backbone),
                        phases=phases)  # fmt: skip
    kind = "auto" if auto else "fixed"
    return trained_once(spec, work / "runs" / f"{table.stem}-{backbone}-{kind}")


def trained_once(spec: TransferSpec, target: Path) -> dict[str, Any]:
    """A run without its report: by test photo whether it is right, losses, rates, seconds."""
    import keras

    from tltf import rundir
    from tltf.data import prepare
    from tltf.interval import save_interval
    from tltf.stages import training
    from tltf.stages.fitting import run_training

    keras.backend.clear_session()
    manifest = prepare.prepared(spec.data, seed=spec.seed)
    started = time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    with rundir.opened(target) as run:
        asked = run.agree(spec) if run.has(run.spec) else spec
        result = run_training(asked, manifest, run, interval=save_interval("auto"),
                              say=lambda _: None, progress=False)  # fmt: skip
    seconds = time.monotonic() - started
    test = result.trained.batches(manifest.split("test"))
    answers = training.answers(result.trained, result.fit, test).argmax(axis=1)
    hits = answers == training.targets_of(test)
    rates = [phase.learning_rate for phase in result.plan.spec.phases]
    print(f"  {target.name}: {hits.mean():.3f}, rates {rates}, {seconds:.0f} s", flush=True)
    shutil.rmtree(target)
    return {
        "right": {str(r.path): int(hit) for r, hit in zip(test.records, hits, strict=True)},
        "seconds": seconds,
        "rates": rates,
        "curves": {name: found.as_dict() for name, found in result.fit.rates.items()},
        "val_loss": min(row["val_loss"] for row in result.fit.history),
        "epochs": len(result.fit.history),
    }


def _per_image(run: Path) -> dict[str, int]:
    rows = map(json.loads, (run / "report/predictions.jsonl").open())
    return {row["id"]: int(row["predicted"] == row["label"]) for row in rows}


def tuned(tables: Tables, values: flags.FlagValues, work: Path) -> list[str]:
    """A search against the plan without one: validation, and the test split at the end."""
    from tltf import pipeline

    lines = []
    for data, (table, *_) in list(tables.items())[:3]:
        spec = TransferSpec(data=DataSpec(source=str(table)), export="none",
                            backbone=BackboneSpec(name=values["backbone"].value))  # fmt: skip
        target = work / "tune" / data
        target.mkdir(parents=True, exist_ok=True)
        pipeline.tune(spec, workdir=target, budget_minutes=values["minutes"].value, say=print,
                      progress=False)  # fmt: skip
        plain = work / "tune" / f"{data}-plain"
        pipeline.transfer(spec, workdir=plain, progress=False, say=lambda _: None)
        found = json.loads((target / "tune.json").read_text())
        trials = {row["trial"]: row for row in found["trials"]}
        best, first = trials[found["best"]], next(r for r in trials.values() if r["default"])
        ours, theirs = _per_image(target / "best"), _per_image(plain)
        against = bootstrapped([{i: ours[i] - theirs[i] for i in ours}])
        reports = [json.loads((p / "report/report.json").read_text())["metrics"]
                   for p in (target / "best", plain)]  # fmt: skip
        lines.append(
            f"tune {data:<12} {len(trials)} trials in {found['seconds']:.0f} s; validation nll"
            f" {best['value']:.4f} against {first['value']:.4f}, accuracy"
            f" {best['metrics']['accuracy']['value']:.4f} against"
            f" {first['metrics']['accuracy']['value']:.4f}; test nll"
            f" {reports[0]['nll']['value']:.4f} against {reports[1]['nll']['value']:.4f}, accuracy"
            f" {100 * against.difference:+.2f} points ({100 * against.low:+.2f} to"
            f" {100 * against.high:+.2f}), {against.images} images"
        )
    return lines


PROGRAM = Program(
    name="python -m experiments.benchmarks.choosing",
    about=(__doc__ or "").strip(),
    flag_values=FLAGS,
    run=run,
)

if __name__ == "__main__":
    sys.exit(execute(PROGRAM, sys.argv[1:]))

"""Few-shot episodes on one data set: features once, classes apart, every method on each."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from threadpoolctl import threadpool_limits

from tltf import storage
from tltf.data import prepare
from tltf.data.manifest import Manifest, Record, is_index
from tltf.errors import ArgumentError, DataError, named_list, nearest
from tltf.methods import EPISODE_HEADS, META_METHODS, EpisodesSpec
from tltf.spec import TransferSpec
from tltf.stages import frozen
from tltf.stages.planning import planned_model
from tltf.terminal import Bar
from tltf.trained import untrained
from tltf.training import boundary as boundaries
from tltf.training import freezing
from tltf.transfer import metalearning
from tltf.transfer.fewshot import EpisodeAccuracy, EpisodeSampler, Head, evaluate_episodes

Say = Callable[[str], None]

UNITS = 64
LENGTH = 8.0
"""Root of the mean squared length of a row: that of as many features of variance 1 as UNITS. At
the length of thousands of features a gradient step of usual size goes too far."""
RATE = 0.3
"""Of gradient steps on an episode, at that length: of 0.02, 0.1 and 0.3 the best on drawn data,
where the last layer begins at zero."""
LEARNING_SEED = 2**32
"""Added to the seed for the episodes that are learned from."""


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    method: str
    shots: int
    accuracy: EpisodeAccuracy


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """What was measured: on which classes, and every method's accuracy."""

    known: tuple[str, ...]
    novel: tuple[str, ...]
    n: int
    results: tuple[Result, ...]

    def as_dict(self, spec: TransferSpec, asked: EpisodesSpec) -> dict[str, Any]:
        """For ``episodes.json``."""
        return {
            "data": spec.data.source,
            "backbone": spec.backbone.name,
            "weights": spec.backbone.weights,
            "seed": spec.seed,
            "n": self.n,
            "ways": asked.ways,
            "queries": asked.queries,
            "meta_episodes": asked.meta_episodes,
            "classes": {"known": list(self.known), "novel": list(self.novel)},
            "results": [
                {
                    "method": result.method,
                    "shots": result.shots,
                    "accuracy": {
                        "value": result.accuracy.value,
                        "low": result.accuracy.low,
                        "high": result.accuracy.high,
                        "n": result.accuracy.episodes,
                    },
                }
                for result in self.results
            ],
        }


def run_episodes(
    spec: TransferSpec,
    asked: EpisodesSpec,
    *,
    out: Path | None = None,
    say: Say,
    progress: bool = True,
) -> Episodes:
    """Measures every method on episodes of novel classes.

    Args:
      spec: data, backbone, seed and cache; the rest is not read.
      asked: the episodes.
      out: an existing folder for ``episodes.json``; None writes nothing.
      say: receives sentences for the person.
      progress: draw bars.

    Raises:
      ArgumentError: a novel class that the data does not have, or an index.
      DataError: no single labels, or too few classes or examples; it says what there is.
    """
    manifest = _distinct(spec, say)
    known, novel = _apart(manifest, asked, seed=spec.seed)
    left = [name for name in manifest.classes if name not in (*known, *novel)]
    if left:
        say(f"left out, with fewer than {asked.examples} examples: {named_list(left)}")
    say(f"novel classes, which are measured on: {named_list(novel, most=20)}")
    if asked.learns:
        say(f"known classes, which are learned from: {named_list(known, most=20)}")
    features = _features(spec, manifest, say=say, progress=progress)
    names = np.array([str(record.label) for record in manifest.records])
    old, new = (_of(features, names, classes) for classes in (known, novel))
    total = len(asked.shots) * len(asked.methods) * asked.episodes
    total += len(asked.shots) * len({*asked.methods} & {*META_METHODS}) * asked.meta_episodes
    results = []
    with Bar("episodes", total, unit="episodes", shown=progress) as bar:
        for shots in asked.shots:
            trial = _Trial(asked, shots, seed=spec.seed, old=old, new=new, advance=bar.advance)
            results += [Result(name, shots, trial(name)) for name in asked.methods]
    found = Episodes(known=known, novel=novel, n=len(names), results=tuple(results))
    if out is not None:
        storage.write_json(out / "episodes.json", found.as_dict(spec, asked))
    return found


def _distinct(spec: TransferSpec, say: Say) -> Manifest:
    """Every record once: a copy in support and query would be answered by heart."""
    if is_index(spec.data.source):
        raise ArgumentError(
            "an index, of which no episodes are made",
            where=spec.data.source,
            next_action="name the table itself",
        )
    manifest = prepare.scanned(spec.data)
    if manifest.task != "single_label":
        raise DataError(
            f"{manifest.task} data, episodes want one class each", where=spec.data.source
        )
    first: dict[str, Record] = {}
    for record in manifest.records:
        first.setdefault(record.sha256 or record.id, record)
    records = tuple(dataclasses.replace(record, split="train") for record in first.values())
    copies = len(manifest.records) - len(records)
    say(f"data: {len(records)} examples of {len(manifest.classes)} classes"
        + (f"; {copies} copies left out" if copies else ""))  # fmt: skip
    return dataclasses.replace(manifest, records=records)


def _apart(
    manifest: Manifest, asked: EpisodesSpec, *, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Known and novel classes; the latter as asked for, or half of them by the seed.

    With nothing to be learned from them, known classes would be of no use: then all are novel.
    """
    counts = Counter(str(record.label) for record in manifest.records)
    unknown = [name for name in asked.novel if name not in counts]
    if unknown:
        raise ArgumentError(
            f"the data has no class {unknown[0]!r}{nearest(unknown[0], counts)}",
            where="--novel",
            next_action=f"name some of {named_list(sorted(counts), most=12)}",
        )
    large = [name for name in sorted(counts) if counts[name] >= asked.examples]
    if asked.novel:
        novel = [name for name in large if name in asked.novel]
        _check(novel, {name: counts[name] for name in asked.novel}, asked, "novel classes")
    elif asked.learns:
        _check(large, counts, asked, "classes", parts=2)
        mixed = random.Random(f"{seed}/novel").sample(large, len(large))
        novel = sorted(mixed[: max(asked.ways, len(large) // 2)])
        novel = novel if len(large) - len(novel) >= asked.ways else sorted(mixed[: asked.ways])
    else:
        _check(large, counts, asked, "classes")
        novel = large
    known = [name for name in large if name not in novel]
    if asked.learns:
        rest = {name: counts[name] for name in counts if name not in asked.novel}
        _check(known, rest, asked, "known classes")
    return tuple(known), tuple(novel)


def _check(
    large: Sequence[str], counts: dict[str, int], asked: EpisodesSpec, what: str, *, parts: int = 1
) -> None:
    """Raises DataError unless enough classes are large enough; with what would be."""
    wanted = parts * asked.ways
    if len(large) >= wanted:
        return
    sizes = sorted(counts.values(), reverse=True)
    shown = named_list(
        f"{name} {counts[name]}" for name in sorted(counts, key=lambda c: -counts[c])
    )
    room = sizes[wanted - 1] - max(asked.shots) if len(sizes) >= wanted else 0
    if room >= 1:
        remedy = f"use --queries={room}"
    elif len(large) >= 2 * parts:
        remedy = f"use --ways={len(large) // parts}"
    else:
        remedy = "use fewer --shots, or more examples"
    if parts == 2 or what == "known classes":
        remedy += f", or only --method={','.join(EPISODE_HEADS)}, which learn nothing before"
    raise DataError(
        f"{len(large)} of {len(counts)} {what} have the {asked.examples} examples of"
        f" {max(asked.shots)} shots and {asked.queries} queries, expected {wanted}"
        f"{' (half of them to learn from)' if parts == 2 else ''}: {shown}",
        where="--ways, --shots, --queries",
        next_action=remedy,
    )


def _features(spec: TransferSpec, manifest: Manifest, *, say: Say, progress: bool) -> np.ndarray:
    """Pooled features float32 ``[n, D]`` of the frozen backbone."""
    plan, model = planned_model(spec, manifest)
    freezing.set_trainable(model, "none")
    cut = boundaries.split(model)
    reader = untrained(model, plan.spec, manifest)
    parts = {"all": reader.batches(manifest.records)}
    exact = dataclasses.replace(plan.spec, cache_dtype="float32")
    return frozen.crossing(cut, parts, exact, say=say, progress=progress)["all"][0]


def _of(
    features: np.ndarray, names: np.ndarray, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of some classes, and their numbers from 0."""
    number = {name: i for i, name in enumerate(classes)}
    chosen = np.array([i for i, name in enumerate(names) if name in number], np.int64)
    return features[chosen], np.array([number[names[i]] for i in chosen], np.int64)


class _Trial:
    """Every method at one number of shots, on the same episodes."""

    def __init__(
        self,
        asked: EpisodesSpec,
        shots: int,
        *,
        seed: int,
        old: tuple[np.ndarray, np.ndarray],
        new: tuple[np.ndarray, np.ndarray],
        advance: Callable[[int], None],
    ) -> None:
        self.asked, self.seed, self.advance = asked, seed, advance
        sizes = {"ways": asked.ways, "shots": shots, "queries": asked.queries}
        self.rows = new[0]
        self.test = EpisodeSampler(new[1], seed=seed, **sizes)
        if asked.learns:
            # Measured on known classes only: of novel ones nothing is known before their episode.
            middle, spread = old[0].mean(axis=0), old[0].std(axis=0)
            scale = LENGTH / np.sqrt(max(1, int((spread > 0).sum())))
            spread = np.where(spread > 0, spread, 1.0)
            self.old, self.new = ((x - middle) / spread * scale for x in (old[0], new[0]))
            self.learn = EpisodeSampler(old[1], seed=seed + LEARNING_SEED, **sizes)

    def __call__(self, method: str) -> EpisodeAccuracy:
        if method in EPISODE_HEADS:
            return self._measured(self.rows, method)
        keywords = {"episodes": self.asked.meta_episodes, "progress": self.advance}
        if method == "prototypical":
            encoder = _adapter(self.old.shape[1], seed=self.seed)
            metalearning.train_prototypical(encoder, self.old, self.learn, **keywords)
            return self._measured(np.asarray(encoder(self.new)), "nearest_mean")
        learner = _learner(self.old.shape[1], self.asked.ways, seed=self.seed)
        train = metalearning.reptile if method == "reptile" else metalearning.first_order_maml
        train(learner, self.old, self.learn, inner_rate=RATE, **keywords)
        return self._measured(self.new, metalearning.adapted_head(learner, inner_rate=RATE))

    def _measured(self, rows: np.ndarray, head: str | Head) -> EpisodeAccuracy:
        # Of matrices as small as these, threads cost four times what they save.
        with threadpool_limits(1):
            return evaluate_episodes(
                rows, self.test, head, episodes=self.asked.episodes, progress=self.advance
            )


def _adapter(width: int, *, seed: int) -> keras.Model:
    """``x + W2 relu(W1 x)``, with W2 = 0 at the start: class means of the features themselves."""
    inputs = keras.Input((width,))
    hidden = keras.layers.Dense(
        UNITS, "relu", kernel_initializer=keras.initializers.HeNormal(seed)
    )(inputs)
    change = keras.layers.Dense(width, kernel_initializer="zeros")(hidden)
    return keras.Model(inputs, keras.layers.Add()([inputs, change]))


def _learner(width: int, ways: int, *, seed: int) -> keras.Model:
    """One hidden layer, from features to the logits of an episode."""
    return keras.Sequential(
        [
            keras.Input((width,)),
            keras.layers.Dense(UNITS, "relu", kernel_initializer=keras.initializers.HeNormal(seed)),
            keras.layers.Dense(ways, kernel_initializer="zeros"),
        ]
    )

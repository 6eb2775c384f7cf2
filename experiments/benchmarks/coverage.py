"""How often the 95 % intervals of a report hold the truth, and how often a verdict is false.

    python -m experiments.benchmarks.coverage --part=metrics

Each line draws test splits of a population whose metrics are known from 200,000 records, evaluates
them, and counts. ``--part=groups`` draws groups whose records are alike, ``--part=verdicts`` runs
of two equal methods that differ by luck. The tables in docs/evidence.md come from here; 1,000
draws take about five minutes for each part on two cores.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from absl import flags
from numpy.typing import NDArray
from scipy.special import expit, softmax
from scipy.stats import norm

from tltf.cli.app import Program, execute
from tltf.evaluation.evaluate import evaluate
from tltf.evaluation.metrics import metric_values
from tltf.evaluation.verdict import compare, mean_accuracy

Array = NDArray[np.float64]
Drawn = tuple[Array, NDArray[np.int64] | Array]
POPULATION = 200_000
RESAMPLES = 300


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Records of classes, answered by a model that knows them up to Gaussian noise.

    Args:
      shares: of the classes.
      apart: distance of a class from the others, in standard deviations.
      sharp: what the logits of the best possible answer are multiplied with; 1 is calibrated.
      wrong: share of the records that have another class's features.
    """

    shares: tuple[float, ...]
    apart: float
    sharp: float = 1.0
    wrong: float = 0.0
    task: str = "single_label"

    def draw(self, n: int, rng: np.random.Generator) -> Drawn:
        """Probabilities [n, C] and class indices [n]."""
        shares = np.array(self.shares) / sum(self.shares)
        y = rng.choice(len(shares), size=n, p=shares)
        looks = np.where(rng.random(n) < self.wrong, rng.integers(0, len(shares), n), y)
        z = rng.normal(size=(n, len(shares)))
        z[np.arange(n), looks] += self.apart
        return softmax(self.sharp * (self.apart * z + np.log(shares)), axis=1), y


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Records with several labels, whose answers share an error of the record."""

    shares: tuple[float, ...]
    apart: float
    sharp: float = 1.0
    task: str = "multi_label"

    def draw(self, n: int, rng: np.random.Generator) -> Drawn:
        """Probabilities and {0, 1}, both [n, C]."""
        shares = np.array(self.shares)
        y = (rng.random((n, len(shares))) < shares).astype(np.int64)
        noise = 0.8 * rng.normal(size=y.shape) + 0.6 * rng.normal(size=(n, 1))
        z = self.apart * (self.apart * (y - 0.5) + noise) + np.log(shares / (1 - shares))
        return expit(self.sharp * z), y


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Targets with a standard deviation of 2, and errors of a shape."""

    errors: Callable[[np.random.Generator, int], Array]
    task: str = "regression"

    def draw(self, n: int, rng: np.random.Generator) -> Drawn:
        """Predictions and targets [n]."""
        y = 2 * rng.normal(size=n)
        return y + self.errors(rng, n), y


POPULATIONS: dict[str, Classes | Labels | Numbers] = {
    "2 classes": Classes(shares=(1, 1), apart=1.5),
    "2 classes, too sure": Classes(shares=(1, 1), apart=2.0, sharp=3.0),
    "2 classes, 9 to 1": Classes(shares=(9, 1), apart=1.5),
    "2 classes, 9 to 1, too sure": Classes(shares=(9, 1), apart=2.0, sharp=3.0),
    "2 classes, 2 % mislabelled": Classes(shares=(1, 1), apart=3.0, wrong=0.04),
    "4 classes": Classes(shares=(1,) * 4, apart=2.0),
    "5 classes, 16 to 1": Classes(shares=(16, 8, 4, 2, 1), apart=2.0),
    "5 classes, 16 to 1, too sure": Classes(shares=(16, 8, 4, 2, 1), apart=2.5, sharp=2.0),
    "10 classes, too sure": Classes(shares=(1,) * 10, apart=2.5, sharp=2.0),
    "4 labels": Labels(shares=(0.5, 0.4, 0.3, 0.3), apart=2.0),
    "5 labels, 10 to 1, too sure": Labels(shares=(0.5, 0.3, 0.2, 0.1, 0.05), apart=2.5, sharp=2.0),
    "normal errors": Numbers(errors=lambda rng, n: rng.normal(size=n)),
    "errors of Laplace": Numbers(errors=lambda rng, n: rng.laplace(size=n)),
    "errors with t, 5 d.f.": Numbers(errors=lambda rng, n: rng.standard_t(5, size=n)),
}


def coverage(
    population: Classes | Labels | Numbers, *, n: int, draws: int, seed: int = 0
) -> dict[str, float]:
    """Metric -> share of the draws whose interval holds the population's value."""
    rng = np.random.default_rng(seed)
    outputs, targets = population.draw(POPULATION, rng)
    truth = metric_values(outputs, targets, task=population.task).values
    n_classes = outputs.shape[1] if outputs.ndim == 2 else 0
    names = [str(c) for c in range(n_classes)]
    held: dict[str, list[bool]] = {}
    for i in range(draws):
        found = evaluate(
            *population.draw(n, rng), task=population.task, classes=names, n_resamples=RESAMPLES,
            seed=i,
        )["metrics"]  # fmt: skip
        for name, estimate in found.items():
            inside = estimate["low"] <= truth[name] <= estimate["high"]
            held.setdefault(name, []).append(inside)
    return {name: float(np.mean(row)) for name, row in held.items()}


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """Answers whose chance of being right is shared by the records of a group.

    The chance of a group is ``Phi(ease + s u)`` with u standard normal: with a correlation rho of
    the latent answers ``s² = rho / (1 - rho)``.
    """

    groups: int
    size: int = 20
    accuracy: float = 0.85
    correlation: float = 0.3

    def draw(self, runs: int, rng: np.random.Generator) -> tuple[Array, list[str]]:
        """Whether each record is right [runs, n], with the groups' ease drawn anew by run."""
        size = rng.integers(self.size // 2, self.size * 3 // 2 + 1, self.groups)
        of = np.repeat(np.arange(self.groups), size)
        u = rng.normal(size=(runs, self.groups))[:, of]
        rho = self.correlation
        latent = np.sqrt(rho) * u + np.sqrt(1 - rho) * rng.normal(size=(runs, len(of)))
        return (latent < norm.ppf(self.accuracy)).astype(float), [f"g{g}" for g in of]


def grouped_coverage(population: Grouped, *, draws: int, seed: int = 0) -> dict[str, float]:
    """Coverage of metrics whose records come in groups, and false verdicts of equal models."""
    rng = np.random.default_rng(seed)
    held: dict[str, list[bool]] = {}
    for i in range(draws):
        (ours, theirs), groups = population.draw(2, rng)
        y = rng.integers(0, 2, len(ours))
        said = np.where(ours > 0, y, 1 - y)
        p = np.where(np.eye(2)[said] > 0, 0.9, 0.1)
        found = evaluate(p, y, task="single_label", classes=["a", "b"], groups=groups,
                         n_resamples=RESAMPLES, seed=i)["metrics"]  # fmt: skip
        share = population.accuracy
        truth = {
            "accuracy": share,
            "macro_f1": share,
            "balanced_accuracy": share,
            "nll": -share * np.log(0.9) - (1 - share) * np.log(0.1),
            "brier": share * 0.02 + (1 - share) * 1.62,
        }
        for name, value in truth.items():
            inside = found[name]["low"] <= value <= found[name]["high"]
            held.setdefault(name, []).append(inside)
        verdict = compare(ours, theirs, groups=groups, n_resamples=RESAMPLES, seed=i)
        held.setdefault("no verdict", []).append(verdict.kind == "no_difference")
        mean = mean_accuracy(ours, groups=groups)
        held.setdefault("mean accuracy", []).append(mean.low <= share <= mean.high)
    return {name: float(np.mean(row)) for name, row in held.items()}


def false_verdicts(*, seeds: int, n: int, luck: float, draws: int, seed: int = 0) -> float:
    """How often two equal methods get a verdict.

    A run is right on a record with the chance ``p_r + luck z``, z standard normal and its own;
    p_r is 0.85 on average, and the same for both methods: easy records are easy for both.
    """
    rng, said = np.random.default_rng(seed), 0
    for i in range(draws):
        ease = np.clip(0.85 + 0.1 * rng.normal(size=n), 0.4, 1.0)
        shift = luck * rng.normal(size=(2, seeds, 1))
        runs = (rng.random((2, seeds, n)) < ease + shift).astype(float)
        verdict = compare(*runs, n_resamples=RESAMPLES, seed=i)
        said += verdict.kind != "no_difference"
    return said / draws


def lines(
    part: str, *, sizes: Sequence[int], draws: int, only: str = "", seed: int = 0
) -> Iterator[str]:
    """The rows of one table in Markdown."""
    if part == "metrics":
        for name, population in POPULATIONS.items():
            for n in sizes if only in name else ():
                found = coverage(population, n=n, draws=draws, seed=seed)
                low = min(found, key=lambda key: found[key])
                rest = ", ".join(f"{key} {100 * value:.1f}" for key, value in found.items())
                yield f"| {name} | {n} | {100 * found[low]:.1f} ({low}) | {rest} |"
    elif part == "groups":
        for groups in (10, 30, 100):
            for rho in (0.0, 0.3):
                found = grouped_coverage(
                    Grouped(groups=groups, correlation=rho), draws=draws, seed=seed
                )
                rest = ", ".join(f"{key} {100 * value:.1f}" for key, value in found.items())
                yield f"| {groups} | {rho} | {rest} |"
    else:
        for seeds in (2, 3, 5):
            for luck in (0.0, 0.02, 0.07):
                shares = [
                    false_verdicts(seeds=seeds, n=n, luck=luck, draws=draws, seed=seed)
                    for n in (300, 1000, 2000, 5000)
                ]
                row = " | ".join(f"{100 * share:.1f}" for share in shares)
                yield f"| {seeds} | {100 * luck:.0f} | {row} |"


FLAGS = flags.FlagValues()
flags.DEFINE_enum("part", "metrics", ["metrics", "groups", "verdicts"], "Which table.",
                  flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("draws", 1000, "Test splits of each line.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Of the draws.", flag_values=FLAGS)
flags.DEFINE_list("sizes", ["30", "100", "1000"], "Records of a test split.", flag_values=FLAGS)
flags.DEFINE_string("only", "", "Populations whose names hold this.", flag_values=FLAGS)


def run(values: flags.FlagValues) -> None:
    """Prints the rows as they come."""
    for line in lines(
        values["part"].value,
        sizes=[int(n) for n in values["sizes"].value],
        draws=values["draws"].value,
        only=values["only"].value,
        seed=values["seed"].value,
    ):
        print(line, flush=True)


PROGRAM = Program(
    name="python -m experiments.benchmarks.coverage",
    about="how often the 95 % intervals of a report hold the truth",
    flag_values=FLAGS,
    run=run,
)

if __name__ == "__main__":
    sys.exit(execute(PROGRAM, sys.argv[1:]))

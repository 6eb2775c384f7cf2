"""Transfer methods against training on the source alone, with intervals.

    python -m experiments.benchmarks.transfer --rows=office,digits,pacs --seeds=3

Rows: ``office`` (Office-Caltech SURF features, 12 pairs, the papers' protocol), ``digits`` (MNIST
and USPS, raw pixels, a small CNN), ``pacs`` (photo and art, MobileNetV2), ``amazon`` (books and
dvds, TF-IDF), ``minilm`` (the same with the MiniLM encoder), ``shift`` (a known density ratio),
``fewshot`` (episodes on digits and signs), ``regularizers`` (L2-SP and BSS at 15 % and 100 % of
the labels). At the end: what each method gained on average over all pairs of domains in the work
folder, those of earlier calls among them.

The data is looked for in ``$TLTF_TEST_DATA``, weights in ``$KERAS_HOME``.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from scipy import io, stats

from tltf.cli.app import Program, execute
from tltf.cli.quiet import import_tensorflow
from tltf.cli.run_flags import required
from tltf.errors import InputMissingError
from tltf.transfer import boosting, manifold, pseudolabels, reweighting, shallow

ADAPTING = ("office", "digits", "pacs", "amazon", "minilm")
"""Those whose gains are averaged."""
ROWS = ("office", "digits", "pacs", "amazon", "minilm", "shift", "fewshot", "regularizers")
FLAGS = flags.FlagValues()
flags.DEFINE_list("rows", list(ROWS), "Which measurements.", flag_values=FLAGS)
flags.DEFINE_integer("seeds", 3, "Of everything that is random.", lower_bound=1,
                     flag_values=FLAGS)  # fmt: skip
flags.DEFINE_list("methods", [], "Only these methods, where a row has several.", flag_values=FLAGS)
flags.DEFINE_list("pairs", [], "Only these directions of a row, as it prints them: photo>art.",
                  flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("workdir", "runs/bench/transfer", "Where results and features go.",
                    flag_values=FLAGS)  # fmt: skip

PUBLISHED = {"1nn": 31.4, "subspace": 44.7, "tca": 43.6, "jda": 46.3, "meda": 52.7}
"""Averages over the 12 pairs: 1-NN, TCA and JDA (100 dimensions) by Long et al. (2013), subspace
alignment (30 dimensions, 1-NN) by Zhang et al. (2017), MEDA by Wang et al. (2018)."""

Row = tuple[str, str, np.ndarray]
"""Row and method, and correctness ``[seeds, n]`` (or accuracies ``[seeds]``)."""


def run(values: flags.FlagValues) -> None:
    required(values, "workdir")
    work = Path(values["workdir"].value)
    work.mkdir(parents=True, exist_ok=True)
    seeds, methods = values["seeds"].value, tuple(values["methods"].value)
    pairs = tuple(values["pairs"].value)
    if set(values["rows"].value) - {"office", "shift"}:
        import_tensorflow()
    measured: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "office": lambda: office(methods),
        "digits": lambda: _deep().digits(seeds, methods, pairs),
        "pacs": lambda: _deep().pacs(seeds, methods, pairs, work),
        "amazon": lambda: _text().amazon(seeds, methods, pairs, _text().tfidf),
        "minilm": lambda: _text().amazon(seeds, methods, pairs, _text().minilm),
        "shift": lambda: shift(seeds),
        "fewshot": lambda: _deep().fewshot(seeds),
        "regularizers": lambda: _deep().regularizers(seeds, work),
    }
    for name in values["rows"].value:
        started = time.monotonic()
        for row in measured[name]():
            print(line(row), flush=True)
            _keep(work / f"{name}.json", row)
        print(f"   ({name}: {time.monotonic() - started:.0f} s)", flush=True)
    print(*averages(_read(work / f"{name}.json") for name in ROWS if name in ADAPTING), sep="\n")


def _read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else []


def _keep(path: Path, row: dict[str, Any]) -> None:
    """Puts a row to those that are there, in the place of an earlier one of the same method."""
    same = (row["row"], row["method"])
    others = [old for old in _read(path) if (old["row"], old["method"]) != same]
    path.write_text(json.dumps([*others, row], indent=2) + "\n")


def averages(tables: Iterable[list[dict[str, Any]]]) -> list[str]:
    """What each method gained over nothing adapted: mean over pairs of domains, and the worst.

    Args:
      tables: rows as :func:`summary` makes them; those without ``gain`` are what others are
        compared with, the office row counts as the 12 pairs that it is the mean of.
    """
    gains: dict[str, list[tuple[float, str]]] = {}
    for row in itertools.chain.from_iterable(tables):
        if "gain" not in row:
            continue
        n = len(row.get("pairs", [None]))
        gains.setdefault(row["method"], []).extend([(row["gain"], row["row"])] * n)
    lines = []
    for method, found in sorted(gains.items(), key=lambda item: -np.mean([g for g, _ in item[1]])):
        worst, where = min(found)
        lines.append(
            f"{'average':<28} {method:<18} {np.mean([g for g, _ in found]):+6.1f} over"
            f" {len(found)} pairs, least {worst:+.1f} ({where})"
        )
    return lines


def _deep() -> Any:
    """The rows that train networks; TensorFlow is imported for them only."""
    from experiments.benchmarks import transfer_deep

    return transfer_deep


def _text() -> Any:
    """The rows of reviews."""
    from experiments.benchmarks import transfer_text

    return transfer_text


def line(row: dict[str, Any]) -> str:
    """``office  jda  46.4 (44.9 to 47.8)  +15.0 (13.5 to 16.6) over 1nn   published 46.3``."""
    text = f"{row['row']:<28} {row['method']:<18}"
    text += " {value:6.1f} ({low:.1f} to {high:.1f})".format(**row)
    if "gain" in row:
        text += "   {gain:+5.1f} ({gain_low:+.1f} to {gain_high:+.1f}) over {base}".format(**row)
    return text + ("   " + row["note"] if row.get("note") else "")


def summary(
    row: str, method: str, correct: np.ndarray, base: np.ndarray | None = None,
    *, base_name: str = "source_only", note: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Mean in percent over seeds and records, both drawn again for the 95 % interval.

    Args:
      correct: ``[seeds, n]``, whether each record was right.
      base: the same of what it is compared with, on the same records.
    """
    rng = np.random.default_rng(0)
    seeds, n = correct.shape
    means, gaps = [], []
    for _ in range(2000):
        s, i = rng.integers(seeds, size=seeds), rng.integers(n, size=n)
        means.append(correct[s][:, i].mean())
        if base is not None:
            gaps.append(means[-1] - base[s][:, i].mean())
    low, high = np.percentile(means, [2.5, 97.5])
    found = {"row": row, "method": method, "value": 100 * correct.mean(), "low": 100 * low,
             "high": 100 * high, "n": n, "seeds": seeds, "note": note}  # fmt: skip
    if base is not None:
        low, high = np.percentile(gaps, [2.5, 97.5])
        found |= {"gain": 100 * (correct.mean() - base.mean()), "gain_low": 100 * low,
                  "gain_high": 100 * high, "base": base_name}  # fmt: skip
    return found


def directions(a: str, b: str, pairs: tuple[str, ...]) -> list[tuple[str, str]]:
    """Both directions between two domains, or those of them that were asked for."""
    both = [(a, b), (b, a)]
    return [(s, t) for s, t in both if f"{s}>{t}" in pairs] or both


def shared(*parts: str) -> Path:
    """A file of ``$TLTF_TEST_DATA``."""
    path = Path(os.environ.get("TLTF_TEST_DATA", "."), *parts)
    if not path.exists():
        raise InputMissingError(
            "no such data", where=path, next_action="set TLTF_TEST_DATA to its folder"
        )
    return path


def members(path: Path) -> dict[str, bytes]:
    """File name -> bytes of a tar file."""
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}


OFFICE: dict[str, Callable[[Any, Any, Any], np.ndarray]] = {
    "1nn": shallow.nearest_neighbour,
    "coral": lambda s, y, t: _neighbour(shallow.coral_align(s, t), y),
    "subspace": lambda s, y, t: _neighbour(shallow.subspace_align(s, t), y),
    "tca": lambda s, y, t: _neighbour(shallow.tca(s, t), y, unit=True),
    "jda": lambda s, y, t: shallow.jda(s, y, t).labels,
    "propagation": lambda s, y, t: pseudolabels.label_propagation(s, y, t).argmax(1),
    "meda": lambda s, y, t: manifold.meda(s, y, t, balance=0.5).argmax(1),
}


def _neighbour(aligned: shallow.Aligned, y: np.ndarray, *, unit: bool = False) -> np.ndarray:
    s, t = aligned.source, aligned.target
    s, t = (shallow.unit_rows(s), shallow.unit_rows(t)) if unit else (s, t)
    return shallow.nearest_neighbour(s, y, t)


def office(methods: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Mean over the 12 pairs; the protocol has no randomness, so records are drawn again only."""
    data = {}
    for name, content in members(shared("images/office_caltech10_surf/public.tar.gz")).items():
        if name.endswith(".mat"):
            import io as bytes_io

            mat = io.loadmat(bytes_io.BytesIO(content))
            x = mat["fts"].astype(float)
            x = shallow.standardized(x / x.sum(axis=1, keepdims=True))
            data[Path(name).name[0].upper()] = (x, mat["labels"].ravel().astype(int) - 1)
    pairs = list(itertools.permutations(sorted(data), 2))
    base: list[np.ndarray] = []
    for method in ["1nn", *(m for m in methods or OFFICE if m != "1nn")]:
        right = [OFFICE[method](*data[a], data[b][0]) == data[b][1] for a, b in pairs]
        base = base or right
        rng, means, gaps = np.random.default_rng(0), [], []
        for _ in range(2000):
            drawn = [rng.integers(len(r), size=len(r)) for r in right]
            means.append(np.mean([r[i].mean() for r, i in zip(right, drawn, strict=True)]))
            gaps.append(
                means[-1] - np.mean([r[i].mean() for r, i in zip(base, drawn, strict=True)])
            )
        value, first = (100 * np.mean([r.mean() for r in rows]) for rows in (right, base))
        low, high = 100 * np.percentile(means, [2.5, 97.5])
        row = {"row": "office, 12 pairs", "method": method, "value": value, "low": low,
               "high": high, "pairs": {f"{a}>{b}": 100 * r.mean() for (a, b), r in
                                       zip(pairs, right, strict=True)}}  # fmt: skip
        if method != "1nn":
            low, high = 100 * np.percentile(gaps, [2.5, 97.5])
            row |= {"gain": value - first, "gain_low": low, "gain_high": high, "base": "1nn"}
        if PUBLISHED.get(method):
            row["note"] = f"published {PUBLISHED[method]}"
        yield row


def shift(seeds: int) -> Iterator[dict[str, Any]]:
    """Two Gaussians whose ratio is known: correlation with it, and the target's squared error."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(max(seeds, 5)):
        rng = np.random.default_rng(seed)
        source, target = rng.normal(0, 1, (400, 1)), rng.normal(0.9, 0.5, (400, 1))
        ratio = stats.norm.pdf(source[:, 0], 0.9, 0.5) / stats.norm.pdf(source[:, 0], 0, 1)
        curve = [np.sin(2 * x[:, 0]) + 0.2 * rng.normal(size=400) for x in (source, target)]
        ways = {"unweighted": np.ones(400), "true ratio": ratio / ratio.mean()}
        for name in ("domain_classifier_weights", "kmm", "kliep", "ulsif"):
            ways[name] = getattr(reweighting, name)(source, target)
        for name, w in ways.items():
            # A straight line cannot follow the curve: where it is right depends on the weights.
            line_ = np.polyfit(source[:, 0], curve[0], 1, w=np.sqrt(w))
            error = float(np.mean((np.polyval(line_, target[:, 0]) - curve[1]) ** 2))
            close = float(np.corrcoef(w, ratio)[0, 1]) if w.std() else 0.0
            found.setdefault(name, []).append((close, error, reweighting.effective_sample_size(w)))
    for name, rows in found.items():
        close, error, size = np.array(rows).T
        half = stats.t.ppf(0.975, len(error) - 1) * error.std(ddof=1) / np.sqrt(len(error))
        mean = error.mean()
        yield {
            "row": "shift: 100 x squared error",
            "method": name,
            "value": 100 * mean,
            "low": 100 * (mean - half),
            "high": 100 * (mean + half),
            "note": f"correlation {close.mean():.3f}, effective n {size.mean():.0f} of 400",
        }
    yield from _boosted(max(seeds, 5))


def _boosted(seeds: int) -> Iterator[dict[str, Any]]:
    """Half of the source follows another rule; 20 target examples have labels."""
    right: dict[str, list[np.ndarray]] = {}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        source, few, test = (rng.normal(size=(n, 2)) for n in (200, 20, 500))

        def rule(x: np.ndarray) -> np.ndarray:
            return (x[:, 0] + 0.2 * x[:, 1] > 0) * 1

        labels = np.where(np.arange(200) < 100, (source[:, 1] > 0) * 1, rule(source))
        model = boosting.TrAdaBoost().fit(source, labels, few, rule(few))
        both = model.make().fit(np.concatenate([source, few]), np.concatenate([labels, rule(few)]))
        for name, answers in (
            ("both, unweighted", both.predict(test)),
            ("target alone", model.make().fit(few, rule(few)).predict(test)),
            ("tradaboost", model.predict(test)),
        ):
            right.setdefault(name, []).append(answers == rule(test))
    base = np.stack(right["both, unweighted"])
    for name, rows in right.items():
        first = name == "both, unweighted"
        yield summary("shift: half the source differs", name, np.stack(rows),
                      None if first else base, base_name="both")  # fmt: skip


PROGRAM = Program(
    name="python -m experiments.benchmarks.transfer",
    about="measures the transfer methods against the source alone.",
    flag_values=FLAGS,
    run=run,
)

if __name__ == "__main__":
    sys.exit(execute(PROGRAM, sys.argv[1:]))

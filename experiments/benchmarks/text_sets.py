"""SST-2, MR and TREC-6 of ``$TLTF_TEST_DATA`` as tables that ``tltf train`` reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.benchmarks.transfer import members, shared
from tltf import storage

Rows = Iterator[dict[str, str]]
SIGN = {"0": "negative", "1": "positive"}


def sst2() -> Rows:
    """Movie sentences: 6,920 to train on, and the 872 of ``dev`` as the test split."""
    files = members(shared("text/sst/public.tar.gz"))
    for name, split in (("train", "train"), ("dev", "test")):
        for line in files[f"sst/stsa.binary.{name}"].decode("utf-8").strip().split("\n"):
            label, _, text = line.partition(" ")
            yield {"text": text, "label": SIGN[label], "split": split}


def mr() -> Rows:
    """10,662 sentences of reviews, without a split of their own."""
    files = members(shared("text/mr_rt_polarity/public.tar.gz"))
    for ending, label in (("pos", "positive"), ("neg", "negative")):
        for line in files[f"mr/rt-polarity.{ending}"].decode("latin-1").strip().split("\n"):
            yield {"text": line.strip(), "label": label}


def trec() -> Rows:
    """5,452 questions by what they ask for, without a split of their own."""
    files = members(shared("text/trec6/public.tar.gz"))
    for line in files["trec6/TREC.train"].decode("latin-1").strip().split("\n"):
        label, _, text = line.partition(" ")
        yield {"text": text, "label": label.partition(":")[0]}


SETS: dict[str, Callable[[], Rows]] = {"sst2": sst2, "mr": mr, "trec": trec}


def table(name: str, work: Path) -> Path:
    """The table of a set by name, written to ``work``; another name is the path of a table."""
    if name not in SETS:
        return Path(name)
    path = work / f"{name}.jsonl"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        storage.write_text(path, "".join(json.dumps(row) + "\n" for row in SETS[name]()))
    return path

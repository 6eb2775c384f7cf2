"""The defaults beside their rivals: what is drawn, what is kept, what the figures say."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.benchmarks import defaults, defaults_cells, defaults_rivals
from experiments.benchmarks.defaults_cells import Cell, Example, by_class, distinct, drawn
from experiments.benchmarks.defaults_figures import Figures, append, half_width, interval, read
from experiments.benchmarks.defaults_page import page
from tltf.cli.app import execute
from tltf.errors import ArgumentError, MismatchError
from tltf.spec import TransferSpec

COPIES = ("cat/00.png", "cat/01.png")
TWO_LABELS = ("cat/02.png", "dog/02.png")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set named as a real one: 20 pictures a class, two of them equal, two of two labels."""
    rng = np.random.default_rng(0)
    place = tmp_path / "shared/images/cats_dogs"
    for label, channel in (("cat", 0), ("dog", 2)):
        for number in range(20):
            pixels = rng.integers(0, 200, (8, 8, 3), np.uint8)
            pixels[..., channel] += 40
            path = place / "cats_dogs" / label / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    for source, copy in (COPIES, TWO_LABELS):
        (place / "cats_dogs" / copy).write_bytes((place / "cats_dogs" / source).read_bytes())
    with tarfile.open(place / "public.tar", "w") as tar:
        tar.add(place / "cats_dogs", "cats_dogs")
    monkeypatch.setenv("TLTF_TEST_DATA", str(tmp_path / "shared"))
    return place


def mean_colour(kind: str) -> Callable[[Sequence[Example]], np.ndarray]:
    """Stands for the frozen network."""
    assert kind == "photos"
    return lambda examples: np.stack(
        [np.asarray(Image.open(e.path or ""), np.float32).mean(axis=(0, 1)) for e in examples]
    )


def made(n: int, label: str, **given: Any) -> list[Example]:
    return [Example(id=f"{label}{i:04d}", label=label, text=f"{label} {i}", **given)
            for i in range(n)]  # fmt: skip


def ids(examples: Iterable[Example]) -> set[str]:
    return {example.id for example in examples}


def drawn_cell(work: Path, labels: str = "all", seed: int = 0) -> Cell:
    found = defaults_cells.examples("cats_dogs", work)
    return defaults_cells.cell("cats_dogs", found, labels=labels, seed=seed, work=work)


def test_no_copy_is_on_both_sides_nor_there_twice(archive: Path, tmp_path: Path) -> None:
    with drawn_cell(tmp_path).table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    contents = Counter(hashlib.sha256(Path(r["path"]).read_bytes()).hexdigest() for r in rows)
    assert set(contents.values()) == {1}
    assert len(rows) == 40 - 1 - 2  # a copy less, and what has two labels
    assert {row["split"] for row in rows} == {"train", "test"}
    held = Counter(row["label"] for row in rows if row["split"] == "test")
    assert held == {"cat": 5, "dog": 5}  # 30 % of 18 and of 19


def test_copies_of_texts_differ_in_case_and_blanks_and_the_test_part_keeps_its_own() -> None:
    first, second = Example(id="1", label="a", text="Large  one"), Example(
        id="2", label="a", text="large one", split="test"
    )  # fmt: skip
    assert distinct([first, second]) == [second]


def test_fewer_labels_are_among_more_and_the_test_part_is_the_same() -> None:
    found = made(100, "a") + made(60, "b")
    draw = drawn(found, seed=1)
    few, more, everything = (draw.train(labels) for labels in ("10", "25", "all"))
    assert ids(few) < ids(more) < ids(everything)
    assert Counter(e.label for e in more) == {"a": 25, "b": 25}
    assert Counter(e.label for e in draw.test) == {"a": 30, "b": 18}
    assert not ids(draw.test) & ids(everything)
    assert len(draw.test) + len(everything) == 160
    assert drawn(list(reversed(found)), seed=1) == draw  # whatever the order of the files
    assert ids(drawn(found, seed=2).test) != ids(draw.test)
    assert Counter(e.label for e in draw.train("50")) == {"a": 50, "b": 42}


def test_a_large_set_has_900_tests_of_all_classes_in_proportion() -> None:
    draw = drawn(made(9000, "a") + made(1000, "b"), seed=0)
    assert Counter(e.label for e in draw.test) == {"a": 810, "b": 90}


def test_a_part_that_the_set_holds_out_is_the_test_part() -> None:
    found = made(50, "a") + made(50, "b") + made(7, "c", split="test") + made(5, "a2", split="test")
    draw = drawn(found, seed=0, most=40)
    assert ids(draw.test) == ids(e for e in found if e.split == "test")
    assert Counter(e.label for e in draw.train("all")) == {"a": 20, "b": 20}


def test_a_group_is_on_one_side() -> None:
    found = [Example(id=f"{i:03d}", label="ab"[i % 2], text=f"t{i}", group=f"g{i // 6}")
             for i in range(120)]  # fmt: skip
    for seed in range(5):
        draw = drawn(found, seed=seed)
        groups = [{e.group for e in part} for part in (draw.test, draw.train("all"))]
        assert not groups[0] & groups[1]
        assert {len(members) for members in by_class(draw.test).values()} == {18}


def test_a_row_is_not_computed_twice(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(defaults_rivals, "network", mean_colour)
    work = tmp_path / "work"
    command = [f"--workdir={work}", "--sets=cats_dogs", "--labels=5,all", "--seeds=2",
               "--methods=probe,probe_raw", "--judged=probe_raw"]  # fmt: skip
    assert execute(defaults.PROGRAM, command) == 0
    first = capsys.readouterr().out
    assert "cats_dogs 5 labels, seed 1, probe_raw: " in first
    assert "| mean of 2 cells |" in first
    kept = (work / "rows.jsonl").read_text()
    row = json.loads(kept.splitlines()[0])
    assert (row["set"], row["labels"], row["n_train"], row["n_test"]) == ("cats_dogs", "5", 10, 10)
    assert row["accuracy"] == sum(row["right"].values()) / 10
    assert 0 < row["nll"] < 1

    monkeypatch.setattr(defaults_rivals, "answered", None)
    for again in (command, [*command, "--only=table"]):
        assert execute(defaults.PROGRAM, again) == 0
        said = capsys.readouterr().out
        assert said in first
        assert "| cats_dogs | 5 | 10 | 10 | 2 |" in said
    assert (work / "rows.jsonl").read_text() == kept


def test_a_row_that_a_kill_cut_is_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [line("a", "10", 0, "probe", "11"), line("a", "10", 1, "probe", "10")]
    append(path, rows[0])
    with path.open("a") as file:
        file.write('{"set": "a", "lab')
    append(path, rows[1])
    assert list(read(path).values()) == rows


def line(
    data: str, labels: str, seed: int, method: str, right: str, nll: float = 0.5
) -> dict[str, Any]:
    """A row with one digit for each test example."""
    hits = {f"x{i}": digit == "1" for i, digit in enumerate(right)}
    return {"set": data, "labels": labels, "seed": seed, "method": method, "n_train": 20,
            "n_test": len(right), "accuracy": right.count("1") / len(right), "nll": nll,
            "seconds": 1.0, "right": hits}  # fmt: skip


def table() -> list[dict[str, Any]]:
    """Two cells, two seeds; ours minus probe: (10 + 30) / 2 = 20 points, and (-10 + 0) / 2 = -5."""
    return [
        line("cats_dogs", "10", 0, "default", "1111111100", 0.4),
        line("cats_dogs", "10", 0, "probe", "1111111000", 0.5),
        line("cats_dogs", "10", 1, "default", "1111111110", 0.4),
        line("cats_dogs", "10", 1, "probe", "1111110000", 0.3),
        line("cifar10", "10", 0, "default", "1111111000", 0.6),
        line("cifar10", "10", 0, "probe", "1111111100", 0.5),
        line("cifar10", "10", 1, "default", "1110000000", 0.6),
        line("cifar10", "10", 1, "probe", "0001110000", 0.5),
        line("cifar10", "10", 2, "probe", "1111111111", 0.5),  # ours is not there yet
    ]


def test_the_figures_are_those_of_a_hand() -> None:
    figures = Figures(table())
    assert figures.mean(("cats_dogs", "10"), "default", "accuracy") == pytest.approx(0.85)
    assert figures.points(("cifar10", "10"), "default", "probe") == pytest.approx({0: -10, 1: 0})
    gap = figures.gap("photos", "default", "probe")
    assert gap is not None
    assert gap.mean == pytest.approx((20 - 5) / 2)
    # -10 is cifar10 twice, each time with seed 0 twice: 1 of 64, less than 2.5 %. The next is -7.5,
    # with one seed 1 among the four: 4 of 64. In the same way from above 30, 25.
    assert (gap.low, gap.high) == pytest.approx((-7.5, 25))
    assert gap.worst == ("cifar10", "10")
    assert figures.lower_loss("photos", "default", "probe") == (0, 2)  # .8 and .8: not below
    assert half_width([10, 30]) == pytest.approx(12.7062 * math.sqrt(200) / math.sqrt(2), rel=1e-5)
    assert figures.gap("texts", "default", "probe") is None


def test_sets_are_drawn_again_not_their_cells() -> None:
    cells = {("a", "10"): {0: 1.0}, ("a", "25"): {0: 1.0}, ("b", "10"): {0: 4.0}}
    # Both sets a, both b, or one of each, (1 + 1 + 4) / 3: a quarter, a quarter, a half.
    assert interval(cells) == pytest.approx((1.0, 4.0))
    assert np.isnan(interval({("a", "10"): {0: 1.0}})).all()


def test_the_better_probe_is_the_one_to_beat() -> None:
    rows = [row for row in table() if row["seed"] < 2]
    rows += [{**line(row["set"], "10", row["seed"], "probe_raw", "1111111111")}
             for row in rows if row["method"] == "probe"]  # fmt: skip
    figures = Figures(rows)
    assert figures.probes("photos") == pytest.approx({"probe_raw": 1.0, "probe": 0.6})
    said = "\n".join(page(figures, "default"))
    assert "the probe of photos is probe_raw: probe_raw 1.0000, probe 0.6000" in said
    assert "- no: default at least 2 points above probe_raw" in said


def test_the_page_answers_every_promise() -> None:
    said = list(page(Figures(table()), "default"))
    assert "| cats_dogs | 10 | 20 | 10 | 2 | 0.650 | 0.850 | +20.0 ± 127.1 | – |" in said
    assert "| mean of 2 cells |  |  |  |  | 0.675 | 0.675 | +7.5 | – |" in said
    assert "- open: 21 cells with three seeds of default, probe, guide: 0" in said
    assert ("- yes: default at least 2 points above probe, mean over cells:"
            " +7.50 (-7.50 to +25.00)") in said  # fmt: skip
    assert "- open: default at least 3 points above guide, mean over cells: –" in said
    assert "- no: log-loss below that of probe in at least 80 % of cells: 0 of 2" in said
    assert "- no: no cell more than 0.5 points below probe: cifar10 10 -5.0 ± 63.5" in said


def test_texts_are_held_against_what_they_were() -> None:
    rows = [
        line("sst2", "8", seed, name, right)
        for seed in range(5)
        for name, right in (("default", "1110"), ("probe", "1100"))
    ]
    said = list(page(Figures(rows), "default"))
    assert "- yes: sst2 with 8 labels per class at least .68, mean of 5 draws: 0.750, 5 draws" in (
        said
    )
    [curve] = [text for text in said if "above the curves before" in text]
    assert curve.startswith("- open: ")  # the other cells are missing
    assert curve.endswith("sst2 8 +14.7")


def test_rows_of_other_tests_are_not_compared() -> None:
    rows = [line("cats_dogs", "10", 0, "default", "111"), line("cats_dogs", "10", 0, "probe", "11")]
    with pytest.raises(MismatchError, match="different examples"):
        Figures(rows).gap("photos", "default", "probe")


@pytest.mark.parametrize(
    ("flag", "words"),
    [("--sets=cat_dogs", "did you mean 'cats_dogs'"), ("--methods=guides", "did you mean 'guide'"),
     ("--labels=1", "at least 2"), ("--judged=bets", "did you mean 'best'")],
)  # fmt: skip
def test_wrong_flags_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, words: str
) -> None:
    assert execute(defaults.PROGRAM, [f"--workdir={tmp_path}", flag]) == 64
    assert words in capsys.readouterr().err


def test_the_guide_gets_85_percent_of_the_labels(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.benchmarks import guide

    cell, seen = drawn_cell(tmp_path), {}

    def trained(folders: Path, **settings: Any) -> guide.Course:
        files = [path.relative_to(folders).parts for path in folders.rglob("*.png")]
        seen.update(Counter(split for split, _, _ in files))
        assert settings["augment"]
        right = {f"{label}/{name}": label == "cat" for split, label, name in files
                 if split == "test"}  # fmt: skip
        return guide.Course(seconds=1.0, right=right, nll=0.7)

    monkeypatch.setattr(guide, "trained", trained)
    monkeypatch.setattr(defaults_rivals, "_unfrozen", lambda: ["Conv_1"])
    answer = defaults_rivals.guide(cell, tmp_path)
    assert seen == {"train": 22, "val": 5, "test": 10}  # 15 % of 27, rounded up
    assert answer.right == {e.id: e.label == "cat" for e in cell.test}
    assert answer.nll == 0.7


def test_a_run_is_read_from_its_predictions(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tltf import pipeline
    from tltf.data.prepare import prepared

    cell, caches = drawn_cell(tmp_path, "5"), []

    def transfer(spec: TransferSpec, *, workdir: Path, **_: Any) -> Any:
        caches.append(os.environ["TLTF_CACHE_DIR"])
        manifest = prepared(spec.data, seed=spec.seed)
        assert {name: len(manifest.split(name)) for name in ("train", "val")} == (
            {"train": 8, "val": 2}
        )
        (workdir / "report").mkdir(parents=True)
        (workdir / "report/report.json").write_text("{}")
        (workdir / "manifest.jsonl").write_text("".join(manifest.to_json_lines()))
        rows = [{"id": record.id, "label": record.label, "predicted": "cat"}
                for record in manifest.split("test")][1:]  # fmt: skip
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (workdir / "report/predictions.jsonl").write_text(text)
        return SimpleNamespace(report={"metrics": {"nll": {"value": 0.25}}})

    monkeypatch.setattr(pipeline, "transfer", transfer)
    answer = defaults_rivals.transferred(cell, "plan", tmp_path)
    first = min(e.id for e in cell.test)  # left out, so it is wrong
    assert answer.right == {e.id: e.label == "cat" and e.id != first for e in cell.test}
    assert answer.nll == 0.25
    assert caches == [str(tmp_path / "cache/cats_dogs-5-0-plan")]
    assert (tmp_path / "reports/cats_dogs-5-0-plan.json").exists()
    assert not any((tmp_path / "runs").iterdir())


@dataclass(frozen=True, kw_only=True)
class WithEffort:
    """Stands for a specification that has one."""

    data: Any
    backbone: Any
    seed: int
    export: str
    effort: str = "default"


@dataclass(frozen=True, kw_only=True)
class Without:
    """Stands for one that has none."""

    data: Any
    backbone: Any
    seed: int
    export: str


def test_an_effort_is_asked_for_by_name(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = drawn_cell(tmp_path, "5")
    monkeypatch.setattr(defaults_rivals, "TransferSpec", WithEffort)
    assert defaults_rivals.specification(cell, "best").effort == "best"
    monkeypatch.setattr(defaults_rivals, "TransferSpec", Without)
    assert defaults_rivals.specification(cell, "plan").export == "none"
    with pytest.raises(ArgumentError, match="no effort"):
        defaults_rivals.specification(cell, "fast")

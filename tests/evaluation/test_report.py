"""The page: self-contained, escaped, small; the pictures: PNG, in both themes."""

from __future__ import annotations

import html.parser
import re

import matplotlib as mpl
import numpy as np
import pytest

from tltf.errors import ArgumentError
from tltf.evaluation import evaluate as ev
from tltf.evaluation import plots, report
from tltf.evaluation.verdict import compare

HOSTILE = [
    "<script>alert(1)</script>",
    "{{ 7*7 }}{% raw %}",
    '" onmouseover="alert(2)',
    "a\x1b[31m\n\u202etxt\x00",
    "$\\frac{$ &amp; 日本 \udc80",
]
HISTORY = [
    {"phase": phase, "epoch": e, "loss": 1 / (e + 1), "val_loss": loss, "accuracy": 0.5,
     "val_accuracy": 0.4, "learning_rate": 1e-3, "seconds": 1.0}
    for phase in ("head", "<b>tune")
    for e, loss in enumerate([1.0, float("nan"), None])
]  # fmt: skip


def build(classes, n=120, seed=0):
    rng = np.random.default_rng(seed)
    c = len(classes)
    y = rng.integers(0, c, n)
    logits = rng.normal(size=(n, c)) + 3 * np.eye(c)[y]
    return ev.build_report(
        logits,
        y,
        task="single_label",
        classes=classes,
        baselines={classes[0]: np.full((n, c), 1 / c)},
        verdict=compare(logits.argmax(1) == y, y == 0),
        data={
            "counts": {"train": dict.fromkeys(classes, 3)},
            "totals": {"train": 3 * c},
            "excluded": [{"id": name, "outcome": "bad", "reason": name} for name in classes],
            "n_excluded": 4 * c,
            "notes": list(classes[:1]),
        },
        plan=[{"choice": classes[0], "value": classes[0], "reason": classes[0]}, {}],
        provenance=ev.provenance_block(
            spec={"backbone": {"name": classes[0]}},
            command=["tltf", *classes],
            hashes={classes[0]: "ab" * 32},
        ),
        n_resamples=100,
    )


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.ids, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        self.ids += [value for key, value in attrs if key == "id"]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def hostile_page():
    return report.write_html(build(HOSTILE), HISTORY, title="<i>run</i>")


def test_hostile_names_are_shown_and_not_run(hostile_page):
    page = Page(hostile_page)
    assert not {"script", "iframe", "link", "img/src", "object", "base"} & set(page.tags)
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}{% raw %}" in page.text
    assert "a\\x1b[31m\\n\\u202etxt\\x00" in page.text
    assert "<i>run</i>" in page.text
    hostile_page.encode("utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", hostile_page)


def test_page_is_self_contained(hostile_page):
    page = Page(hostile_page)
    for tag, key, value in page.attributes:
        if key in ("src", "srcset", "href"):
            assert value.startswith(("data:image/png;base64,", "#")), (tag, key)
    assert "http://" not in hostile_page
    assert "https://" not in hostile_page
    assert "@import" not in hostile_page
    assert "url(" not in hostile_page


def test_anchors_titles_and_alternative_texts(hostile_page):
    page = Page(hostile_page)
    targets = [v[1:] for t, k, v in page.attributes if k == "href"]
    assert targets == page.ids
    expected = (
        "data plan training metrics confusion classes calibration reject baselines provenance"
    )
    assert page.ids == expected.split()
    assert page.tags.count("img") == len([v for _, k, v in page.attributes if k == "alt" and v])
    assert page.tags.count("h1") == 1
    assert "verdict" in hostile_page
    assert "Transfer helps by" in page.text


def test_a_hundred_classes_stay_under_three_megabytes():
    page = report.write_html(build([f"class {i:03d}" for i in range(100)], n=2000), HISTORY)
    assert len(page.encode()) < 3_000_000


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_other_tasks_and_a_bare_evaluation(task):
    rng = np.random.default_rng(0)
    if task == "regression":
        found = ev.evaluate(rng.normal(size=30), rng.normal(size=30), task=task, classes=[])
    else:
        p, y = rng.random((30, 3)), rng.integers(0, 2, (30, 3))
        found = ev.evaluate(p, y, task=task, classes=list("abc"), n_resamples=100)
    page = Page(report.write_html(found))
    assert ("scatter" in page.ids) == (task == "regression")
    assert ("classes" in page.ids) == (task == "multi_label")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_are_png_and_leave_no_settings_behind(theme):
    before = dict(mpl.rcParams)
    figures = plots.report_figures(build(HOSTILE), HISTORY, theme=theme)
    assert list(figures) == [
        "training_loss", "training_accuracy", "learning_rate",
        "confusion", "reliability_before", "reliability_after",
    ]  # fmt: skip
    assert all(png.startswith(b"\x89PNG") for png in figures.values())
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("n", [2, 21])
def test_confusion_of_any_size(n):
    png = plots.confusion(
        np.eye(n, dtype=int) * 3, [f"c{i}" for i in range(n)], theme=plots.THEMES["dark"]
    )
    assert png.startswith(b"\x89PNG")


def test_curves_follow_what_the_history_has():
    assert plots.curve_keys([]) == {}
    assert plots.curve_keys([{"loss": 1.0, "mae": 2.0, "val_mae": 1.0, "phase": "head"}]) == {
        "training_loss": ("loss",),
        "training_mae": ("mae", "val_mae"),
    }


def test_unknown_theme():
    with pytest.raises(ArgumentError, match="did you mean 'dark'"):
        plots.report_figures({}, theme="drak")

"""The report and the audit in a real browser: nothing overflows, every picture shows, no error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import browser
import numpy as np
import pytest
from pictures import encoded, pixels
from PIL import Image

from tltf.evaluation import auditpage, report
from tltf.evaluation import evaluate as ev
from tltf.evaluation.verdict import compare

ERRORS = "JSON.stringify(window.__errors || [])"
BROKEN = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Page]:
    program = browser.found()
    if program is None:
        pytest.skip("needs chromium")
    with browser.page(program) as page:
        page.call("Page.addScriptToEvaluateOnNewDocument", source=(
            "window.__errors = []; addEventListener('error', e => __errors.push(`${e.message}`));"
            "addEventListener('securitypolicyviolation', e => __errors.push(e.violatedDirective));"
        ))  # fmt: skip
        yield page


@pytest.fixture(scope="module")
def report_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    classes = ["a", "<b onclick=x>", "a rather long name of a class, " * 3]
    y = rng.integers(0, 3, 120)
    logits = rng.normal(size=(120, 3)) + 2 * np.eye(3)[y]
    found = ev.build_report(
        logits, y, task="single_label", classes=classes, n_resamples=100,
        baselines={"majority": np.full((120, 3), 1 / 3)},
        verdict=compare(logits.argmax(1) == y, y == 0),
        provenance=ev.provenance_block(spec={"x": "y" * 300}, command=["tltf", "z" * 200]),
    )  # fmt: skip
    accuracy = {"value": 0.8, "low": 0.7, "high": 0.9, "n": 120}
    found["label_curve"] = [
        {"share": share, "labels": int(share * 100), "draws": 5, "accuracy": accuracy}
        for share in (0.1, 1.0)
    ]
    row = {"id": "x/" * 60 + "1.jpg", "label": classes[1], "predicted": classes[2],
           "probability": 0.9, "probability_of_label": 0.05, "loss": 3.0,
           "picture": "e.jpg", "heat_map": "e.jpg"}  # fmt: skip
    found["gallery"] = [row] * 5
    found["confused_pairs"] = [
        {"label": classes[0], "predicted": classes[1], "count": 3, "of": 40, "example": row,
         "neighbours": [{"id": "y", "label": classes[1], "similarity": 0.9, "picture": "e.jpg"}]}
    ]  # fmt: skip
    history = [
        {"phase": "head", "epoch": e, "loss": 1.0 / (e + 1), "val_loss": 1.0} for e in range(4)
    ]
    picture = encoded(Image.fromarray(pixels(1, height=160, width=160)), "JPEG")
    text = report.write_html(found, history, title="page", pictures={"e.jpg": picture})
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text, encoding="utf-8")
    assert len(text) < 3_000_000
    return path


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report(tab: browser.Page, report_page: Path, width: int, scheme: str) -> None:
    shown(tab, report_page, width, scheme)
    assert tab.evaluate("document.querySelectorAll('section').length") >= 8
    assert "<b onclick=x>" in tab.evaluate("document.body.innerText")
    assert tab.evaluate("document.querySelectorAll('[onclick]').length") == 0


def test_the_audit(tab: browser.Page, tmp_path: Path) -> None:
    files = [{"path": "p/" * 80, "outcome": "bad", "reason": "truncated"}]
    twins = {"path": "a.jpg", "label": "a", "split": "train"}
    found = {
        "data": "photos", "files": files, "problems": ["one"], "notes": ["note"],
        "counts": {"found": 1, "ok": 0, "warning": 0, "bad": 1, "ignored": 0},
        "task": "single_label", "classes": {"train": {"a": 3, "b" * 90: 5}}, "imbalance": 1.7,
        "duplicates": {"n_exact_groups": 1, "n_exact_copies": 1, "n_conflicts": 0,
                       "n_near_pairs": 0, "n_near_across_splits": 0, "near": [],
                       "exact": [{"sha256": "", "conflict": False, "files": [twins, twins]}]},
        "images": None, "texts": None,
    }  # fmt: skip
    page = tmp_path / "audit.html"
    page.write_text(auditpage.write_html(found, {}), encoding="utf-8")
    for width in (390, 1280):
        shown(tab, page, width, "light")


def shown(tab: browser.Page, path: Path, width: int, scheme: str) -> None:
    tab.call("Emulation.setEmulatedMedia",
             features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
    tab.open(path.as_uri(), width=width, height=900)
    tab.wait(f"location.href === '{path.as_uri()}' && document.readyState === 'complete'")
    time.sleep(0.1)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(BROKEN) == 0
    assert tab.evaluate(ERRORS) == "[]"
    colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, colour[4:-1].split(","))) < 200) == (scheme == "dark")

"""``--assert_metric``: every metric of a report can be asked for, of one record too."""

from __future__ import annotations

import numpy as np
import pytest

from tltf.cli.run_flags import metric_line
from tltf.errors import ArgumentError, GateError
from tltf.evaluation.evaluate import evaluate
from tltf.evaluation.gate import parse_gate


def reports(n: int) -> list[dict]:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(7), n)
    single = evaluate(p, p.argmax(axis=1), task="single_label", classes=list("abcdefg"))
    q, y = rng.random((n, 3)), np.ones((n, 3), int)
    multi = evaluate(q, y, task="multi_label", classes=list("abc"))
    numbers = evaluate(q[:, 0], q[:, 1], task="regression", classes=[])
    return [single, multi, numbers]


@pytest.mark.parametrize("n", [1, 40])
def test_every_metric_can_be_asked_for(n: int) -> None:
    names = set()
    for report in reports(n):
        for name, found in report["metrics"].items():
            names.add(name)
            parse_gate(f"{name}>={found['value'] - 1e-9}").check(report)
            with pytest.raises(GateError, match=f"{name} is .*n={n}"):
                parse_gate(f"{name} > {found['value'] + 1}").check(report)
            assert f"n={n})" in metric_line(name, found)
    assert "mAP" in names


def test_a_metric_without_a_value_says_why() -> None:
    single = reports(1)[0]
    with pytest.raises(ArgumentError, match="auroc has no value here: 6 of 7 classes"):
        parse_gate("auroc>=0.5").check(single)
    with pytest.raises(ArgumentError, match=r"no metric 'map'.*did you mean 'mAP'"):
        parse_gate("map>=0.5").check(reports(40)[1])

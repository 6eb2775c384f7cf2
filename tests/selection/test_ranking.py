"""Ranking on features made by hand: order, ties, controls, budget, depth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from selection_features import blobs

from tltf.errors import ArgumentError, DataError
from tltf.selection import chance, depth, probing, ranking
from tltf.selection.candidates import by_backbone, candidates
from tltf.selection.ranking import Measured

LABELS = np.arange(120) % 3


def measured(apart: dict[str, float], *, milliseconds: float = 1.0, seed: int = 0) -> Measured:
    """Blocks whose classes are so far apart."""
    features = {
        name: blobs(LABELS, d=16, apart=distance, seed=seed + i)
        for i, (name, distance) in enumerate(apart.items())
    }
    return Measured(features=features, parameters=1000, milliseconds=milliseconds, pass_seconds=0.1)


TABLE = {
    ("MobileNetV2", "imagenet"): measured({"Conv1": 0.1, "block_1": 0.9}, milliseconds=2.0),
    ("VGG16", "imagenet"): measured({"block1": 0.1, "block5": 0.92}, milliseconds=9.0),
    ("MobileNetV2", "none"): measured({"Conv1": 0.05, "block_1": 0.05}, milliseconds=2.0),
}


def measure(backbone: str, weights: str) -> Measured:
    return TABLE[backbone, weights]


class TestRanking:
    def test_the_control_is_last_and_ties_are_called_ties(self) -> None:
        found = ranking.rank(
            candidates("MobileNetV2@random,VGG16,MobileNetV2"), LABELS, measure=measure
        )
        names = [row.name for row in found.rows]
        assert names[-1] == "MobileNetV2@random"
        assert [row.place for row in found.rows] == [1, 2, 3]
        assert [row.ties_with_best for row in found.rows] == [True, True, False]
        assert any("tied" in note and "MobileNetV2" in note for note in found.notes)
        assert all(row.low <= row.probe <= row.high for row in found.rows)

    def test_the_pareto_front_is_what_nothing_faster_beats(self) -> None:
        found = ranking.rank(candidates("VGG16,MobileNetV2"), LABELS, measure=measure)
        by_name = {row.name: row for row in found.rows}
        assert by_name["MobileNetV2"].pareto
        better = by_name["VGG16"].probe > by_name["MobileNetV2"].probe
        assert by_name["VGG16"].pareto == better

    def test_one_pass_serves_all_blocks_of_a_backbone(self) -> None:
        calls = []

        def counted(backbone: str, weights: str) -> Measured:
            calls.append((backbone, weights))
            return measure(backbone, weights)

        chosen = candidates("MobileNetV2,MobileNetV2@Conv1,MobileNetV2@block_1")
        found = ranking.rank(chosen, LABELS, measure=counted)
        assert calls == [("MobileNetV2", "imagenet")]
        assert found.rows[-1].name == "MobileNetV2@Conv1"

    def test_a_truncation_has_no_source_classifier(self) -> None:
        made = dataclasses.replace(
            TABLE["MobileNetV2", "imagenet"], probabilities=np.eye(3)[LABELS] * 0.7 + 0.1
        )
        found = ranking.rank(
            candidates("MobileNetV2,MobileNetV2@Conv1"), LABELS, measure=lambda *_: made
        )
        by_name = {row.name: row for row in found.rows}
        assert by_name["MobileNetV2"].leep is not None
        assert by_name["MobileNetV2"].nce == 0.0
        assert by_name["MobileNetV2@Conv1"].leep is by_name["MobileNetV2@Conv1"].nce is None

    def test_shuffled_labels_leave_nothing_to_choose(self) -> None:
        shuffled = np.random.default_rng(0).permutation(LABELS)
        found = ranking.rank(candidates("MobileNetV2"), shuffled, measure=measure)
        [note] = [note for note in found.notes if "nothing to choose" in note]
        assert "k-NN, mean, LogME, H cannot tell these labels from shuffled ones" in note

    def test_a_budget_ends_honestly(self) -> None:
        found = ranking.rank(
            candidates("VGG16,MobileNetV2"), LABELS, measure=measure, budget_seconds=0.0
        )
        assert found.not_measured in (("MobileNetV2",), ("VGG16", "MobileNetV2"))
        assert any("budget" in note for note in found.notes)

    def test_few_examples_are_said_to_be_noise(self) -> None:
        few = Measured(
            features={"top": blobs(LABELS[:18], d=4, apart=2.0)},
            parameters=1, milliseconds=1.0, pass_seconds=0.1,
        )  # fmt: skip
        found = ranking.rank(candidates("VGG16"), LABELS[:18], measure=lambda *_: few)
        assert any("noise" in note for note in found.notes)


class TestChance:
    """Every score by itself, with a source classifier that knows the classes."""

    FEATURES = (blobs(LABELS, d=16, apart=0.7),)
    SOURCE = np.eye(5)[LABELS + 1] * 0.9 + 0.02

    def test_the_true_labels_make_every_score_speak(self) -> None:
        found = chance.silent(self.FEATURES, LABELS, probabilities=[self.SOURCE])
        assert found == dict.fromkeys(("k-NN", "mean", "LogME", "H", "NCE", "LEEP"), False)

    def test_shuffled_labels_make_none_speak(self) -> None:
        shuffled = np.random.default_rng(100).permutation(LABELS)
        found = chance.silent(self.FEATURES, shuffled, probabilities=[self.SOURCE])
        assert all(found.values()), found

    def test_a_score_that_speaks_where_the_probe_does_not_is_named(self) -> None:
        """Four corners, opposite ones of one class: no line parts them, neighbours do."""
        corner = np.arange(120) % 4
        x = 3.0 * np.stack([corner % 2, corner // 2], axis=1) - 1.5
        x += np.random.default_rng(0).normal(0, 0.3, x.shape)
        made = Measured(features={"top": x}, parameters=1, milliseconds=1.0, pass_seconds=0.1)
        labels = np.isin(corner, (0, 3)).astype(np.int64)
        found = ranking.rank(candidates("VGG16"), labels, measure=lambda *_: made)
        [note] = found.notes
        assert "nothing to choose" in note
        assert "but k-NN can tell these labels from shuffled ones" in note


class TestDepth:
    def test_the_blocks_above_the_best_are_suggested(self) -> None:
        made = measured({"low": 0.05, "middle": 1.5, "upper": 0.3, "top": 0.1})
        found = depth.curve(made.features, LABELS)
        assert found.unfreeze == "last:2"
        assert "middle" in found.hint

    def test_rising_to_the_top_suggests_a_head(self) -> None:
        found = depth.curve(measured({"low": 0.05, "top": 1.5}).features, LABELS)
        assert found.unfreeze == "none"

    def test_an_early_best_is_marked_as_a_suggestion(self) -> None:
        made = measured({"a": 1.5, "b": 0.1, "c": 0.1, "d": 0.1})
        assert "suggestion only" in depth.curve(made.features, LABELS).hint

    def test_an_unknown_block_names_the_nearest(self) -> None:
        with pytest.raises(ArgumentError, match="did you mean 'block_1'"):
            depth.block(TABLE["MobileNetV2", "imagenet"].features, "block1")


class TestProbing:
    def test_a_class_with_one_example_is_refused(self) -> None:
        labels = np.array([0, 0, 0, 1])
        with pytest.raises(DataError, match="single example"):
            probing.linear_probe_hits(np.zeros((4, 2)), labels)

    def test_the_basis_of_the_rows_changes_no_prediction(self) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        x = blobs(LABELS, d=200, apart=0.2)
        slow = np.zeros(len(LABELS), bool)
        for train, out in probing.folds(LABELS):
            scaler = StandardScaler().fit(x[train])
            model = LogisticRegression(C=0.01, tol=1e-8, max_iter=5000)
            model.fit(scaler.transform(x[train]), LABELS[train])
            slow[out] = model.predict(scaler.transform(x[out])) == LABELS[out]
        fast = probing.linear_probe_hits(x, LABELS, strengths=(0.01,))
        assert (fast == slow).mean() >= 0.99

    @pytest.mark.parametrize("hits", [probing.neighbour_hits, probing.class_mean_hits])
    def test_simple_classifiers_see_what_is_there(self, hits) -> None:
        assert hits(blobs(LABELS, d=8, apart=3.0), LABELS).mean() > 0.95
        assert hits(blobs(LABELS, d=8, apart=0.0), LABELS).mean() < 0.6


class TestCandidates:
    def test_names_blocks_controls_and_options_with_commas(self) -> None:
        found = candidates(
            "MobileNetV2@block_3, MobileNetV3Small:alpha=0.75,minimalistic=false,VGG16@random"
        )
        assert [(c.backbone, c.weights, c.block) for c in found] == [
            ("MobileNetV2", "imagenet", "block_3"),
            ("MobileNetV3Small:alpha=0.75,minimalistic=false", "imagenet", None),
            ("VGG16", "none", None),
        ]

    def test_fast_is_a_list_and_groups_are_passes(self) -> None:
        assert len(by_backbone(candidates("fast,MobileNetV2@block_3"))) == len(candidates("fast"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "no candidates"),
            ("MobilNetV2", "did you mean 'MobileNetV2'"),
            ("VGG16,VGG16", "named twice"),
        ],
    )
    def test_what_cannot_be_ranked_is_refused(self, text: str, message: str) -> None:
        with pytest.raises(ArgumentError, match=message):
            candidates(text)

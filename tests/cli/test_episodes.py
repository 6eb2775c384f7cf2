"""``tltf episodes``: a table, its file, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import tltf
from pictures import write_digit_folder

from tltf.errors import DataError
from tltf.methods import EPISODE_HEADS, EpisodesSpec
from tltf.stages import episodes
from tltf.transfer import fewshot

NETWORK = {"backbone": "small_cnn:blocks=1", "weights": "none", "image_size": 8}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digit_folder(tmp_path_factory.mktemp("episodes") / "digits", range(6), 14)


def test_every_method_on_the_same_episodes(digits: Path, tmp_path: Path) -> None:
    options = {"data": digits, **NETWORK, "ways": 3, "shots": 5, "queries": 5,
               "meta_episodes": 30, "cache": tmp_path / "cache"}  # fmt: skip
    done = tltf("episodes", **options, out=tmp_path / "out")
    assert done.code == 0, done.err
    assert "84 rows computed, 0 found" in done.err
    found = json.loads((tmp_path / "out" / "episodes.json").read_text())
    known, novel = (set(found["classes"][part]) for part in ("known", "novel"))
    assert (len(known), len(novel)) == (3, 3)
    assert known | novel == {str(i) for i in range(6)}
    rows = {(row["method"], row["shots"]): row["accuracy"] for row in found["results"]}
    assert len(rows) == 6
    for accuracy in rows.values():
        assert accuracy["n"] == 600
        assert 1 / 3 < accuracy["low"] < accuracy["value"] < accuracy["high"] <= 1
    # Again, with fewer shots too: features are there, numbers are the same, more shots help.
    again = tltf("episodes", **options | {"method": "nearest_mean,prototypical", "shots": "1,5"},
                 out=tmp_path / "out")  # fmt: skip
    assert "0 rows computed, 84 found" in again.err
    found = json.loads((tmp_path / "out" / "episodes.json").read_text())
    more = {(row["method"], row["shots"]): row["accuracy"] for row in found["results"]}
    for method in ("nearest_mean", "prototypical"):
        assert more[method, 5] == rows[method, 5]
        assert more[method, 5]["value"] > more[method, 1]["high"]
    lines = again.out.splitlines()
    assert lines[0].split()[-4:] == ["1", "shot", "5", "shots"]
    nearest = more["nearest_mean", 1]
    assert f"{nearest['value']:.3f} ({nearest['low']:.3f} to {nearest['high']:.3f})" in lines[1]


def test_heads_alone_are_measured_on_all_classes_or_on_those_named(digits: Path) -> None:
    options = {"data": digits, **NETWORK, "ways": 2, "shots": 1, "queries": 4, "cache": "off",
               "method": "cosine"}  # fmt: skip
    done = tltf("episodes", **options)
    assert done.code == 0, done.err
    assert "600 episodes of 6 novel classes" in done.out
    assert "known classes" not in done.err
    done = tltf("episodes", **options, novel="0,1")
    assert "600 episodes of 2 novel classes" in done.out
    # Zeros and ones are easily told apart.
    assert float(done.out.splitlines()[1].split()[1]) > 0.9


def test_what_it_refuses(digits: Path, tmp_path: Path) -> None:
    for flags, code, words in (
        ({"method": "reptil"}, 64, "did you mean 'reptile'"),
        ({"shots": "one"}, 64, "--shots=1,5"),
        ({"shots": 0}, 64, "shots=0, expected at least 1"),
        ({"ways": 1}, 64, "ways=1, expected at least 2"),
        ({"episodes": 100}, 64, "episodes=100, expected at least 600"),
        ({"novel": "0,1,x"}, 64, "no class 'x'"),
        ({"data": tmp_path / "nowhere"}, 66, "no such folder"),
        ({"backbone": ""}, 64, "--backbone is missing"),
        ({"ways": 4}, 65, "use --ways=3, or only --method=nearest_mean"),
        ({"ways": 7, "method": "cosine"}, 65, "use --ways=6"),
        ({"queries": 20}, 65, "use --queries=9"),
        ({"novel": "0,1"}, 65, "2 of 2 novel classes"),
        ({"novel": "0,1,2,3"}, 65, "2 of 2 known classes"),
        ({"out": tmp_path / "a.json"}, 73, "is the name of a file"),
    ):
        options = {"data": digits, **NETWORK, "ways": 3, "queries": 5, **flags}
        done = tltf("episodes", **options)
        assert done.code == code, (flags, done.err)
        assert words in done.last_line, (flags, done.last_line)


def test_too_few_examples_are_said_with_what_there_is() -> None:
    asked = EpisodesSpec(ways=3, shots=(5,), queries=15)
    with pytest.raises(DataError, match="1 of 3 classes have the 20 examples") as error:
        episodes._check(["a"], {"a": 20, "b": 9, "c": 8}, asked, "classes")
    assert "a 20, b 9, c 8" in str(error.value)
    assert error.value.next_action == "use --queries=3"


def test_copies_are_left_out(digits: Path, tmp_path: Path) -> None:
    """In support and query of one episode they would be answered by heart."""
    for i in range(2):
        (tmp_path / "twice" / str(i)).mkdir(parents=True)
        for path in (digits / str(i)).iterdir():
            for name in (path.name, f"again-{path.name}"):
                (tmp_path / "twice" / str(i) / name).write_bytes(path.read_bytes())
    done = tltf("episodes", data=tmp_path / "twice", **NETWORK, ways=2, queries=5, cache="off",
                method="nearest_mean")  # fmt: skip
    assert done.code == 0, done.err
    assert "data: 28 examples of 2 classes; 28 copies left out" in done.err


def test_nothing_of_the_novel_classes_is_learned_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other novel examples: the same scaling and the same episodes to learn from."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 12)
    old = (rng.normal(size=(36, 4)).astype("float32"), labels)
    asked = EpisodesSpec(ways=3, shots=(1,), queries=5, meta_episodes=5)
    learned = []

    def learn(encoder: object, x: np.ndarray, sampler: fewshot.EpisodeSampler, **_: object) -> None:
        learned.append((x, sampler.episode(0)))

    monkeypatch.setattr(episodes.metalearning, "train_prototypical", learn)
    for moved in (0.0, 100.0):
        new = (old[0] + np.float32(moved), labels)
        trial = episodes._Trial(asked, 1, seed=0, old=old, new=new, advance=lambda _: None)
        trial("prototypical")
    np.testing.assert_array_equal(learned[0][0], learned[1][0])
    np.testing.assert_array_equal(learned[0][1].support, learned[1][1].support)


def test_the_adapter_begins_as_the_features_themselves() -> None:
    x = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")
    np.testing.assert_array_equal(episodes._adapter(7, seed=0)(x), x)


def test_the_names_are_those_of_the_heads() -> None:
    assert tuple(fewshot.HEADS) == EPISODE_HEADS

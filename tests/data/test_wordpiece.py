"""WordPiece in core ops equals the reference, id by id."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from data.strings import texts

from tltf.data.wordpiece import SPECIAL, WordPiece, read_vocabulary
from tltf.errors import DataError, InputMissingError

GOLDEN = Path(__file__).with_name("golden_wordpiece.json.gz")
SMALL = [*SPECIAL, "un", "##aff", "##able", "a", "b", "##b", "c", ",", "中"]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads(gzip.decompress(GOLDEN.read_bytes()))


def mismatches(own: WordPiece, cases: list[bytes], expected: list[list[int]]) -> list[int]:
    found = []
    for start in range(0, len(cases), 4096):
        part = tf.constant(cases[start : start + 4096])
        found += own.encode(part, max_length=100_000).ids.to_list()
    wanted = [[own.cls, *ids, own.sep] for ids in expected]
    return [i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b]


@pytest.mark.parametrize(("name", "lowercase"), [("uncased", True), ("cased", False)])
def test_the_golden_file_is_met(golden: dict[str, Any], name: str, lowercase: bool) -> None:
    own = WordPiece(golden["vocabulary"], lowercase=lowercase)
    cases = [text.encode() for text in golden["texts"]]
    bad = mismatches(own, cases, golden[name])
    print(f"{name}: {len(bad)} mismatches in {len(cases)} strings")
    assert not bad


@pytest.mark.parametrize("n", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_random_strings(golden: dict[str, Any], n: int) -> None:
    pytest.importorskip("tokenizers")
    from data.make_wordpiece_golden import reference

    cases = texts(n, seed=2)
    for lowercase, some in ((True, cases[: n // 5 * 4]), (False, cases[n // 5 * 4 :])):
        own = WordPiece(golden["vocabulary"], lowercase=lowercase)
        answers = reference(golden["vocabulary"], lowercase=lowercase).encode_batch(some)
        bad = mismatches(own, [text.encode() for text in some], [a.ids for a in answers])
        print(f"lowercase={lowercase}: {len(bad)} mismatches in {len(some)} strings")
        assert not bad, repr(some[bad[0]])


def test_invalid_utf8_reads_as_replacement_characters(golden: dict[str, Any]) -> None:
    pytest.importorskip("tokenizers")
    from data.make_wordpiece_golden import reference

    cases = [text.encode("utf-16-le") + b"\xe4 caf\xe9 \xff" for text in texts(500, seed=3)]
    own = WordPiece(golden["vocabulary"])
    wanted = reference(golden["vocabulary"], lowercase=True).encode_batch(
        [case.decode("utf-8", "replace") for case in cases]
    )
    assert not mismatches(own, cases, [answer.ids for answer in wanted])


def test_pairs_are_cut_like_the_reference(golden: dict[str, Any]) -> None:
    pytest.importorskip("tokenizers")
    from data.make_wordpiece_golden import reference
    from tokenizers.processors import BertProcessing

    own = WordPiece(golden["vocabulary"])
    other = reference(golden["vocabulary"], lowercase=True)
    other.post_processor = BertProcessing(("[SEP]", own.sep), ("[CLS]", own.cls))
    for most in (8, 17):
        other.enable_truncation(max_length=most, strategy="longest_first")
        first, second = texts(200, seed=most), texts(200, seed=most + 1)
        pairs = list(zip(first, second, strict=True))
        found = own.encode(tf.constant(first), pairs=tf.constant(second), max_length=most)
        assert found.ids.to_list() == [answer.ids for answer in other.encode_batch(pairs)]


def test_greedy_matching_unknown_words_and_truncation() -> None:
    own = WordPiece(SMALL)
    found = own.encode(["Unaffable, ABB", "abz 中a", "", "a" * 101], max_length=7)
    assert found.ids.to_list() == [
        [2, 4, 5, 6, 11, 7, 3], [2, 1, 12, 7, 3], [2, 3], [2, 1, 3]
    ]  # fmt: skip
    assert found.truncated.numpy().tolist() == [True, False, False, False]
    assert own.padded(found).shape == (4, 7)
    assert own.padded(found, 9)[2].numpy().tolist() == [2, 3, *[0] * 7]


def test_long_texts_take_bounded_time() -> None:
    own = WordPiece(SMALL)
    megabyte = [
        "a" * 1_000_000,
        "abc " * 250_000,
        "," * 1_000_000,
        "\u0301" * 500_000,
        " " * 1_000_000,
    ]
    found = own.encode(megabyte, max_length=256)
    assert found.ids.row_lengths().numpy().tolist() == [3, 256, 256, 2, 2]


def test_what_follows_the_first_words_is_not_looked_at() -> None:
    own = WordPiece(SMALL)
    words = own.pieces(tf.constant(["abc " * 100_000, ",,,,,,,,,, " * 10_000]), most=256)
    # The part between blanks in which the last word lies is kept whole.
    one = own.pieces(tf.constant(["abc"]), most=256).row_lengths()[0]
    assert words.row_lengths().numpy().tolist() == [256 * int(one), 260]
    # Parts that normalize to nothing are no words, and are bounded by their own number.
    nothing = "\u0301 "
    seen, unseen = nothing * (8 * 256 + 63) + "abc", nothing * (8 * 256 + 64) + "abc"
    lengths = own.pieces(tf.constant([seen, unseen]), most=256).row_lengths()
    assert lengths.numpy().tolist() == [int(one), 0]


def test_a_vocabulary_that_is_not_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \[CLS\]"):
        WordPiece(["[PAD]", "[UNK]", "[SEP]"])
    with pytest.raises(DataError, match="twice: a"):
        WordPiece([*SPECIAL, "a", "a"])
    with pytest.raises(InputMissingError, match="no vocabulary"):
        read_vocabulary(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_vocabulary(tmp_path / "vocab.txt")

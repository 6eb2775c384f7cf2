"""Awkward texts, made from a seed: what people, scrapers and attackers write."""

from __future__ import annotations

import random

TEXT = """the film was a quietly moving story about unaffordable housing in Zürich and São Paulo
don't re-imagining 3.14159 $100 e-mail@example.org #hashtag C++ naïve café Über straße ŁÓDŹ İstanbul
Ελληνικά ΣΊΣΥΦΟΣ привет мир שלום مرحبا नमस्ते ไทย 日本語 中文字符 한국어 한글 ﬁne ½ ² ™
… — “quoted” ¿qué? antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis"""
WORDS = TEXT.split()
PIECES = (
    *(
        "😀",
        "👩\u200d👩\u200d👧",
        "🇩🇪",
        "❤️",
        "e\u0301",
        "o\u0308\u0323",
        "\u200b",
        "\u200d",
        "\ufeff",
    ),
    *("\u00a0", "\u3000", "\u2028", "\t", "\n", "\r\n", "\v", "\f", "\x00", "\x1b[31m", "\x85"),
    *("[CLS]", "[SEP]", "[MASK]", "##ing", "a" * 99, "b" * 100, "c" * 101, "d" * 300),
    *(
        "\u0301\u0301",
        "\u202e",
        "\ufffd",
        "x" * 40 + "é" * 60,
        ".",
        "...",
        "!?",
        "'",
        "_",
        "豈",
        "丽",
    ),
)


def texts(n: int, *, seed: int) -> list[str]:
    """``n`` texts: empty, ordinary, awkward, and random code points."""
    rng = random.Random(seed)
    return [_text(rng, rng.random()) for _ in range(n)]


def _text(rng: random.Random, kind: float) -> str:
    if kind < 0.01:
        return rng.choice(["", " ", "\n\t ", "\u200b"])
    if kind < 0.4:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 12)))
    if kind < 0.7:
        kinds = [rng.choice((WORDS, PIECES)) for _ in range(rng.randint(1, 9))]
        parts = [rng.choice(kind) for kind in kinds]
        return rng.choice(["", " "]).join(parts)
    top = rng.choice([0x80, 0x250, 0x3000, 0x10000, 0x110000])
    points = (rng.randrange(top) for _ in range(rng.randint(1, 24)))
    return "".join(chr(p) for p in points if not 0xD800 <= p <= 0xDFFF)

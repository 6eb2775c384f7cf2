"""Makes ``tltf/data/characters.npz`` from the reference implementation, once.

``python -m tests.data.make_characters`` asks ``tokenizers`` what BERT's normalisation and
pre-tokenisation do to each of the 1,112,064 Unicode scalar values, and keeps the answers. The table
is frozen on purpose: with the ``unicodedata`` of whatever Python is at hand, a model would read
its text differently after an upgrade.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from tltf.data.characters import FILE, IDENTITY, ISOLATED, PAGE, REMOVED, REPLACED, SPACE, TOP


def table(*, lowercase: bool) -> dict[str, np.ndarray]:
    """``index``, ``pages``, ``values`` and ``splits`` of :class:`Characters`."""
    normalizer = BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=lowercase, lowercase=lowercase
    )
    splitter = BertPreTokenizer()
    codes = np.zeros(TOP, np.int32)
    replacements: dict[str, int] = {}
    for point in range(TOP):
        if 0xD800 <= point <= 0xDFFF:
            codes[point] = REMOVED
            continue
        words = [
            w for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(f"a{chr(point)}b"))
        ]
        codes[point] = _code(chr(point), " ".join(words)[1:-1], replacements)
    pages, index = np.unique(codes.reshape(-1, PAGE), axis=0, return_inverse=True)
    texts = list(replacements)
    return {
        "index": index.astype(np.int32).reshape(-1),
        "pages": pages.astype(np.int32),
        "values": np.array([ord(c) for text in texts for c in text], np.int32),
        "splits": np.cumsum([0, *map(len, texts)]).astype(np.int32),
    }


def _code(character: str, becomes: str, replacements: dict[str, int]) -> int:
    simple = {character: IDENTITY, "": REMOVED, " ": SPACE, f" {character} ": ISOLATED}
    if becomes in simple:
        return simple[becomes]
    return REPLACED + replacements.setdefault(becomes, len(replacements))


def main() -> None:
    """Writes the file."""
    arrays = {
        f"{name}_{key}": value
        for name, lowercase in (("cased", False), ("uncased", True))
        for key, value in table(lowercase=lowercase).items()
    }
    np.savez_compressed(Path(FILE), **arrays)


if __name__ == "__main__":
    main()

"""Makes ``golden_wordpiece.json.gz`` with the reference: ``VOCAB.txt`` of bert-base-uncased given.

``python -m data.make_wordpiece_golden VOCAB.txt`` keeps every single character of the vocabulary
and its most frequent pieces, so that the file stays small and many words fall to pieces.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

from data.strings import texts
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

GOLDEN = Path(__file__).with_name("golden_wordpiece.json.gz")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def reference(vocabulary: list[str], *, lowercase: bool) -> Tokenizer:
    """BERT's tokenizer as its authors' followers built it, without special tokens in texts."""
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    found = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    found.normalizer = BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=lowercase, lowercase=lowercase
    )
    found.pre_tokenizer = BertPreTokenizer()
    return found


def main(vocab: str) -> None:
    """Writes the file."""
    pieces = Path(vocab).read_text("utf-8").split("\n")[:-1]
    body = [p for p in pieces if p not in SPECIAL and not p.startswith("[unused")]
    single = [p for p in body if len(p.removeprefix("##")) == 1]
    vocabulary = list(dict.fromkeys([*SPECIAL, *single, *body[:4500]]))
    cases = texts(2400, seed=1)
    ids = {
        name: [r.ids for r in reference(vocabulary, lowercase=lowercase).encode_batch(cases)]
        for name, lowercase in (("uncased", True), ("cased", False))
    }
    content = {"vocabulary": vocabulary, "texts": cases, **ids}
    GOLDEN.write_bytes(gzip.compress(json.dumps(content).encode(), mtime=0))


if __name__ == "__main__":
    main(sys.argv[1])

"""How many sentences of 40 words the tokenizer encodes per second on one processor."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from typing import Any

from experiments.benchmarks import text_sets
from experiments.benchmarks.protocol import Row, seconds

WORDS_EACH, SENTENCES = 40, 4000


def rate(photos: Any, *, pairs: int, **others: Any) -> list[Row]:
    """In a process that has one processor from its start, so that all its threads share it."""
    del photos, others
    one = {min(os.sched_getaffinity(0))}
    command = [sys.executable, "-m", "experiments.benchmarks.tokenizer", str(max(3, pairs))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True,
                          preexec_fn=lambda: os.sched_setaffinity(0, one))  # fmt: skip
    values = tuple(json.loads(done.stdout.splitlines()[-1]))
    what = f"WordPiece, sentences of {WORDS_EACH} words a second and processor"
    return [Row(goal="tokens", what=what, values=values, target=">= 4000")]


def measured(repeats: int) -> list[float]:
    """Words of SST-2 in their own order, all-MiniLM's vocabulary; the function is traced before."""
    import tltf
    from tltf.data.textbatches import encode

    words = " ".join(row["text"] for row in text_sets.sst2()).split()
    starts = random.Random(0).sample(range(len(words) - WORDS_EACH), SENTENCES)
    sentences = [" ".join(words[i : i + WORDS_EACH]) for i in starts]
    tokenizer = tltf.backbone("minilm").tokenizer
    encode(tokenizer, sentences[:100], max_length=128)
    return [
        SENTENCES / seconds(lambda: encode(tokenizer, sentences, max_length=128))
        for _ in range(repeats)
    ]


if __name__ == "__main__":
    print(json.dumps(measured(int(sys.argv[1]))))

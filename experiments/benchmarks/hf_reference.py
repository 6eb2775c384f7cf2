"""The other side of ``make bench-hf``: Transformers and PyTorch, by an interpreter that has them.

``python hf_reference.py REQUEST.json``: times one epoch of each row on the given texts, and of the
tokenizer, and prints JSON. Everything as its users write it: dynamic padding to the longest of
the batch, AdamW, gradients clipped at 1, frozen parameters without gradients.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

ROWS = {"all": ("",), "last2": ("layer.4.", "layer.5.", "pooler", "classifier"),
        "head": ("pooler", "classifier")}  # fmt: skip


def main(path: str) -> None:
    wanted = json.loads(Path(path).read_text("utf-8"))
    torch.manual_seed(0)
    torch.set_num_threads(wanted["threads"])
    tokenizer = AutoTokenizer.from_pretrained(wanted["model"])
    texts, labels = wanted["texts"], wanted["labels"]
    most = {"truncation": True, "max_length": wanted["max_length"]}
    tokenizer(texts[:32], **most)
    start = time.perf_counter()
    tokenizer(texts, **most)
    found: dict[str, Any] = {"tokenize": len(texts) / (time.perf_counter() - start)}
    for row in wanted["rows"]:
        model = AutoModelForSequenceClassification.from_pretrained(
            wanted["model"], num_labels=wanted["classes"]
        )
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(part in name for part in ROWS[row]))
        own = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(own, lr=2e-5)
        model.train()
        order = torch.randperm(len(texts)).tolist()
        seconds = []
        for at in range(0, len(order), wanted["batch_size"]):
            begun = time.perf_counter()
            chosen = order[at : at + wanted["batch_size"]]
            batch = tokenizer([texts[i] for i in chosen], padding=True, return_tensors="pt", **most)
            loss = model(**batch, labels=torch.tensor([labels[i] for i in chosen])).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(own, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - begun)
        found[row] = sum(seconds)
    found["versions"] = {"torch": torch.__version__}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])

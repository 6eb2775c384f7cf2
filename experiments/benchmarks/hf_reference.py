"""The other side of ``make bench-hf``: Transformers and PyTorch, by an interpreter that has them.

``python hf_reference.py REQUEST.json``: times each row's phases on the given texts, and the
tokenizer, and prints JSON. Everything as its users write it: dynamic padding to the longest of
the batch, AdamW, gradients clipped at 1, frozen parameters without gradients.
"""

from __future__ import annotations

import json
import statistics
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
    most = {"truncation": True, "max_length": wanted["max_length"]}
    taken = []
    for _ in range(wanted["tokenized_times"] + 1):
        start = time.perf_counter()
        tokenizer(wanted["texts"], **most)
        taken.append(time.perf_counter() - start)
    found: dict[str, Any] = {"tokenize": len(wanted["texts"]) / statistics.median(taken[1:])}
    for row, phases in wanted["rows"].items():
        model = AutoModelForSequenceClassification.from_pretrained(
            wanted["model"], num_labels=wanted["classes"]
        )
        begun = time.perf_counter()
        for phase in phases:
            epochs = train(model, tokenizer, wanted, phase, most)
        found[f"{row}_epoch"] = statistics.median(epochs[1:] or epochs)
        found[row] = time.perf_counter() - begun
        found[f"{row}_accuracy"] = accuracy(model, tokenizer, wanted, most)
    found["versions"] = {"torch": torch.__version__}
    print(json.dumps(found))


def train(
    model: Any, tokenizer: Any, wanted: dict[str, Any], phase: dict[str, Any], most: dict[str, Any]
) -> list[float]:
    """The epochs of one phase over the texts, in a new order each; seconds of each."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in ROWS[phase["part"]]))
    own = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=phase["rate"])
    texts, labels = wanted["texts"], wanted["labels"]
    model.train()
    taken = []
    for _ in range(phase["epochs"]):
        start = time.perf_counter()
        order = torch.randperm(len(texts)).tolist()
        for at in range(0, len(order), wanted["batch_size"]):
            chosen = order[at : at + wanted["batch_size"]]
            batch = tokenizer([texts[i] for i in chosen], padding=True, return_tensors="pt", **most)
            loss = model(**batch, labels=torch.tensor([labels[i] for i in chosen])).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(own, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        taken.append(time.perf_counter() - start)
    return taken


def accuracy(model: Any, tokenizer: Any, wanted: dict[str, Any], most: dict[str, Any]) -> float:
    """On the held-out texts; not timed."""
    model.eval()
    hits, texts = 0, wanted["held_texts"]
    with torch.no_grad():
        for at in range(0, len(texts), 64):
            part = texts[at : at + 64]
            batch = tokenizer(part, padding=True, return_tensors="pt", **most)
            said = model(**batch).logits.argmax(dim=1).tolist()
            truth = wanted["held_labels"][at : at + 64]
            hits += sum(int(a == b) for a, b in zip(said, truth, strict=True))
    return hits / max(1, len(texts))


if __name__ == "__main__":
    main(sys.argv[1])

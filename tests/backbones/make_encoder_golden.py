"""Makes ``golden_encoders`` with the reference, in an environment that has torch and transformers.

``python make_encoder_golden.py MINILM_FOLDER``: a tiny model of each kind with random weights, and
what it answers; and what the real MiniLM answers to some sentences.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
)

FOLDER = Path(__file__).with_name("golden_encoders")
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh", *(f"##{c}" for c in "abcdefgh")]
SENTENCES = [
    "A man is eating food.", "Zürich über café naïve", "", "Transfer learning, unaffordably good!",
    "中文 und العربية 😀", "the " * 300, "UPPER lower MiXeD", "x" * 120, "e\u0301tude\u200b",
]  # fmt: skip
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
COMMON = {"vocab_size": 20, "max_position_embeddings": 32, "hidden_size": 16, **SIZES}


def models() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    return {
        "bert": BertModel(BertConfig(**COMMON)),
        "bert_tanh": BertModel(BertConfig(**COMMON, hidden_act="gelu_new", layer_norm_eps=1e-5)),
        "distilbert": DistilBertModel(
            DistilBertConfig(
                vocab_size=20, max_position_embeddings=32, dim=16, n_layers=2, n_heads=2,
                hidden_dim=24,
            )
        ),
        "electra": ElectraModel(ElectraConfig(**COMMON, embedding_size=8)),
    }  # fmt: skip


def main(minilm: str) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 20, (3, 9))
    ids[:, 0], ids[0, 8], ids[1, 4], ids[1, 8], ids[2, 5] = 2, 3, 3, 3, 3
    ids[2, 6:] = 0
    for name, model in models().items():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        folder = FOLDER / name
        model.eval().save_pretrained(folder)
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
        inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(ids != 0)}
        if "distil" not in name:
            second = np.cumsum(ids == 3, axis=1) - (ids == 3) > 0
            inputs["token_type_ids"] = torch.tensor(second.astype(int))
        with torch.no_grad():
            found = model(**inputs)
        arrays = {"ids": ids, "sequence": found.last_hidden_state.numpy()}
        if "bert" in name and "distil" not in name:
            arrays["pooled"] = found.pooler_output.numpy()
        np.savez(folder / "answers.npz", **arrays)
    tokenizer = BertTokenizerFast(str(Path(minilm, "vocab.txt")), do_lower_case=True)
    x = tokenizer(SENTENCES, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(minilm).eval()(**x).last_hidden_state
    mask = x["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    np.save(FOLDER / "minilm.npy", vectors.numpy())
    (FOLDER / "minilm.json").write_text(json.dumps(SENTENCES))


if __name__ == "__main__":
    main(sys.argv[1])

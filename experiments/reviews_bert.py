"""Reviews, or any labelled texts, on BERT: frozen, then partly unfrozen, with a linear classifier.

BERT (Devlin et al., 2019, https://arxiv.org/abs/1810.04805): a linear layer on the pooled output,
AdamW 2e-5, 3 epochs, batches of 32, linear decay after a warm-up of a tenth, decay 0.01, as in its
appendix A.3. Before, the linear layer alone is trained on the frozen network, on features that are
computed once; then the upper four layers are tuned with it.

  python -m experiments.reviews_bert --data=REVIEWS.csv --backbone=bert:FOLDER --workdir=RUN
  python -m experiments.reviews_bert --data=REVIEWS.csv --backbone=minilm --workdir=RUN2

FOLDER is a download of bert-base-uncased: config.json, vocab.txt, model.safetensors. minilm was
trained without a pooler worth the name: pass --pooling=avg with it.

Hardware: a GPU for bert-base, a laptop for minilm. Expected: for SST-2 and bert-base 0.92 to 0.93
when all layers are tuned on the full 67,000 phrases (the paper's table 1 says 0.935 on its test
set); less for fewer labels.
"""

from __future__ import annotations

from typing import Any

from experiments.binary import main, recipe
from tltf.spec import BackboneSpec, DataSpec, HeadSpec, Phase, TransferSpec

ADAMW: dict[str, Any] = {
    "optimizer": "adamw", "weight_decay": 0.01, "clipnorm": 1.0, "schedule": "linear",
    "warmup": 0.1,
}  # fmt: skip
DEFAULT = TransferSpec(
    data=DataSpec(source="-"),  # must be given
    backbone=BackboneSpec(name="-", max_length=128),
    head=HeadSpec(pooling="pooled", dropout=0.1),
    phases=(
        Phase("head", 10, 1e-3, unfreeze="none", **ADAMW),
        Phase("tune", 3, 2e-5, unfreeze="last:4", **ADAMW),
    ),
    batch_size=32,
    early_stop=10,  # as many as there are epochs: never
)

PROGRAM = recipe("reviews_bert", __doc__, DEFAULT)
for _name in ("data", "backbone"):
    PROGRAM.flag_values.set_default(_name, None)

if __name__ == "__main__":
    main(PROGRAM)

"""Any image folder on a frozen ResNet50.

ResNet50 (He et al., 2015, https://arxiv.org/abs/1512.03385) frozen, global average pooling,
Dense 1024 relu, softmax, Adam: the head of "Fine-tune InceptionV3 on a new set of classes" in
https://keras.io/api/applications/. --variant=direct puts the softmax on the pooled features.

  python -m experiments.image_folder_resnet50 --data=PHOTOS --workdir=RUN
  python -m experiments.image_folder_resnet50 --variant=direct --data=PHOTOS --workdir=RUN2

Hardware: one GPU, or a laptop for some hundred photos. Expected: depends on the folder; for ants
and bees about 0.95, what the PyTorch tutorial reports for a frozen ResNet18 (153 photos),
https://pytorch.org/tutorials/beginner/transfer_learning_tutorial.html

The source names neither epochs nor batch; 10 and 32 are ours, 1e-3 is Adam's own rate.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

from experiments.binary import main, program
from tltf.cli import run_flags
from tltf.errors import ArgumentError
from tltf.spec import BackboneSpec, DataSpec, HeadSpec, Phase, TransferSpec

CONSTANT: dict[str, Any] = {"schedule": "constant", "warmup": 0.0}
DEFAULT = TransferSpec(
    data=DataSpec(source="-"),  # must be given
    backbone=BackboneSpec(name="ResNet50", image_size=224),
    head=HeadSpec(pooling="avg", hidden=(1024,), activation="relu", dropout=0.0),
    phases=(Phase("head", 10, 1e-3, unfreeze="none", optimizer="adam", **CONSTANT),),
    augment="none",
    batch_size=32,
    early_stop=10,  # as many as there are epochs: never
)
DIRECT = dataclasses.replace(DEFAULT, head=dataclasses.replace(DEFAULT.head, hidden=()))
VARIANTS = {"dense": DEFAULT, "direct": DIRECT}


def run(values: flags.FlagValues) -> None:
    chosen = VARIANTS[values["variant"].value]
    if chosen is DIRECT and values["hidden"].present:
        raise ArgumentError(
            "--hidden with --variant=direct, which has no hidden layer",
            where="flags",
            next_action="leave one of them out",
        )
    if not values["hidden"].present:
        values["hidden"].value = [str(units) for units in chosen.head.hidden]
    run_flags.run_spec(values, chosen)


PROGRAM = program("image_folder_resnet50", __doc__, DEFAULT, run)
PROGRAM.flag_values.set_default("data", None)
flags.DEFINE_enum("variant", "dense", list(VARIANTS), "A hidden layer of 1024, or none.",
                  flag_values=PROGRAM.flag_values)  # fmt: skip

if __name__ == "__main__":
    main(PROGRAM)

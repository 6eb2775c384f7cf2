"""From digits to fashion with a multi-layer perceptron.

An MLP 784-512-10 learns MNIST (LeCun et al., 1998, http://yann.lecun.com/exdb/mnist/); its head
is replaced and it is fine-tuned on Fashion-MNIST (Xiao et al., 2017,
https://arxiv.org/abs/1708.07747). The same network from scratch gets the same labels, epochs and
test split, and the verdict compares the two on that test split.

  python -m experiments.digits_to_fashion_mlp --workdir=RUN
  python -m experiments.digits_to_fashion_mlp --digits_npz=FILE --workdir=RUN    (offline)

--digits_npz takes MNIST and USPS digits in one file (mnist_x, mnist_y, usps_x, usps_y) and
transfers from the one to the other. --target is --data: the set that the flags of phases are for.

Hardware: a laptop. Expected on Fashion-MNIST: near 0.900, an MLP 256-128-64 in the table of
https://github.com/zalandoresearch/fashion-mnist. Measured on MNIST to USPS: experiments/README.md.

Grey images are decoded as three equal channels, so the first layer has 3 x 784 inputs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

from experiments import against_scratch
from experiments.binary import main, program
from tltf.spec import BackboneSpec, DataSpec, HeadSpec, Phase, TransferSpec

CONSTANT: dict[str, Any] = {"schedule": "constant", "warmup": 0.0}
SOURCE = TransferSpec(
    data=DataSpec(source="tfds:mnist"),
    backbone=BackboneSpec(name="mlp:units=512", weights="none", image_size=28),
    head=HeadSpec(hidden=(), dropout=0.0),
    phases=(Phase("scratch", 10, 1e-3, unfreeze="all", optimizer="adam", **CONSTANT),),
    augment="none",
    batch_size=128,
    early_stop=15,  # as many as any of the runs has epochs: never
)
DEFAULT = dataclasses.replace(
    SOURCE,
    data=DataSpec(source="tfds:fashion_mnist"),
    phases=(
        Phase("head", 5, 1e-3, unfreeze="none", optimizer="adam", **CONSTANT),
        Phase("tune", 10, 1e-3, unfreeze="all", optimizer="adam", **CONSTANT),
    ),
)


def run(values: flags.FlagValues) -> None:
    against_scratch.run(values, source=SOURCE, target=DEFAULT)


PROGRAM = program("digits_to_fashion_mlp", __doc__, DEFAULT, run)
against_scratch.define(PROGRAM.flag_values, SOURCE)

if __name__ == "__main__":
    main(PROGRAM)

"""Cats and dogs on a frozen VGG16.

The best known exercise in transfer learning: VGG16 (Simonyan & Zisserman, 2015,
https://arxiv.org/abs/1409.1556) frozen, global average pooling, Dense 512 relu, Dropout 0.5,
softmax over 2, Adam, 10 epochs. After F. Chollet, "Building powerful image classification
models using very little data",
https://blog.keras.io/building-powerful-image-classification-models-using-very-little-data.html

  python -m experiments.cats_dogs_vgg16 --data=PHOTOS --workdir=RUN

Hardware: one GPU, or a laptop for some hundred photos. Expected: 0.90 to 0.91, which that post
reports for 2,000 training photos at 150 px with Flatten and Dense 256, or more at 224 px.

Our head drops out before each of its two Dense layers, on the pooled features too; tutorials
only between them. The best epoch is kept, not the last. Without --data: tfds:cats_vs_dogs.
"""

from __future__ import annotations

from typing import Any

from experiments.binary import main, recipe
from tltf.spec import BackboneSpec, DataSpec, HeadSpec, Phase, TransferSpec

CONSTANT: dict[str, Any] = {"schedule": "constant", "warmup": 0.0}
DEFAULT = TransferSpec(
    data=DataSpec(source="tfds:cats_vs_dogs"),
    backbone=BackboneSpec(name="VGG16", image_size=224),
    head=HeadSpec(pooling="avg", hidden=(512,), activation="relu", dropout=0.5),
    phases=(Phase("head", 10, 1e-3, unfreeze="none", optimizer="adam", **CONSTANT),),
    augment="none",
    batch_size=32,
    early_stop=10,  # as many as there are epochs: never
)
PROGRAM = recipe("cats_dogs_vgg16", __doc__, DEFAULT)

if __name__ == "__main__":
    main(PROGRAM)

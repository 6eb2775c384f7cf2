"""CIFAR-10 on VGG16 with its last convolution unfrozen, by SGD with momentum.

VGG16 (Simonyan & Zisserman, 2015, https://arxiv.org/abs/1409.1556), Flatten, Dense 1024 relu,
softmax, SGD 0.001 with momentum 0.9, random shear, zoom and flip, on CIFAR-10 (Krizhevsky, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html) at 224 px; the technique is that of
https://keras.io/guides/transfer_learning/

  python -m experiments.cifar10_vgg16_sgd --workdir=RUN            (tfds:cifar10)
  python -m experiments.cifar10_vgg16_sgd --data=CIFAR10 --workdir=RUN

Hardware: one GPU; on two CPU cores half a day, estimated from the 13 images/s of VGG16 there.
Expected: we know no published number for just this; see experiments/README.md.

Tutorials that unfreeze "the last layer" of VGG16 unfreeze block5_pool, which has no weights:
nothing is unfrozen. The last layer with weights is block5_conv3. With another --backbone name
its layers too, for example --unfreeze=last:1. Pixels are scaled as VGG16 was trained, inside the
model, not by 1/255. Shear 0.2 is a slope; where a tutorial's 0.2 is in degrees it does nothing.
"""

from __future__ import annotations

from experiments.binary import main, recipe
from tltf.spec import BackboneSpec, DataSpec, HeadSpec, Phase, TransferSpec

DEFAULT = TransferSpec(
    data=DataSpec(source="tfds:cifar10"),
    backbone=BackboneSpec(name="VGG16", image_size=224),
    head=HeadSpec(pooling="flatten", hidden=(1024,), activation="relu", dropout=0.0),
    phases=(
        Phase(
            "tune",
            10,
            1e-3,
            unfreeze="regex:block5_conv3",
            optimizer="sgd",
            momentum=0.9,
            schedule="constant",
            warmup=0.0,
        ),
    ),
    augment="flip,shear=0.2,zoom=0.2",
    views=0,  # drawn anew in every epoch, as in the source; --views=4 keeps four
    batch_size=32,
    early_stop=10,  # as many as there are epochs: never
)
PROGRAM = recipe("cifar10_vgg16_sgd", __doc__, DEFAULT)

if __name__ == "__main__":
    main(PROGRAM)

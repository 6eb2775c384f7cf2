"""``python keras2_module.py FOLDER``: a SavedModel as Keras 2 publishes it. A script of its own.

The second Keras may not come into the process that the tests run in.
"""

import sys

import tensorflow as tf
import tf_keras


def main(folder: str) -> None:
    tf_keras.utils.set_random_seed(0)
    layers, l2 = tf_keras.layers, tf_keras.regularizers.L2
    image = tf_keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv_1", kernel_regularizer=l2(0.01))(image)
    x = layers.BatchNormalization(name="bn_1", momentum=0.5)(x)
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.Conv2D(4, 3, name="conv_2", kernel_regularizer=l2(0.02))(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = tf_keras.Model(image, x)
    model.save(folder, save_format="tf", include_optimizer=False)


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main(sys.argv[1])

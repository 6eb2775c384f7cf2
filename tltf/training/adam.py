"""Adam and AdamW as Keras defines them, each variable updated by one TensorFlow kernel.

Keras writes an update as some twenty operations on each variable: each reads and writes the whole
of it, and each is traced. TensorFlow's ``ResourceApplyAdam`` reads and writes once. The numbers
are those of Keras to rounding; states, names and configurations are the same.

seam: ``Adam._momentums``, ``Adam._velocities``, ``Optimizer._get_variable_index(variable)``,
``Optimizer._use_weight_decay(variable)`` and ``TFOptimizer._apply_weight_decay(variables)``, which
asks the schedule for its rate once more for each variable.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class _OneKernel:
    """The update of one variable; mixed into an optimizer of Keras."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """m, v and the variable after one gradient; Kingma and Ba 2015, end of section 2.

        m += (1 - beta_1) (g - m), v += (1 - beta_2) (g² - v),
        variable -= learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon).

        Args:
          gradient: of the variable's shape.
          variable: a tf.Variable, within its replica.
          learning_rate: scalar.
        """
        optimizer: Any = self
        kind, index = variable.dtype, optimizer._get_variable_index(variable)
        rate = tf.cast(learning_rate, kind)
        if optimizer.weight_decay and optimizer._use_weight_decay(variable):
            variable.assign_sub(variable * (rate * tf.cast(optimizer.weight_decay, kind)))
        step = tf.cast(optimizer.iterations.value + 1, kind)
        beta_1, beta_2 = tf.cast(optimizer.beta_1, kind), tf.cast(optimizer.beta_2, kind)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=optimizer._momentums[index].value.handle,
            v=optimizer._velocities[index].value.handle,
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(optimizer.epsilon, kind),
            grad=tf.cast(tf.convert_to_tensor(gradient), kind),
        )

    def _apply_weight_decay(self, variables: Any) -> None:
        """Is part of the update, which has the learning rate."""


@keras.saving.register_keras_serializable(package="tltf")
class Adam(_OneKernel, keras.optimizers.Adam):
    """``keras.optimizers.Adam`` without ``amsgrad``; see the module.

    Example::

      model.compile(Adam(1e-3, global_clipnorm=1.0), "mse")
    """


@keras.saving.register_keras_serializable(package="tltf")
class AdamW(_OneKernel, keras.optimizers.AdamW):
    """``keras.optimizers.AdamW`` without ``amsgrad``: Loshchilov and Hutter 2019, algorithm 2.

    Example::

      optimizer = AdamW(5e-5, weight_decay=0.01)
      optimizer.exclude_from_weight_decay(var_names=["bias"])
    """

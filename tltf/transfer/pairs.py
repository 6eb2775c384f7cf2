"""Learning from pairs: examples of one class are to be alike, those of two classes are not.

With eight labels a class there are eight examples to learn classes from, but dozens of pairs to
learn likeness from. This is the relation-based transfer of the literature; for sentence encoders
it is SetFit (Tunstall et al. 2022), whose pairs are drawn, where here every pair of a batch counts.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tltf")
class PairSimilarity(keras.losses.Loss):
    """How far the cosines of a batch's pairs are from 1 within a class and from 0 across.

    With u the embeddings at unit length, P(i) the other examples of the class of i and N(i) those
    of other classes, the loss of i is

        mean over j in P(i) of (u_i . u_j - 1)^2 / 2 + mean over j in N(i) of (u_i . u_j)^2 / 2;

    an empty set adds nothing. Both kinds of pairs weigh the same, however many classes there are
    (Tunstall et al. 2022, section 3, draw as many of one kind as of the other).

    Call args:
      y_true: one-hot ``[B, C]``.
      y_pred: embeddings ``[B, D]``.

    Example::

      model.compile("adamw", loss=tltf.transfer.PairSimilarity())
    """

    def __init__(self, name: str = "pair_similarity", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """See the class."""
        unit = ops.normalize(ops.cast(y_pred, "float32"), axis=-1)
        cosines = ops.matmul(unit, ops.transpose(unit))
        labels = ops.cast(y_true, "float32")
        same = ops.cast(ops.matmul(labels, ops.transpose(labels)) > 0.5, "float32")
        other = 1.0 - same
        alike = same * (1.0 - ops.eye(ops.shape(same)[0], dtype="float32"))
        return 0.5 * (_mean(ops.square(cosines - 1.0), alike) + _mean(ops.square(cosines), other))


def _mean(values: Any, counted: Any) -> Any:
    """Row by row the mean over what counts; 0 where nothing does."""
    return ops.sum(values * counted, axis=1) / ops.maximum(ops.sum(counted, axis=1), 1.0)

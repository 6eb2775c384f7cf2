"""Arrays into variables: all of them, or none."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tltf import variables
from tltf.errors import DataError


def model() -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(2)])


def test_a_round_trip_between_models_of_one_shape() -> None:
    ours, theirs = model(), model()
    arrays = variables.named_arrays(ours.variables, prefix="head/")
    assert next(iter(arrays)) == "head/00000:" + ours.variables[0].path
    variables.assign(theirs.variables, list(arrays.values()), where="here")
    for mine, other in zip(ours.variables, theirs.variables, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())


def test_nothing_is_assigned_when_something_does_not_fit() -> None:
    held = model().variables
    before = [v.numpy() for v in held]
    arrays = [np.zeros(v.shape) for v in held]
    with pytest.raises(DataError, match="3 tensors for 4 variables"):
        variables.assign(held, arrays[:3], where="here")
    arrays[-1] = np.zeros(5)
    with pytest.raises(DataError, match=r"bias \(2,\) against \(5,\)"):
        variables.assign(held, arrays, where="here")
    for variable, value in zip(held, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)

import numpy as np
import pytest

import fastdl
from tests.testing import random


def test_one_gradient_per_array_argument():
    x = random((3, 4))
    y, pullback = fastdl.vjp(fastdl.softmax, x=x, dim=1)
    np.testing.assert_array_equal(y, fastdl.softmax(x, 1))
    (dx,) = pullback(np.ones_like(y))
    assert dx.shape == x.shape
    (again,) = pullback(np.ones_like(y))  # a pullback may be called more than once
    np.testing.assert_array_equal(dx, again)


def test_every_backward_has_a_rule():
    names = fastdl.differentiable_ops()
    for name in fastdl.__all__:
        if name.endswith("_backward"):
            assert name.removesuffix("_backward") in names


def test_refused():
    x = np.zeros(3)
    with pytest.raises(TypeError, match=r"\[vjp\] get_isa has no gradient"):
        fastdl.vjp(fastdl.get_isa)
    with pytest.raises(TypeError, match=r"\[vjp\] softmax cannot be differentiated with out="):
        fastdl.vjp(fastdl.softmax, x, 0, out=x)
    with pytest.raises(TypeError, match="missing a required argument"):
        fastdl.vjp(fastdl.softmax)
    assert fastdl.vjp(fastdl.softmax, x, 0, out=None)[0].shape == (3,)

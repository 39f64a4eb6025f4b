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


@pytest.mark.parametrize(
    ("op", "shapes", "options"),
    [
        (fastdl.conv2d, {"x": (2, 3, 5, 5), "weight": (4, 3, 3, 3), "bias": (4,)}, {}),
        (fastdl.linear, {"x": (2, 3), "weight": (4, 3), "bias": (4,), "residual": (2, 4)}, {}),
        (fastdl.matmul, {"x": (2, 3), "other": (3, 4)}, {}),
        (fastdl.batch_norm, {"x": (2, 3, 4), "weight": (3,), "bias": (3,)}, {"training": True}),
        (
            fastdl.layer_norm,
            {"x": (2, 3), "weight": (3,), "bias": (3,)},
            {"normalized_shape": (3,)},
        ),
        (fastdl.cross_entropy, {"x": (2, 3), "target": (2, 3)}, {}),
        (
            fastdl.scaled_dot_product_attention,
            {"query": (2, 3), "key": (4, 3), "value": (4, 3), "attn_mask": (2, 4)},
            {},
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_only_what_is_wanted(op, shapes, options):
    arrays = {name: random(shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    if op is fastdl.batch_norm:
        options = {"running_mean": None, "running_var": None, **options}
    y, pullback = fastdl.vjp(op, **arrays, **options)
    dy = random(np.shape(y), seed=9)
    everything = dict(zip(shapes, pullback(dy), strict=True))
    for name in shapes:
        _, partial = fastdl.vjp(op, **arrays, **options, wrt=(name,))
        for other, gradient in zip(shapes, partial(dy), strict=True):
            if other == name:
                np.testing.assert_array_equal(gradient, everything[name])
            else:
                assert gradient is None
    with pytest.raises(ValueError, match=r"\[vjp\] wrt names 'nothing'; the arrays given are"):
        fastdl.vjp(op, **arrays, **options, wrt=("nothing",))


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

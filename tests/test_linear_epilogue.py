"""linear(..., activation=, residual=): the fused epilogue."""

import numpy as np
import pytest

import fastdl
from fastdl import reference
from tests.testing import (
    ACTIVATIONS,
    TORCH_ACTIVATIONS,
    Guarded,
    assert_close,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    random,
)

SHAPES = [
    ((3, 4), (5, 4)),
    ((2, 3, 4), (4,)),
    ((0, 4), (5, 4)),
    ((3, 0), (5, 0)),  # activation(bias + residual)
    ((17, 197), (50, 197)),  # tiles
    ((300, 70), (1100, 70)),  # several blocks
    ((3, 2000), (700, 2000)),  # dots, few rows: their columns are lines of y
    ((700, 2000), (3, 2000)),  # dots, few outputs
    ((12, 20011), (13, 20011)),  # k in parts, added up at the end
]
IDS = {"ids": lambda shape: "x".join(map(str, shape))}


def make_inputs(x_shape, weight_shape, dtype):
    x, weight = random(x_shape, dtype), random(weight_shape, dtype, seed=1)
    x /= dtype(np.sqrt(max(x_shape[-1], 1)))  # results where the activations bend
    bias = random(weight_shape[:-1], dtype, seed=2)
    residual = random(reference.linear_forward(x, weight).shape, dtype, seed=3)
    return x, weight, bias, residual


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("x_shape", "weight_shape"), SHAPES, **IDS)
def test_forward(isa, dtype, x_shape, weight_shape, activation):
    x, weight, bias, residual = make_inputs(x_shape, weight_shape, dtype)
    for r in (residual, None):
        guarded = Guarded(residual.shape, dtype)
        y = fastdl.linear(x, weight, bias, activation=activation, residual=r, out=guarded.array)
        guarded.check()
        expected = reference.linear_forward(x, weight, bias, activation=activation, residual=r)
        assert_close(y, expected, scale=4.0)


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh"])
def test_equals_the_ops_one_by_one(isa, dtype, activation):
    x, weight, bias, residual = make_inputs((33, 65), (50, 65), dtype)
    z = fastdl.linear(x, weight, bias) + residual
    expected = ACTIVATIONS[activation](z)
    y = fastdl.linear(x, weight, bias, activation=activation, residual=residual)
    assert_same_bits(y, expected)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_against_torch(torch, dtype, activation, with_residual):
    arrays = make_inputs((2, 7, 4), (5, 4), dtype)[: 3 + with_residual]
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    z = torch.nn.functional.linear(*tensors[:3])
    z = z + tensors[3] if with_residual else z
    expected = TORCH_ACTIVATIONS[activation](torch.nn.functional, z)
    residual = {"residual": arrays[3]} if with_residual else {}
    y, pullback = fastdl.vjp(fastdl.linear, *arrays[:3], activation=activation, **residual)
    assert_close(y, expected.detach().numpy(), factor=2)  # both have errors
    assert_close(y, fastdl.linear(*arrays[:3], activation=activation, **residual), scale=4.0)
    dy = random(y.shape, dtype, seed=4)
    expected.backward(torch.tensor(dy))
    grads = pullback(dy)
    assert len(grads) == len(tensors)
    for grad, tensor in zip(grads, tensors, strict=True):
        assert_close(grad, tensor.grad.numpy(), scale=16.0)


def test_special_values(isa, dtype):
    x, weight, bias, residual = make_inputs((20, 33), (50, 33), dtype)
    residual[0, :3], residual[19, 49] = (np.nan, np.inf, -np.inf), np.nan
    y = fastdl.linear(x, weight, bias, activation="relu", residual=residual)
    expected = reference.linear_forward(x, weight, bias, activation="relu", residual=residual)
    assert_close(y, expected, scale=4.0)


@pytest.mark.parametrize(
    ("x_shape", "weight_shape"), [((2000, 50), (600, 50)), ((9, 20011), (60, 20011))], **IDS
)
def test_same_bits_for_any_threads(isa, dtype, x_shape, weight_shape):
    x, weight, bias, residual = make_inputs(x_shape, weight_shape, dtype)
    assert_same_bits_for_any_threads(
        lambda: fastdl.linear(x, weight, bias, activation="gelu", residual=residual)
    )


def test_errors():
    x, weight, bias, residual = make_inputs((3, 4), (5, 4), np.float64)
    with pytest.raises(ValueError, match=r'^\[linear\] activation must be None, "relu", .* "elu"'):
        fastdl.linear(x, weight, bias, activation="elu")
    with pytest.raises(ValueError, match=r"^\[linear\] residual must have shape \(3, 5\)"):
        fastdl.linear(x, weight, bias, residual=residual[0])
    with pytest.raises(TypeError, match="residual is float32, x is float64"):
        fastdl.linear(x, weight, bias, residual=residual.astype(np.float32))
    with pytest.raises(ValueError, match="out shares memory with residual"):
        fastdl.linear(x, weight, bias, residual=residual, out=residual)

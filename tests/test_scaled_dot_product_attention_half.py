"""Attention of 16-bit arrays, against float64: GPUs round weights and their gradients to 16 bits
before they multiply values, queries and keys by them."""

import numpy as np
import pytest

import fastdl
from fastdl import reference
from fastdl import scaled_dot_product_attention_backward as attention_backward
from fastdl import scaled_dot_product_attention_forward as attention_forward
from tests.cuda import CUDA
from tests.testing import assert_same_bits, random

# query, key, value, mask, options
CASES = {
    "one tile": ((1, 1, 64, 64), (1, 1, 64, 64), (1, 1, 64, 64), None, {}),
    "tails": ((1, 2, 150, 64), (1, 1, 139, 64), (1, 1, 139, 64), None, {"enable_gqa": True}),
    "causal": ((1, 4, 150, 64), (1, 2, 139, 64), (1, 2, 139, 64), None, {"is_causal": True}),
    "causal, few keys": ((1, 200, 128), (1, 70, 128), (1, 70, 72), None, {"is_causal": True}),
    "causal, few queries": ((2, 70, 72), (2, 150, 72), (2, 150, 128), None, {"is_causal": True}),
    "one query": ((3, 1, 128), (3, 200, 128), (3, 200, 128), None, {}),
    "small": ((2, 5, 8), (2, 3, 8), (2, 3, 8), None, {"scale": 0.7}),
    "dropout": ((2, 2, 70, 24), (2, 1, 81, 24), (2, 1, 81, 72), None, {"dropout_p": 0.3}),
    "mask": ((2, 2, 70, 24), (2, 2, 80, 24), (2, 2, 80, 72), (2, 1, 70, 80), {}),
    "mask of a row": ((2, 2, 70, 24), (2, 2, 80, 24), (2, 2, 80, 24), (1, 80), {}),
    "shared scores": ((70, 64), (80, 64), (3, 80, 64), None, {}),
    "shared differently": ((3, 70, 64), (80, 64), (3, 80, 64), None, {}),
    "no keys": ((2, 70, 64), (2, 0, 64), (2, 0, 64), None, {}),
    "plain path": ((2, 70, 12), (2, 80, 12), (2, 80, 12), (70, 80), {}),
    "negative scale": ((2, 70, 16), (2, 80, 16), (2, 80, 16), None, {"scale": -0.5}),
}


def run(inputs, **options):
    query, key, value, mask = inputs
    y, logsumexp, state = attention_forward(*inputs, **options)
    dy = random(y.shape, y.dtype, seed=9)
    gradients = attention_backward(
        dy, query, key, value, y, logsumexp, mask, rng_state=state, **options
    )
    return y, logsumexp, *gradients


def check(half, inputs, **options):
    """To two units in the last place of the largest: the weights' errors and the result's own."""
    fastdl.manual_seed(7)
    wide = [x if x is None or x.dtype == bool else x.astype(np.float64) for x in inputs]
    y, logsumexp, *gradients = run(inputs, **options)
    y64, logsumexp64 = reference.scaled_dot_product_attention_forward(
        *wide, rng_state=(7, 0), **options
    )
    dy = random(y.shape, half, seed=9).astype(np.float64)
    expected = reference.scaled_dot_product_attention_backward(
        dy, *wide[:3], y64, logsumexp64, wide[3], rng_state=(7, 0), **options
    )
    np.testing.assert_allclose(logsumexp, logsumexp64, rtol=1e-5, atol=1e-5)
    eps = float(np.finfo(half).eps) if half == np.float16 else 2.0**-7
    for actual, exact in [(y, y64), *zip(gradients, expected, strict=True)]:
        if exact is None:
            assert actual is None
            continue
        error = np.max(np.abs(actual.astype(np.float64) - exact), initial=0.0)
        assert error <= 2 * eps * np.max(np.abs(exact), initial=0.0)


@pytest.mark.parametrize("case", CASES)
def test_half(isa, half, case):
    *shapes, options = CASES[case]
    inputs = [None if s is None else random(s, half, seed=i) for i, s in enumerate(shapes)]
    options = {"enable_gqa": len(shapes[0]) == 4, **options}
    check(half, inputs, **options)
    if inputs[3] is not None:
        inputs[3] = inputs[3] > -0.5
        inputs[3][..., 0, :] = False  # queries that see no key
        check(half, inputs, **options)
        y = run(inputs, **options)[0]
        assert inputs[3].shape[-2] == 1 or np.all(y[..., 0, :] == 0)


def test_same_bits_again_and_for_each_gradient_alone(isa, half):
    inputs = [*(random((2, 130, 64), half, seed=i) for i in range(3)), None]
    everything = run(inputs, is_causal=True)
    assert_same_bits(run(inputs, is_causal=True), everything)
    if isa != CUDA:
        return  # a CPU has other kernels for some of the gradients alone
    y, logsumexp = everything[:2]
    dy = random(y.shape, half, seed=9)
    for i in range(3):
        wanted = tuple(i == k for k in range(4))
        gradients = attention_backward(
            dy, *inputs[:3], y, logsumexp, is_causal=True, output_mask=wanted
        )
        assert_same_bits(gradients[i], everything[2 + i])


def test_an_array_that_begins_anywhere(isa, half):
    inputs = [random((2, 70, 64), half, seed=i) for i in range(3)]
    memory = [np.empty(x.size + 1, half)[1:].reshape(x.shape) for x in inputs]
    for to, x in zip(memory, inputs, strict=True):
        to[...] = x
    check(half, [*memory, None])
